//! Section j: one client and a few, each of which waits for its answers: latency beside webdis, and the time that Redis
//! spends on a call.

use std::thread::{self, sleep};
use std::time::Duration;

use tempfile::TempDir;

use crate::Bench;
use crate::cycles::{Clients, Dialect, acquire, release, size};
use crate::generator::{Connections, quoted};
use crate::process::is_installed;
use crate::report::{Reach, percentile};
use crate::servers::{self, Server};
use crate::support::redis::RedisServer;

/// How many script calls acquire locks, and then release them, per round.
const CALLS: usize = 100;

/// The number of operations of a batch.
const BATCH: usize = 16;

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
    cost(bench, &redis, &webdis);
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

/// The time that Redis spends on script calls which one client sends one after the other.
fn cost(bench: &mut Bench, redis: &RedisServer, webdis: &Server) {
    let [mut acquires, mut releases]: [[Vec<f64>; 2]; 2] = Default::default();
    let (mut sets, mut dels) = (Vec::new(), Vec::new());
    let recorded = Recorded::new(redis);
    let mut connection = servers::connect(redis);
    for round in 0..bench.pick(5, 15) {
        for (at, operations) in [1, BATCH].into_iter().enumerate() {
            let mut each = |call: &[String]| {
                let before = servers::spent(redis, "evalsha");
                for again in 0..CALLS {
                    let number = (round * 2 + at) * CALLS + again;
                    recorded.call(call, operations, number, &mut connection);
                }
                let after = servers::spent(redis, "evalsha");
                (after.micros - before.micros) / size(CALLS * operations)
            };
            acquires[at].push(each(&recorded.acquire));
            releases[at].push(each(&recorded.release));
        }
        let before = ["set", "del"].map(|command| servers::spent(redis, command));
        let mut plain = Clients::open(Dialect::Webdis, webdis.address, 1, "plain");
        plain.run(Duration::from_millis(100));
        plain.settle();
        let after = ["set", "del"].map(|command| servers::spent(redis, command));
        let each = |at: usize| {
            (after[at].micros - before[at].micros) / (after[at].calls - before[at].calls)
        };
        sets.push(each(0));
        dels.push(each(1));
    }
    for (verb, values, base, plain) in [
        ("acquire", &acquires, "SET NX PX", &sets),
        ("release", &releases, "DEL", &dels),
    ] {
        for (at, (name, aim)) in [
            (format!("of a lone {verb}"), 50.0),
            (format!("per {verb} in batches of {BATCH}"), 6.5),
        ]
        .into_iter()
        .enumerate()
        {
            let name = format!("Redis time {name}");
            bench
                .report
                .absolute(('j', &name, "µs"), &values[at], Reach::AtMost(aim));
            bench.report.compare(
                ('j', &name, "µs"),
                &values[at],
                (base, plain),
                Reach::Nothing,
            );
        }
    }
}

/// The server's script calls for one acquire and one release, to be repeated with other locks and lease ids.
struct Recorded {
    acquire: Vec<String>,
    release: Vec<String>,
    lease_id: String,
}

/// The name of the recorded lock.
const KEY: &str = "recorded-lock";

/// How many words of a call describe an operation: its verb, its lock key and its arguments.
const WORDS: usize = 3;

impl Recorded {
    fn new(redis: &RedisServer) -> Self {
        // The calls give the time; with this skew they can be repeated for a minute.
        let patient = ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "60000");
        let server = Server::on(redis, &[("LEASEHOLD_KEY_PREFIX", "recorded:"), patient]);
        let mut connection = Connections::open(&[server.address], 1).expect("the server listens");
        let (commands, lease_id) = thread::scope(|scope| {
            let monitor =
                scope.spawn(|| servers::commands_within(redis, Duration::from_millis(600)));
            sleep(Duration::from_millis(200));
            let (_, lease) = connection.ask(0, &acquire(KEY, "{\"ttl_ms\":30000}"));
            let lease_id = quoted(lease.as_bytes(), "\"lease_id\":\"").expect("an id");
            connection.ask(0, &release(KEY, lease_id));
            let lease_id = String::from_utf8_lossy(lease_id).into_owned();
            (
                monitor.join().expect("the monitor does not panic"),
                lease_id,
            )
        });
        let call = |verb: &str| {
            let sent = |command: &&Vec<String>| {
                let [.., said, key, arguments] = command.as_slice() else {
                    return false;
                };
                said == verb && key == KEY && arguments.contains(&lease_id)
            };
            let call = commands.iter().find(sent).expect("MONITOR shows the call");
            let unquoted = |word: &String| word.replace("\\t", "\t").replace("\\n", "\n");
            call.iter().map(unquoted).collect()
        };
        Self {
            acquire: call("acquire"),
            release: call("release"),
            lease_id,
        }
    }

    /// One call with this many operations, each on a lock of its own.
    fn call(
        &self,
        recorded: &[String],
        operations: usize,
        number: usize,
        connection: &mut redis::Connection,
    ) {
        let (head, operation) = recorded.split_at(recorded.len() - WORDS);
        let mut call = redis::cmd(&head[0]);
        call.arg(&head[1..]);
        for at in 0..operations {
            let lock = number * operations + at;
            let lease_id = format!("{operations:016x}{lock:016x}");
            call.arg(&operation[0])
                .arg(format!("{operations}-{lock}"))
                .arg(operation[2].replace(&self.lease_id, &lease_id));
        }
        let reply: redis::Value = call.query(connection).expect("Redis runs the script");
        let reply = format!("{reply:?}");
        let done = reply.matches("granted").count() + reply.matches("ended").count();
        assert_eq!(done, operations, "{reply}");
    }
}
