//! A rolling update, as Kubernetes does it: two servers on one Redis are replaced in sequence, under held leases and
//! waiting clients. No lease is lost, every request has an answer, and a client that can come back keeps its queue
//! entry.

mod client;
mod lease;
mod queue;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use leasehold::server::DRAIN_DEADLINE;
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::net::free_port;
use crate::support::redis::RedisServer;
use client::{Client, Service};
use queue::{LockQueue, Pace};

const LEASES: usize = 1_000;
/// The number of waiters per lock, and of locks. Some locks change hands all the time, the others after the update.
const WAITERS_PER_LOCK: usize = 100;
const QUIET_LOCKS: usize = 8;
const BUSY_LOCKS: usize = 2;
const WAITERS: usize = WAITERS_PER_LOCK * (QUIET_LOCKS + BUSY_LOCKS);
/// One in so many waiters has no `Idempotency-Key`: it may come back, but at the end of the queue.
const ONE_WITHOUT_A_KEY: usize = 10;
/// Short enough that an unrenewed lease ends before the test.
const TTL: Duration = Duration::from_secs(20);
/// Entries are kept for 10 s. A client that is back within this time is sure of its entry, although its request may
/// take long to reach the queue.
const SURELY_KEPT: Duration = Duration::from_secs(7);
/// The limit for a prompt effect while 2,000 clients share the machine.
const SLACK: Duration = Duration::from_secs(30);
/// Each waiter and each lease has a connection; at times all of them lead to one server.
const OPEN_FILES: u64 = 4_096;

/// The interval between acquisitions of the leases, and hence between their renewals.
const ONE_BY_ONE: Duration = Duration::from_millis(3);

/// The progress of the update.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Before,
    Begun,
    Over,
    /// Holders release their locks.
    End,
}

#[test]
fn rolling_update_loses_no_lease_and_no_waiter() {
    allow_open_files();
    let redis = RedisServer::plain();
    let addresses = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let mut servers = [0, 1].map(|at: usize| serve(&redis, &addresses[at]));
    let service = Arc::new(Service::new(addresses));
    let (stage, _) = watch::channel(Stage::Before);
    let runtime = Runtime::new().expect("a runtime");

    let mut leases = JoinSet::new();
    let held = Arc::new(AtomicUsize::new(0));
    for number in 0..LEASES {
        let client = Client::new(&service, number % 2);
        let keeping = lease::keep(client, number, Arc::clone(&held), stage.subscribe());
        leases.spawn_on(keeping, runtime.handle());
    }
    eventually(SLACK, "all leases are held", || {
        held.load(Ordering::SeqCst) == LEASES
    });
    let paces = [(Pace::Quiet, QUIET_LOCKS), (Pace::Busy, BUSY_LOCKS)];
    let queues: Vec<_> = paces
        .into_iter()
        .flat_map(|(pace, number)| (0..number).map(move |number| (pace, number)))
        .map(|(pace, number)| LockQueue::form(&service, pace, number, &stage, runtime.handle()))
        .collect();
    eventually(SLACK * 3, "all waiters are in their queues", || {
        waiters(&servers) == WAITERS && queues.iter().all(LockQueue::is_complete)
    });

    let begun = Instant::now();
    stage.send_replace(Stage::Begun);
    let mut told = Vec::new();
    for (at, server) in servers.iter_mut().enumerate() {
        told.push(replace(&redis, &service, at, server));
    }
    let took = begun.elapsed();
    let updated = Instant::now();
    stage.send_replace(Stage::Over);

    eventually(SLACK * 2, "the busy locks are through", || {
        let busy = |queue: &&LockQueue| queue.pace() == Pace::Busy;
        queues.iter().filter(busy).all(LockQueue::is_through)
    });
    eventually(SLACK, "all other waiters wait again", || {
        waiters(&servers) == QUIET_LOCKS * WAITERS_PER_LOCK
    });
    // The server counts requests shortly before it asks Redis.
    sleep(Duration::from_millis(500));
    // One TTL after the beginning, every lease has been renewed or has ended.
    sleep((begun + TTL).saturating_duration_since(Instant::now()));
    let opened = Instant::now();
    for queue in queues.iter().filter(|queue| queue.pace() == Pace::Quiet) {
        queue.open();
    }
    println!("{LEASES} leases and {WAITERS} waiters; the update took {took:.2?}");
    for (ended, ready) in told {
        println!("a server ended in {ended:.2?}; the next was ready {ready:.2?} later");
    }
    println!("{}", service.figures.told());
    let mut tokens = Vec::new();
    for queue in queues {
        tokens.extend(runtime.block_on(queue.end()));
    }
    let through = opened.elapsed();
    stage.send_replace(Stage::End);
    for kept in runtime.block_on(leases.join_all()) {
        assert!(kept.renewed_at > updated, "not renewed since: {kept:?}");
        tokens.push(kept.token);
    }
    let unique: BTreeSet<_> = tokens.iter().collect();
    let granted = LEASES + WAITERS + QUIET_LOCKS + BUSY_LOCKS;
    assert_eq!((tokens.len(), unique.len()), (granted, granted));
    assert_eq!(servers[0].api().list("").json()["locks"], json!([]));
    let waits = service.figures.refusals();
    assert!(waits >= QUIET_LOCKS * WAITERS_PER_LOCK, "{waits} refusals");

    let quiet = QUIET_LOCKS * WAITERS_PER_LOCK;
    println!("{quiet} waiters were then served in order within {through:.2?}");
}

fn serve(redis: &RedisServer, address: &str) -> Leasehold {
    let env = [
        ("LEASEHOLD_REDIS_URL", redis.url()),
        // Redis may be slow beside 2,000 clients on one machine; the test does not measure that.
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "5000".to_owned()),
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "5000".to_owned()),
        ("RUST_LOG", "warn".to_owned()),
    ];
    let server = Leasehold::start_at(address, env);
    server.wait_ready();
    server
}

/// Shuts down a server gracefully and starts its replacement. Returns how long the shutdown took, and how long the
/// replacement took to become ready.
fn replace(
    redis: &RedisServer,
    service: &Service,
    at: usize,
    server: &mut Leasehold,
) -> (Duration, Duration) {
    let told = Instant::now();
    service.ends(at);
    server.terminate();
    let status = server.wait_exit(DRAIN_DEADLINE + SLACK);
    let ended = told.elapsed();
    assert!(status.success(), "{status}\n{}", server.stderr());
    assert!(ended < DRAIN_DEADLINE, "it ended by force: {ended:?}");
    let gone = Instant::now();
    *server = serve(redis, service.address(at));
    service.is_back(at);
    (ended, gone.elapsed())
}

/// The number of waiting requests at both servers.
fn waiters(servers: &[Leasehold; 2]) -> usize {
    let waiters = servers
        .iter()
        .filter_map(|server| server.metric("leasehold_waiters"));
    usize::try_from(waiters.sum::<u64>()).expect("some thousands")
}

/// Raises the limit of open files of this process, and of the servers that it starts, if it is too low.
fn allow_open_files() {
    let limits = fs::read_to_string("/proc/self/limits").expect("Linux");
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    let enough = |soft: u64| soft >= OPEN_FILES;
    if soft.is_some_and(|soft| soft.parse().is_ok_and(enough)) {
        return;
    }
    let raised = Command::new("prlimit")
        .args(["--pid", &std::process::id().to_string()])
        .arg(format!("--nofile={OPEN_FILES}:"))
        .status();
    let raised = raised.expect("prlimit not found: install util-linux to run these tests");
    assert!(raised.success(), "{OPEN_FILES} open files are not allowed");
}
