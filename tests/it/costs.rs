//! The memory costs match the table in the chart's README, from which the chart's memory limits follow.

use std::io::Write;
use std::net::TcpStream;
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::documents::{CHART, section};
use crate::support::eventually;
use crate::support::leasehold::Leasehold;

/// How many objects to create for a measurement, and how many before it: the first ones make the allocator reserve more
/// memory than they need.
const COUNT: u64 = 1500;
const BEFORE: u64 = 300;

const LIMIT: Duration = Duration::from_secs(20);

/// The memory limit of one object, in KiB.
fn stated(what: &str) -> u64 {
    let sizing = section(CHART, "Sizing");
    let row = format!("| {what} | ");
    let figure = sizing
        .lines()
        .find_map(|line| line.strip_prefix(&row))
        .and_then(|rest| rest.split(' ').next()?.parse().ok());
    figure.unwrap_or_else(|| panic!("no row {row:?} with KiB"))
}

/// Checks that `count` objects from `one` cost no more than stated, and enough to show that they exist.
fn costs(server: &Leasehold, what: &str, mut many: impl FnMut(u64)) {
    many(BEFORE);
    sleep(Duration::from_millis(500));
    let before = server.process().resident_kib();
    many(COUNT);
    sleep(Duration::from_millis(500));
    let each = server.process().resident_kib().saturating_sub(before) * 10 / COUNT;
    let stated = stated(what) * 10;
    println!("{what}: {}.{} KiB", each / 10, each % 10);
    assert!(each <= stated, "{what}: {each} KiB/10, {stated} stated");
    assert!(
        each * 10 >= stated,
        "{what}: {each} KiB/10, {stated} stated"
    );
}

fn connections(server: &Leasehold, open: &mut Vec<TcpStream>, count: u64, bytes: &[u8]) {
    for _ in 0..count {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        stream.write_all(bytes).expect("it is taken");
        open.push(stream);
    }
}

fn large() -> Value {
    let pairs = (0..32).map(|n| (format!("{n:02}"), json!("x".repeat(126))));
    Value::Object(pairs.collect())
}

fn acquire(key: &str, body: &Value) -> Vec<u8> {
    let body = body.to_string();
    let head = format!(
        "POST /locks/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    (head + &body).into_bytes()
}

#[test]
fn connections_and_waiters_need_the_documented_memory() {
    let half = format!("GET /livez HTTP/1.1\r\nX: {}", "y".repeat(15_000));
    let waiter = acquire("held", &json!({"wait_ms": 50_000}));
    let large = acquire("held", &json!({"wait_ms": 50_000, "metadata": large()}));
    for (what, bytes) in [
        ("connection without a request", &b""[..]),
        ("connection with a part of a head", half.as_bytes()),
        ("waiter", &waiter),
        ("waiter with 4 KiB of metadata", &large),
    ] {
        let server = Leasehold::in_memory();
        let held = server.api().acquire("held", json!({"ttl_ms": 600_000}));
        assert_eq!(held.status, 201);
        let mut open = Vec::new();
        costs(&server, what, |count| {
            connections(&server, &mut open, count, bytes);
            let all = u64::try_from(open.len()).expect("few");
            if what.starts_with("waiter") {
                eventually(LIMIT, "all wait", || {
                    server.metric("leasehold_waiters") == Some(all)
                });
            } else {
                eventually(LIMIT, "all are taken", || {
                    server.process().descriptors() as u64 >= all
                });
            }
        });
    }
}

#[test]
fn locks_held_in_memory_need_the_documented_memory() {
    for (what, body) in [
        ("lock held in memory", json!({"ttl_ms": 600_000})),
        (
            "lock held in memory, with 4 KiB of metadata",
            json!({"ttl_ms": 600_000, "metadata": large()}),
        ),
    ] {
        let server = Leasehold::in_memory();
        let mut number = 0;
        costs(&server, what, |count| {
            for _ in 0..count {
                number += 1;
                let granted = server
                    .api()
                    .acquire(&format!("lock/{number}"), body.clone());
                assert_eq!(granted.status, 201);
            }
        });
    }
}

#[test]
fn log_line_is_no_longer_than_documented() {
    let server = Leasehold::in_memory();
    let id = "x".repeat(128);
    let headers = [("X-Request-Id", &*id)];
    let path = format!("/locks/{}", "%01".repeat(4000));
    let method = "Z".repeat(3000);
    crate::support::http::http(server.addr(), &method, &path, &headers, None);
    let log = server.stderr();
    let longest = log.lines().map(str::len).max().expect("a line");
    let stated = usize::try_from(stated("line of the log")).expect("few") * 1024;
    assert!(longest <= stated && longest * 4 > stated, "{longest} bytes");
}
