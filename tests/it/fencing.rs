//! Fencing tokens and losses: flushes, restarts, restored backups, and clocks that are behind.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::api::FAILOVER;
use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};

/// The minimum distance between the tokens of two activations.
const TOKEN_GAP: u64 = 1 << 22;

#[test]
fn tokens_rise_across_a_flush_a_restart_and_other_servers() {
    let redis = RedisServer::plain();
    let start = || Leasehold::on(&redis);
    let (one, two) = (start(), start());
    let mut last = 0;
    let mut rises = |reply: &Reply, what: &str| {
        assert!(
            reply.fencing_token() > last,
            "{what}: {} after {last}",
            reply.fencing_token()
        );
        last = reply.fencing_token();
    };
    rises(&one.api().acquire("a", json!({"ttl_ms": 1000})), "first");
    rises(
        &two.api().acquire("b", json!({"ttl_ms": 1000})),
        "another server",
    );
    redis.cli(&["FLUSHALL"]);
    rises(&one.api().acquire_soon("a"), "after a flush");
    rises(
        &two.api().acquire_soon("c"),
        "another server after the flush",
    );
    redis.restart();
    rises(&two.api().acquire_soon("a"), "after an empty restart");
    rises(
        &one.api().acquire_soon("b"),
        "another server after the restart",
    );
    // A new server on an empty Redis has only the clock. Each activation jumps ahead of the clock by the gap, so the
    // clock needs that long to catch up.
    redis.restart();
    drop((one, two));
    eventually(FAILOVER, "the clock passes the last token", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("a clock after 1970").as_micros() > u128::from(last)
    });
    let rises = |reply: &Reply, what: &str| {
        assert!(
            reply.fencing_token() > last,
            "{what}: {} after {last}",
            reply.fencing_token()
        );
    };
    rises(
        &start().api().acquire_soon("a"),
        "a new server on an empty Redis",
    );
}

#[test]
fn tokens_rise_when_an_old_backup_is_restored() {
    let redis = RedisConfig::new()
        .line("dbfilename", "old.rdb")
        .line("save", "3600 1")
        .start();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 6_000}));
    redis.cli(&["SAVE"]);
    let gone = (0..50).map(|number| api.acquire(&format!("k{number}"), json!({"ttl_ms": 6_000})));
    let gone: Vec<Reply> = gone.collect();
    let last = gone.iter().map(Reply::fencing_token).max().expect("tokens");
    let granted = Instant::now();
    redis.kill();
    redis.restart();
    eventually(FAILOVER, "the loss is found", || {
        api.acquire("b", None).json()["type"] == "urn:leasehold:problem:recovering"
    });
    let refused = api.acquire("k1", None);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["outcome"], "none");
    let ready = server.readiness();
    assert_eq!(
        (ready.status, &ready.json()["store"]),
        (200, &json!("degraded")),
        "{}",
        ready.body
    );
    // Leases in the backup continue; locks that it lacks are not granted while holders may rely on them.
    assert_eq!(api.renew("a", &held.lease_id(), None).status, 200);
    let after = api.acquire_soon("k1");
    assert!(
        granted.elapsed() >= Duration::from_secs(6),
        "{:?}",
        granted.elapsed()
    );
    assert!(
        after.fencing_token() > last,
        "{} after {last}",
        after.fencing_token()
    );
}

#[test]
fn restart_that_lost_nothing_pauses_nothing() {
    let redis = RedisConfig::new()
        .line("appendonly", "yes")
        .line("appendfsync", "always")
        .start();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 60_000}));
    redis.restart();
    let again = Instant::now();
    let after = api.acquire_soon("b");
    assert!(
        again.elapsed() < Duration::from_secs(5),
        "{:?}",
        again.elapsed()
    );
    assert!(after.fencing_token() >= held.fencing_token() + TOKEN_GAP);
    assert_eq!(api.renew("a", &held.lease_id(), None).status, 200);
}

#[test]
fn tokens_rise_when_the_clock_is_behind_them() {
    let redis = RedisServer::plain();
    let start = || Leasehold::on(&redis);
    let server = start();
    redis.cli(&["HINCRBY", "leasehold:locks", "#token", "1000000000000"]);
    let last = server
        .api()
        .acquire("a", json!({"ttl_ms": 1000}))
        .fencing_token();
    redis.cli(&["FLUSHALL"]);
    let after = server.api().acquire_soon("a").fencing_token();
    assert!(
        after >= last + TOKEN_GAP,
        "the server knows what it saw: {after} after {last}"
    );
    drop(server);
    redis.cli(&["HSET", "leasehold:locks", "#replid", &"0".repeat(40)]);
    let later = start().api().acquire_soon("b").fencing_token();
    assert!(
        later >= after + TOKEN_GAP,
        "Redis knows what it gave: {later} after {after}"
    );
}

#[test]
fn loss_is_found_although_the_server_that_confirmed_has_ended() {
    let redis = RedisServer::plain();
    let (one, two) = (Leasehold::on(&redis), Leasehold::on(&redis));
    let held = one.api().acquire("a", json!({"ttl_ms": 8_000}));
    let granted = Instant::now();
    assert_eq!(held.status, 201, "{}", held.body);
    // Two heartbeats: one server stores its record, and the other reads it.
    sleep(Duration::from_millis(2_500));
    one.kill();
    redis.cli(&["FLUSHALL"]);
    eventually(FAILOVER, "the loss is found", || {
        two.api().acquire("b", None).json()["type"] == "urn:leasehold:problem:recovering"
    });
    let what = two.readiness().json()["last_change"]["what"].to_string();
    assert!(what.contains("1 confirmed writes are missing"), "{what}");
    let after = two.api().acquire_soon("a");
    assert!(
        granted.elapsed() >= Duration::from_secs(8),
        "{:?}",
        granted.elapsed()
    );
    assert!(after.fencing_token() > held.fencing_token());
}
