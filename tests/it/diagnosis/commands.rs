//! Commands that are renamed or disabled, as managed Redis and proxies do.

use std::io::Write;
use std::net::TcpStream;
use std::thread;

use super::{becomes_ready, readyz, reason_with, says_at_start, with_redis};
use crate::support::redis::{RedisConfig, RedisServer};

/// A Redis without this command.
fn redis_without(command: &str) -> RedisServer {
    RedisConfig::new()
        .line("rename-command", &format!("{command} \"\""))
        .start()
}

#[test]
fn missing_command_is_named() {
    let commands = [
        "EVALSHA",
        "TIME",
        "HMGET",
        "HSET",
        "HVALS",
        "HGETALL",
        "HLEN",
        "HSCAN",
        "ZADD",
        "ZCARD",
        "ZRANGEBYSCORE",
        "ZSCAN",
        "EXISTS",
        "UNLINK",
        "PUBLISH",
    ];
    // Each waits some seconds for its server to give up.
    thread::scope(|scope| {
        for command in commands {
            scope.spawn(move || {
                let redis = redis_without(command);
                let server = with_redis(&redis.url());
                let reason =
                    says_at_start(&server, &["lacks a command", command, "rename-command"]);
                assert!(!reason.contains("network"), "{reason}");
            });
        }
    });
}

/// Each of the two ways to send a script suffices.
#[test]
fn one_way_to_send_a_script_suffices() {
    for command in ["SCRIPT", "EVAL"] {
        let redis = redis_without(command);
        becomes_ready(&with_redis(&redis.url()));
    }
    let redis = RedisConfig::new()
        .line("rename-command", "SCRIPT \"\"")
        .line("rename-command", "EVAL \"\"")
        .start();
    let server = with_redis(&redis.url());
    says_at_start(&server, &["lacks a command", "EVAL", "rename-command"]);
}

#[test]
fn messages_that_cannot_be_received_are_told() {
    let redis = redis_without("SUBSCRIBE");
    let server = with_redis(&redis.url());
    reason_with(&server, 200, &["receives no messages", "SUBSCRIBE"]);
    let free = server.api().acquire("free", None);
    assert_eq!(free.status, 201, "{free:?} {:?}", readyz(&server));
}

#[test]
fn database_of_a_redis_without_select() {
    let redis = redis_without("SELECT");
    becomes_ready(&with_redis(&redis.url()));
    let server = with_redis(&format!("{}/3", redis.url()));
    says_at_start(&server, &["SELECT", "LEASEHOLD_REDIS_DB"]);
}

/// A read-only script that never ends: Redis answers others with BUSY.
#[test]
fn script_of_somebody_else_that_hangs() {
    let redis = RedisConfig::new().line("lua-time-limit", "200").start();
    let server = with_redis(&redis.url());
    becomes_ready(&server);
    let mut hangs = TcpStream::connect(redis.addr()).expect("it listens");
    hangs
        .write_all(b"EVAL \"while true do end\" 0\r\n")
        .expect("it is taken");
    let reason = reason_with(&server, 200, &["is busy with a script", "SCRIPT KILL"]);
    assert!(!reason.contains("network"), "{reason}");
    redis.cli(&["SCRIPT", "KILL"]);
    becomes_ready(&server);
}

#[test]
fn redis_that_wants_more_replicas() {
    let redis = RedisConfig::new()
        .line("min-replicas-to-write", "1")
        .start();
    let server = with_redis(&redis.url());
    let write = redis.cli(&["EVAL", "return redis.call('SET', 'a', 'b')", "0"]);
    if write == "OK" {
        // Redis 6.2 lets scripts write all the same.
        return becomes_ready(&server);
    }
    let reason = says_at_start(
        &server,
        &["min-replicas-to-write", "LEASEHOLD_REPLICA_ACKS"],
    );
    assert!(!reason.contains("network"), "{reason}");
    redis.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    becomes_ready(&server);
}
