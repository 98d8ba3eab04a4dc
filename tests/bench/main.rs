//! The benches: ratios within one run, against alternatives on the same machine at the same moment.
//!
//! `cargo bench --bench locks` runs all, in about ten minutes; `-- --quick` in about two, `-- --only a,e` some. `--json
//! FILE` writes the figures as JSON lines, of which `tests/bench/plot FILE` draws some. Sections:
//!
//! - a: cycles of acquire and release with 64 connections, against an empty axum handler, a pooled Redis
//!   connection per request, and webdis
//! - b: CPU time per operation, of the server and of Redis
//! - c: latency at half of the greatest load
//! - d: grants that two replicas confirm, against grants that none does
//! - e: hand-over of one lock from waiter to waiter over two servers, against etcd
//! - f: tens of thousands of parked waiters
//! - g: growth with held locks and with connections
//! - h: Redis memory of a held lock, and when all is over
//! - i: renewals and releases beside listings without a pause, and listings beside other programs' keys
//! - j: one client and eight clients, against webdis, and the time that Redis spends on a call
//! - k: a Go program with Leasehold, with redislock and with etcd
//!
//! Load generator, server and Redis share the machine's cores, so a figure says how work compares, not how fast a
//! server alone would be. Rounds alternate between the candidates, and medians count. Everything runs on
//! loopback and ends with the bench. `tests/bench/install` installs what is compared with.

mod cycles;
mod few;
mod generator;
mod go_programs;
mod growth;
mod handover;
mod listings;
mod machine;
mod memory;
mod parked;
mod process;
mod replicas;
mod report;
mod servers;
mod stand_ins;
// The integration tests use every item of this module, so their build reports dead code.
#[allow(dead_code)]
#[path = "../support/mod.rs"]
mod support;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

use crate::report::Report;

/// The server's own allocator, so that the stand-ins differ only in their work.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

#[derive(Parser)]
#[command(name = "locks", about = "The benches")]
struct Options {
    /// Fewer and shorter rounds, smaller numbers.
    #[arg(long)]
    quick: bool,
    /// Only these sections, such as `a,e`; b and c come with a.
    #[arg(long, value_delimiter = ',')]
    only: Vec<char>,
    /// Where to write the figures as JSON lines.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Another build of the server, measured beside this one in section a; may be given several times.
    #[arg(long, value_name = "PROGRAM")]
    also: Vec<String>,
    /// What `cargo bench` says.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    stand_in: Option<StandIn>,
}

/// What the bench starts of itself.
#[derive(Subcommand)]
enum StandIn {
    /// A handler that does nothing
    #[command(hide = true)]
    Empty { answers: String },
    /// A pooled Redis connection per request
    #[command(hide = true)]
    Pooled { redis: String },
}

/// A section of the report.
type Section = fn(&mut Bench);

/// What sections share.
pub(crate) struct Bench {
    pub(crate) quick: bool,
    pub(crate) report: Report,
    /// Other builds of the server.
    pub(crate) also: Vec<String>,
    /// How many files a process may have open.
    pub(crate) open_files: usize,
}

impl Bench {
    /// A number for a quick run, or for a whole one.
    pub(crate) fn pick<T>(&self, quick: T, whole: T) -> T {
        if self.quick { quick } else { whole }
    }
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.stand_in {
        Some(StandIn::Empty { answers }) => stand_ins::empty(&answers),
        Some(StandIn::Pooled { redis }) => stand_ins::pooled(&redis),
        None => return run(&options),
    }
    ExitCode::SUCCESS
}

fn run(options: &Options) -> ExitCode {
    for (program, why) in [
        ("redis-server", "what the locks are in"),
        ("setpriv", "it is in util-linux"),
    ] {
        if !process::is_installed(program) {
            eprintln!("{program} is missing ({why}); tests/bench/install installs what Debian has");
            return ExitCode::FAILURE;
        }
    }
    let open_files = process::raise_open_files();
    let begun = Instant::now();
    let mut bench = Bench {
        quick: options.quick,
        report: Report::new(machine::describe()),
        also: options.also.clone(),
        open_files,
    };
    let wanted = |section| options.only.is_empty() || options.only.contains(&section);
    // Redis drops expired locks seconds later; the other sections fill that time.
    let held = wanted('h').then(|| memory::hold(&mut bench));
    if ['a', 'b', 'c'].into_iter().any(wanted) {
        throughput::run(&mut bench);
    }
    let sections: [(char, Section); 7] = [
        ('d', replicas::run),
        ('e', handover::run),
        ('f', parked::run),
        ('g', growth::run),
        ('i', listings::run),
        ('j', few::run),
        ('k', go_programs::run),
    ];
    for (section, run) in sections {
        if wanted(section) {
            run(&mut bench);
        }
    }
    if let Some(held) = held {
        held.finish(&mut bench);
    }
    bench
        .report
        .note(format!("the run took {} s", begun.elapsed().as_secs()));
    println!("{}", bench.report.table());
    if let Some(file) = &options.json
        && let Err(error) = bench.report.write_json(file)
    {
        eprintln!("{} cannot be written: {error}", file.display());
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
