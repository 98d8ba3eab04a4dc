//! Sections a, b and c: throughput, CPU cost, and latency at half of the throughput.

use std::net::SocketAddr;
use std::thread::sleep;
use std::time::Duration;

use tempfile::TempDir;

use crate::Bench;
use crate::cycles::{Clients, Dialect, acquire, count, release};
use crate::generator::{Connections, quoted};
use crate::process::{cpu_seconds, is_installed};
use crate::report::{Reach, Rounds, percentile};
use crate::servers::{self, Server};
use crate::stand_ins::Canned;
use crate::support::redis::RedisServer;

const CONNECTIONS: usize = 64;

/// A cycle consists of an acquire and a release.
const OPERATIONS: f64 = 2.0;

struct Candidate {
    name: String,
    dialect: Dialect,
    server: Server,
    uses_redis: bool,
    rounds: Vec<Round>,
}

struct Round {
    cycles_per_second: f64,
    /// CPU microseconds per operation.
    server_cpu: f64,
    redis_cpu: f64,
    generator_cpu: f64,
    /// Operations per script call.
    batch: f64,
    failures: u64,
}

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== a, b, c: acquire and release with {CONNECTIONS} connections");
    let redis = servers::redis();
    let directory = TempDir::new().expect("a temporary directory");
    let mut candidates = candidates(bench, &redis, &directory);
    for _ in 0..bench.pick(3, 7) {
        for candidate in &mut candidates {
            let round = round(bench, candidate, &redis);
            candidate.rounds.push(round);
        }
    }
    report_speed(bench, &candidates);
    report_cpu(bench, &candidates);
    latency(bench, &candidates);
}

fn candidates(bench: &mut Bench, redis: &RedisServer, directory: &TempDir) -> Vec<Candidate> {
    let memory = Server::in_memory(&[]);
    let answers = serde_json::to_string(&canned(memory.address)).expect("two answers are JSON");
    let candidate = |name: &str, server, uses_redis| Candidate {
        name: name.to_owned(),
        dialect: Dialect::Leasehold,
        server,
        uses_redis,
        rounds: Vec::new(),
    };
    let quiet = ("RUST_LOG", "warn");
    let mut all = vec![
        candidate(EMPTY, Server::stand_in(&["empty", &answers]), false),
        candidate(MEMORY, memory, false),
        candidate(QUIET_MEMORY, Server::in_memory(&[quiet]), false),
        candidate(REDIS, Server::on(redis, &[]), true),
        candidate(
            QUIET_REDIS,
            Server::on(redis, &[quiet, ("LEASEHOLD_KEY_PREFIX", "quiet:")]),
            true,
        ),
        candidate(POOLED, Server::stand_in(&["pooled", &redis.url()]), true),
    ];
    for program in &bench.also {
        let memory = Server::build_of_leasehold(program, &[("LEASEHOLD_STORE", "memory")]);
        all.push(candidate(
            &format!("memory store, {program}"),
            memory,
            false,
        ));
        let url = redis.url();
        let variables = [
            ("LEASEHOLD_REDIS_URL", url.as_str()),
            ("LEASEHOLD_KEY_PREFIX", "also:"),
        ];
        let on_redis = Server::build_of_leasehold(program, &variables);
        all.push(candidate(
            &format!("Redis store, {program}"),
            on_redis,
            true,
        ));
    }
    if is_installed("webdis") {
        let server = Server::webdis(redis, directory.path());
        all.push(Candidate {
            dialect: Dialect::Webdis,
            ..candidate(WEBDIS, server, true)
        });
    } else {
        bench
            .report
            .note("webdis is not installed (tests/bench/install): its row is missing");
    }
    all
}

const EMPTY: &str = "empty handler";
const MEMORY: &str = "memory store";
const QUIET_MEMORY: &str = "memory store, RUST_LOG=warn";
const REDIS: &str = "Redis store";
const QUIET_REDIS: &str = "Redis store, RUST_LOG=warn";
const POOLED: &str = "pooled connection per request";
const WEBDIS: &str = "webdis";

/// A server's answers to an acquire and to its release, for the stand-in to repeat.
fn canned(at: SocketAddr) -> [Canned; 2] {
    let mut connections = Connections::open(&[at], 1).expect("the server listens");
    let mut lease_id = Vec::new();
    let mut answered = |request: &[u8]| {
        connections.send(0, request);
        let mut canned = None;
        while canned.is_none() {
            connections.answers(None, |_, _, answer| {
                lease_id = quoted(answer.body, "\"lease_id\":\"")
                    .unwrap_or_default()
                    .to_vec();
                canned = Some(Canned {
                    status: answer.status,
                    headers: headers(answer.head),
                    body: String::from_utf8_lossy(answer.body).into_owned(),
                });
            });
        }
        (canned.expect("it answered"), lease_id.clone())
    };
    let (acquired, lease_id) = answered(&acquire("bench-0-00", "{\"ttl_ms\":10000}"));
    let (released, _) = answered(&release("bench-0-00", &lease_id));
    [acquired, released]
}

/// All headers except those that the HTTP library adds itself.
fn headers(head: &[u8]) -> Vec<(String, String)> {
    let text = String::from_utf8_lossy(head);
    let headers = text.lines().filter_map(|line| line.split_once(": "));
    headers
        .filter(|(name, _)| !["date", "content-length", "connection"].contains(name))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn round(bench: &Bench, candidate: &Candidate, redis: &RedisServer) -> Round {
    let name = format!("bench-{}", candidate.rounds.len());
    let mut clients = Clients::open(
        candidate.dialect,
        candidate.server.address,
        CONNECTIONS,
        &name,
    );
    clients.run(Duration::from_millis(bench.pick(200, 400)));
    let cpu = || {
        (
            candidate.server.cpu_seconds(),
            cpu_seconds(redis.process.id()),
            cpu_seconds(std::process::id()),
        )
    };
    let before_calls = servers::spent(redis, "evalsha");
    let before = cpu();
    let tally = clients.run(Duration::from_millis(bench.pick(1000, 2000)));
    let after = cpu();
    clients.settle();
    let calls = servers::spent(redis, "evalsha").calls - before_calls.calls;
    let operations = count(tally.cycles) * OPERATIONS;
    let each = |before: f64, after: f64| (after - before) * 1e6 / operations;
    Round {
        cycles_per_second: tally.per_second(),
        server_cpu: each(before.0, after.0),
        redis_cpu: each(before.1, after.1),
        generator_cpu: each(before.2, after.2),
        batch: operations / calls.max(1.0),
        failures: tally.failures,
    }
}

fn of(candidates: &[Candidate], name: &str, what: impl Fn(&Round) -> f64) -> Vec<f64> {
    let candidate = candidates.iter().find(|candidate| candidate.name == name);
    candidate.map_or_else(Vec::new, |candidate| {
        candidate.rounds.iter().map(what).collect()
    })
}

fn report_speed(bench: &mut Bench, candidates: &[Candidate]) {
    let speed = |name: &str| of(candidates, name, |round| round.cycles_per_second);
    let empty = speed(EMPTY);
    for candidate in candidates {
        let reach = match candidate.name.as_str() {
            MEMORY => Reach::AtLeast(0.85),
            REDIS => Reach::AtLeast(0.5),
            _ => Reach::Nothing,
        };
        let values = speed(&candidate.name);
        bench.report.compare(
            ('a', &candidate.name, "cycles/s"),
            &values,
            (EMPTY, &empty),
            reach,
        );
        let failures: u64 = candidate.rounds.iter().map(|round| round.failures).sum();
        if failures > 0 {
            bench
                .report
                .note(format!("{}: {failures} requests failed", candidate.name));
        }
    }
    for (base, least) in [(POOLED, 1.8), (WEBDIS, 0.9)] {
        let others = speed(base);
        if !others.is_empty() {
            for (name, reach) in [
                (REDIS, Reach::AtLeast(least)),
                (QUIET_REDIS, Reach::Nothing),
            ] {
                bench.report.compare(
                    ('a', name, "cycles/s"),
                    &speed(name),
                    (base, &others),
                    reach,
                );
            }
        }
    }
}

fn report_cpu(bench: &mut Bench, candidates: &[Candidate]) {
    let empty = of(candidates, EMPTY, |round| round.server_cpu);
    for candidate in candidates {
        let reach = match candidate.name.as_str() {
            MEMORY | REDIS => Reach::AtMost(1.8),
            _ => Reach::Nothing,
        };
        let values = of(candidates, &candidate.name, |round| round.server_cpu);
        let name = format!("server CPU per operation: {}", candidate.name);
        bench
            .report
            .compare(('b', &name, "µs"), &values, (EMPTY, &empty), reach);
    }
    let generator = of(candidates, EMPTY, |round| round.generator_cpu);
    bench.report.absolute(
        ('b', "the generator's own CPU per operation", "µs"),
        &generator,
        Reach::Nothing,
    );
    let pooled = of(candidates, POOLED, |round| round.redis_cpu);
    for candidate in candidates.iter().filter(|candidate| candidate.uses_redis) {
        let values = of(candidates, &candidate.name, |round| round.redis_cpu);
        let name = format!("Redis CPU per operation: {}", candidate.name);
        bench.report.compare(
            ('b', &name, "µs"),
            &values,
            (POOLED, &pooled),
            Reach::Nothing,
        );
    }
    for candidate in candidates
        .iter()
        .filter(|candidate| candidate.name.starts_with(REDIS))
    {
        let values = of(candidates, &candidate.name, |round| round.batch);
        let name = format!("operations per script call: {}", candidate.name);
        bench
            .report
            .absolute(('b', &name, ""), &values, Reach::Nothing);
    }
}

/// Open loop: requests start whether or not the earlier answers have arrived.
fn latency(bench: &mut Bench, candidates: &[Candidate]) {
    let measured = [EMPTY, MEMORY, REDIS, QUIET_REDIS, POOLED];
    let mut times: Vec<[Vec<f64>; 4]> = measured.iter().map(|_| Default::default()).collect();
    for _ in 0..bench.pick(1, 3) {
        for (name, times) in measured.iter().zip(&mut times) {
            let Some(candidate) = candidates.iter().find(|candidate| candidate.name == *name)
            else {
                continue;
            };
            let speeds = of(candidates, name, |round| round.cycles_per_second);
            let rate = Rounds::of(&speeds).median / 2.0;
            let mut clients = Clients::open(
                candidate.dialect,
                candidate.server.address,
                CONNECTIONS,
                "paced",
            );
            clients.paced(rate, Duration::from_millis(300));
            let mut tally = clients.paced(rate, Duration::from_millis(bench.pick(1200, 2500)));
            clients.settle();
            times[0].push(percentile(&mut tally.acquires, 0.5));
            times[1].push(percentile(&mut tally.acquires, 0.99));
            times[2].push(percentile(&mut tally.releases, 0.5));
            times[3].push(percentile(&mut tally.releases, 0.99));
            sleep(Duration::from_millis(50));
        }
    }
    for (name, measured) in measured.iter().zip(&times) {
        let of = ["acquire p50", "acquire p99", "release p50", "release p99"];
        for ((what, values), base) in of.iter().zip(measured).zip(&times[0]) {
            let figure = format!("{what} at half of its load: {name}");
            bench
                .report
                .compare(('c', &figure, "ms"), values, (EMPTY, base), Reach::Nothing);
        }
    }
}
