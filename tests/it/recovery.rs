//! The way out of a recovery.

use std::thread::{scope, sleep};
use std::time::Duration;

use serde_json::json;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

const SOON: Duration = Duration::from_secs(10);

/// A loss of everything while a lease of 15 minutes is held. A client that waits meanwhile is at another server.
#[test]
fn recovery_is_ended_by_a_client_that_may_break() {
    const ENDED: &str = "leasehold_recoveries_ended_total";
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let other = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    other.wait_ready();
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 900_000}));
    assert_eq!(held.status, 201, "{held:?}");
    redis.cli(&["FLUSHALL"]);
    eventually(SOON, "the pause", || {
        api.acquire("b", None).json()["type"] == "urn:leasehold:problem:recovering"
    });
    let unmeant = api.call("DELETE", "/recovery", &[], None);
    assert_eq!(unmeant.status, 400, "{unmeant:?}");
    assert_eq!(api.acquire("b", None).status, 503);
    assert_eq!(server.metric(ENDED), Some(0));
    let waits = scope(|scope| {
        let waits = scope.spawn(|| other.api().acquire("c", json!({"wait_ms": 20_000})));
        sleep(Duration::from_millis(500));
        let ended = api.end_recovery();
        assert_eq!((ended.status, &*ended.body), (204, ""));
        waits.join().expect("an answer")
    });
    // The waiter was refused at once, or had the lock when the pause was over.
    assert!(matches!(waits.status, 201 | 503), "{waits:?}");
    assert_eq!(api.acquire("b", None).status, 201);
    assert_eq!(other.api().acquire("d", None).status, 201);
    assert_eq!(api.end_recovery().status, 204, "there is none any more");
    assert_eq!(server.metric(ENDED), Some(1));
    let log = server.stderr();
    assert_eq!(
        log.matches("ended the pause of new grants").count(),
        1,
        "{log}"
    );
    eventually(SOON, "readyz is well", || {
        server.readiness().json()["store"] == "ok"
    });
}

/// The lease is over long before.
#[test]
fn recovery_lasts_as_long_as_a_lost_lock_was_to_be_held() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let body = json!({"ttl_ms": 100, "hold_at_least_ms": 900_000});
    let held = api.acquire("a", body);
    assert_eq!(held.status, 201, "{held:?}");
    assert_eq!(api.release("a", &held.lease_id()).status, 204);
    redis.cli(&["FLUSHALL"]);
    let pauses = || {
        let refused = api.acquire("a", None);
        let seconds = refused
            .header("Retry-After")
            .and_then(|text| text.parse().ok());
        let recovers = refused.json()["type"] == "urn:leasehold:problem:recovering";
        recovers && seconds.is_some_and(|seconds: u64| seconds > 800)
    };
    eventually(SOON, "the pause", pauses);
}

#[test]
fn recovery_is_ended_with_the_break_token_only() {
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", "a-token-of-many-bytes"),
        ("LEASEHOLD_BREAK_TOKEN", "another-token-of-many-bytes"),
    ]);
    let end = |token: &str| {
        let bearer = format!("Bearer {token}");
        let headers = [("Authorization", &*bearer)];
        let path = "/recovery?force=true";
        let headers = if token.is_empty() {
            &[][..]
        } else {
            &headers[..]
        };
        server.api().call("DELETE", path, headers, None).status
    };
    assert_eq!(end(""), 401);
    assert_eq!(end("a-token-of-many-bytes"), 403);
    assert_eq!(end("another-token-of-many-bytes"), 204);
}

/// The policy is changed at run time, and back before anybody looks.
#[test]
fn eviction_of_all_keys_for_a_moment_is_a_loss() {
    for policy in ["allkeys-lru", "allkeys-random"] {
        let redis = RedisServer::plain();
        let server = Leasehold::on(&redis);
        let api = server.api();
        let held = api.acquire("a", json!({"ttl_ms": 600_000}));
        assert_eq!(held.status, 201, "{held:?}");
        redis.cli(&["CONFIG", "SET", "maxmemory-policy", policy]);
        redis.cli(&["CONFIG", "SET", "maxmemory", "1"]);
        // A write makes room first.
        redis.cli(&["SET", "other", "x"]);
        redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
        redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        assert_eq!(
            redis.cli(&["EXISTS", "leasehold:locks"]),
            "0",
            "not evicted"
        );
        eventually(SOON, "the loss is counted", || {
            server.metric("leasehold_losses_total") == Some(1)
        });
        let second = api.acquire("a", None).json();
        assert_eq!(
            second["type"], "urn:leasehold:problem:recovering",
            "{second}"
        );
        let log = server.stderr();
        assert!(log.contains("confirmed writes are missing"), "{log}");
        let reason = server.readiness().json()["reason"].to_string();
        assert!(reason.contains("lost leases"), "{reason}");
    }
}
