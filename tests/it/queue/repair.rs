//! What becomes of the queue when a server or Redis fails.

use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    KEY, SILENT_SERVER, SLACK, granted, hold, pair, until_asking, until_waiting, wait,
    wait_on_a_connection, wait_with,
};
use crate::support::api::FAILOVER;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::{eventually, poll};

#[test]
fn killed_server_holds_up_the_waiters_of_the_others_for_three_seconds_at_most() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&two);
    let lost = [1, 2, 3, 4].map(|waiters| {
        let asking = one.clone();
        let body = json!({"wait_ms": 40_000, "ttl_ms": 60_000});
        let waiting = thread::spawn(move || {
            // The test kills the server, so this request gets no answer.
            std::panic::catch_unwind(|| asking.acquire("a", body)).is_ok()
        });
        until_waiting(&two, "a", waiters);
        waiting
    });
    let waiting = wait(&two, 5, &[]);
    servers[0].kill();
    let killed = Instant::now();
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let took = killed.elapsed();
    println!("the successor waited for {took:?}");
    assert!(took < SILENT_SERVER + SLACK, "{took:?}");
    assert_eq!(two.inspect("a").json()["waiters"], 0, "theirs are dropped");
    for waiting in lost {
        assert!(!waiting.join().expect("an end"), "the server was killed");
    }
}

#[test]
fn silent_server_restores_its_entries() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&two);
    let (first, second) = (wait(&one, 1, &[]), wait(&one, 2, &[]));
    let (third, fourth) = (wait(&two, 3, &[]), wait(&two, 4, &[]));
    servers[0].pause();
    // Long enough for both of its waiters to lose their entries: two reservations lapse in a row, or the heartbeat
    // does.
    sleep(SILENT_SERVER + Duration::from_millis(1500));
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    let held = granted(third);
    assert_eq!(two.inspect("a").json()["waiters"], 1);
    servers[0].resume();
    until_waiting(&two, "a", 3);
    let last = wait(&two, 4, &[]);
    two.release("a", &held.lease_id());
    let held = granted(first);
    two.release("a", &held.lease_id());
    let held = granted(second);
    two.release("a", &held.lease_id());
    let held = granted(fourth);
    two.release("a", &held.lease_id());
    granted(last);
}

#[test]
fn queue_is_repaired_in_its_order_when_redis_has_lost_it() {
    let (redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = one.acquire("a", json!({"ttl_ms": 4_000}));
    assert_eq!(held.status, 201);
    let line = [wait(&two, 1, &[]), wait(&one, 2, &[]), wait(&two, 3, &[])];
    redis.cli(&["FLUSHALL"]);
    // The lost lease must end first; then the waiters follow in order.
    let mut last = held.fencing_token();
    for (position, waiting) in line.into_iter().enumerate() {
        let next = granted(waiting);
        assert!(next.fencing_token() > last, "{position}");
        last = next.fencing_token();
        assert_eq!(one.release("a", &next.lease_id()).status, 204);
    }
}

#[test]
fn queue_survives_a_failover_with_its_order() {
    let set = SentinelConfig::new().start();
    let servers = [set.serve(), set.serve()];
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let line = [wait(&two, 1, &[]), wait(&one, 2, &[]), wait(&two, 3, &[])];
    let old = set.kill_master();
    set.wait_for_new_master(old);
    let released = poll(FAILOVER, || {
        (one.release("a", &held.lease_id()).status == 204).then_some(())
    });
    assert!(released.is_some());
    let mut last = held.fencing_token();
    for waiting in line {
        let next = granted(waiting);
        assert!(next.fencing_token() > last);
        last = next.fencing_token();
        assert_eq!(one.release("a", &next.lease_id()).status, 204);
    }
}

#[test]
fn entry_of_a_repeatable_request_is_kept_and_resumes_at_another_server() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let gone = wait_on_a_connection(&servers[0], 1, "the-first-of-the-queue");
    let second = wait(&two, 2, &[]);
    drop(gone);
    // The hand-over skips the disconnected waiter meanwhile.
    sleep(Duration::from_millis(500));
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    let held = granted(second);
    let third = wait(&two, 2, &[]);
    let back = wait(&two, 2, &[(KEY, "the-first-of-the-queue")]);
    until_asking(&servers[1], 2);
    two.release("a", &held.lease_id());
    let held = granted(back);
    one.release("a", &held.lease_id());
    granted(third);
}

#[test]
fn entry_at_a_killed_server_resumes_at_another() {
    let (_redis, servers) = pair();
    let two = servers[1].api();
    let held = hold(&two);
    let _broken = wait_on_a_connection(&servers[0], 1, "the-first-of-the-queue");
    let second = wait(&two, 2, &[]);
    servers[0].kill();
    sleep(SILENT_SERVER + Duration::from_millis(500));
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    let held = granted(second);
    let third = wait(&two, 2, &[]);
    let back = wait(&two, 2, &[(KEY, "the-first-of-the-queue")]);
    until_asking(&servers[1], 2);
    two.release("a", &held.lease_id());
    let held = granted(back);
    two.release("a", &held.lease_id());
    granted(third);
}

#[test]
fn waiter_stays_when_redis_is_away_for_a_moment() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 1500}));
    assert_eq!(held.status, 201);
    let waiting = wait(&api, 1, &[]);
    redis.pause();
    // The waiter asks at the end of the lease, and gets no answer.
    sleep(Duration::from_secs(4));
    redis.resume();
    let next = granted(waiting);
    assert!(next.fencing_token() > held.fencing_token());
}

#[test]
fn timed_out_request_leaves_its_entry_to_its_repetition() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let header = [(KEY, "the-first-of-the-queue")];
    // The client repeats its request after a timeout; a proxy keeps the first request alive.
    let short = wait_with(
        &one,
        1,
        &header,
        json!({"wait_ms": 2_000, "ttl_ms": 60_000}),
    );
    let again = wait_with(
        &two,
        1,
        &header,
        json!({"wait_ms": 20_000, "ttl_ms": 60_000}),
    );
    assert_eq!(short.join().expect("an answer").status, 423);
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(again);
    let took = released.elapsed();
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn entry_resumes_at_another_server_after_a_time_out_and_a_drain() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let mut held = hold(&two);
    for (drained, idempotency_key) in [
        (false, "the-first-of-a-queue"),
        (true, "first-of-the-other-queue"),
    ] {
        let header = [(KEY, idempotency_key)];
        let wait_ms = if drained { 40_000 } else { 1_500 };
        let body = |wait_ms| json!({"wait_ms": wait_ms, "ttl_ms": 60_000});
        let first = wait_with(&one, 1, &header, body(wait_ms));
        let second = wait(&two, 2, &[]);
        if drained {
            servers[0].terminate();
        }
        let refused = first.join().expect("an answer");
        let expected = if drained { 503 } else { 423 };
        assert_eq!(refused.status, expected, "{}", refused.body);
        let back = wait_with(&two, 2, &header, body(40_000));
        until_asking(&servers[1], 2);
        assert_eq!(two.release("a", &held.lease_id()).status, 204);
        held = granted(back);
        assert_eq!(two.release("a", &held.lease_id()).status, 204);
        held = granted(second);
    }
}

#[test]
fn server_cut_off_from_redis_restores_its_entries() {
    let redis = RedisServer::plain();
    let proxy = TcpProxy::start(&redis.addr());
    let cut_off = Leasehold::start([("LEASEHOLD_REDIS_URL", format!("redis://{}", proxy.addr()))]);
    cut_off.wait_ready();
    let other = Leasehold::on(&redis);
    let (one, two) = (cut_off.api(), other.api());
    let held = hold(&two);
    let first = wait(&one, 1, &[]);
    let second = wait(&two, 2, &[]);
    let third = wait(&two, 3, &[]);
    proxy.blackhole();
    // The server's heartbeat lapses, and the hand-over skips its waiter.
    sleep(SILENT_SERVER + Duration::from_millis(1_500));
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    let held = granted(second);
    until_waiting(&two, "a", 1);
    proxy.heal();
    eventually(SLACK * 2, "its waiter has an entry again", || {
        two.inspect("a").json()["waiters"] == 2
    });
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    let held = granted(first);
    assert_eq!(two.release("a", &held.lease_id()).status, 204);
    granted(third);
}

#[test]
fn waiter_gets_no_grant_that_no_replica_has() {
    let set = SentinelConfig::new().down_after_ms(60_000).start();
    let servers = [set.serve(), set.serve()];
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let waiting = wait(&two, 1, &[]);
    let replicas = set.replicas();
    for replica in &replicas {
        replica.pause();
    }
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    sleep(Duration::from_secs(3));
    assert!(!waiting.is_finished());
    for replica in &replicas {
        replica.resume();
    }
    granted(waiting);
}
