//! Section j: one client and a few, each of which waits for its answers: latency beside webdis, and the time that Redis
//! spends on a call.

use std::net::SocketAddr;
use std::time::Duration;

use tempfile::TempDir;

use crate::Bench;
use crate::cycles::{Clients, Dialect, acquire, count, release, size};
use crate::generator::{Connections, quoted};
use crate::process::is_installed;
use crate::report::{Reach, percentile};
use crate::servers::{self, Server, Spent};
use crate::support::redis::RedisServer;

/// How many locks one client acquires, and then releases, per round.
const LOCKS: usize = 400;

/// Enough clients for full batches.
const CONNECTIONS: usize = 64;

const WEBDIS: &str = "webdis, SET NX PX";

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== j: few clients");
    if !is_installed("webdis") {
        bench
            .report
            .note("webdis is not installed (tests/bench/install): section j is missing");
        return;
    }
    let redis = servers::redis();
    let directory = TempDir::new().expect("a temporary directory");
    let memory = Server::in_memory(&[]);
    let own = Server::on(&redis, &[]);
    let webdis = Server::webdis(&redis, directory.path());
    for connections in [1, 8] {
        latency(bench, connections, [&memory, &own, &webdis]);
    }
    cost(bench, &redis, &own, &webdis);
}

fn latency(bench: &mut Bench, connections: usize, servers: [&Server; 3]) {
    let dialects = [Dialect::Leasehold, Dialect::Leasehold, Dialect::Webdis];
    let mut p50: [Vec<f64>; 3] = Default::default();
    for round in 0..bench.pick(3, 9) {
        for ((server, dialect), p50) in servers.iter().zip(dialects).zip(&mut p50) {
            let name = format!("few-{round}");
            let mut clients = Clients::open(dialect, server.address, connections, &name);
            clients.run(Duration::from_millis(100));
            let mut tally = clients.timed(Duration::from_millis(bench.pick(300, 600)));
            clients.settle();
            assert_eq!(tally.failures, 0, "a request failed");
            p50.push(percentile(&mut tally.acquires, 0.5));
        }
    }
    let aim = if connections == 1 {
        Reach::AtMost(1.2)
    } else {
        Reach::Nothing
    };
    let [memory, redis, webdis] = &p50;
    for (store, values, aim) in [("memory", memory, Reach::Nothing), ("Redis", redis, aim)] {
        let name = format!("acquire p50, {connections} clients, {store} store");
        bench
            .report
            .compare(('j', &name, "ms"), values, (WEBDIS, webdis), aim);
    }
}

fn cost(bench: &mut Bench, redis: &RedisServer, own: &Server, webdis: &Server) {
    let (mut acquires, mut releases) = (Vec::new(), Vec::new());
    let (mut sets, mut dels) = (Vec::new(), Vec::new());
    let (mut batched, mut batch) = (Vec::new(), Vec::new());
    for round in 0..bench.pick(3, 9) {
        let spent = |command: &str, work: &mut dyn FnMut()| {
            let before = servers::spent(redis, command);
            work();
            let after = servers::spent(redis, command);
            Spent {
                calls: after.calls - before.calls,
                micros: after.micros - before.micros,
            }
        };
        let mut lone = Lone::new(own.address, round);
        let each = |spent: Spent| spent.micros / size(LOCKS);
        acquires.push(each(spent("evalsha", &mut || lone.acquire())));
        releases.push(each(spent("evalsha", &mut || lone.release())));

        let mut plain = Clients::open(Dialect::Webdis, webdis.address, 1, "plain");
        let dels_before = servers::spent(redis, "del");
        let set = spent("set", &mut || {
            plain.run(Duration::from_millis(200));
            plain.settle();
        });
        let dels_after = servers::spent(redis, "del");
        sets.push(set.micros / set.calls);
        dels.push(
            (dels_after.micros - dels_before.micros) / (dels_after.calls - dels_before.calls),
        );

        let mut many = Clients::open(Dialect::Leasehold, own.address, CONNECTIONS, "many");
        let mut operations = 0.0;
        let all = spent("evalsha", &mut || {
            let tally = many.run(Duration::from_millis(400));
            operations = count(tally.cycles) * 2.0;
        });
        many.settle();
        batched.push(all.micros / operations);
        batch.push(operations / all.calls);
    }
    let aim = Reach::AtMost(50.0);
    for (name, values, base, plain) in [
        ("a lone acquire", &acquires, "SET NX PX", &sets),
        ("a lone release", &releases, "DEL", &dels),
    ] {
        let name = format!("Redis time of the script call of {name}");
        bench.report.absolute(('j', &name, "µs"), values, aim);
        bench
            .report
            .compare(('j', &name, "µs"), values, (base, plain), Reach::Nothing);
    }
    let lone: Vec<f64> = acquires
        .iter()
        .zip(&releases)
        .map(|(acquire, release)| f64::midpoint(*acquire, *release))
        .collect();
    let name = format!("Redis time per operation with {CONNECTIONS} clients");
    bench
        .report
        .absolute(('j', &name, "µs"), &batched, Reach::AtMost(6.5));
    bench.report.compare(
        ('j', &name, "µs"),
        &batched,
        ("a lone operation", &lone),
        Reach::Nothing,
    );
    let name = format!("operations per script call with {CONNECTIONS} clients");
    bench
        .report
        .absolute(('j', &name, ""), &batch, Reach::Nothing);
}

/// One client.
struct Lone {
    connection: Connections,
    keys: Vec<String>,
    lease_ids: Vec<Vec<u8>>,
}

impl Lone {
    fn new(at: SocketAddr, round: usize) -> Self {
        Self {
            connection: Connections::open(&[at], 1).expect("the server listens"),
            keys: (0..LOCKS)
                .map(|lock| format!("lone-{round}-{lock}"))
                .collect(),
            lease_ids: Vec::new(),
        }
    }

    fn acquire(&mut self) {
        for key in &self.keys {
            let (status, lease) = self.connection.ask(0, &acquire(key, "{\"ttl_ms\":30000}"));
            assert_eq!(status, 201, "{lease}");
            let lease_id = quoted(lease.as_bytes(), "\"lease_id\":\"");
            self.lease_ids
                .push(lease_id.expect("a lease has an id").to_vec());
        }
    }

    fn release(&mut self) {
        for (key, lease_id) in self.keys.iter().zip(&self.lease_ids) {
            assert_eq!(self.connection.ask(0, &release(key, lease_id)).0, 204);
        }
    }
}
