//! Many clients at two servers through failovers: no client gets another's lock, every request has an answer, and no
//! key stays behind in Redis.

mod client;
mod ledger;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::support::api::FAILOVER;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::{SentinelConfig, SentinelSet};
use crate::support::{eventually, poll};
use client::Client;
use ledger::Ledger;

/// The minimum number of operations of a run; `LEASEHOLD_TEST_SOAK_OPERATIONS` raises it.
const OPERATIONS: u64 = 3_000;
/// The number of clients and of the keys that they contend for.
const CLIENTS: u64 = 48;
const KEYS: usize = 16;
/// The number of leases held during the whole run.
const KEPT: usize = 20;
const KEPT_TTL: Duration = Duration::from_secs(60);
/// The longest wait that the servers allow.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// How long a queue's keys can stay after its last wait: entries are kept for 10 s, plus the clock skew of 3.5 s.
const GARBAGE: Duration = Duration::from_secs(14);
/// The limit for a prompt effect.
const SLACK: Duration = Duration::from_secs(15);

/// The figures of a run, printed at its end.
#[derive(Default)]
struct Figures {
    operations: AtomicU64,
    grants: AtomicU64,
    replays: AtomicU64,
    waits: AtomicU64,
    refusals: AtomicU64,
    time_outs: AtomicU64,
    hang_ups: AtomicU64,
    returns: AtomicU64,
    expiries: AtomicU64,
    renewals: AtomicU64,
    breaks: AtomicU64,
    unavailable: AtomicU64,
}

/// The state shared by the clients.
struct Soak {
    servers: [String; 2],
    ledger: Ledger,
    figures: Figures,
    over: AtomicBool,
}

fn count(figure: &AtomicU64) -> u64 {
    figure.fetch_add(1, Ordering::Relaxed) + 1
}

#[test]
fn no_lock_is_granted_twice_and_no_key_is_left() {
    let asked = std::env::var("LEASEHOLD_TEST_SOAK_OPERATIONS").ok();
    let operations = asked
        .map_or(OPERATIONS, |number| number.parse().expect("a number"))
        .max(OPERATIONS);
    let seed = u64::from(leasehold::random::number());
    println!("at least {operations} operations, seed {seed}");
    let set = SentinelConfig::new().quick().start();
    let servers = [(); 2].map(|()| serve(&set));
    let soak = Arc::new(Soak {
        servers: [0, 1].map(|at: usize| servers[at].addr().to_owned()),
        ledger: Ledger::new(KEYS),
        figures: Figures::default(),
        over: AtomicBool::new(false),
    });
    let kept = Kept::take(&servers[0]);
    let begun = Instant::now();
    let runtime = Runtime::new().expect("a runtime");
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        let client = Client::new(Arc::clone(&soak), seed.wrapping_add(number));
        clients.spawn_on(client.run(), runtime.handle());
    }
    let failovers = thread::scope(|scope| {
        let faults = scope.spawn(|| {
            let _over = SetWhenDropped(&soak.over);
            faults(&set, &servers, &soak, operations, &kept)
        });
        runtime.block_on(async {
            while let Some(ended) = clients.join_next().await {
                if let Err(failure) = ended {
                    soak.over.store(true, Ordering::Relaxed);
                    panic!("a client failed: {failure}");
                }
            }
        });
        faults.join().expect("the failovers came to their end")
    });
    let took = begun.elapsed();
    kept.release(&servers[1]);
    soak.ledger.check_order();
    println!("{}", soak.figures.told(took));
    println!("first grants {failovers:?} after the master was killed, and after it was deposed");

    let ended = Instant::now();
    eventually(SLACK, "no request waits any more", || {
        let waiters = |server: &Leasehold| server.metric("leasehold_waiters");
        servers.iter().all(|server| waiters(server) == Some(0))
    });
    eventually(SLACK, "no lock is held any more", || {
        servers[0].api().list("").json()["locks"] == json!([])
    });
    eventually(
        MAX_WAIT + GARBAGE + SLACK,
        "Redis holds nothing any more",
        || set.nodes().iter().all(|node| left_in(node).is_empty()),
    );
    println!("nothing was left in Redis {:?} later", ended.elapsed());
}

fn serve(set: &SentinelSet) -> Leasehold {
    let limit = (
        "LEASEHOLD_MAX_WAIT_MS".to_owned(),
        MAX_WAIT.as_millis().to_string(),
    );
    let server = Leasehold::start(set.env().into_iter().chain([limit]));
    server.wait_ready();
    server
}

/// How often each server found that leases are lost.
fn losses(servers: &[Leasehold; 2]) -> [Option<u64>; 2] {
    [0, 1].map(|at: usize| servers[at].metric("leasehold_losses_total"))
}

/// All keys except the two that exist as long as there are servers.
fn left_in(node: &RedisServer) -> Vec<String> {
    let mut keys = node.keys();
    keys.retain(|key| !["leasehold:locks", "leasehold:servers"].contains(&key.as_str()));
    keys
}

/// Kills the master after a third of the operations, and deposes a healthy one after two thirds. Returns for both how
/// long it took until the next master granted a lock.
fn faults(
    set: &SentinelSet,
    servers: &[Leasehold; 2],
    soak: &Soak,
    operations: u64,
    kept: &Kept,
) -> [Duration; 2] {
    let replaced = |fault: fn(&SentinelSet) -> u16, after: u64| {
        soak.until(after, || kept.renew_in_time(servers));
        let at = Instant::now();
        let old = fault(set);
        set.wait_for_new_master(old);
        let granted = poll(FAILOVER, || {
            kept.renew_in_time(servers);
            soak.ledger.first_of_a_new_master(at)
        });
        assert_eq!(losses(servers), [Some(0), Some(0)], "a master lost leases");
        granted.expect("a lock is granted by the new master");
        kept.renew(servers);
        if !set.node(old).is_up() {
            set.node(old).restart();
        }
        set.wait_for_replicas(2);
        let first = soak.ledger.first_of_a_new_master(at);
        first.expect("it was seen") - at
    };
    let killed = replaced(SentinelSet::kill_master, operations / 3);
    let deposed = replaced(SentinelSet::failover, operations * 2 / 3);
    while soak.figures.operations.load(Ordering::Relaxed) < operations && !soak.is_over() {
        kept.renew(servers);
        thread::sleep(Duration::from_millis(500));
    }
    kept.renew(servers);
    [killed, deposed]
}

impl Soak {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }

    /// Waits for this many operations, and calls `meanwhile` all the time.
    fn until(&self, operations: u64, meanwhile: impl Fn()) {
        while self.figures.operations.load(Ordering::Relaxed) < operations {
            assert!(!self.is_over(), "a client failed");
            meanwhile();
            thread::sleep(Duration::from_millis(10));
        }
    }
}

struct SetWhenDropped<'a>(&'a AtomicBool);

impl Drop for SetWhenDropped<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Leases without contention that outlast every failover.
struct Kept {
    leases: Vec<(String, String, u64)>,
    /// When the test began to renew them last, or to acquire them.
    since: Mutex<Instant>,
}

impl Kept {
    fn take(server: &Leasehold) -> Self {
        let take = |number| {
            let key = format!("kept/{number}");
            let ttl_ms = u64::try_from(KEPT_TTL.as_millis()).expect("a minute");
            let lease = server.api().acquire(&key, json!({"ttl_ms": ttl_ms}));
            assert_eq!(lease.status, 201, "{}", lease.body);
            (key, lease.lease_id(), lease.fencing_token())
        };
        Self {
            since: Mutex::new(Instant::now()),
            leases: (0..KEPT).map(take).collect(),
        }
    }

    /// Renews them as clients do, well before a third of the TTL is over.
    fn renew_in_time(&self, servers: &[Leasehold; 2]) {
        let since = self.since.lock().expect("no panic").elapsed();
        if since > KEPT_TTL / 6 {
            self.renew(servers);
        }
    }

    /// Checks that each lease is still held by its client.
    fn renew(&self, servers: &[Leasehold; 2]) {
        let before = std::mem::replace(&mut *self.since.lock().expect("no panic"), Instant::now());
        for (number, (key, lease_id, token)) in self.leases.iter().enumerate() {
            let api = servers[number % 2].api();
            let mut renewed = api.renew(key, lease_id, None);
            eventually(SLACK, "a lease is renewed", || {
                if renewed.status == 503 {
                    renewed = api.renew(key, lease_id, None);
                }
                renewed.status != 503
            });
            let since = before.elapsed();
            assert!(since < KEPT_TTL, "the machine is too slow: {since:?}");
            assert_eq!(
                renewed.status, 200,
                "{key} was lost {since:?} after its renewal: {}",
                renewed.body
            );
            assert_eq!(renewed.fencing_token(), *token);
            assert_ne!(api.acquire(key, None).status, 201, "{key} is held");
        }
    }

    fn release(&self, server: &Leasehold) {
        for (key, lease_id, _) in &self.leases {
            assert_eq!(server.api().release(key, lease_id).status, 204, "{key}");
        }
    }
}

impl Figures {
    fn told(&self, took: Duration) -> String {
        let read = |figure: &AtomicU64| figure.load(Ordering::Relaxed);
        let operations = read(&self.operations);
        format!(
            "{operations} operations in {:.1} s: {} grants and {} replays, {} waits ({} of them in vain), {} refusals, {} hang-ups \
             (after {} the client came back), {} expiries, {} renewals, {} breaks, {} answers 503",
            took.as_secs_f64(),
            read(&self.grants),
            read(&self.replays),
            read(&self.waits),
            read(&self.time_outs),
            read(&self.refusals),
            read(&self.hang_ups),
            read(&self.returns),
            read(&self.expiries),
            read(&self.renewals),
            read(&self.breaks),
            read(&self.unavailable),
        )
    }
}
