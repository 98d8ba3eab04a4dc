//! ACL users with missing permissions, and one with exactly the needed permissions.

use super::{becomes_ready, complaints, reason_with, says_at_start, with_redis, with_set};
use crate::support::documents::text_of;
use crate::support::leasehold::Leasehold;
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

/// The rules that a diagnosis recommends.
fn recommended(reason: &str) -> Vec<String> {
    let (_, rules) = reason
        .split_once("ACL SETUSER app ")
        .unwrap_or_else(|| panic!("no rules in {reason}"));
    rules.split_whitespace().map(str::to_owned).collect()
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
    says_at_start(&server, &["permission", "evalsha", "+eval +evalsha"]);
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
fn user_without_some_keys() {
    for keys in [
        "~somebody:*",
        "~leasehold:locks",
        // Everything but the queues.
        "~leasehold:l* ~leasehold:s* ~leasehold:r*",
    ] {
        let redis = redis_with(&format!("{keys} &* +@all"));
        let server = server_of(&redis);
        says_at_start(&server, &["permission", "resetkeys ~leasehold:* "]);
        allow(&redis, &["~leasehold:*"]);
        becomes_ready(&server);
    }
}

/// Redis 7.0 does not say which command a script may not run, and some commands are used by few operations only.
#[test]
fn user_without_one_command() {
    for command in [
        "time", "hset", "hmget", "hget", "hdel", "hincrby", "hscan", "zadd", "zrem", "zscan",
        "zcount", "unlink", "publish",
    ] {
        let redis = redis_with(&format!("~* &* +@all -{command}"));
        let server = server_of(&redis);
        let named = command.to_ascii_uppercase();
        says_at_start(&server, &["user app", &named, "ACL SETUSER app "]);
        allow(&redis, &[&format!("+{command}")]);
        becomes_ready(&server);
    }
}

#[test]
fn user_that_loses_a_command_is_named_while_the_rest_works() {
    let redis = redis_with("~* &* +@all");
    let server = server_of(&redis);
    becomes_ready(&server);
    allow(&redis, &["-zscan"]);
    reason_with(&server, 200, &["user app", "ZSCAN"]);
    let kept = server
        .api()
        .acquire("kept", serde_json::json!({"ttl_ms": 100}));
    assert_eq!(kept.status, 201, "{kept:?}");
    allow(&redis, &["+zscan"]);
    becomes_ready(&server);
}

#[test]
fn user_without_channels() {
    let redis = redis_with("~* resetchannels +@all");
    let server = server_of(&redis);
    says_at_start(
        &server,
        &["PUBLISH", "channel", "resetchannels &leasehold:* "],
    );
    allow(&redis, &["&leasehold:*"]);
    becomes_ready(&server);
}

#[test]
fn user_that_may_not_subscribe() {
    let redis = redis_with("~* &* +@all -subscribe");
    let server = server_of(&redis);
    reason_with(
        &server,
        200,
        &["receives no messages", "waiters", "subscribe"],
    );
    let free = server
        .api()
        .acquire("free", serde_json::json!({"ttl_ms": 100}));
    assert_eq!(free.status, 201, "{free:?}");
    allow(&redis, &["+subscribe"]);
    becomes_ready(&server);
}

#[test]
fn user_that_may_not_subscribe_at_the_sentinels() {
    let [_, sentinel] = documented();
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinels(1)
        .sentinel_line("user", &format!("app on >secret {sentinel} -subscribe"))
        .start();
    let login = [
        ("LEASEHOLD_SENTINEL_USERNAME", "app"),
        ("LEASEHOLD_SENTINEL_PASSWORD", "secret"),
    ];
    let server = with_set(set.env(), &login);
    reason_with(
        &server,
        200,
        &["notice a failover a second late", "'subscribe'"],
    );
    allow(set.sentinel(0), &["+subscribe"]);
    becomes_ready(&server);
}

/// The pool checks a connection with them before it gives it out again.
#[test]
fn user_that_may_not_check_connections() {
    for command in ["ping", "unwatch"] {
        let redis = redis_with(&format!("~* &* +@all -{command}"));
        let server = server_of(&redis);
        says_at_start(&server, &["user app", &format!("'{command}'")]);
        allow(&redis, &[&format!("+{command}")]);
        becomes_ready(&server);
    }
}

#[test]
fn user_that_may_not_wait_for_replicas() {
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinels(1)
        .node_line("user", "app on >secret ~* &* +@all -wait")
        .start();
    let server = with_set(set.env(), &LOGIN);
    says_at_start(&server, &["user app", "'wait'", "+wait"]);
    for node in set.nodes() {
        allow(node, &["+wait"]);
    }
    becomes_ready(&server);
}

#[test]
fn user_with_just_the_recommended_rules_can_do_all() {
    let redis = redis_with("+ping");
    let server = server_of(&redis);
    let reason = says_at_start(&server, &["permission", "ACL SETUSER"]);
    let rules = recommended(&reason);
    assert!(
        !rules
            .iter()
            .any(|rule| rule == "+@all" || rule == "~*" || rule.contains("dangerous")),
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

/// The rules of the chart's README for data nodes and for Sentinels.
fn documented() -> [String; 2] {
    const START: &str = "ACL SETUSER leasehold on >PASSWORD ";
    let text = text_of("helm/leasehold/README.md");
    let rules: Vec<_> = text
        .lines()
        .filter_map(|line| line.strip_prefix(START))
        .collect();
    let [data, sentinel] = rules[..] else {
        panic!("not two lines begin with {START}");
    };
    [data.to_owned(), sentinel.to_owned()]
}

#[test]
fn users_with_just_the_documented_rules_can_do_all_behind_sentinels() {
    let [data, sentinel] = documented();
    let set = SentinelConfig::new()
        .replicas(1)
        .node_line("user", &format!("app on >secret {data}"))
        .sentinel_line("user", &format!("app on >secret {sentinel}"))
        .start();
    let login = [
        LOGIN[0],
        LOGIN[1],
        ("LEASEHOLD_SENTINEL_USERNAME", "app"),
        ("LEASEHOLD_SENTINEL_PASSWORD", "secret"),
    ];
    let server = with_set(set.env(), &login);
    server.wait_ready();
    becomes_ready(&server);
    let old = set.failover();
    set.wait_for_new_master(old);
    becomes_ready(&server);
    for node in set.nodes() {
        assert_eq!(node.cli(&["ACL", "LOG"]), "", "something was refused");
    }
}

#[test]
fn diagnosis_shows_the_documented_rules() {
    let [data, sentinel] = documented();
    let redis = redis_with("+ping");
    let reason = says_at_start(&server_of(&redis), &["ACL SETUSER app "]);
    assert_eq!(recommended(&reason).join(" "), data);
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinel_line("user", "app on >secret resetchannels -@all +ping")
        .start();
    let login = [
        ("LEASEHOLD_SENTINEL_USERNAME", "app"),
        ("LEASEHOLD_SENTINEL_PASSWORD", "secret"),
    ];
    let server = with_set(set.env(), &login);
    let reason = says_at_start(&server, &["permission", "ACL SETUSER app "]);
    assert_eq!(recommended(&reason).join(" "), sentinel);
    let rules: Vec<&str> = sentinel.split(' ').collect();
    for index in 0..3 {
        allow(set.sentinel(index), &rules);
    }
    becomes_ready(&server);
}
