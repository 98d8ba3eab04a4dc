//! A Redis that accepts no more writes: out of memory, or unable to save its data.

use std::fs;

use serde_json::json;
use tempfile::TempDir;

use super::{acquire, becomes_ready, problem, readyz, reason_with, says_at_start, with_redis};
use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};

/// Leaves Redis no free memory.
fn fill(redis: &RedisServer) {
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "1"]), "OK");
    assert!(redis.cli(&["SET", "filler", "x"]).starts_with("OOM"));
}

fn free_memory(redis: &RedisServer) {
    assert_eq!(redis.cli(&["CONFIG", "SET", "maxmemory", "0"]), "OK");
}

/// A refusal with the outcome `none` that names this problem.
fn is_refused(reply: &Reply, name: &str) {
    assert_eq!(problem(reply), (503, name, "none"), "{reply:?}");
    assert!(reply.header("Retry-After").is_some(), "{reply:?}");
}

#[test]
fn out_of_memory_refuses_a_lock_and_leaves_nothing_behind() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    fill(&redis);
    let keys = redis.keys();
    for body in [
        json!({}),
        json!({"wait_ms": 300}),
        json!({"holder": "h".repeat(200)}),
    ] {
        is_refused(&server.api().acquire("new", body), "store-out-of-memory");
    }
    let with_key = [("Idempotency-Key", "idempotency-key-0123456789")];
    is_refused(
        &server.api().acquire_with("new", &with_key, None),
        "store-out-of-memory",
    );
    assert_eq!(redis.keys(), keys);
    free_memory(&redis);
    // The refused attempt left no record: the same idempotency key starts anew.
    let granted = server.api().acquire_with("new", &with_key, None);
    assert_eq!(granted.status, 201, "{granted:?}");
    assert_eq!(granted.header("Idempotency-Replayed"), None);
}

#[test]
fn out_of_memory_lets_go_of_a_lease_and_answers_the_repetition() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    let id = acquire(&server, "held");
    fill(&redis);
    assert_eq!(server.api().release("held", &id).status, 204);
    assert_eq!(server.api().release("held", &id).status, 204, "once more");
    assert_eq!(server.api().inspect("held").json()["held"], false);
}

#[test]
fn out_of_memory_lets_an_administrator_break_a_lease() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    acquire(&server, "held");
    let token = server.api().inspect("held").json()["fencing_token"]
        .as_u64()
        .expect("a number");
    fill(&redis);
    assert_eq!(server.api().break_lease("held", token).status, 204);
    assert_eq!(server.api().inspect("held").json()["held"], false);
}

#[test]
fn out_of_memory_tells_the_truth_of_a_renewal() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    let id = acquire(&server, "held");
    fill(&redis);
    let left = |server: &Leasehold| server.api().inspect("held").json()["expires_in_ms"].as_u64();
    let renewed = server.api().renew("held", &id, json!({"ttl_ms": 600_000}));
    if renewed.status == 200 {
        assert!(left(&server) > Some(61_000), "{renewed:?}");
    } else {
        is_refused(&renewed, "store-out-of-memory");
        assert!(left(&server) < Some(61_000), "{renewed:?}");
    }
    free_memory(&redis);
    assert_eq!(server.api().renew("held", &id, None).status, 200);
}

#[test]
fn out_of_memory_is_a_degraded_store_with_advice() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    fill(&redis);
    is_refused(&server.api().acquire("new", None), "store-out-of-memory");
    let reason = reason_with(&server, 200, &["memory", "maxmemory"]);
    assert_eq!(readyz(&server).json()["store"], "degraded", "{reason}");
    free_memory(&redis);
    becomes_ready(&server);
}

#[test]
fn out_of_memory_at_the_start_is_named() {
    let redis = RedisServer::plain();
    fill(&redis);
    let server = with_redis(&redis.url());
    let reason = says_at_start(&server, &["memory", "maxmemory"]);
    assert!(!reason.contains("cannot be reached"), "{reason}");
    free_memory(&redis);
    becomes_ready(&server);
}

/// A Redis that saves into a directory in which it cannot create its file.
struct Unsaved {
    redis: RedisServer,
    dir: TempDir,
}

impl Unsaved {
    fn start() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let redis = RedisConfig::new()
            .line("dir", &dir.path().display().to_string())
            // Otherwise the log would move with the directory.
            .line("logfile", "\"\"")
            .line("save", "3600 1000000")
            .start();
        Self { redis, dir }
    }

    /// A directory in place of the file: even root cannot replace it.
    fn fail(&self) {
        let obstacle = self.dir.path().join("dump.rdb");
        fs::remove_file(&obstacle).ok();
        fs::create_dir_all(obstacle.join("full")).expect("a writable temporary directory");
        self.save("err");
    }

    fn mend(&self) {
        fs::remove_dir_all(self.dir.path().join("dump.rdb")).expect("the obstacle");
        self.save("ok");
    }

    fn save(&self, status: &str) {
        let limit = std::time::Duration::from_secs(10);
        eventually(limit, "a save", || {
            self.redis.cli(&["BGSAVE"]);
            self.redis
                .info_field("persistence", "rdb_last_bgsave_status")
                .as_deref()
                == Some(status)
        });
    }
}

#[test]
fn redis_that_cannot_save_refuses_a_lock() {
    let unsaved = Unsaved::start();
    let server = with_redis(&unsaved.redis.url());
    server.wait_ready();
    let id = acquire(&server, "held");
    unsaved.fail();
    let keys = unsaved.redis.keys();
    is_refused(&server.api().acquire("new", None), "store-not-persisting");
    is_refused(
        &server.api().renew("held", &id, None),
        "store-not-persisting",
    );
    assert_eq!(unsaved.redis.keys(), keys);
    assert_eq!(server.api().inspect("held").json()["held"], true);
    unsaved.mend();
    assert_eq!(server.api().renew("held", &id, None).status, 200);
    assert_eq!(server.api().release("held", &id).status, 204);
    becomes_ready(&server);
}

#[test]
fn redis_that_cannot_save_confirms_no_release() {
    // Redis then refuses every write, including writes that free memory.
    let unsaved = Unsaved::start();
    let server = with_redis(&unsaved.redis.url());
    server.wait_ready();
    let id = acquire(&server, "held");
    unsaved.fail();
    is_refused(&server.api().release("held", &id), "store-not-persisting");
    assert_eq!(server.api().inspect("held").json()["held"], true);
    unsaved.mend();
    assert_eq!(server.api().release("held", &id).status, 204);
}

#[test]
fn redis_that_cannot_save_is_a_degraded_store_with_advice() {
    let unsaved = Unsaved::start();
    let server = with_redis(&unsaved.redis.url());
    server.wait_ready();
    unsaved.fail();
    is_refused(&server.api().acquire("new", None), "store-not-persisting");
    let reason = reason_with(&server, 200, &["save", "disk"]);
    assert_eq!(readyz(&server).json()["store"], "degraded", "{reason}");
    unsaved.mend();
    becomes_ready(&server);
}

#[test]
fn redis_that_cannot_save_at_the_start_is_named() {
    let unsaved = Unsaved::start();
    unsaved.fail();
    let server = with_redis(&unsaved.redis.url());
    let reason = says_at_start(&server, &["save", "disk"]);
    assert!(!reason.contains("cannot be reached"), "{reason}");
    unsaved.mend();
    becomes_ready(&server);
}
