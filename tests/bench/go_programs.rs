//! Section k: the same Go program with Leasehold, with `bsm/redislock` straight on Redis, and with etcd.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::Bench;
use crate::process::is_installed;
use crate::report::Reach;
use crate::servers::{self, Server};

const WORKERS: usize = 64;

/// How long each worker holds the contended lock.
const HOLD: &str = "1ms";

/// What a run of the program prints.
#[derive(Default)]
struct Rounds {
    per_second: Vec<f64>,
    longest_to_mean: Vec<f64>,
}

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== k: Go programs");
    if !is_installed("go") {
        bench
            .report
            .note("go is not installed: section k is missing");
        return;
    }
    let directory = servers::in_memory_directory();
    let program = build(&directory);
    let redis = servers::redis();
    let servers = [Server::on(&redis, &[]), Server::on(&redis, &[])];
    let one = servers[0].address.to_string();
    let both = format!("{one},{}", servers[1].address);
    let etcd = is_installed("etcd").then(|| Server::etcd(directory.path()));
    let seconds = bench.pick("0.7", "1.5");
    let run = |of: &mut Rounds, arguments: &[&str]| {
        let common = ["--workers", &WORKERS.to_string(), "--seconds", seconds];
        let ran = Command::new(&program).args(common).args(arguments).output();
        let ran = ran.expect("the program runs");
        let failure = String::from_utf8_lossy(&ran.stderr);
        assert!(ran.status.success(), "{arguments:?}: {failure}");
        let told: Value = serde_json::from_slice(&ran.stdout).expect("a line of JSON");
        let number = |name: &str| told[name].as_f64().expect("a number");
        of.per_second.push(number("per_second"));
        of.longest_to_mean.push(number("longest_to_mean"));
    };
    let redis_at = redis.addr();
    let mut own: [Rounds; 2] = Default::default();
    let [mut at_20_ms, mut at_1_ms, mut at_etcd]: [Rounds; 3] = Default::default();
    let mut shared = Rounds::default();
    for _ in 0..bench.pick(2, 5) {
        run(&mut own[0], &["--with", "leasehold", "--at", &one]);
        run(&mut own[1], &["--with", "redislock", "--at", &redis_at]);
        let contended = |with, at, poll| {
            [
                "--with", with, "--at", at, "--poll", poll, "--hold", HOLD, "--shared",
            ]
        };
        run(&mut shared, &contended("leasehold", &both, "0"));
        run(&mut at_20_ms, &contended("redislock", &redis_at, "20ms"));
        run(&mut at_1_ms, &contended("redislock", &redis_at, "1ms"));
        if let Some(etcd) = &etcd {
            let at = etcd.address.to_string();
            run(&mut at_etcd, &contended("etcd", &at, "0"));
        }
    }
    bench.report.compare(
        (
            'k',
            &format!("cycles of {WORKERS} workers, each with its lock"),
            "/s",
        ),
        &own[0].per_second,
        ("redislock", &own[1].per_second),
        Reach::AtLeast(0.5),
    );
    let mut others = vec![
        ("redislock, every 20 ms", &at_20_ms),
        ("redislock, every 1 ms", &at_1_ms),
    ];
    if etcd.is_some() {
        others.push(("etcd (data in memory, JSON gateway)", &at_etcd));
    } else {
        bench
            .report
            .note("etcd is not installed (tests/bench/install): its row is missing");
    }
    for (name, other) in others {
        for (figure, values, base) in [
            ("hand-overs", &shared.per_second, &other.per_second),
            (
                "longest to mean wait",
                &shared.longest_to_mean,
                &other.longest_to_mean,
            ),
        ] {
            let figure = format!("{figure}, one lock, {WORKERS} workers, each holds it {HOLD}");
            bench
                .report
                .compare(('k', &figure, ""), values, (name, base), Reach::Nothing);
        }
    }
}

/// Builds the program of the folder `go`.
fn build(directory: &TempDir) -> std::path::PathBuf {
    let program = directory.path().join("workers");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench/go");
    let mut command = Command::new("go");
    let command = command.args(["build", "-o"]).arg(&program).arg(".");
    let built = command.current_dir(sources).status();
    assert!(built.expect("go runs").success(), "the program builds");
    program
}
