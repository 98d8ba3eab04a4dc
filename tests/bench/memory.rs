//! Section h: the memory of a held lock in Redis, and the keys that remain after all leases.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::cycles::{self, size};
use crate::report::Reach;
use crate::servers::{self, Server};
use crate::support::redis::RedisServer;

/// Longer than it takes to acquire all locks, as sweeps remove those that are over.
const TTL_MS: u64 = 90_000;

/// Sweeps remove a lock within seconds of its end.
const GONE_LIMIT: Duration = Duration::from_secs(180);

/// The allowed remaining keys: the record of the activation, and the servers' heartbeats.
const MAY_REMAIN: [&str; 2] = ["leasehold:locks", "leasehold:servers"];

/// Locks that expire while the other sections run.
pub(crate) struct Held {
    redis: RedisServer,
    _server: Server,
    before: f64,
}

pub(crate) fn hold(bench: &mut Bench) -> Held {
    println!("\n== h: Redis memory of held locks");
    let redis = servers::redis();
    let server = Server::on(&redis, &[]);
    let locks = bench.pick(20_000, 100_000);
    let before = servers::used_memory(&redis);
    let failures = cycles::hold(server.address, 0, locks, TTL_MS);
    let each = (servers::used_memory(&redis) - before) / (size(locks) - cycles::count(failures));
    let name = "Redis memory of a held lock (a name of 12 bytes, no holder, no metadata)";
    bench
        .report
        .absolute(('h', name, "bytes"), &[each], Reach::Nothing);
    Held {
        redis,
        _server: server,
        before,
    }
}

impl Held {
    /// Waits until Redis has dropped all locks.
    pub(crate) fn finish(self, bench: &mut Bench) {
        println!("\n== h: when all have expired");
        let end = Instant::now() + GONE_LIMIT;
        let mut others = self.others();
        while !others.is_empty() && Instant::now() < end {
            sleep(Duration::from_millis(500));
            others = self.others();
        }
        let name =
            "keys in Redis besides its record and the heartbeats, when all locks have expired";
        bench.report.absolute(
            ('h', name, "keys"),
            &[size(others.len())],
            Reach::AtMost(0.0),
        );
        let left = servers::used_memory(&self.redis) - self.before;
        let name = "Redis memory left, when all locks have expired";
        bench
            .report
            .absolute(('h', name, "bytes"), &[left], Reach::Nothing);
    }

    fn others(&self) -> Vec<String> {
        let mut keys = self.redis.keys();
        keys.retain(|key| !MAY_REMAIN.contains(&key.as_str()));
        keys
    }
}
