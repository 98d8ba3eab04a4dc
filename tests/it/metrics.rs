//! `/metrics` after a known sequence of calls.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::TcpStream;
use std::thread::{sleep, spawn};
use std::time::Duration;

use leasehold::lock::lease::LeaseId;
use leasehold::lock::request::{Acquire, WaiterId};
use leasehold::lock::rules::Acquisition;
use serde_json::json;

use crate::support::api::{Api, FAILOVER};
use crate::support::documents::{CHART, section};
use crate::support::eventually;
use crate::support::http::http;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, ttl, wait};

/// The limit for an expected change.
const SLACK: Duration = Duration::from_secs(10);

/// A lease id without a lease.
const STRANGER: &str = "00000000000000000000000000000000";

/// The prefix of every key in these tests.
const MARK: &str = "zebra";

/// All series and their values.
struct Scrape(BTreeMap<String, f64>);

impl Scrape {
    fn of(server: &Leasehold) -> Self {
        let text = http(server.addr(), "GET", "/metrics", &[], None).body;
        assert!(!text.contains(MARK), "a lock's key is in\n{text}");
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let sample = |line: &str| {
            let (series, value) = line.rsplit_once(' ').expect("a series and its value");
            (series.to_owned(), value.parse().expect("a number"))
        };
        Self(samples.map(sample).collect())
    }

    /// The value of a series, named without `leasehold_`.
    fn value(&self, series: &str) -> f64 {
        let known = self.0.get(&format!("leasehold_{series}"));
        *known.unwrap_or_else(|| panic!("{series} is not among {:#?}", self.0.keys()))
    }

    fn assert(&self, expected: &[(&str, f64)]) {
        for (series, value) in expected {
            assert!(
                (self.value(series) - value).abs() < 1e-9,
                "{series}: {}",
                self.value(series)
            );
        }
    }

    /// The names of all metrics.
    fn names(&self) -> BTreeSet<String> {
        let name = |series: &String| {
            let name = series.split('{').next().unwrap_or_default();
            let parts = ["_bucket", "_sum", "_count"];
            let part = parts.iter().find_map(|part| name.strip_suffix(part));
            part.unwrap_or(name).to_owned()
        };
        self.0.keys().map(name).collect()
    }
}

/// Waits until a series has this value.
fn until(server: &Leasehold, series: &str, value: f64) {
    eventually(SLACK, &format!("{series} is {value}"), || {
        (Scrape::of(server).value(series) - value).abs() < 1e-9
    });
}

fn lock(name: &str) -> String {
    format!("{MARK}-{name}")
}

/// Calls with every outcome that needs no fault.
fn scene(server: &Leasehold) {
    let api = server.api();
    let status = |reply: crate::support::http::Reply| reply.status;

    // An acquisition, its repetitions, and other clients.
    let own = [("Idempotency-Key", "metrics-scene-0001")];
    let first = api.acquire_with(&lock("a"), &own, json!({"ttl_ms": 60_000}));
    assert_eq!(first.status, 201);
    assert_eq!(
        status(api.acquire_with(&lock("a"), &own, json!({"ttl_ms": 60_000}))),
        200
    );
    assert_eq!(
        status(api.acquire_with(&lock("a"), &own, json!({"ttl_ms": 50_000}))),
        422
    );
    assert_eq!(status(api.acquire(&lock("a"), None)), 423);
    assert_eq!(
        status(api.acquire(&lock("a"), json!({"wait_ms": 200}))),
        423
    );

    // Renewals with all three outcomes.
    assert_eq!(status(api.renew(&lock("a"), &first.lease_id(), None)), 200);
    assert_eq!(status(api.renew(&lock("a"), STRANGER, None)), 409);
    assert_eq!(status(api.renew(&lock("b"), STRANGER, None)), 409);

    // A queue with a limit of one; its waiter gets the lock.
    let next = waiting(server, &api, 1);
    assert_eq!(
        status(api.acquire(&lock("a"), json!({"wait_ms": 5_000}))),
        429
    );
    let other = spawn({
        let api = api.clone();
        move || api.acquire(&lock("c"), json!({"ttl_ms": 60_000, "wait_ms": 5_000}))
    });
    assert_eq!(other.join().expect("an answer").status, 201);
    assert_eq!(status(api.release(&lock("a"), &first.lease_id())), 204);
    let second = next.join().expect("an answer");
    assert_eq!(second.status, 201);
    assert_eq!(
        status(api.acquire_with(&lock("a"), &own, json!({"ttl_ms": 60_000}))),
        409
    );

    // A waiter that disconnects, and one beyond the server's limit of waiters.
    let body = r#"{"wait_ms":30000}"#;
    let head = format!(
        "POST /locks/{} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        lock("a"),
        body.len()
    );
    let mut leaving = TcpStream::connect(server.addr()).expect("it listens");
    leaving.write_all(head.as_bytes()).expect("it reads");
    until(server, "waiters", 1.0);
    let staying = spawn({
        let api = api.clone();
        move || api.acquire(&lock("c"), json!({"wait_ms": 4_000}))
    });
    until(server, "waiters", 2.0);
    assert_eq!(
        status(api.acquire(&lock("c"), json!({"wait_ms": 1_000}))),
        429
    );
    drop(leaving);
    until(server, "waiters", 1.0);
    assert_eq!(staying.join().expect("an answer").status, 423);

    // Releases and breaks with all outcomes.
    assert_eq!(status(api.release(&lock("a"), &first.lease_id())), 204);
    assert_eq!(status(api.release(&lock("a"), STRANGER)), 409);
    assert_eq!(status(api.release(&lock("b"), STRANGER)), 409);
    let token = second.fencing_token();
    assert_eq!(status(api.break_lease(&lock("a"), token + 1_000_000)), 409);
    assert_eq!(status(api.break_lease(&lock("a"), token)), 204);
    assert_eq!(status(api.break_lease(&lock("a"), token)), 204);

    // A lease that expires, and a body that is too large.
    assert_eq!(status(api.acquire(&lock("d"), json!({"ttl_ms": 100}))), 201);
    sleep(Duration::from_millis(150));
    let large = json!({"holder": "x".repeat(17_000)});
    assert_eq!(status(api.acquire(&lock("d"), large)), 413);
}

/// One more waiter for the first lock.
fn waiting(
    server: &Leasehold,
    api: &Api,
    waiters: u32,
) -> std::thread::JoinHandle<crate::support::http::Reply> {
    let asking = api.clone();
    let waiting =
        spawn(move || asking.acquire(&lock("a"), json!({"ttl_ms": 60_000, "wait_ms": 20_000})));
    until(server, "waiters", waiters.into());
    // The server counts the request shortly before it asks the store.
    eventually(SLACK, "it is in line", || {
        api.inspect(&lock("a")).json()["waiters"] == waiters
    });
    waiting
}

/// The expected series after the scene on every store.
const SCENE: [(&str, f64); 37] = [
    (r#"acquires_total{outcome="granted"}"#, 4.0),
    (r#"acquires_total{outcome="replayed"}"#, 1.0),
    (r#"acquires_total{outcome="held"}"#, 1.0),
    (r#"acquires_total{outcome="timed_out"}"#, 2.0),
    (r#"acquires_total{outcome="key_reused"}"#, 1.0),
    (r#"acquires_total{outcome="already_released"}"#, 1.0),
    (r#"acquires_total{outcome="too_many_waiters"}"#, 2.0),
    (r#"acquires_total{outcome="abandoned"}"#, 1.0),
    (r#"acquires_total{outcome="internal"}"#, 0.0),
    (r#"acquire_wait_seconds_count{result="granted"}"#, 1.0),
    (r#"acquire_wait_seconds_count{result="timed_out"}"#, 2.0),
    (
        r#"acquire_wait_seconds_bucket{result="timed_out",le="0.1"}"#,
        0.0,
    ),
    (r#"acquire_wait_seconds_count{result="abandoned"}"#, 1.0),
    (r#"acquire_wait_seconds_count{result="failed"}"#, 0.0),
    (r#"lease_hold_seconds_count{ended_by="release"}"#, 1.0),
    (r#"lease_hold_seconds_count{ended_by="break"}"#, 1.0),
    (r#"renewals_total{outcome="renewed"}"#, 1.0),
    (r#"renewals_total{outcome="not_held"}"#, 1.0),
    (r#"renewals_total{outcome="held_by_other"}"#, 1.0),
    (r#"renewals_total{outcome="error"}"#, 0.0),
    (r#"releases_total{outcome="released"}"#, 1.0),
    (r#"releases_total{outcome="repeated"}"#, 1.0),
    (r#"releases_total{outcome="not_held"}"#, 1.0),
    (r#"releases_total{outcome="held_by_other"}"#, 1.0),
    (r#"breaks_total{outcome="broken"}"#, 1.0),
    (r#"breaks_total{outcome="already_over"}"#, 1.0),
    (r#"breaks_total{outcome="held_by_other"}"#, 1.0),
    (r#"limits_hit_total{limit="server_waiters"}"#, 1.0),
    (r#"limits_hit_total{limit="key_waiters"}"#, 1.0),
    (r#"limits_hit_total{limit="body_bytes"}"#, 1.0),
    (r#"limits_hit_total{limit="redis_queue"}"#, 0.0),
    ("waiters", 0.0),
    ("waiters_limit", 2.0),
    ("ready", 1.0),
    ("draining", 0.0),
    (r#"store_condition{condition="ready"}"#, 1.0),
    (
        r#"http_request_duration_seconds_count{method="POST",route="/locks/{key}",status="413"}"#,
        1.0,
    ),
];

const LIMITS: [(&str, &str); 2] = [
    ("LEASEHOLD_MAX_WAITERS", "2"),
    ("LEASEHOLD_MAX_WAITERS_PER_KEY", "1"),
];

#[test]
fn scene_is_counted_in_memory() {
    let server = Leasehold::start([&[("LEASEHOLD_STORE", "memory")], &LIMITS[..]].concat());
    scene(&server);
    let scrape = Scrape::of(&server);
    scrape.assert(&SCENE);
    // The third lock is still held; the fourth has expired.
    scrape.assert(&[("leases_held", 1.0), ("leases_expired_total", 1.0)]);
    let route = r#"{method="DELETE",route="/locks/{key}",status="204"}"#;
    let took = scrape.value(&format!("http_request_duration_seconds_sum{route}"));
    assert!(took > 0.0 && took < 10.0, "{took}");
    let version = format!(r#"build_info{{version="{}"}}"#, env!("CARGO_PKG_VERSION"));
    scrape.assert(&[(&version, 1.0)]);
    let names = scrape.names();
    let of_redis = |name: &&String| name.contains("redis") || name.contains("replication");
    assert_eq!(names.iter().find(of_redis), None, "there is no Redis here");
}

#[test]
fn scene_is_counted_on_redis() {
    let redis = RedisServer::plain();
    let url = redis.url();
    let server = Leasehold::start([&[("LEASEHOLD_REDIS_URL", &*url)], &LIMITS[..]].concat());
    server.wait_ready();
    scene(&server);
    // The server learns of the leases with its next heartbeat: the third lock is still held; the fourth has expired.
    until(&server, "leases_expired_total", 1.0);
    until(&server, "leases_held", 1.0);
    let scrape = Scrape::of(&server);
    scrape.assert(&SCENE);
    scrape.assert(&[
        ("replication_confirmations_total", 0.0),
        (r#"replication_shortfalls_total{reason="offline"}"#, 0.0),
        (r#"redis_errors_total{kind="timeout"}"#, 0.0),
        (r#"redis_errors_total{kind="other"}"#, 0.0),
        (r#"master_changes_total{kind="restart"}"#, 0.0),
        ("losses_total", 0.0),
        ("grant_pause_seconds", 0.0),
    ]);
    let batches = scrape.value("redis_round_trip_seconds_count");
    assert!(batches > 20.0, "{batches}");
    scrape.assert(&[("redis_batch_operations_count", batches)]);
    let operations = scrape.value("redis_batch_operations_sum");
    assert!(operations >= batches, "{operations} in {batches} batches");
    // The calls are sequential except for the waiters, so batches are small.
    assert!(
        operations < 2.0 * batches,
        "{operations} in {batches} batches"
    );
}

#[test]
fn operations_of_a_batch_are_counted() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", &*redis.url()),
        ("LEASEHOLD_REDIS_POOL_SIZE", "1"),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "30000"),
    ]);
    server.wait_ready();
    let before = Scrape::of(&server);
    // The first operation goes alone; the others share batches once Redis answers again.
    redis.pause();
    let asking: Vec<_> = (0..20)
        .map(|number| {
            let api = server.api();
            spawn(move || api.acquire(&lock(&number.to_string()), None))
        })
        .collect();
    // A command that comes later than the clock skew is not executed.
    sleep(Duration::from_millis(300));
    redis.resume();
    for one in asking {
        assert_eq!(one.join().expect("an answer").status, 201);
    }
    let after = Scrape::of(&server);
    let since = |series| after.value(series) - before.value(series);
    let (operations, batches) = (
        since("redis_batch_operations_sum"),
        since("redis_batch_operations_count"),
    );
    // A sweep each second is an operation too.
    assert!((20.0..23.0).contains(&operations), "{operations}");
    assert!((2.0..12.0).contains(&batches), "{batches}");
    let took = since("redis_round_trip_seconds_sum");
    assert!(took > 0.0 && took < 20.0, "{took}");
}

#[test]
fn lease_on_redis_is_counted_from_its_grant_to_its_end() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let acquire = |name: &str, ttl_ms: u64| {
        let lease = api.acquire(&lock(name), json!({"ttl_ms": ttl_ms}));
        assert_eq!(lease.status, 201, "{lease:?}");
        lease
    };
    let released = acquire("a", 60_000).lease_id();
    let broken = acquire("b", 60_000).fencing_token();
    let renewed = acquire("c", 5_000).lease_id();
    let longer = json!({"ttl_ms": 60_000});
    assert_eq!(api.renew(&lock("c"), &renewed, longer).status, 200);
    // Its deadline is just after the renewed lease's first deadline; afterwards it no longer counts as held.
    acquire("d", 5_000);
    until(&server, "leases_held", 4.0);
    assert_eq!(api.release(&lock("a"), &released).status, 204);
    assert_eq!(api.break_lease(&lock("b"), broken).status, 204);
    until(&server, "leases_held", 2.0);
    until(&server, "leases_expired_total", 1.0);
    Scrape::of(&server).assert(&[("leases_held", 1.0), ("leases_expired_total", 1.0)]);
}

#[tokio::test]
async fn shortened_lease_on_redis_counts_until_its_new_deadline_unless_its_client_returns() {
    let redis = RedisServer::plain();
    let s = Subject::direct(&redis).await;
    let counted_until = || redis.cli(&["ZSCORE", "leasehold:leases", "a"]);
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(60_000)
    };
    let held = s.granted(&key("a"), &asked).await.info;
    let whole = held.deadline.as_micros().to_string();
    assert_eq!(counted_until(), whole);
    assert!(rollback(&s, "a", &asked, Some(ms(10_000))).await);
    let cut = held.acquired_at.after(ms(10_000)).as_micros().to_string();
    assert_eq!(counted_until(), cut);
    let again = s.acquire(&key("a"), &repeated(&asked)).await;
    assert!(matches!(again, Acquisition::Replayed(_)), "{again:?}");
    assert_eq!(counted_until(), whole);
    s.store.close().await;
}

#[tokio::test]
async fn reserved_lock_on_redis_counts_as_held_from_its_claim_on() {
    let redis = RedisServer::plain();
    let s = Subject::direct(&redis).await;
    let held = || redis.cli(&["HGET", "leasehold:locks", "#held"]);
    let first = s.granted(&key("a"), &request(60_000)).await;
    let second = Acquire {
        wait: Some(wait(60_000)),
        ..request(60_000)
    };
    s.acquire(&key("a"), &second).await;
    assert_eq!(held(), "1");
    s.store
        .release(&key("a"), first.lease_id)
        .await
        .expect("an answer");
    let text = redis.cli(&["HGET", "leasehold:locks", "a"]);
    assert!(text.contains("R "), "no reservation: {text}");
    assert_eq!(held(), "0", "it is reserved");
    s.granted(&key("a"), &second).await;
    assert_eq!(held(), "1", "it is claimed");
    s.store.close().await;
}

#[test]
fn expiry_on_redis_is_counted_once_across_servers() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let acquire = |name: &str, ttl_ms: u64| {
        let lease = api.acquire(&lock(name), json!({"ttl_ms": ttl_ms}));
        assert_eq!(lease.status, 201, "{lease:?}");
    };
    // A client acquires the lock before the next heartbeat.
    acquire("a", 100);
    // The deadline plus the clock skew.
    sleep(Duration::from_millis(650));
    acquire("a", 60_000);
    until(&server, "leases_expired_total", 1.0);
    // A client acquires the lock after the heartbeat.
    acquire("b", 100);
    until(&server, "leases_expired_total", 2.0);
    acquire("b", 60_000);
    Scrape::of(&server).assert(&[("leases_expired_total", 2.0)]);
    until(&server, "leases_held", 2.0);
    // The lock stays free.
    acquire("c", 100);
    until(&server, "leases_expired_total", 3.0);
    until(&server, "leases_held", 2.0);
    Scrape::of(&server).assert(&[("leases_expired_total", 3.0)]);
}

#[tokio::test]
async fn lease_that_ran_out_on_redis_is_counted_although_its_lock_was_reserved_before_that() {
    let redis = RedisServer::plain();
    let s = Subject::direct(&redis).await;
    let expired = || s.store.lease_stats().map_or(0, |stats| stats.expired_total);
    s.granted(&key("a"), &request(1000)).await;
    let waiting = Acquire {
        wait: Some(wait(60_000)),
        ..request(1000)
    };
    s.acquire(&key("a"), &waiting).await;
    s.advance(ms(1000)).await;
    // A new client finds the lease over, which reserves the lock for the waiter.
    s.acquire(&key("a"), &request(1000)).await;
    s.granted(&key("a"), &waiting).await;
    assert_eq!(expired(), 1);
    s.store.close().await;
}

#[test]
fn replicas_are_counted_and_so_is_a_failover() {
    let set = SentinelConfig::new().down_after_ms(3_000).start();
    let server = set.serve();
    let api = server.api();
    assert_eq!(
        api.acquire(&lock("a"), json!({"ttl_ms": 100_000})).status,
        201
    );
    let scrape = Scrape::of(&server);
    scrape.assert(&[("replication_confirmations_total", 1.0)]);
    assert!(scrape.value("replication_round_seconds_count") >= 1.0);

    let replicas = set.replicas();
    for replica in &replicas {
        replica.pause();
    }
    assert_eq!(
        api.acquire(&lock("b"), json!({"ttl_ms": 1_000})).status,
        503
    );
    let scrape = Scrape::of(&server);
    scrape.assert(&[
        (r#"replication_shortfalls_total{reason="unconfirmed"}"#, 1.0),
        (r#"acquires_total{outcome="replication_unconfirmed"}"#, 1.0),
        (r#"master_changes_total{kind="failover"}"#, 0.0),
    ]);
    for replica in &replicas {
        replica.resume();
    }
    drop(replicas);
    assert_eq!(api.acquire_soon(&lock("b")).status, 201);

    let old = set.kill_master();
    set.wait_for_new_master(old);
    eventually(FAILOVER, "the failover is counted", || {
        Scrape::of(&server).value(r#"master_changes_total{kind="failover"}"#) >= 1.0
    });
    assert_eq!(api.acquire_soon(&lock("c")).status, 201);
    let scrape = Scrape::of(&server);
    let failovers = scrape.value(r#"master_changes_total{kind="failover"}"#);
    scrape.assert(&[
        ("failover_seconds_count", failovers),
        ("losses_total", 0.0),
        ("lost_writes_total", 0.0),
    ]);
    // The outage lasts at least as long as the Sentinels wait.
    let away = scrape.value("failover_seconds_sum");
    assert!(away > 1.0 && away < FAILOVER.as_secs_f64(), "{away}");
    let met = [
        r#"kind="connection""#,
        r#"kind="no_master""#,
        r#"kind="timeout""#,
    ];
    let met = met.map(|kind| scrape.value(&format!("redis_errors_total{{{kind}}}")));
    assert!(met.iter().sum::<f64>() > 0.0, "{met:?}");
}

#[test]
fn loss_is_counted_with_the_requests_refused_during_its_recovery() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    for name in ["a", "b"] {
        assert_eq!(
            api.acquire(&lock(name), json!({"ttl_ms": 60_000})).status,
            201
        );
    }
    // The heartbeat after the grants stores them in Redis, and the restart loses them.
    redis.kill();
    until(&server, r#"store_condition{condition="degraded"}"#, 1.0);
    Scrape::of(&server).assert(&[
        ("ready", 1.0),
        (r#"store_condition{condition="ready"}"#, 0.0),
    ]);
    let unanswered = [
        api.acquire(&lock("a"), None),
        api.renew(&lock("a"), STRANGER, None),
        api.release(&lock("a"), STRANGER),
        api.break_lease(&lock("a"), 1),
    ];
    assert_eq!(unanswered.map(|reply| reply.status), [503; 4]);
    redis.restart();
    eventually(FAILOVER, "the loss is counted", || {
        Scrape::of(&server).value("losses_total") >= 1.0
    });
    assert_eq!(api.acquire(&lock("c"), None).status, 503);
    let scrape = Scrape::of(&server);
    scrape.assert(&[
        (r#"acquires_total{outcome="recovering"}"#, 1.0),
        (r#"acquires_total{outcome="unavailable"}"#, 1.0),
        (r#"renewals_total{outcome="error"}"#, 1.0),
        (r#"releases_total{outcome="error"}"#, 1.0),
        (r#"breaks_total{outcome="error"}"#, 1.0),
        (r#"master_changes_total{kind="restart"}"#, 1.0),
        ("losses_total", 1.0),
        ("lost_writes_total", 2.0),
    ]);
    let pause = scrape.value("grant_pause_seconds");
    assert!(pause > 10.0 && pause < 61.0, "{pause}");
    assert!(scrape.value(r#"redis_errors_total{kind="no_master"}"#) >= 1.0);
}

#[test]
fn server_that_drains_says_so() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "30000".to_owned()),
    ]);
    server.wait_ready();
    // A call in progress delays the shutdown.
    redis.pause();
    let under_way = spawn({
        let api = server.api();
        move || api.release(&lock("a"), STRANGER)
    });
    sleep(Duration::from_millis(300));
    server.terminate();
    until(&server, "draining", 1.0);
    assert_eq!(server.api().acquire(&lock("b"), None).status, 503);
    Scrape::of(&server).assert(&[
        ("ready", 0.0),
        (r#"acquires_total{outcome="shutting_down"}"#, 1.0),
    ]);
    redis.resume();
    assert_eq!(under_way.join().expect("an answer").status, 409);
}

#[test]
fn table_of_metrics_is_complete() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let in_memory = Leasehold::in_memory();
    let mut shown = BTreeSet::new();
    for server in [&server, &in_memory] {
        assert_eq!(server.api().acquire(&lock("a"), None).status, 201);
        shown.extend(Scrape::of(server).names());
    }
    let section = section(CHART, "Metrics");
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let names = rows.filter_map(|row| row.split(['`', '{']).next());
    let told: BTreeSet<String> = names.map(str::to_owned).collect();
    assert_eq!(told, shown);
}

/// The statistics of the memory store; they are exact because only the test moves the time.
fn lease_stats(subject: &Subject) -> (u64, u64) {
    let stats = subject.store.lease_stats().expect("memory always knows");
    (stats.held, stats.expired_total)
}

#[tokio::test]
async fn lease_that_ran_out_is_counted_once_however_it_is_noticed() {
    let s = Subject::memory();
    assert_eq!(lease_stats(&s), (0, 0));
    for name in ["asked", "inspected", "taken", "renewed", "released"] {
        s.granted(&key(name), &request(1000)).await;
    }
    assert_eq!(lease_stats(&s), (5, 0));
    s.advance(ms(999)).await;
    assert_eq!(lease_stats(&s), (5, 0));
    s.advance(ms(1)).await;
    // The statistics have not been read before these operations.
    assert_eq!(s.inspect(&key("inspected")).await, None);
    s.granted(&key("taken"), &request(1000)).await;
    let stranger = LeaseId::from_bytes([7; 16]);
    s.store
        .renew(&key("renewed"), stranger, None)
        .await
        .expect("an answer");
    s.store
        .release(&key("released"), stranger)
        .await
        .expect("an answer");
    assert_eq!(lease_stats(&s), (1, 5));
    assert_eq!(lease_stats(&s), (1, 5));
    // The leases' memory was freed long ago.
    s.advance(ms(60_000)).await;
    for name in ["x", "y", "z"] {
        s.granted(&key(name), &request(1000)).await;
    }
    assert_eq!(lease_stats(&s), (3, 6));
}

#[tokio::test]
async fn lease_that_was_ended_is_not_counted_as_run_out() {
    let s = Subject::memory();
    let released = s.granted(&key("a"), &request(1000)).await;
    let broken = s.granted(&key("b"), &request(1000)).await;
    let renewed = s.granted(&key("c"), &request(1000)).await;
    let undone = request(1000);
    s.granted(&key("d"), &undone).await;
    assert_eq!(lease_stats(&s), (4, 0));
    s.store
        .release(&key("a"), released.lease_id)
        .await
        .expect("an answer");
    let token = broken.info.fencing_token;
    s.store
        .break_lease(&key("b"), token)
        .await
        .expect("an answer");
    let longer = Some(ttl(5000));
    s.store
        .renew(&key("c"), renewed.lease_id, longer)
        .await
        .expect("an answer");
    assert!(rollback(&s, "d", &undone, None).await);
    assert_eq!(lease_stats(&s), (1, 0));
    s.advance(ms(4999)).await;
    assert_eq!(lease_stats(&s), (1, 0));
    s.advance(ms(1)).await;
    assert_eq!(lease_stats(&s), (0, 1));
}

#[tokio::test]
async fn reserved_lock_counts_as_held_from_its_claim_on() {
    let s = Subject::memory();
    let first = s.granted(&key("a"), &request(1000)).await;
    let second = Acquire {
        wait: Some(wait(60_000)),
        ..request(1000)
    };
    s.acquire(&key("a"), &second).await;
    assert_eq!(lease_stats(&s), (1, 0));
    s.store
        .release(&key("a"), first.lease_id)
        .await
        .expect("an answer");
    assert_eq!(lease_stats(&s), (0, 0), "it is reserved");
    s.granted(&key("a"), &second).await;
    assert_eq!(lease_stats(&s), (1, 0), "it is claimed");
    let third = Acquire {
        wait: Some(wait(60_000)),
        ..request(1000)
    };
    s.acquire(&key("a"), &third).await;
    s.advance(ms(1000)).await;
    assert_eq!(lease_stats(&s), (0, 1));
    s.inspect(&key("a")).await;
    // A lapsed reservation is not an expired lease.
    s.store
        .release(&key("a"), second.lease_id)
        .await
        .expect("an answer");
    s.advance(ms(60_000)).await;
    assert_eq!(lease_stats(&s), (0, 1));
    // A grant that is shortened for a client that can come back expires earlier.
    let cut = request(60_000);
    s.granted(&key("b"), &cut).await;
    assert!(rollback(&s, "b", &cut, Some(ms(10_000))).await);
    assert_eq!(lease_stats(&s), (1, 1));
    s.advance(ms(10_000)).await;
    assert_eq!(lease_stats(&s), (0, 2));
}

async fn rollback(s: &Subject, on: &str, asked: &Acquire, keep: Option<Duration>) -> bool {
    let waiter = WaiterId::of(asked.lease_id, None);
    let undone = s
        .store
        .rollback(&key(on), waiter, asked.lease_id, asked.attempt, keep)
        .await;
    undone.expect("an answer")
}
