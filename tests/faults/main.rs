//! The fault campaign: a whole cluster on hosts of its own (network namespaces), clients that use locks, faults
//! injected one after the other, and a checker that judges what the clients saw.
//!
//! `cargo test --release --test faults -- --minutes 10 --seed 1 [--nemesis NAME]…` runs one, as root or as a user who
//! may make user namespaces. `… -- --check FILE…` judges recorded histories, all in one verdict. `… -- --self-test`
//! shows that each rule catches its violation. `… -- --list` describes each fault and each rule. The last three need no
//! privileges. Exit status: 0 green, 1 violations, 2 the campaign could not run, 3 indeterminate. `bugs/run` seeds bugs
//! into the server and requires that a campaign finds them.
//!
//! A violation counts under any fault unless the contract excuses it under that fault; excused violations have their
//! own count. A run is *indeterminate* if it cannot prove anything: a fault had no effect, the machine was too slow, or
//! no client would have lost an update even without fencing.

mod campaign;
mod check;
mod client;
mod clock;
mod cluster;
mod crowd;
mod data;
mod history;
mod http;
mod nemesis;
mod net;
mod protocol;
mod proxy;
mod resource;
mod rng;
// The integration tests use every item of this module, so their build reports dead code.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod wait;
mod workload;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
#[command(name = "faults", about = "The fault campaign")]
pub(crate) struct Options {
    /// How long faults are injected; the last one may end later, and each of them comes at least once.
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
    /// Ends the campaign soon after this rule was broken.
    #[arg(long, value_name = "RULE")]
    until: Option<String>,
    /// Judges recorded histories instead.
    #[arg(long, value_name = "FILE", num_args = 1..)]
    check: Vec<PathBuf>,
    /// Prints the verdict's tables as Markdown too.
    #[arg(long)]
    markdown: bool,
    /// Judges histories made by hand instead, one for each rule.
    #[arg(long)]
    self_test: bool,
    /// Says what each fault does, and what each rule demands.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().collect();
    match arguments.get(1).map(String::as_str) {
        // The program starts itself on the hosts of the network.
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
    // This runs inside the program's own namespaces.
    let isolated = arguments.get(1).is_some_and(|word| word == "isolated");
    if isolated {
        arguments.remove(1);
    }
    let options = Options::parse_from(arguments);
    if options.list {
        println!("Faults:");
        for nemesis in nemesis::ALL {
            println!("  {:30} {}", nemesis.name, nemesis.about);
        }
        println!("\nRules:");
        for (rule, about) in check::RULES {
            println!("  {rule:30} {about}");
        }
        println!("\nRules that the contract does not promise under a fault, counted apart there:");
        for (nemesis, rules) in check::EXCUSES {
            println!("  {nemesis:30} {}", rules.join(", "));
        }
        return ExitCode::SUCCESS;
    }
    if options.self_test {
        return check::examples::run();
    }
    if !options.check.is_empty() {
        return judge(&options.check, options.markdown);
    }
    match campaign::run(&options, isolated) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("the campaign cannot run: {error}");
            ExitCode::from(2)
        }
    }
}

/// Judges recorded histories, each by itself, and adds up what they show.
fn judge(files: &[PathBuf], markdown: bool) -> ExitCode {
    let mut sum: Option<check::Verdict> = None;
    for file in files {
        let verdict = match history::read(file) {
            Ok(events) => check::check(&events),
            Err(error) => {
                eprintln!("{}: {error}", file.display());
                return ExitCode::from(2);
            }
        };
        if let Some(sum) = &mut sum {
            sum.add(verdict);
        } else {
            sum = Some(verdict);
        }
    }
    let sum = sum.expect("there is a file");
    check::report::print(&sum, markdown)
}
