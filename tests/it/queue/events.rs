//! What wakes a waiter, and what it does when an event is lost.

use std::collections::BTreeSet;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::{
    KEY, SILENT_CONNECTION, SILENT_SERVER, SLACK, granted, hold, pair, until_asking, until_waiting,
    wait, wait_on_a_connection, wait_with,
};
use crate::support::eventually;
use crate::support::http::http_on;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::RedisServer;

/// No lease is granted for this time, as after a loss.
fn pause_grants(redis: &RedisServer, pause: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let until = (now.expect("a clock after 1970") + pause)
        .as_micros()
        .to_string();
    let fields = ["#recover", &until, "#granting_from", &until];
    redis.cli(&[&["HSET", "leasehold:locks"], &fields[..]].concat());
}

#[test]
fn hand_over_waits_for_no_heartbeat() {
    let (_redis, servers) = pair();
    let asked = servers[1].api();
    // The lock is released at the other server, then at the waiters' own server.
    for server in &servers {
        let mut held = hold(&asked);
        let line: Vec<_> = (1..=12).map(|number| wait(&asked, number, &[])).collect();
        let begun = Instant::now();
        for waiting in line {
            assert_eq!(server.api().release("a", &held.lease_id()).status, 204);
            held = granted(waiting);
        }
        let took = begun.elapsed();
        println!("12 hand-overs took {took:?}");
        assert!(took < SLACK, "{took:?}");
        assert_eq!(server.api().release("a", &held.lease_id()).status, 204);
    }
}

/// A client that repeats its waiting request through a load balancer may have both requests at different servers.
#[test]
fn request_that_waits_at_two_servers_is_answered_at_both() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let repeatable = [(KEY, "idempotency-key-0123456789")];
    let held = hold(&one);
    let first = wait(&one, 1, &repeatable);
    let second = wait(&two, 1, &repeatable);
    until_asking(&servers[1], 1);
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    let [first, second] = [first, second].map(|waiting| waiting.join().expect("an answer"));
    let took = released.elapsed();
    println!("both were answered within {took:?}");
    assert!(took < SLACK, "{took:?}");
    // One of the two is the replay.
    assert_eq!(
        first.status + second.status,
        201 + 200,
        "{first:?} {second:?}"
    );
    assert_eq!(first.lease_id(), second.lease_id());
}

#[test]
fn lost_event_costs_a_second() {
    let (redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let waiting = wait(&two, 1, &[]);
    let gone = redis.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    assert_eq!(gone, "2", "each server listens");
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let took = released.elapsed();
    println!("handed over after {took:?}");
    assert!(took < 5 * Duration::from_secs(1), "{took:?}");
    let listens = || {
        redis.cli(&["PUBSUB", "NUMPAT"]) == "0"
            && redis.cli(&["PUBSUB", "CHANNELS"]).lines().count() == 3
    };
    eventually(SLACK, "both servers listen again", listens);
}

#[test]
fn event_lost_on_a_live_connection_costs_a_second() {
    let redis = RedisServer::plain();
    let proxy = TcpProxy::start(&redis.addr());
    let deaf = Leasehold::start([("LEASEHOLD_REDIS_URL", format!("redis://{}", proxy.addr()))]);
    deaf.wait_ready();
    let other = Leasehold::on(&redis);
    let (one, two) = (other.api(), deaf.api());
    // The addresses of the subscribers to both channels: the server's own and the common channel.
    let listeners = || -> BTreeSet<String> {
        let clients = redis.cli(&["CLIENT", "LIST", "TYPE", "pubsub"]);
        let subscribed = clients.lines().filter(|line| line.contains(" sub=2 "));
        let address = |line: &str| Some(line.split(' ').nth(1)?.strip_prefix("addr=")?.to_owned());
        subscribed.filter_map(address).collect()
    };
    eventually(SLACK, "both servers listen", || listeners().len() == 2);
    let held = hold(&one);
    let waiting = wait(&two, 1, &[]);
    let before = listeners();
    let peers: Vec<&str> = before.iter().map(String::as_str).collect();
    assert_eq!(proxy.swallow(&peers), 1, "one of them is behind the proxy");
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let took = released.elapsed();
    println!("handed over after {took:?}");
    // The server hands over before it can notice that the connection is silent.
    assert!(took < 4 * Duration::from_secs(1), "{took:?}");
    assert_eq!(listeners(), before, "no new subscription");
    // The subscription receives neither heartbeats nor the answer to its ping.
    eventually(SILENT_CONNECTION, "it is replaced", || {
        listeners() != before
    });
}

#[test]
fn lease_shorter_than_the_one_before_is_noticed_at_another_server() {
    let (_redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let first = wait_with(&one, 1, &[], json!({"wait_ms": 40_000, "ttl_ms": 1_000}));
    let second = wait_with(&two, 2, &[], json!({"wait_ms": 20_000, "ttl_ms": 60_000}));
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    // The client dies and never releases the lock.
    granted(first);
    let begun = Instant::now();
    granted(second);
    let took = begun.elapsed();
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn grant_to_one_of_several_waiters_tells_all_servers_how_long_it_is_held() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let held = hold(&api);
    let first = wait_with(&api, 1, &[], json!({"wait_ms": 20_000, "ttl_ms": 3_000}));
    let _second = wait(&api, 2, &[]);
    let mut connection = redis.client().and_then(|client| client.get_connection());
    let connection = connection.as_mut().expect("Redis answers");
    let mut subscription = connection.as_pubsub();
    let subscribed = subscription.subscribe("leasehold:wake:all");
    subscribed.expect("a subscription");
    let limit = subscription.set_read_timeout(Some(SLACK));
    limit.expect("a time-out can be set");
    assert_eq!(api.release("a", &held.lease_id()).status, 204);
    granted(first);
    let told = subscription
        .get_message()
        .and_then(|message| message.get_payload::<String>());
    // The TTL and the clock skew in microseconds, and the lock.
    assert_eq!(told.as_deref(), Ok("3500000 a"));
}

#[test]
fn release_during_a_recovery_reaches_the_waiters() {
    let (redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let waiting = wait_with(&two, 1, &[], json!({"wait_ms": 20_000, "ttl_ms": 60_000}));
    pause_grants(&redis, Duration::from_secs(3));
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let took = released.elapsed();
    assert!(took < Duration::from_secs(3) + SLACK, "{took:?}");
}

#[test]
fn waiters_ask_again_when_a_recovery_is_ended() {
    let (redis, servers) = pair();
    let [one, two] = [servers[0].api(), servers[1].api()];
    let held = hold(&one);
    let waiting = wait(&two, 1, &[]);
    pause_grants(&redis, Duration::from_secs(900));
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    sleep(Duration::from_secs(1));
    assert_eq!(
        one.inspect("a").json()["waiters"],
        1,
        "it waits for the end"
    );
    let ended = Instant::now();
    assert_eq!(one.end_recovery().status, 204);
    granted(waiting);
    let took = ended.elapsed();
    assert!(took < SLACK, "{took:?}");
}

#[test]
fn waiter_asks_four_times_a_second_while_the_store_has_no_answer() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    assert_eq!(api.acquire("a", json!({"ttl_ms": 1_500})).status, 201);
    let waiting = wait_with(&api, 1, &[], json!({"wait_ms": 20_000, "ttl_ms": 60_000}));
    pause_grants(&redis, Duration::from_secs(6));
    sleep(Duration::from_secs(2));
    let calls = || -> u64 {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
        calls.expect("calls").parse().expect("a number")
    };
    let before = calls();
    sleep(Duration::from_secs(2));
    let asked = calls() - before;
    println!("{asked} calls in two seconds");
    assert!(asked < 100, "{asked}");
    granted(waiting);
}

#[test]
fn lease_that_expires_is_noticed_although_the_server_of_the_first_was_killed() {
    let (_redis, servers) = pair();
    let two = servers[1].api();
    let held = two.acquire("a", json!({"ttl_ms": 3_000}));
    assert_eq!(held.status, 201);
    let _gone = wait_on_a_connection(&servers[0], 1, "the-first-of-the-queue");
    let second = wait(&two, 2, &[]);
    let begun = Instant::now();
    servers[0].kill();
    granted(second);
    let took = begun.elapsed();
    assert!(took < SILENT_SERVER * 2 + SLACK, "{took:?}");
}

#[test]
fn waiters_cost_redis_only_heartbeats() {
    let (redis, servers) = pair();
    let api = servers[0].api();
    hold(&api);
    let many: Vec<_> = (0..300)
        .map(|number| {
            http_on(
                servers[number % 2].addr(),
                "POST",
                "/locks/a",
                &[("Content-Type", "application/json")],
                Some(r#"{"wait_ms":40000}"#),
            )
        })
        .collect();
    until_waiting(&api, "a", 300);
    let calls = || -> u64 {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find(|line| line.starts_with("cmdstat_evalsha:"));
        let calls = line.and_then(|line| line.split(['=', ',']).nth(1));
        calls.expect("calls").parse().expect("a number")
    };
    sleep(Duration::from_secs(2));
    let before = calls();
    sleep(Duration::from_secs(4));
    let more = calls() - before;
    println!("{more} calls in four seconds");
    // A heartbeat and a sweep, from each of two servers.
    assert!((6..=20).contains(&more), "{more}");
    drop(many);
    until_waiting(&api, "a", 0);
}
