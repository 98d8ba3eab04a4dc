//! What waiters that have gone leave behind.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    KEY, SILENT_SERVER, SLACK, granted, hold, pair, until_asking, until_waiting, wait,
    wait_on_a_connection, wait_with,
};
use crate::support::eventually;
use crate::support::http::http_on;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

#[test]
fn abandoned_entry_is_kept_for_ten_seconds() {
    let (_redis, servers) = pair();
    let api = servers[0].api();
    let held = hold(&api);
    let gone = wait_on_a_connection(&servers[0], 1, "the-first-of-the-queue");
    let left = Instant::now();
    drop(gone);
    let second = wait(&api, 2, &[]);
    sleep(Duration::from_millis(10_500).saturating_sub(left.elapsed()));
    // A returning client now joins at the end of the queue.
    let back = {
        let asking = api.clone();
        thread::spawn(move || {
            let body = json!({"wait_ms": 40_000, "ttl_ms": 60_000});
            asking.acquire_with("a", &[(KEY, "another-of-the-queue")], body)
        })
    };
    sleep(Duration::from_millis(300));
    api.release("a", &held.lease_id());
    let held = granted(second);
    api.release("a", &held.lease_id());
    granted(back);
}

#[test]
fn client_that_hangs_up_while_it_waits_is_never_granted() {
    let (_redis, servers) = pair();
    let api = servers[1].api();
    let held = hold(&api);
    let stream = http_on(
        servers[0].addr(),
        "POST",
        "/locks/a",
        &[("Content-Type", "application/json")],
        Some(r#"{"wait_ms":40000,"ttl_ms":60000}"#),
    );
    until_waiting(&api, "a", 1);
    drop(stream);
    until_waiting(&api, "a", 0);
    api.release("a", &held.lease_id());
    assert_eq!(api.inspect("a").json()["held"], false);
}

#[test]
fn queue_of_stopped_servers_is_removed() {
    let redis = RedisServer::plain();
    let stopped = Leasehold::on(&redis);
    let api = stopped.api();
    assert_eq!(api.acquire("a", json!({"ttl_ms": 1_000})).status, 201);
    let _waiting = wait(&api, 1, &[]);
    drop(stopped);
    let server = Leasehold::on(&redis);
    eventually(
        Duration::from_secs(30),
        "nothing is left of the lock",
        || {
            let left = ["queue:a", "kept:a", "entries:a"].map(|key| format!("leasehold:{key}"));
            left.iter().all(|key| redis.cli(&["EXISTS", key]) == "0")
                && redis.cli(&["HEXISTS", "leasehold:locks", "a"]) == "0"
        },
    );
    assert_eq!(server.api().acquire("a", None).status, 201);
}

#[test]
fn redis_is_empty_after_the_last_lease_and_wait() {
    let (redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = one.acquire("a", json!({"ttl_ms": 200}));
    let line =
        [1, 2].map(|number| wait_with(&two, number, &[], json!({"wait_ms": 5_000, "ttl_ms": 200})));
    one.release("a", &held.lease_id());
    for waiting in line {
        granted(waiting);
    }
    let left = || {
        let keys: Vec<String> = redis.keys();
        let rest = keys
            .iter()
            .filter(|key| !["leasehold:locks", "leasehold:servers"].contains(&key.as_str()));
        rest.count()
    };
    eventually(
        Duration::from_secs(30),
        "only the record and heartbeats are left",
        || left() == 0,
    );
}

#[test]
fn draining_server_removes_its_entries_at_once() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&two);
    let first = wait(&one, 1, &[]);
    let second = wait(&two, 2, &[]);
    servers[0].terminate();
    let refused = first.join().expect("an answer");
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:shutting-down"
    );
    assert_eq!(refused.json()["outcome"], "none");
    until_waiting(&two, "a", 1);
    let released = Instant::now();
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    granted(second);
    let took = released.elapsed();
    assert!(took < SILENT_SERVER, "it is not waited for: {took:?}");
    assert!(servers[0].wait_exit(SLACK).success());
}

#[test]
fn waiters_of_a_killed_server_block_no_other_client() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&two);
    let lost = [1, 2].map(|waiters| {
        let asking = one.clone();
        let waiting = thread::spawn(move || {
            let body = json!({"wait_ms": 40_000, "ttl_ms": 60_000});
            std::panic::catch_unwind(|| asking.acquire("a", body)).is_ok()
        });
        until_waiting(&two, "a", waiters);
        waiting
    });
    servers[0].kill();
    let killed = Instant::now();
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    eventually(
        SILENT_SERVER + SLACK,
        "who does not wait is granted",
        || two.acquire("a", json!({"ttl_ms": 60_000})).status == 201,
    );
    println!("after {:?}", killed.elapsed());
    for waiting in lost {
        assert!(!waiting.join().expect("an end"), "the server was killed");
    }
}

/// A client sends a request with an idempotency key, so that it can come back, and disconnects.
fn ask_and_hang_up(server: &Leasehold, number: usize) {
    let key = format!("comes-back-{number:05}");
    let headers = [("Content-Type", "application/json"), (KEY, &key)];
    let body = r#"{"wait_ms":40000,"ttl_ms":60000}"#;
    let asking = http_on(server.addr(), "POST", "/locks/a", &headers, Some(body));
    eventually(SLACK, "it waits", || {
        server.metric("leasehold_waiters") > Some(0)
    });
    drop(asking);
    eventually(SLACK, "it has gone", || {
        server.metric("leasehold_waiters") == Some(0)
    });
}

#[test]
fn abandoned_entries_fill_no_queue() {
    const MAX: usize = 20;
    let redis = RedisServer::plain();
    let limit = ("LEASEHOLD_MAX_WAITERS_PER_KEY", MAX.to_string());
    let servers = [
        Leasehold::start([("LEASEHOLD_STORE", "memory".to_owned()), limit.clone()]),
        Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url()), limit]),
    ];
    for server in servers {
        server.wait_ready();
        let api = server.api();
        let held = hold(&api);
        for number in 0..MAX + 5 {
            ask_and_hang_up(&server, number);
        }
        // A tenth of the limit of waiters.
        until_waiting(&api, "a", 2);
        let gone = server.metric("leasehold_limits_hit_total{limit=\"kept_places\"}");
        assert_eq!(gone, Some(MAX as u64 + 3));
        let last = format!("comes-back-{:05}", MAX + 4);
        let another = wait(&api, 3, &[]);
        let back = wait(&api, 3, &[(KEY, &last)]);
        until_asking(&server, 2);
        // The last client keeps its queue entry, ahead of the later waiter.
        assert_eq!(api.release("a", &held.lease_id()).status, 204);
        let first = granted(back);
        assert_eq!(api.release("a", &first.lease_id()).status, 204);
        granted(another);
    }
}
