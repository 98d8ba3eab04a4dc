//! Section d: the cost of the confirmation of each grant by two replicas.

use std::time::Duration;

use crate::Bench;
use crate::cycles::{Clients, Dialect};
use crate::report::{Reach, percentile};
use crate::servers::{self, START_LIMIT, Server};
use crate::support::eventually;

const CONNECTIONS: usize = 64;

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== d: grants that two replicas confirm");
    let master = servers::redis();
    let replicas = [servers::replica_of(&master), servers::replica_of(&master)];
    eventually(START_LIMIT, "two replicas are online", || {
        master.replicas_online() == replicas.len()
    });
    let server = |acks, prefix| {
        let variables = [
            ("LEASEHOLD_REPLICA_ACKS", acks),
            ("LEASEHOLD_KEY_PREFIX", prefix),
        ];
        Server::on(&master, &variables)
    };
    let servers = [server("0", "none:"), server("2", "both:")];
    let mut speeds = [Vec::new(), Vec::new()];
    let mut late = [Vec::new(), Vec::new()];
    for round in 0..bench.pick(3, 5) {
        for ((server, speeds), late) in servers.iter().zip(&mut speeds).zip(&mut late) {
            let mut clients = Clients::open(
                Dialect::Leasehold,
                server.address,
                CONNECTIONS,
                &format!("bench-{round}"),
            );
            clients.run(Duration::from_millis(300));
            let tally = clients.run(Duration::from_millis(bench.pick(1000, 2000)));
            clients.settle();
            speeds.push(tally.per_second());
            // Both run at the same load, which both can carry.
            let mut tally = clients.paced(3000.0, Duration::from_millis(bench.pick(500, 1000)));
            clients.settle();
            late.push(percentile(&mut tally.acquires, 0.99));
            if tally.failures > 0 {
                bench
                    .report
                    .note(format!("d: {} requests failed", tally.failures));
            }
        }
    }
    let base = "LEASEHOLD_REPLICA_ACKS=0";
    let name = "cycles with LEASEHOLD_REPLICA_ACKS=2";
    bench.report.compare(
        ('d', name, "cycles/s"),
        &speeds[1],
        (base, &speeds[0]),
        Reach::AtLeast(0.75),
    );
    let name = "acquire p99 at 3,000 cycles/s with LEASEHOLD_REPLICA_ACKS=2";
    bench.report.compare(
        ('d', name, "ms"),
        &late[1],
        (base, &late[0]),
        Reach::Nothing,
    );
}
