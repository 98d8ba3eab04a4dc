//! A Redis that is unfit to hold locks.

use std::time::{Duration, Instant};

use super::{acquire, becomes_ready, reason_with, says_at_start, says_later, with_redis, works};
use crate::support::net::TcpProxy;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::resp_double::{bulk, resp_double};

/// The limit for a check after a doubt: less than the regular interval of 10 s.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

#[test]
fn memory_that_evicts_locks() {
    for policy in ["allkeys-lru", "allkeys-random"] {
        let redis = RedisConfig::new()
            .line("maxmemory", "100mb")
            .line("maxmemory-policy", policy)
            .start();
        let server = with_redis(&redis.url());
        says_at_start(&server, &["maxmemory-policy", policy, "noeviction"]);
        redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
        becomes_ready(&server);
    }
}

#[test]
fn memory_that_begins_to_evict_locks() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    becomes_ready(&server);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    says_later(&server, &["maxmemory-policy", "noeviction"]);
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    becomes_ready(&server);
}

#[test]
fn memory_that_begins_to_evict_locks_is_seen_at_once_when_something_else_is_odd() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    redis.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    redis.cli(&["CONFIG", "SET", "maxmemory", "100mb"]);
    // A heartbeat shows neither of these two problems.
    redis.cli(&["ACL", "SETUSER", "default", "-zadd"]);
    let refused = server.api().acquire("a", None);
    assert_eq!(refused.status, 503, "{refused:?}");
    let asked = Instant::now();
    reason_with(&server, 200, &["maxmemory-policy", "noeviction"]);
    let took = asked.elapsed();
    assert!(took < LOOK_LIMIT, "{took:?}");
}

#[test]
fn policy_without_a_limit_evicts_nothing_and_is_named() {
    for policy in ["allkeys-lru", "allkeys-lfu"] {
        let redis = RedisConfig::new().line("maxmemory-policy", policy).start();
        let server = with_redis(&redis.url());
        reason_with(
            &server,
            200,
            &["maxmemory-policy", policy, "noeviction", "maxmemory is 0"],
        );
        works(&server);
        redis.cli(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru"]);
        becomes_ready(&server);
    }
}

#[test]
fn redis_that_is_too_old() {
    let info = "# Server\r\nredis_version:5.0.14\r\nredis_mode:standalone\r\nrun_id:0123\r\n# Replication\r\nrole:master\r\n";
    let old = resp_double(&[("INFO", &bulk(info))]);
    let name = TcpProxy::start(&old.addr());
    let redis = RedisServer::plain();
    let server = with_redis(&format!("redis://{}", name.addr()));
    says_at_start(&server, &["Redis 5.0.14", "too old", "6.2"]);
    let wrote = old
        .received()
        .into_iter()
        .find(|command| command[0].starts_with("EVAL"));
    assert_eq!(wrote, None, "it must not be used");
    name.set_target(&redis.addr());
    name.cut();
    becomes_ready(&server);
}

#[test]
fn redis_cluster() {
    let cluster = RedisConfig::new().line("cluster-enabled", "yes").start();
    let name = TcpProxy::start(&cluster.addr());
    let redis = RedisServer::plain();
    let server = with_redis(&format!("redis://{}", name.addr()));
    says_at_start(&server, &["Redis Cluster", "not support", "Sentinel"]);
    assert_eq!(cluster.keys(), [""; 0]);
    name.set_target(&redis.addr());
    name.cut();
    becomes_ready(&server);
}

/// Valkey calls its mode otherwise. The double answers as a Valkey 9.1 of each mode does.
#[test]
fn valkey_of_another_mode() {
    for (mode, words) in [
        ("cluster", ["Redis Cluster", "not support"]),
        ("sentinel", ["is a Sentinel", "LEASEHOLD_SENTINELS"]),
    ] {
        let info = format!(
            "# Server\r\nredis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:9.1.0\r\nserver_mode:{mode}\r\nrun_id:0123\r\n"
        );
        let valkey = resp_double(&[("INFO", &bulk(&info))]);
        let server = with_redis(&format!("redis://{}", valkey.addr()));
        says_at_start(&server, &words);
    }
}

#[test]
fn redis_cluster_with_a_database_number() {
    // A cluster has only database 0, so it refuses earlier.
    let cluster = RedisConfig::new().line("cluster-enabled", "yes").start();
    let server = with_redis(&format!("{}/3", cluster.url()));
    says_at_start(&server, &["Cluster", "not support"]);
}

#[test]
fn database_that_does_not_exist() {
    let redis = RedisServer::plain();
    let server = with_redis(&format!("{}/99", redis.url()));
    let reason = says_at_start(&server, &["database", "99", "LEASEHOLD_REDIS_DB"]);
    assert!(!reason.contains("cannot be reached"), "{reason}");
}

#[test]
fn data_of_a_newer_format_is_left_alone() {
    let redis = RedisServer::plain();
    redis.cli(&["HSET", "leasehold:locks", "#format", "3", "#later", "field"]);
    redis.cli(&["SET", "leasehold:trouble", "of another format"]);
    let before = contents(&redis);
    let server = with_redis(&redis.url());
    says_at_start(&server, &["format 3", "newer", "run a newer version"]);
    assert_eq!(contents(&redis), before);
    redis.cli(&["DEL", "leasehold:locks", "leasehold:trouble"]);
    becomes_ready(&server);
}

#[test]
fn data_of_the_older_format_is_left_alone() {
    let redis = RedisServer::plain();
    redis.cli(&["HSET", "leasehold:meta", "format", "1", "token", "7"]);
    let before = contents(&redis);
    let server = with_redis(&redis.url());
    says_at_start(
        &server,
        &[
            "leasehold:meta",
            "older version",
            "delete its keys",
            "LEASEHOLD_KEY_PREFIX",
        ],
    );
    assert_eq!(contents(&redis), before);
    redis.cli(&["DEL", "leasehold:meta"]);
    becomes_ready(&server);
}

#[test]
fn data_that_becomes_of_a_newer_format_is_left_alone() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    becomes_ready(&server);
    let id = acquire(&server, "held");
    let activation = redis.cli(&["HGET", "leasehold:locks", "#activation"]);
    // A server of a newer version activates the master again.
    let newer = "f".repeat(32);
    redis.cli(&[
        "HSET",
        "leasehold:locks",
        "#format",
        "3",
        "#activation",
        &newer,
    ]);
    let before = contents(&redis);
    let released = server.api().release("held", &id);
    super::is_unavailable(&released, &["none"]);
    says_later(&server, &["format 3", "newer", "run a newer version"]);
    assert_eq!(contents(&redis), before);
    redis.cli(&[
        "HSET",
        "leasehold:locks",
        "#format",
        "2",
        "#activation",
        &activation,
    ]);
    becomes_ready(&server);
    assert_eq!(server.api().release("held", &id).status, 204);
}

#[test]
fn redis_that_loads_its_data_is_waited_for() {
    // A delay of 0.2 ms per key: Redis answers every 2 MB during some seconds of loading.
    let redis = RedisConfig::new()
        .line("save", "3600 1000000")
        .line("rdbcompression", "no")
        .line("key-load-delay", "200")
        .start();
    let server = with_redis(&redis.url());
    becomes_ready(&server);
    let populate = "local value = string.rep('x', 2000) \
                    for i = 1, 20000 do redis.call('SET', 'key:' .. i, value) end";
    redis.cli(&["EVAL", populate, "0"]);
    assert_eq!(redis.cli(&["SAVE"]), "OK");
    redis.kill();
    redis.restart();
    says_later(&server, &["is loading its data", "wait"]);
    becomes_ready(&server);
}

/// All keys with their contents.
fn contents(redis: &RedisServer) -> Vec<(String, String)> {
    let keys = redis.keys().into_iter();
    keys.map(|key| {
        let value = redis.cli(&["DUMP", &key]);
        (key, value)
    })
    .collect()
}
