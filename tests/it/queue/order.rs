//! The order of the queue, its limit, and what others see of it.

use std::thread;
use std::time::Instant;

use leasehold::lock::request::Acquire;
use leasehold::lock::rules::Acquisition;
use serde_json::json;

use super::{SLACK, granted, hold, pair, until_waiting, wait};
use crate::support::http::http_on;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::stores::{self, Subject, key, ms, request};

#[test]
fn waiters_of_all_servers_are_served_as_they_came() {
    let (_redis, servers) = pair();
    let mut held = hold(&servers[0].api());
    let alternating = servers.iter().cycle();
    let line: Vec<_> = (1..=12)
        .zip(alternating)
        .map(|(number, server)| wait(&server.api(), number, &[]))
        .collect();
    let mut last = held.fencing_token();
    for (position, waiting) in line.into_iter().enumerate() {
        let api = servers[position % 2].api();
        assert_eq!(api.release("a", &held.lease_id()).status, 204);
        held = granted(waiting);
        assert!(held.fencing_token() > last);
        last = held.fencing_token();
        assert_eq!(api.inspect("a").json()["waiters"], 11 - position);
    }
}

#[test]
fn request_without_a_wait_does_not_jump_the_queue_of_another_server() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let waiting = wait(&one, 1, &[]);
    let jumper = thread::spawn(move || {
        let mut statuses = Vec::new();
        for _ in 0..100 {
            statuses.push(two.acquire("a", None).status);
        }
        statuses
    });
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let statuses = jumper.join().expect("answers");
    assert!(statuses.iter().all(|status| *status == 423), "{statuses:?}");
}

#[test]
fn refusals_count_the_waiters_of_all_servers() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let first = wait(&one, 1, &[]);
    let second = wait(&two, 2, &[]);
    let refused = two.acquire("a", json!({"wait_ms": 300}));
    assert_eq!(refused.status, 423);
    let refused = refused.json();
    assert_eq!(refused["type"], "urn:leasehold:problem:wait-timeout");
    assert_eq!(
        (&refused["position"], &refused["waiters"]),
        (&json!(3), &json!(2))
    );
    assert_eq!(two.acquire("a", None).json()["waiters"], 2);
    let listed = one.list("").json();
    assert_eq!(listed["locks"][0]["waiters"], 2, "{listed}");
    one.release("a", &held.lease_id());
    let held = granted(first);
    two.release("a", &held.lease_id());
    granted(second);
}

#[test]
fn limit_for_a_key_counts_the_waiters_of_all_servers() {
    let redis = RedisServer::plain();
    let servers = [(); 2].map(|()| {
        let server = Leasehold::start([
            ("LEASEHOLD_REDIS_URL", redis.url()),
            ("LEASEHOLD_MAX_WAITERS_PER_KEY", "2".to_owned()),
        ]);
        server.wait_ready();
        server
    });
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let (first, second) = (wait(&one, 1, &[]), wait(&two, 2, &[]));
    for api in [&one, &two] {
        assert_eq!(api.acquire("a", json!({"wait_ms": 1000})).status, 429);
    }
    one.release("a", &held.lease_id());
    let held = granted(first);
    one.release("a", &held.lease_id());
    granted(second);
}

#[test]
fn waiters_do_not_keep_work_waiting() {
    let (_redis, servers) = pair();
    let api = servers[0].api();
    let held = hold(&api);
    let many: Vec<_> = (0..200)
        .map(|_| {
            http_on(
                servers[0].addr(),
                "POST",
                "/locks/a",
                &[("Content-Type", "application/json")],
                Some(r#"{"wait_ms":40000}"#),
            )
        })
        .collect();
    until_waiting(&api, "a", 200);
    let asked = Instant::now();
    for _ in 0..20 {
        assert_eq!(api.renew("a", &held.lease_id(), None).status, 200);
        assert_eq!(servers[0].readiness().status, 200);
    }
    assert!(asked.elapsed() < SLACK, "{:?}", asked.elapsed());
    drop(many);
    until_waiting(&api, "a", 0);
}

#[tokio::test]
async fn waiter_that_asks_again_after_the_end_of_the_lease_is_still_the_first() {
    let redis = RedisServer::plain();
    let s = Subject::direct(&redis).await;
    s.granted(&key("a"), &request(1000)).await;
    let [first, second] = [(); 2].map(|()| Acquire {
        wait: Some(stores::wait(60_000)),
        ..request(60_000)
    });
    for waiter in [&first, &second] {
        let answer = s.acquire(&key("a"), waiter).await;
        assert!(matches!(answer, Acquisition::Queued { .. }), "{answer:?}");
    }
    s.advance(ms(1000)).await;
    s.granted(&key("a"), &first).await;
    s.store.close().await;
}
