//! The fault campaign: a whole cluster on hosts of its own (network namespaces), clients that use locks, faults
//! injected one after the other, and a checker that judges what the clients saw.
//!
//! `cargo test --release --test faults -- --minutes 10 --seed 1 [--nemesis NAME]…` runs one, as root.
//! `… -- --check FILE` judges a recorded history, and `… -- --self-test` shows that each rule catches what it is for;
//! both need no privileges. Exit status: 0 green, 1 violations, 2 it could not run, 3 indeterminate.

mod campaign;
mod check;
mod client;
mod clock;
mod cluster;
mod crowd;
mod history;
mod http;
mod nemesis;
mod net;
mod process;
mod protocol;
mod proxy;
mod redis_node;
mod resource;
mod rng;
mod shim;
mod wait;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "faults", about = "The fault campaign")]
pub(crate) struct Options {
    /// How long faults are injected; the last one may end later.
    #[arg(long, default_value_t = 1)]
    minutes: u64,
    /// Repeats the choice of faults and of what clients do.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only these faults; may be given several times.
    #[arg(long)]
    nemesis: Vec<String>,
    /// The server to test.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_leasehold"))]
    server: PathBuf,
    /// How many servers, 2 or 3.
    #[arg(long, default_value_t = 2)]
    servers: usize,
    /// How many clients, at least 16.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Where to record the history.
    #[arg(long)]
    history: Option<PathBuf>,
    /// Judges a recorded history instead.
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
    /// Judges histories made by hand instead, one for each rule.
    #[arg(long)]
    self_test: bool,
    /// Prints the names of the faults.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        // The program starts itself again on the hosts of the network.
        Some("client") => {
            let config = serde_json::from_str(&arguments[2]).expect("the campaign's own words");
            workload::run(config);
            return ExitCode::SUCCESS;
        }
        Some("proxy") => {
            let first_port = arguments[2].parse().expect("the campaign's own words");
            proxy::run(first_port, &arguments[3..]);
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    let options = Options::parse();
    if options.list {
        for nemesis in nemesis::ALL {
            println!("{}", nemesis.name);
        }
        return ExitCode::SUCCESS;
    }
    if options.self_test {
        return check::examples::run();
    }
    if let Some(file) = &options.check {
        return match history::read(file) {
            Ok(events) => check::report::print(&check::check(&events)),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                ExitCode::from(2)
            }
        };
    }
    match campaign::run(&options) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the campaign cannot run: {error}");
            ExitCode::from(2)
        }
    }
}
