//! What a batch leaves in Redis: the truth in one key, an index that is repaired, and an honest outcome when a write fails.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};

const SOON: Duration = Duration::from_secs(10);

fn start() -> (RedisServer, Leasehold) {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    (redis, server)
}

fn lease_on(server: &Leasehold, key: &str) -> String {
    let lease = server.api().acquire(key, json!({"ttl_ms": 600_000}));
    assert_eq!(lease.status, 201, "{lease:?}");
    lease.lease_id()
}

/// A waiter for a lock, in its queue.
fn waiter_for(server: &Leasehold, key: &str) -> thread::JoinHandle<Reply> {
    let (api, asked) = (server.api(), key.to_owned());
    let waiting = thread::spawn(move || api.acquire(&asked, json!({"wait_ms": 20_000})));
    eventually(SOON, "a waiter", || {
        server.api().inspect(key).json()["waiters"] == 1
    });
    waiting
}

fn is_held(server: &Leasehold, key: &str) -> bool {
    server.api().inspect(key).json()["held"] == true
}

fn assert_outcome(reply: &Reply, outcome: &str) {
    assert!(reply.status >= 500, "{reply:?}");
    assert_eq!(reply.json()["outcome"], outcome, "{reply:?}");
}

/// Takes a permission from the user of the server.
fn deny(redis: &RedisServer, command: &str) {
    let rule = format!("-{command}");
    assert_eq!(redis.cli(&["ACL", "SETUSER", "default", &rule]), "OK");
}

fn allow_all(redis: &RedisServer) {
    assert_eq!(redis.cli(&["ACL", "SETUSER", "default", "+@all"]), "OK");
}

#[test]
fn failed_removal_leaves_the_lease() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    deny(&redis, "hdel");
    assert_outcome(&server.api().release("a", &held), "none");
    allow_all(&redis);
    eventually(SOON, "the release", || {
        let released = server.api().release("a", &held);
        released.status == 204
    });
    assert!(!is_held(&server, "a"));
}

#[test]
fn failed_write_of_the_truth_has_no_effect_and_moves_no_waiter() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    let waiting = waiter_for(&server, "a");
    deny(&redis, "hset");
    assert_outcome(&server.api().acquire("b", None), "none");
    allow_all(&redis);
    assert_eq!(redis.cli(&["ZCARD", "leasehold:queue:a"]), "1");
    eventually(SOON, "the lease is still held", || is_held(&server, "a"));
    assert!(!is_held(&server, "b"));
    assert_eq!(server.api().release("a", &held).status, 204);
    assert_eq!(waiting.join().expect("an answer").status, 201);
}

#[test]
fn release_whose_truth_is_only_removed_is_unknown() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    deny(&redis, "hset");
    assert_outcome(&server.api().release("a", &held), "unknown");
    allow_all(&redis);
    eventually(SOON, "the lease has ended", || !is_held(&server, "a"));
}

#[test]
fn sweep_forgets_no_release_of_the_last_seconds() {
    let (_redis, server) = start();
    let held = lease_on(&server, "a");
    assert_eq!(server.api().release("a", &held).status, 204);
    // More than a sweep.
    thread::sleep(Duration::from_millis(2_500));
    assert_eq!(server.api().release("a", &held).status, 204);
}

#[test]
fn releases_beyond_the_limit_are_forgotten_and_counted() {
    let (redis, server) = start();
    let first = lease_on(&server, "a");
    assert_eq!(server.api().release("a", &first).status, 204);
    for number in 0..2 {
        // Another 250,000 releases.
        let record = redis.cli(&["HGET", "leasehold:locks", "#releases"]);
        let fields: Vec<_> = record.split(' ').collect();
        let full = format!("{} {} 500000 {}", fields[0], fields[1], fields[3]);
        redis.cli(&["HSET", "leasehold:locks", "#releases", &full]);
        let next = lease_on(&server, &format!("b/{number}"));
        let released = server.api().release(&format!("b/{number}"), &next);
        assert_eq!(released.status, 204);
    }
    assert_eq!(server.api().release("a", &first).status, 409);
    let forgotten = server.metric("leasehold_releases_forgotten_total");
    assert!(forgotten >= Some(500_000), "{forgotten:?}");
}

#[test]
fn few_releases_are_a_table_for_redis_and_no_list() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    assert_eq!(server.api().release("a", &held).status, 204);
    let encoding = redis.cli(&["OBJECT", "ENCODING", "leasehold:released:1"]);
    assert_eq!(encoding, "hashtable");
}

#[test]
fn activation_keeps_the_pause_after_a_loss() {
    let (redis, server) = start();
    let now: Vec<u64> = redis
        .cli(&["TIME"])
        .lines()
        .map(|number| number.parse().expect("a number"))
        .collect();
    let until = ((now[0] + 600) * 1_000_000).to_string();
    redis.cli(&[
        "HSET",
        "leasehold:locks",
        "#recover",
        &until,
        "#replid",
        &"0".repeat(40),
    ]);
    thread::sleep(Duration::from_millis(2_500));
    let refused = server.api().acquire("a", None);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(refused.json()["type"], "urn:leasehold:problem:recovering");
}

#[test]
fn renewal_without_its_index_is_unknown_and_has_renewed_the_lease() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    deny(&redis, "zadd");
    assert_outcome(
        &server.api().renew("a", &held, json!({"ttl_ms": 900_000})),
        "unknown",
    );
    let left = server.api().inspect("a").json()["expires_in_ms"].as_u64();
    assert!(left > Some(800_000), "{left:?}");
    allow_all(&redis);
}

#[test]
fn release_that_cannot_be_remembered_is_unknown_and_has_ended_the_lease() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    for hash in ["leasehold:released:1", "leasehold:released:2"] {
        redis.cli(&["SET", hash, "not a hash"]);
    }
    assert_outcome(&server.api().release("a", &held), "unknown");
    for hash in ["leasehold:released:1", "leasehold:released:2"] {
        redis.cli(&["DEL", hash]);
    }
    assert!(!is_held(&server, "a"));
}

#[test]
fn queue_that_cannot_be_read_fails_its_own_operations() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    let waiting = waiter_for(&server, "a");
    redis.cli(&["RENAME", "leasehold:entries:a", "kept-aside"]);
    redis.cli(&["SET", "leasehold:entries:a", "not a hash"]);
    let failed = server.api().release("a", &held);
    assert!(failed.status >= 500, "{failed:?}");
    assert!(is_held(&server, "a"));
    lease_on(&server, "b");
    redis.cli(&["RENAME", "kept-aside", "leasehold:entries:a"]);
    assert_eq!(server.api().release("a", &held).status, 204);
    assert_eq!(waiting.join().expect("an answer").status, 201);
}

#[test]
fn reservation_that_cannot_be_noted_is_unknown_and_reaches_its_waiter() {
    let (redis, server) = start();
    let held = lease_on(&server, "a");
    let waiting = waiter_for(&server, "a");
    redis.cli(&["DEL", "leasehold:reservations"]);
    redis.cli(&["SET", "leasehold:reservations", "not a hash"]);
    assert_outcome(&server.api().release("a", &held), "unknown");
    redis.cli(&["DEL", "leasehold:reservations"]);
    assert_eq!(waiting.join().expect("an answer").status, 201);
}

#[test]
fn lost_member_of_the_index_is_found_and_invalidates_cursors() {
    let (redis, server) = start();
    for number in 0..300 {
        lease_on(&server, &format!("k/{number:03}"));
    }
    let page = server.api().list("limit=100").json();
    let cursor = page["next_cursor"]
        .as_str()
        .expect("more")
        .replace('/', "%2F");
    assert_eq!(redis.cli(&["ZREM", "leasehold:leases", "k/299"]), "1");
    eventually(SOON, "the index is whole", || {
        redis.cli(&["ZCARD", "leasehold:leases"]) == "300"
            && server.api().list("limit=1").status == 200
    });
    // The scan begins anew: it gives all locks from the first one on.
    let mut keys = std::collections::BTreeSet::new();
    let mut query = format!("limit=100&cursor={cursor}");
    loop {
        let page = server.api().list(&query);
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        for lock in page["locks"].as_array().expect("locks") {
            keys.insert(lock["key"].as_str().expect("a key").to_owned());
        }
        match page["next_cursor"].as_str() {
            Some(next) => query = format!("limit=100&cursor={}", next.replace('/', "%2F")),
            None => break,
        }
    }
    assert_eq!(keys.len(), 300);
}

#[test]
fn volatile_eviction_loses_no_lease() {
    let redis = RedisConfig::new()
        .line("maxmemory-policy", "volatile-lru")
        .start();
    let server = Leasehold::on(&redis);
    let held = lease_on(&server, "ev");
    for number in 0..600 {
        redis.cli(&["SET", &format!("other:{number}"), &"x".repeat(10_000)]);
    }
    redis.cli(&["CONFIG", "SET", "maxmemory", "5mb"]);
    thread::sleep(Duration::from_secs(1));
    redis.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    let second = server.api().acquire("ev", None);
    assert_eq!(second.status, 423, "{second:?}");
    eventually(SOON, "the renewal", || {
        server.api().renew("ev", &held, None).status == 200
    });
}

#[test]
fn evicted_truth_is_noticed_as_a_loss() {
    let (redis, server) = start();
    let lease = server.api().acquire("a", json!({"ttl_ms": 4_000}));
    assert_eq!(lease.status, 201, "{lease:?}");
    redis.cli(&["DEL", "leasehold:locks"]);
    let mut statuses = Vec::new();
    eventually(Duration::from_secs(15), "the next grant", || {
        let reply = server.api().acquire("a", None);
        statuses.push(reply.status);
        reply.status == 201
    });
    let change = server.readiness().json()["last_change"]["what"].to_string();
    assert!(change.contains("confirmed writes are missing"), "{change}");
    assert!(statuses.len() > 10, "no pause: {statuses:?}");
}

#[test]
fn lower_setting_bounds_a_pause_that_goes_on() {
    let (redis, server) = start();
    lease_on(&server, "a");
    redis.cli(&["DEL", "leasehold:locks"]);
    eventually(SOON, "the pause", || {
        server.api().acquire("b", None).json()["type"] == "urn:leasehold:problem:recovering"
    });
    drop(server);
    let lower = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_MAX_RECOVERY_MS", "1000".to_owned()),
    ]);
    eventually(Duration::from_secs(15), "the next grant", || {
        lower.api().acquire("b", None).status == 201
    });
}

#[test]
fn locks_are_readable_with_a_command_line() {
    let (redis, server) = start();
    let body = json!({"ttl_ms": 600_000, "holder": "cron@host", "metadata": {"job": "7"}});
    let lease = server.api().acquire("jobs/nightly", body);
    assert_eq!(lease.status, 201, "{lease:?}");
    let text = redis.cli(&["HGET", "leasehold:locks", "jobs/nightly"]);
    let fields: Vec<_> = text.trim_end().split('\t').collect();
    assert_eq!(fields[0], "L", "{text}");
    assert_eq!(fields[1], lease.fencing_token().to_string(), "{text}");
    assert_eq!(&fields[11..], ["cron@host", r#"{"job":"7"}"#], "{text}");
}
