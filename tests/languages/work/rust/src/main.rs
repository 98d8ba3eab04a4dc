//! Works under a lease: `work KEY SECONDS FILE [WORKERS]`. The workers write to the file what they do, and when.

#[path = "../../../../../openapi/clients/rust/leasehold.rs"]
#[allow(dead_code)] // it needs only a part of the file
mod leasehold;

use leasehold::{Error, Locks, Options};
use std::time::{Duration, Instant, SystemTime};
use std::{env, fs::OpenOptions, io::Write, process::ExitCode};
use tokio::{task::JoinSet, time::sleep};

fn seconds(text: &str) -> Duration {
    Duration::from_secs_f64(text.parse().expect("seconds"))
}

fn milliseconds() -> u128 {
    SystemTime::UNIX_EPOCH
        .elapsed()
        .expect("a clock after 1970")
        .as_millis()
}

fn log(path: &str, word: &str, token: u64, at: u128) {
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .expect("the file opens");
    let line = format!("{word} {token} {at}\n");
    file.write_all(line.as_bytes())
        .expect("the line is written");
}

async fn work(locks: Locks, arguments: Vec<String>) -> Result<(), Error> {
    let [key, time, path] = [1, 2, 3].map(|at| arguments[at].clone());
    let setting = |name| env::var(name).ok().map(|text| seconds(&text));
    let options = Options {
        ttl: Some(setting("WORK_TTL").unwrap_or(Duration::from_secs(3))),
        wait: setting("WORK_WAIT"),
        max_hold: setting("WORK_MAX_HOLD"),
        fields: serde_json::json!({"holder": "rust"}),
        ..Options::default()
    };
    let lease = locks.acquire(&key, options).await?;
    let token = lease.fencing_token;
    log(&path, "begin", token, milliseconds());
    let (lost, file) = (lease.lost(), path.clone());
    tokio::spawn(async move {
        lost.cancelled().await;
        log(&file, "signal", token, milliseconds());
    });
    let work = async {
        let begun = Instant::now();
        while begun.elapsed() < seconds(&time) {
            let at = milliseconds();
            lease.check()?;
            log(&path, "beat", token, at);
            sleep(Duration::from_millis(20)).await;
        }
        log(&path, "end", token, milliseconds());
        Ok(())
    };
    let done = work.await;
    // A lease that is only dropped is released by the runtime, which ends with the program.
    let held = lease.release().await;
    done.and(held)?;
    println!("released");
    Ok(())
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    let workers = arguments
        .get(4)
        .map_or(1, |text| text.parse().expect("a number of workers"));
    let (locks, mut tasks, mut code) = (Locks::new(None, None), JoinSet::new(), ExitCode::SUCCESS);
    for _ in 0..workers {
        tasks.spawn(work(locks.clone(), arguments.clone()));
    }
    for result in tasks.join_all().await {
        if let Err(failure) = result {
            eprintln!("{failure}");
            code = ExitCode::FAILURE;
        }
    }
    code
}
