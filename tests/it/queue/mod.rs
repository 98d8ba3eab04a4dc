//! One queue per key across all servers.

mod events;
mod order;
mod remains;
mod repair;

use std::net::TcpStream;
use std::thread::{self, JoinHandle, sleep};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::http::{Reply, http_on};
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

/// The limit for a prompt effect.
const SLACK: Duration = Duration::from_secs(5);

/// How long a silent server can delay the waiters of other servers, at most.
const SILENT_SERVER: Duration = Duration::from_secs(3);

/// How long until a silent subscription is replaced: one interval until the ping, one until its timeout, plus slack.
const SILENT_CONNECTION: Duration = Duration::from_secs(25);

const KEY: &str = "Idempotency-Key";

/// Two servers on one Redis.
fn pair() -> (RedisServer, [Leasehold; 2]) {
    let redis = RedisServer::plain();
    let servers = [Leasehold::on(&redis), Leasehold::on(&redis)];
    (redis, servers)
}

fn until_waiting(api: &Api, key: &str, waiters: u64) {
    let counted = || api.inspect(key).json()["waiters"] == waiters;
    eventually(SLACK, &format!("{waiters} wait for {key}"), counted);
}

/// Requests `a` in its own thread; returns once the queue has `waiters` entries.
fn wait(api: &Api, waiters: u64, headers: &[(&str, &str)]) -> JoinHandle<Reply> {
    let body = json!({"wait_ms": 40_000, "ttl_ms": 60_000});
    wait_with(api, waiters, headers, body)
}

fn wait_with(api: &Api, waiters: u64, headers: &[(&str, &str)], body: Value) -> JoinHandle<Reply> {
    let asking = api.clone();
    let headers: Vec<_> = headers
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let waiting = thread::spawn(move || {
        let headers: Vec<_> = headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.as_str()))
            .collect();
        asking.acquire_with("a", &headers, body)
    });
    until_waiting(api, "a", waiters);
    waiting
}

/// Waits for this many requests at this server: a client that continues a kept entry adds none to the queue.
fn until_asking(server: &Leasehold, waiters: u64) {
    eventually(SLACK, &format!("{waiters} ask here"), || {
        server.metric("leasehold_waiters") == Some(waiters)
    });
    // The server counts the request shortly before it asks Redis.
    sleep(Duration::from_millis(300));
}

fn granted(waiting: JoinHandle<Reply>) -> Reply {
    let reply = waiting.join().expect("an answer");
    assert_eq!(reply.status, 201, "{}", reply.body);
    reply
}

fn hold(api: &Api) -> Reply {
    let held = api.acquire("a", json!({"ttl_ms": 60_000}));
    assert_eq!(held.status, 201, "{}", held.body);
    held
}

/// Waits on a connection that the caller can drop.
fn wait_on_a_connection(server: &Leasehold, waiters: u64, idempotency_key: &str) -> TcpStream {
    let stream = http_on(
        server.addr(),
        "POST",
        "/locks/a",
        &[(KEY, idempotency_key), ("Content-Type", "application/json")],
        Some(r#"{"wait_ms":40000,"ttl_ms":60000}"#),
    );
    until_waiting(&server.api(), "a", waiters);
    stream
}
