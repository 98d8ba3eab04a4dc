//! ACL users with missing permissions, and one with exactly the needed permissions.

use super::{
    SAY_LIMIT, becomes_ready, complaints, problem, readyz, says_at_start, with_redis, with_set,
};
use crate::support::leasehold::Leasehold;
use crate::support::poll;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::SentinelConfig;

/// The variables for the user in these tests.
const LOGIN: [(&str, &str); 2] = [
    ("LEASEHOLD_REDIS_USERNAME", "app"),
    ("LEASEHOLD_REDIS_PASSWORD", "secret"),
];

/// A Redis with a user `app` that has these rules.
fn redis_with(rules: &str) -> RedisServer {
    RedisConfig::new()
        .line("user", &format!("app on >secret {rules}"))
        .start()
}

fn server_of(redis: &RedisServer) -> Leasehold {
    with_redis(&format!("redis://app:secret@{}", redis.addr()))
}

/// The rules that a diagnosis recommends, for the default prefix.
fn recommended(reason: &str) -> Vec<String> {
    let words = reason.split_whitespace();
    let rules = words.filter(|word| word.starts_with(['~', '&', '+']));
    rules
        .map(|rule| rule.replace("<prefix>", "leasehold:"))
        .collect()
}

/// Adds rules to those of the user.
fn allow(redis: &RedisServer, rules: &[&str]) {
    let reply = redis.cli(&[&["ACL", "SETUSER", "app"], rules].concat());
    assert_eq!(reply, "OK");
}

#[test]
fn user_without_scripts() {
    let redis = redis_with("~* &* +@all -@scripting");
    let server = server_of(&redis);
    says_at_start(&server, &["permission", "+@scripting"]);
    allow(&redis, &["+@scripting"]);
    becomes_ready(&server);
}

#[test]
fn user_without_info() {
    let redis = redis_with("~* &* +@all -info");
    let server = server_of(&redis);
    says_at_start(&server, &["permission", "+info"]);
    allow(&redis, &["+info"]);
    becomes_ready(&server);
}

#[test]
fn user_without_the_keys() {
    let redis = redis_with("~somebody:* &* +@all");
    let server = server_of(&redis);
    says_at_start(&server, &["permission", "leasehold:*"]);
    allow(&redis, &["~leasehold:*"]);
    becomes_ready(&server);
}

#[test]
fn user_that_may_not_write() {
    for missing in ["-@write", "-hset", "-time", "-hmget"] {
        let redis = redis_with(&format!("~* &* +@all {missing}"));
        let server = server_of(&redis);
        says_at_start(&server, &["user", "ACL SETUSER", "+@write", "+time"]);
        allow(&redis, &[&missing.replacen('-', "+", 1)]);
        becomes_ready(&server);
    }
}

#[test]
fn user_without_permissions_that_only_operations_need() {
    let redis = redis_with("~* &* +@all -zadd");
    let server = server_of(&redis);
    says_once_asked(&server, "store-unavailable", "+@write");
    allow(&redis, &["+zadd"]);
    becomes_ready(&server);
}

#[test]
fn user_that_may_not_wait_for_replicas() {
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinels(1)
        .node_line("user", "app on >secret ~* &* +@all -wait")
        .start();
    let server = with_set(set.env(), &LOGIN);
    says_once_asked(&server, "replication-unconfirmed", "+wait");
    for node in set.nodes() {
        allow(node, &["+wait"]);
    }
    becomes_ready(&server);
}

/// A missing permission that only an acquisition reveals; afterwards the operator must find it.
fn says_once_asked(server: &Leasehold, refusal: &str, rule: &str) {
    let refused = poll(SAY_LIMIT, || {
        let reply = server.api().acquire("k", None);
        // Before the first contact, requests are refused for another reason.
        (problem(&reply).1 == refusal && readyz(server).status == 200).then_some(())
    });
    assert!(refused.is_some(), "no {refusal}\n{}", server.stderr());
    let said = poll(SAY_LIMIT / 3, || {
        let readiness = readyz(server).json();
        readiness["reason"].as_str()?.contains(rule).then_some(())
    });
    assert!(said.is_some(), "{:?}\n{}", readyz(server), server.stderr());
    assert!(server.stderr().contains(rule), "{}", server.stderr());
}

#[test]
fn user_with_just_the_recommended_rules_can_do_all() {
    let redis = redis_with("+ping");
    let server = server_of(&redis);
    let reason = says_at_start(&server, &["permission", "ACL SETUSER"]);
    let rules = recommended(&reason);
    assert!(
        !rules.iter().any(|rule| rule == "+@all" || rule == "~*"),
        "{rules:?}"
    );
    let rules: Vec<&str> = rules.iter().map(String::as_str).collect();
    allow(&redis, &rules);
    becomes_ready(&server);
    // A new server, because it has no earlier connections.
    redis.cli(&["ACL", "LOG", "RESET"]);
    let server = server_of(&redis);
    server.wait_ready();
    becomes_ready(&server);
    // After a pause, the pool checks its connections before an operation uses one.
    for _ in 0..3 {
        assert_eq!(server.api().list("").status, 200);
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
    assert_eq!(complaints(&server), [""; 0]);
    assert_eq!(redis.cli(&["ACL", "LOG"]), "", "something was refused");
}

#[test]
fn user_with_just_the_recommended_rules_can_do_all_behind_sentinels() {
    let poor = redis_with("+ping");
    let reason = says_at_start(&server_of(&poor), &["ACL SETUSER"]);
    let rules = recommended(&reason).join(" ");
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinels(1)
        .node_line("user", &format!("app on >secret {rules}"))
        .start();
    let server = with_set(set.env(), &LOGIN);
    server.wait_ready();
    becomes_ready(&server);
    assert_eq!(complaints(&server), [""; 0]);
}
