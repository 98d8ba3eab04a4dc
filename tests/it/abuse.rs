//! Hostile and clumsy clients, all at once: a client with leases of two seconds loses none.
//!
//! By default a run takes some seconds; `LEASEHOLD_TEST_ABUSE_SECONDS` asks for a longer one. The test prints its
//! figures.

mod attacks;
mod holder;

use std::env;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use attacks::{ATTACKS, Target};
use holder::{Held, Holder};

const SECONDS: u64 = 8;

/// In a short run each attacker pauses between requests, because the build is not optimised and other tests run beside
/// it.
const SHORT_RUN_PAUSE: Duration = Duration::from_millis(40);

/// The number of leases of the well-behaved client, each in its own thread.
const LEASES: usize = 8;

/// Locks of other clients with 4 KB of metadata each, which listings read.
const LARGE_LOCKS: usize = 1000;

const TOKEN: &str = "a-token-of-sixteen-or-more";
const MAX_CONNECTIONS: u64 = 2000;

/// The memory limit of a server by the formula in the chart's README, in KiB: a base, and an amount per connection.
const OWN_KIB: u64 = 128 * 1024;
const CONNECTION_KIB: u64 = 44;

/// How long the server may take to free its memory after the run.
const RECOVERED: Duration = Duration::from_secs(30);

/// The duration of the run, and the pauses of attackers in it.
fn duration() -> (Duration, Duration) {
    match env::var("LEASEHOLD_TEST_ABUSE_SECONDS") {
        Ok(seconds) => {
            let seconds = seconds.parse().expect("a number");
            (Duration::from_secs(seconds), Duration::ZERO)
        }
        Err(_) => (Duration::from_secs(SECONDS), SHORT_RUN_PAUSE),
    }
}

fn fill(api: &Api) {
    let metadata: serde_json::Map<_, _> = (0..32)
        .map(|n| (format!("{n:02}"), json!("x".repeat(126))))
        .collect();
    for number in 0..LARGE_LOCKS {
        let body = json!({"ttl_ms": 3_600_000, "metadata": metadata});
        let held = api.acquire(&format!("large/{number}"), body);
        assert_eq!(held.status, 201, "{held:?}");
    }
}

/// A quantile of these sorted times.
fn percentile(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() * percent / 100).min(times.len() - 1)]
}

/// Prints the figures of a run: renewals, memory in KiB before, over time and at its peak, and the attacks. Returns the
/// time within which nearly all leases were renewed.
fn report(
    held: &[Held],
    memory: &[u64],
    attacks: &[(&str, u64)],
    before: u64,
    peak: u64,
) -> Duration {
    let mut times: Vec<_> = held.iter().flat_map(|held| held.renewals.clone()).collect();
    times.sort_unstable();
    let repeated: u64 = held.iter().map(|held| held.repeated).sum();
    let closest = held.iter().map(|held| held.least_left).min();
    let p99 = percentile(&times, 99);
    println!(
        "renewals: {}, {repeated} repeated; p50 {:?}, p99 {p99:?}, longest {:?}; least left of a lease {closest:?}",
        times.len(),
        percentile(&times, 50),
        times.last().expect("renewals"),
    );
    let tenths = (1..=10).map(|tenth| memory[(memory.len() * tenth / 10).max(1) - 1] / 1024);
    println!(
        "memory in MiB: {} before, {} at its highest, over time {:?}",
        before / 1024,
        peak / 1024,
        tenths.collect::<Vec<_>>()
    );
    for attack in ATTACKS {
        let times = attacks.iter().filter(|(name, _)| *name == attack.name);
        let total: u64 = times.map(|(_, times)| times).sum();
        println!(
            "{}: {total} times by {} threads",
            attack.name, attack.threads
        );
        assert!(total > 0, "{} did nothing", attack.name);
    }
    p99
}

#[test]
fn well_behaved_client_loses_no_lease_among_hostile_ones() {
    let redis = RedisServer::plain();
    let server = Leasehold::start_with_large_log(
        &["panicked", "\"ERROR\"", "\"WARN\""],
        [
            ("LEASEHOLD_REDIS_URL", redis.url()),
            ("LEASEHOLD_TOKEN", TOKEN.to_owned()),
            ("LEASEHOLD_MAX_CONNECTIONS", MAX_CONNECTIONS.to_string()),
            ("LEASEHOLD_MAX_WAITERS", "1000".to_owned()),
            ("LEASEHOLD_MAX_WAITERS_PER_KEY", "500".to_owned()),
        ],
    );
    server.wait_ready();
    let api = server
        .api()
        .with_header("Authorization", &format!("Bearer {TOKEN}"));
    fill(&api);
    let before = server.process().resident_kib();
    let over = AtomicBool::new(false);
    let (duration, pause) = duration();
    let target = Target {
        addr: server.addr(),
        token: TOKEN,
        over: &over,
        pause,
    };
    let (held, memory, attacks) = thread::scope(|scope| {
        let attackers: Vec<_> = ATTACKS
            .iter()
            .flat_map(|attack| (0..attack.threads).map(move |_| attack))
            .map(|attack| (attack.name, scope.spawn(|| (attack.run)(&target))))
            .collect();
        let holders: Vec<_> = (0..LEASES)
            .map(|number| {
                let holder = Holder::new(target.addr, TOKEN, number);
                let over = &over;
                scope.spawn(move || holder.hold(over))
            })
            .collect();
        let end = Instant::now() + duration;
        let mut memory = Vec::new();
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(500));
            memory.push(server.process().resident_kib());
        }
        over.store(true, Ordering::Relaxed);
        let held: Vec<Held> = holders
            .into_iter()
            .map(|holder| holder.join().expect("it held its lease"))
            .collect();
        let attacks: Vec<(&str, u64)> = attackers
            .into_iter()
            .map(|(name, attacker)| (name, attacker.join().expect("it attacked")))
            .collect();
        (held, memory, attacks)
    });

    let peak = server.process().peak_kib();
    let p99 = report(&held, &memory, &attacks, before, peak);
    // What is left of a lease when it is renewed, as it should be, after a third of it.
    assert!(p99 < holder::TTL * 2 / 3, "{p99:?}");
    assert!(
        peak < OWN_KIB + MAX_CONNECTIONS * CONNECTION_KIB,
        "{peak} KiB"
    );

    // The server has recovered: memory, queue entries and answers.
    let log = server.stderr();
    // An acquisition may find Redis too slow, because lease operations go first.
    let is_bad = |line: &&str| !line.contains("\"WARN\"") && !line.contains("waited for too long");
    assert_eq!(
        log.lines().filter(is_bad).collect::<Vec<_>>(),
        Vec::<&str>::new()
    );
    assert_eq!(api.list("limit=1").status, 200);
    eventually(RECOVERED, "no request waits any more", || {
        server.metric("leasehold_waiters") == Some(0)
    });
    eventually(RECOVERED, "the memory is back", || {
        server.process().resident_kib() < before + 64 * 1024
    });
    println!(
        "memory in MiB: {} after",
        server.process().resident_kib() / 1024
    );
}
