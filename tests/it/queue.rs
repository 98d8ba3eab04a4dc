//! One queue per key across all servers: its order, its repair, and its remains.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use leasehold::lock::request::Acquire;
use leasehold::lock::rules::Acquisition;
use serde_json::{Value, json};

use crate::support::api::{Api, FAILOVER};
use crate::support::http::{Reply, http_on};
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::stores::{self, Subject, key, ms, request};
use crate::support::{eventually, poll};

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
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let until = now.expect("a clock after 1970") + Duration::from_secs(3);
    redis.cli(&[
        "HSET",
        "leasehold:locks",
        "#recover",
        &until.as_micros().to_string(),
        "#granting_from",
        &until.as_micros().to_string(),
    ]);
    let released = Instant::now();
    assert_eq!(one.release("a", &held.lease_id()).status, 204);
    granted(waiting);
    let took = released.elapsed();
    assert!(took < Duration::from_secs(3) + SLACK, "{took:?}");
}

#[test]
fn waiter_asks_four_times_a_second_while_the_store_has_no_answer() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    assert_eq!(api.acquire("a", json!({"ttl_ms": 1_500})).status, 201);
    let waiting = wait_with(&api, 1, &[], json!({"wait_ms": 20_000, "ttl_ms": 60_000}));
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let until = now.expect("a clock after 1970") + Duration::from_secs(6);
    redis.cli(&[
        "HSET",
        "leasehold:locks",
        "#recover",
        &until.as_micros().to_string(),
        "#granting_from",
        &until.as_micros().to_string(),
    ]);
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
