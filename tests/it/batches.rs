//! Concurrent operations share calls to Redis, and each operation has its own answer.

use std::collections::{BTreeSet, HashMap};
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::RedisServer;

/// The number of concurrent operations.
const OPERATIONS: usize = 200;

/// The largest batch, and the number of concurrent batches.
const MAX_BATCH: usize = 64;
const LANES: usize = 4;

/// The number of calls of each command.
fn calls(redis: &RedisServer) -> HashMap<String, usize> {
    let stats = redis.cli(&["INFO", "commandstats"]);
    let entry = |line: &str| {
        let (command, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let (calls, _) = figures.split_once(',')?;
        Some((command.to_owned(), calls.parse().ok()?))
    };
    stats.lines().filter_map(entry).collect()
}

/// Acquires all these keys while Redis is paused, and resumes Redis when all requests are in flight.
fn acquire_together(redis: &RedisServer, server: &Leasehold, keys: &[String]) -> Vec<Reply> {
    redis.pause();
    let asked: Vec<_> = keys
        .iter()
        .map(|key| {
            let (api, key) = (server.api(), key.clone());
            thread::spawn(move || api.acquire(&key, json!({"ttl_ms": 60_000})))
        })
        .collect();
    sleep(Duration::from_secs(1));
    redis.resume();
    let answers = asked.into_iter().map(JoinHandle::join);
    answers.map(|answer| answer.expect("an answer")).collect()
}

/// One call of the API.
type Call = Box<dyn FnOnce(Api) -> Reply + Send>;

/// Makes these calls one after the other while Redis is paused, then resumes Redis. With one connection they form one
/// batch in this order, because an earlier call occupies the connection.
fn batch<const CALLS: usize>(
    redis: &RedisServer,
    server: &Leasehold,
    calls: [Call; CALLS],
) -> [Reply; CALLS] {
    let begin = |call: Call| {
        let api = server.api();
        let under_way = thread::spawn(move || call(api));
        sleep(Duration::from_millis(200));
        under_way
    };
    redis.pause();
    let before = begin(Box::new(|api| api.inspect("before")));
    let under_way = calls.map(begin);
    redis.resume();
    assert_eq!(before.join().expect("an answer").status, 200);
    under_way.map(|call| call.join().expect("an answer"))
}

/// Leaves Redis no free memory.
fn fill(redis: &RedisServer) {
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert!(redis.cli(&["SET", "filler", "x"]).starts_with("OOM"));
}

fn granted(server: &Leasehold, key: &str) -> Reply {
    let reply = server.api().acquire(key, json!({"ttl_ms": 60_000}));
    assert_eq!(reply.status, 201, "{reply:?}");
    reply
}

fn patient(redis: &RedisServer) -> Leasehold {
    with_lanes(&redis.url(), LANES)
}

fn with_lanes(redis_url: &str, lanes: usize) -> Leasehold {
    with_lanes_and(redis_url, lanes, [])
}

fn with_lanes_and<const MORE: usize>(
    redis_url: &str,
    lanes: usize,
    more: [(&str, &str); MORE],
) -> Leasehold {
    let settings = [
        ("LEASEHOLD_REDIS_URL", redis_url),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10000"),
        // The tests pause Redis for up to this time.
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "5000"),
        ("LEASEHOLD_REDIS_POOL_SIZE", &lanes.to_string()),
    ];
    let server = Leasehold::start(settings.into_iter().chain(more));
    server.wait_ready();
    server
}

#[test]
fn operations_that_come_together_go_in_few_calls_each_with_one_guard() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    let keys: Vec<_> = (0..OPERATIONS)
        .map(|number| format!("a/{number}"))
        .collect();
    let before = calls(&redis);
    let answers = acquire_together(&redis, &server, &keys);
    let after = calls(&redis);
    for answer in &answers {
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    let more = |command: &str| after.get(command).unwrap_or(&0) - before.get(command).unwrap_or(&0);
    let (scripts, guards) = (more("evalsha") + more("eval"), more("info"));
    println!("{OPERATIONS} operations in {scripts} calls, with {guards} guards");
    // The first operation on each connection may go alone; heartbeats are calls with a guard as well.
    let most = LANES + OPERATIONS.div_ceil(MAX_BATCH) + 8;
    assert!(
        scripts >= OPERATIONS.div_ceil(MAX_BATCH),
        "batches have a bound"
    );
    assert!(scripts <= most, "{scripts}");
    assert!(guards <= most, "{guards}");
}

#[test]
fn operation_that_fails_leaves_its_neighbours_alone() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    // The lock has a queue, but this key is none, and the scripts cannot read it. The index has its member, in the same
    // step. Otherwise the next heartbeat would rebuild the index, and remove the lock because it has no waiters.
    let broken = "redis.call('HSET', 'leasehold:locks', 'bad', 'Q\\n')
        redis.call('ZADD', 'leasehold:leases', 9e15, 'bad')
        redis.call('LPUSH', 'leasehold:kept:bad', 'something else')";
    redis.cli(&["EVAL", broken, "0"]);
    let keys: Vec<_> = (0..30)
        .map(|number| format!("a/{number}"))
        .chain(["bad".to_owned()])
        .chain((30..60).map(|number| format!("a/{number}")))
        .collect();
    let answers = acquire_together(&redis, &server, &keys);
    for (key, answer) in keys.iter().zip(&answers) {
        let expected = if key == "bad" { 500 } else { 201 };
        assert_eq!(answer.status, expected, "{key}: {}", answer.body);
    }
}

#[test]
fn each_operation_of_a_batch_has_a_token_of_its_own() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    let mut tokens = BTreeSet::new();
    for round in 0..2 {
        let keys: Vec<_> = (0..OPERATIONS)
            .map(|number| format!("{round}/{number}"))
            .collect();
        let highest = tokens.last().copied();
        for answer in acquire_together(&redis, &server, &keys) {
            assert_eq!(answer.status, 201, "{}", answer.body);
            let token = answer.fencing_token();
            assert!(Some(token) > highest, "{token} was passed before");
            assert!(tokens.insert(token), "{token} is given twice");
        }
    }
    let last = granted(&server, "last").fencing_token();
    assert!(Some(&last) > tokens.last(), "{last} is not the highest");
}

#[test]
fn grant_without_memory_has_no_effect() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let before = granted(&server, "before").fencing_token();
    fill(&redis);
    let refused = server.api().acquire("refused", None);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["outcome"], "none");
    assert_eq!(server.api().inspect("refused").json()["held"], false);
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    assert!(granted(&server, "refused").fencing_token() > before);
}

#[test]
fn release_succeeds_without_memory_behind_acquisitions_and_renewals() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let [renewed, held] = ["renewed", "held"].map(|key| granted(&server, key).lease_id());
    fill(&redis);
    let [acquired, renewed, released] = batch(
        &redis,
        &server,
        [
            Box::new(|api| api.acquire("new", None)),
            Box::new(move |api| api.renew("renewed", &renewed, None)),
            Box::new(move |api| api.release("held", &held)),
        ],
    );
    assert_eq!(released.status, 204, "{released:?}");
    // Redis lets a script go on that has removed something. In a batch of their own these operations have no memory.
    assert!(matches!(acquired.status, 201 | 503), "{acquired:?}");
    assert!(matches!(renewed.status, 200 | 503), "{renewed:?}");
}

#[test]
fn waiters_of_one_batch_are_served_in_their_order() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let held = granted(&server, "a").lease_id();
    let begin = |call: Call| {
        let api = server.api();
        let under_way = thread::spawn(move || call(api));
        sleep(Duration::from_millis(20));
        under_way
    };
    redis.pause();
    let before = begin(Box::new(|api| api.inspect("before")));
    let wait = || -> Call {
        Box::new(|api| api.acquire("a", json!({"wait_ms": 20_000, "ttl_ms": 60_000})))
    };
    let [first, second] = [begin(wait()), begin(wait())];
    let looked = begin(Box::new(|api| api.inspect("a")));
    sleep(Duration::from_millis(100));
    redis.resume();
    assert_eq!(before.join().expect("an answer").status, 200);
    let waiters = looked.join().expect("an answer").json()["waiters"].clone();
    // A read goes ahead of waiting requests, or sees both of them.
    assert!(waiters == 0 || waiters == 2, "{waiters}");
    assert_eq!(server.api().release("a", &held).status, 204);
    let first = first.join().expect("an answer");
    assert_eq!(first.status, 201, "{first:?}");
    assert_eq!(server.api().release("a", &first.lease_id()).status, 204);
    let second = second.join().expect("an answer");
    assert_eq!(second.status, 201, "{second:?}");
    assert!(second.fencing_token() > first.fencing_token());
}

#[test]
fn lock_goes_to_its_waiter_without_memory() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let held = granted(&server, "a").lease_id();
    let api = server.api();
    let waiting = thread::spawn(move || api.acquire("a", json!({"wait_ms": 20_000})));
    eventually(Duration::from_secs(5), "a waiter", || {
        server.metric("leasehold_waiters") == Some(1)
    });
    fill(&redis);
    assert_eq!(server.api().release("a", &held).status, 204);
    eventually(Duration::from_secs(5), "the reservation", || {
        server.api().inspect("a").json()["held"] == true
    });
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let answer = waiting.join().expect("an answer");
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn operation_sees_what_those_before_it_in_its_batch_did() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let held = granted(&server, "a").lease_id();
    let released = held.clone();
    let renewed = granted(&server, "b").lease_id();
    let [other, ended, taken, refused, waited, repeated] = batch(
        &redis,
        &server,
        [
            // A release as the first write of its batch deletes the key before it writes the key.
            Box::new(move |api| api.renew("b", &renewed, None)),
            Box::new(move |api| api.release("a", &held)),
            Box::new(|api| api.acquire("a", json!({"ttl_ms": 3000, "holder": "second"}))),
            Box::new(|api| api.acquire("a", None)),
            Box::new(|api| api.acquire("a", json!({"wait_ms": 20_000, "holder": "third"}))),
            Box::new(move |api| api.release("a", &released)),
        ],
    );
    assert_eq!(other.status, 200, "{other:?}");
    assert_eq!(ended.status, 204, "{ended:?}");
    assert_eq!(taken.status, 201, "{taken:?}");
    assert_eq!(refused.status, 423, "{refused:?}");
    assert_eq!(refused.json()["holder"], "second");
    assert_eq!(waited.status, 201, "{waited:?}");
    assert!(waited.fencing_token() > taken.fencing_token());
    assert_eq!(repeated.status, 204, "{repeated:?}");
    let status = server.api().inspect("a");
    assert_eq!(status.json()["holder"], "third", "{status:?}");
}

/// A value for `Idempotency-Key`.
const OWN: [(&str, &str); 1] = [("Idempotency-Key", "0123456789abcdef")];

#[test]
fn repetition_of_a_released_acquisition_is_known_behind_other_acquisitions_of_its_batch() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let held = server.api().acquire_with("a", &OWN, None).lease_id();
    assert_eq!(server.api().release("a", &held).status, 204);
    let [other, repeated] = batch(
        &redis,
        &server,
        [
            Box::new(|api| api.acquire("b", None)),
            Box::new(|api| api.acquire_with("a", &OWN, None)),
        ],
    );
    assert_eq!(other.status, 201, "{other:?}");
    assert_eq!(repeated.status, 409, "{repeated:?}");
}

#[test]
fn acquisition_knows_the_release_in_its_batch() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    // This is the first release of all, so that only the batch knows of it.
    let held = server.api().acquire_with("a", &OWN, None).lease_id();
    let [released, repeated] = batch(
        &redis,
        &server,
        [
            Box::new(move |api| api.release("a", &held)),
            Box::new(|api| api.acquire_with("a", &OWN, None)),
        ],
    );
    assert_eq!(released.status, 204, "{released:?}");
    assert_eq!(repeated.status, 409, "{repeated:?}");
}

#[test]
fn position_counts_those_who_leave_in_the_same_batch() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    granted(&server, "a");
    let waiting = |wait_ms: u64, headers: &'static [(&'static str, &'static str)], waiters: u64| {
        let api = server.api();
        let asked =
            thread::spawn(move || api.acquire_with("a", headers, json!({"wait_ms": wait_ms})));
        eventually(Duration::from_secs(5), "it waits", || {
            server.api().inspect("a").json()["waiters"] == waiters
        });
        asked
    };
    let first = waiting(1500, &[], 1);
    let second = waiting(1700, &OWN, 2);
    redis.pause();
    // Another call occupies the connection, so that both give up in one batch.
    let api = server.api();
    let before = thread::spawn(move || api.inspect("before"));
    sleep(Duration::from_millis(2500));
    redis.resume();
    assert_eq!(before.join().expect("an answer").status, 200);
    let [first, second] = [first, second].map(|asked| asked.join().expect("an answer"));
    assert_eq!([first.status, second.status], [423, 423]);
    assert_eq!(second.json()["position"], 1, "{second:?}");
}

#[test]
fn lock_that_has_nothing_left_to_say_is_free_for_the_next_in_its_batch() {
    let redis = RedisServer::plain();
    let server = with_lanes(&redis.url(), 1);
    let held = granted(&server, "a").fencing_token();
    let [broken, next] = batch(
        &redis,
        &server,
        [
            Box::new(move |api| api.break_lease("a", held)),
            Box::new(|api| api.acquire("a", None)),
        ],
    );
    assert_eq!(broken.status, 204, "{broken:?}");
    assert_eq!(next.status, 201, "{next:?}");
}

#[test]
fn queue_that_begins_in_a_batch_has_its_limit_in_it() {
    let redis = RedisServer::plain();
    let server = with_lanes_and(&redis.url(), 1, [("LEASEHOLD_MAX_WAITERS_PER_KEY", "1")]);
    granted(&server, "a");
    let wait = || -> Call { Box::new(|api| api.acquire("a", json!({"wait_ms": 3000}))) };
    let answers = batch(&redis, &server, [wait(), wait()]);
    assert_eq!(
        answers.each_ref().map(|answer| answer.status),
        [423, 429],
        "{answers:?}"
    );
}

#[test]
fn operation_that_comes_alone_waits_for_no_others() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    let api = server.api();
    let once = |number: usize| {
        let begun = Instant::now();
        let reply = api.acquire(&format!("a/{number}"), None);
        assert_eq!(reply.status, 201, "{}", reply.body);
        begun.elapsed()
    };
    // The minimum counts, because other load on the machine only adds delay.
    let quickest = (0..200).map(once).min().expect("some");
    println!("{quickest:?}");
    assert!(quickest < Duration::from_millis(5), "{quickest:?}");
}

#[test]
fn batch_that_is_stalled_does_not_hold_up_those_on_other_connections() {
    let redis = RedisServer::plain();
    let proxy = TcpProxy::start(&redis.addr());
    let server = with_lanes(&format!("redis://{}", proxy.addr()), LANES);
    let api = server.api();
    proxy.hold_connections_that_send("stalled/");
    // Every connection except one.
    let stalled: Vec<_> = (1..LANES)
        .map(|number| {
            let api = api.clone();
            let asked = thread::spawn(move || api.acquire(&format!("stalled/{number}"), None));
            let limit = Duration::from_secs(5);
            eventually(limit, "its batch is under way", || proxy.held() == number);
            asked
        })
        .collect();
    for number in 0..20 {
        let reply = api.acquire(&format!("a/{number}"), None);
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
    assert!(!stalled.iter().any(JoinHandle::is_finished));
    assert_eq!(proxy.held(), LANES - 1);
    proxy.hold_connections_that_send("");
    proxy.forward();
    for asked in stalled {
        let reply = asked.join().expect("an answer");
        assert_eq!(reply.status, 201, "{}", reply.body);
    }
}

#[test]
fn operation_that_waited_too_long_does_not_fail_one_that_came_later() {
    // Shorter than the limit of an operation (both Redis timeouts, 3 s), so that the last operation has time left.
    const BEFORE_THE_LAST: Duration = Duration::from_secs(2);
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_POOL_SIZE", "1".to_owned()),
        ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "2000".to_owned()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "1000".to_owned()),
    ]);
    server.wait_ready();
    redis.kill();
    let begin = |key: &'static str| {
        let api = server.api();
        thread::spawn(move || api.inspect(key))
    };
    // The connection retries the first operation; it takes the other two together once the first has timed out.
    let first = begin("first");
    sleep(Duration::from_millis(500));
    let early = begin("early");
    sleep(BEFORE_THE_LAST);
    let late = begin("late");
    assert_eq!(first.join().expect("an answer").status, 503);
    assert_eq!(early.join().expect("an answer").status, 503);
    redis.restart();
    let late = late.join().expect("an answer");
    assert_eq!(late.status, 200, "{late:?}");
}

#[test]
fn connections_of_an_idle_server_need_no_check() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    let lease = server.api().acquire("a", json!({"ttl_ms": 60_000}));
    assert_eq!(lease.status, 201, "{lease:?}");
    let of = |command: &str| calls(&redis).get(command).copied().unwrap_or(0);
    let before = ["ping", "unwatch", "evalsha"].map(of);
    sleep(Duration::from_secs(4));
    let after = ["ping", "unwatch", "evalsha"].map(of);
    assert_eq!(before[..2], after[..2], "the pool has checked a connection");
    // A heartbeat and a sweep each second.
    let scripts = after[2] - before[2];
    assert!((4..=10).contains(&scripts), "{scripts}");
}
