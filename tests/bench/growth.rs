//! Section g: speed with growing numbers of locks and connections.

use std::time::Duration;

use crate::Bench;
use crate::cycles::{Clients, Dialect, hold, size};
use crate::report::{Reach, number};
use crate::servers::{self, Server};

const CONNECTIONS: usize = 64;
const HELD_FOR_MS: u64 = 3_600_000;

pub(crate) fn run(bench: &mut Bench) {
    with_held_locks(bench);
    with_connections(bench);
}

/// The baseline is the same server with the smallest number of locks, at the same moment.
fn with_held_locks(bench: &mut Bench) {
    println!("\n== g: held locks");
    let steps: &[usize] = if bench.quick {
        &[1000, 10_000, 100_000]
    } else {
        &[1000, 10_000, 100_000, 1_000_000]
    };
    let redis = [servers::redis(), servers::redis()];
    let stores = [
        (
            "memory store",
            [Server::in_memory(&[]), Server::in_memory(&[])],
        ),
        (
            "Redis store",
            [Server::on(&redis[0], &[]), Server::on(&redis[1], &[])],
        ),
    ];
    for (name, [small, grown]) in &stores {
        let mut held = [0, 0];
        for step in steps {
            if held[0] == 0 {
                held[0] = steps[0];
                report_failures(bench, hold(small.address, 0, steps[0], HELD_FOR_MS));
            }
            report_failures(bench, hold(grown.address, held[1], *step, HELD_FOR_MS));
            held[1] = *step;
            let (mut base, mut values) = (Vec::new(), Vec::new());
            for _ in 0..bench.pick(2, 3) {
                base.push(speed(bench, small, CONNECTIONS));
                values.push(speed(bench, grown, CONNECTIONS));
            }
            let figure = format!("{name} with {} held locks", number(size(*step)));
            bench.report.compare(
                ('g', &figure, "cycles/s"),
                &values,
                ("1,000 held", &base),
                Reach::Nothing,
            );
        }
    }
}

/// The baselines: one connection to the empty handler, and the same number of them.
fn with_connections(bench: &mut Bench) {
    println!("\n== g: connections");
    let redis = servers::redis();
    let canned = serde_json::json!([
        { "status": 201, "headers": [["content-type", "application/json"], ["cache-control", "no-store"]],
          "body": format!("{{\"lease_id\":\"{:032x}\"{:250}}}", 0, "") },
        { "status": 204, "headers": [["cache-control", "no-store"]], "body": "" },
    ]);
    let empty = Server::stand_in(&["empty", &canned.to_string()]);
    let servers = [
        ("empty handler", empty),
        ("memory store", Server::in_memory(&[])),
        ("Redis store", Server::on(&redis, &[])),
    ];
    let steps = [1, 4, 16, 64, 256, 1024];
    for connections in steps {
        let mut speeds = [const { Vec::new() }; 3];
        for _ in 0..bench.pick(2, 3) {
            for ((_, server), speeds) in servers.iter().zip(&mut speeds) {
                speeds.push(speed(bench, server, connections));
            }
        }
        for ((name, _), values) in servers.iter().zip(&speeds) {
            let figure = format!("{name}, {connections} connections");
            let base = "empty handler, as many";
            bench.report.compare(
                ('g', &figure, "cycles/s"),
                values,
                (base, &speeds[0]),
                Reach::Nothing,
            );
        }
    }
}

fn report_failures(bench: &mut Bench, failures: u64) {
    if failures > 0 {
        bench
            .report
            .note(format!("g: {failures} locks could not be acquired"));
    }
}

fn speed(bench: &Bench, server: &Server, connections: usize) -> f64 {
    let mut clients = Clients::open(Dialect::Leasehold, server.address, connections, "bench");
    clients.run(Duration::from_millis(200));
    let tally = clients.run(Duration::from_millis(bench.pick(500, 1000)));
    clients.settle();
    tally.per_second()
}
