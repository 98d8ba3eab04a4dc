//! Section f: tens of thousands of waiters.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::cycles::{acquire, count, get, release, renew, size};
use crate::generator::{Connections, quoted};
use crate::process::cpu_seconds;
use crate::report::{Reach, percentile};
use crate::servers::{self, START_LIMIT, Server};
use crate::support::eventually;
use crate::support::redis::RedisServer;

/// Waiters of one key.
const PER_KEY: usize = 1000;

/// The largest number of waiters, and the number of further open files that a process needs.
const MOST: usize = 20_000;
const OTHER_FILES: usize = 500;

/// Connections that run lease operations beside the waiters.
const WORKERS: usize = 4;

/// The wait of a parked request.
const WAIT_MS: &str = "600000";

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== f: parked waiters");
    let redis = servers::redis();
    let variables = [("LEASEHOLD_MAX_WAIT_MS", WAIT_MS)];
    // A server without waiters is the baseline of the same moment.
    let (full, empty) = (Server::on(&redis, &variables), {
        let apart = [
            ("LEASEHOLD_MAX_WAIT_MS", WAIT_MS),
            ("LEASEHOLD_KEY_PREFIX", "empty:"),
        ];
        Server::on(&redis, &apart)
    });
    let before = full.process.resident_kib();
    let half = park(&full, 0, 10_000);
    compare_latency(bench, &full, &empty);
    let parked = MOST.min((bench.open_files - OTHER_FILES) / PER_KEY * PER_KEY);
    let rest = park(&full, 10_000, parked);
    let grown = full.process.resident_kib().saturating_sub(before);
    let each = count(grown) / size(parked);
    let name = format!("server memory of a parked waiter, its connection included ({parked})");
    bench
        .report
        .absolute(('f', &name, "KiB"), &[each], Reach::AtMost(20.0));
    drop(empty);
    idle(bench, &redis, &full, parked);
    drop((half, rest));
}

/// Parked waiters, each on its own connection, for locks that are held.
fn park(server: &Server, from: usize, to: usize) -> Connections {
    let mut holders = Connections::open(&[server.address], 1).expect("the server listens");
    let waiting = format!("{{\"ttl_ms\":3600000,\"wait_ms\":{WAIT_MS}}}");
    let mut line = Connections::open(&[server.address], to - from)
        .expect("connections: are there ports enough?");
    for (at, waiter) in (from..to).enumerate() {
        let key = format!("parked-{}", waiter / PER_KEY);
        if waiter % PER_KEY == 0 {
            let (status, body) = holders.ask(0, &acquire(&key, "{\"ttl_ms\":3600000}"));
            assert_eq!(status, 201, "{body}");
        }
        line.send(at, &acquire(&key, &waiting));
    }
    eventually(START_LIMIT, "all waiters to be in line", || {
        let (_, metrics) = holders.ask(0, &get("metrics"));
        metrics
            .lines()
            .any(|line| line == format!("leasehold_waiters {to}"))
    });
    // The last acquisitions may still be on their way to Redis.
    sleep(Duration::from_secs(1));
    line.answers(Some(Duration::ZERO), |_, _, answer| {
        panic!("a waiter was answered {}", answer.status)
    });
    line
}

fn compare_latency(bench: &mut Bench, full: &Server, empty: &Server) {
    let (mut beside, mut alone) = (Times::default(), Times::default());
    for _ in 0..bench.pick(3, 7) {
        alone.add(work(empty, Duration::from_millis(700)));
        beside.add(work(full, Duration::from_millis(700)));
    }
    let base = "no parked waiters";
    for (at, what) in ["renew", "release", "/readyz"].iter().enumerate() {
        let name = format!("{what} p99 with 10,000 parked waiters");
        bench.report.compare(
            ('f', &name, "ms"),
            &beside.0[at],
            (base, &alone.0[at]),
            Reach::Nothing,
        );
    }
}

/// p99 of renew, release and readyz, round by round.
#[derive(Default)]
pub(crate) struct Times(pub(crate) [Vec<f64>; 3]);

impl Times {
    pub(crate) fn add(&mut self, mut times: [Vec<u32>; 3]) {
        for (all, times) in self.0.iter_mut().zip(&mut times) {
            all.push(percentile(times, 0.99));
        }
    }
}

/// Repeats acquire, renew, release and readyz; returns the latencies of the last three in microseconds.
pub(crate) fn work(server: &Server, time: Duration) -> [Vec<u32>; 3] {
    let mut connections =
        Connections::open(&[server.address], WORKERS).expect("the server listens");
    let mut times: [Vec<u32>; 3] = Default::default();
    let mut step = [0; WORKERS];
    let mut sent = [Instant::now(); WORKERS];
    let mut lease_ids: Vec<Vec<u8>> = vec![Vec::new(); WORKERS];
    let key = |id: usize| format!("worker-{id}");
    for id in 0..WORKERS {
        connections.send(id, &acquire(&key(id), "{\"ttl_ms\":10000}"));
    }
    let begun = Instant::now();
    let mut open = WORKERS;
    while open > 0 {
        connections.answers(Some(time), |senders, id, answer| {
            assert!(
                (200..300).contains(&answer.status),
                "answered {}",
                answer.status
            );
            let now = Instant::now();
            if step[id] > 0 {
                times[step[id] - 1]
                    .push(u32::try_from((now - sent[id]).as_micros()).unwrap_or(u32::MAX));
            } else {
                lease_ids[id] = quoted(answer.body, "\"lease_id\":\"")
                    .expect("a lease has an id")
                    .to_vec();
            }
            step[id] = (step[id] + 1) % 4;
            if step[id] == 0 && begun.elapsed() >= time {
                open -= 1;
                return;
            }
            let request = match step[id] {
                0 => acquire(&key(id), "{\"ttl_ms\":10000}"),
                1 => renew(&key(id), &lease_ids[id]),
                2 => release(&key(id), &lease_ids[id]),
                _ => get("readyz"),
            };
            sent[id] = now;
            senders.send(id, &request);
        });
    }
    times
}

/// Measures the idle cost of the parked waiters.
fn idle(bench: &mut Bench, redis: &RedisServer, server: &Server, parked: usize) {
    let time = Duration::from_secs(bench.pick(5, 10));
    // The new waiters settle first.
    sleep(Duration::from_secs(2));
    let cpu = || [server.cpu_seconds(), cpu_seconds(redis.process.id())];
    let (begun, before) = (Instant::now(), cpu());
    let commands = servers::commands_within(redis, time);
    let commands = commands
        .iter()
        .map(|command| command[0].to_ascii_lowercase());
    let commands: Vec<String> = commands.collect();
    let (elapsed, after) = (begun.elapsed().as_secs_f64(), cpu());
    let each = count(commands.len() as u64) / elapsed;
    let name = format!("Redis commands a second of one server with {parked} parked waiters");
    bench
        .report
        .absolute(('f', &name, "/s"), &[each], Reach::AtMost(1.2));
    let mut kinds = commands.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let many = |kind: &String| {
        format!(
            "{kind}: {}",
            commands.iter().filter(|command| *command == kind).count()
        )
    };
    let kinds: Vec<String> = kinds.iter().map(many).collect();
    bench.report.note(format!(
        "f: commands within {elapsed:.0} s of idleness: {}",
        kinds.join(", ")
    ));
    for (name, at) in [
        ("CPU of the server while they wait", 0),
        ("CPU of Redis meanwhile", 1),
    ] {
        let percent = (after[at] - before[at]) / elapsed * 100.0;
        bench
            .report
            .absolute(('f', name, "% of a core"), &[percent], Reach::Nothing);
    }
}
