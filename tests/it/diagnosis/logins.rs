//! Passwords and users that are missing, wrong or superfluous.

use std::net::TcpStream;

use super::{becomes_ready, complaints, says_at_start, with_redis, with_set, works};
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisConfig;
use crate::support::sentinel::{SentinelConfig, SentinelSet};

const DATA: [&str; 1] = ["LEASEHOLD_REDIS_PASSWORD"];
const SENTINEL: [&str; 1] = ["LEASEHOLD_SENTINEL_PASSWORD"];

/// The smallest possible set.
fn small() -> SentinelConfig {
    SentinelConfig::new().replicas(1).sentinels(1)
}

/// Sets the password of a Sentinel's default user.
fn set_sentinel_password(set: &SentinelSet, rule: &str) {
    let reply = set.sentinel(0).cli(&["ACL", "SETUSER", "default", rule]);
    assert_eq!(reply, "OK");
}

#[test]
fn wrong_password_of_redis() {
    let redis = RedisConfig::new().password("right").start();
    let server = with_redis(&format!("redis://:wrong@{}", redis.addr()));
    let reason = says_at_start(&server, &["password", "LEASEHOLD_REDIS_PASSWORD"]);
    assert!(reason.contains(&redis.addr()), "{reason}");
    redis.cli(&["CONFIG", "SET", "requirepass", "wrong"]);
    becomes_ready(&server);
}

#[test]
fn missing_password_of_redis() {
    let redis = RedisConfig::new().password("right").start();
    let server = with_redis(&format!("redis://{}", redis.addr()));
    let reason = says_at_start(
        &server,
        &["requires a password", "LEASEHOLD_REDIS_PASSWORD"],
    );
    assert!(reason.contains(&redis.addr()), "{reason}");
    redis.cli(&["CONFIG", "SET", "requirepass", ""]);
    becomes_ready(&server);
}

#[test]
fn password_for_a_redis_that_has_none() {
    let redis = RedisConfig::new().start();
    let server = with_redis(&format!("redis://:secret@{}", redis.addr()));
    says_at_start(
        &server,
        &["has no password", "requirepass", "LEASEHOLD_REDIS_PASSWORD"],
    );
    redis.cli(&["CONFIG", "SET", "requirepass", "secret"]);
    becomes_ready(&server);
}

#[test]
fn unknown_user_of_redis() {
    let redis = RedisConfig::new().start();
    let server = with_redis(&format!("redis://app:secret@{}", redis.addr()));
    says_at_start(
        &server,
        &["LEASEHOLD_REDIS_USERNAME", "LEASEHOLD_REDIS_PASSWORD"],
    );
    redis.cli(&[
        "ACL", "SETUSER", "app", "on", ">secret", "~*", "&*", "+@all",
    ]);
    becomes_ready(&server);
}

/// With a password Redis says it in reply to the login.
#[test]
fn too_many_clients_of_redis() {
    for password in [None, Some("secret")] {
        let config = RedisConfig::new().line("maxclients", "8");
        let redis = password
            .into_iter()
            .fold(config, RedisConfig::password)
            .start();
        let login = password.map_or_else(String::new, |password| format!(":{password}@"));
        let others: Vec<_> = (0..8)
            .map(|_| TcpStream::connect(redis.addr()).expect("a connection"))
            .collect();
        let server = with_redis(&format!("redis://{login}{}", redis.addr()));
        let reason = says_at_start(&server, &["has too many clients", "maxclients"]);
        assert!(!reason.contains("password"), "{reason}");
        drop(others);
        becomes_ready(&server);
    }
}

#[test]
fn wrong_password_of_the_data_nodes_behind_sentinels() {
    let set = small().password("right").start();
    let server = with_set(set.env(), &[("LEASEHOLD_REDIS_PASSWORD", "wrong")]);
    let reason = says_at_start(&server, &["password", DATA[0]]);
    assert!(!reason.contains(SENTINEL[0]), "{reason}");
    // Redis accepts both passwords from now on, so that the replica and the Sentinel continue too.
    set.nodes()[0].cli(&["ACL", "SETUSER", "default", ">wrong"]);
    becomes_ready(&server);
}

#[test]
fn missing_password_of_the_data_nodes_behind_sentinels() {
    let set = small().password("right").start();
    let env = set.env().into_iter();
    let server = Leasehold::start(env.filter(|(name, _)| name != DATA[0]));
    let reason = says_at_start(&server, &["requires a password", DATA[0]]);
    assert!(!reason.contains(SENTINEL[0]), "{reason}");
}

#[test]
fn wrong_password_of_the_sentinels() {
    let set = small().sentinel_password("right").start();
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINEL_PASSWORD", "wrong")]);
    let reason = says_at_start(&server, &["password", SENTINEL[0]]);
    assert!(!reason.contains(DATA[0]), "{reason}");
    set_sentinel_password(&set, ">wrong");
    becomes_ready(&server);
}

#[test]
fn missing_password_of_the_sentinels() {
    let set = small().sentinel_password("right").start();
    let env = set.env().into_iter();
    let server = Leasehold::start(env.filter(|(name, _)| name != SENTINEL[0]));
    let reason = says_at_start(&server, &["requires a password", SENTINEL[0]]);
    assert!(!reason.contains(DATA[0]), "{reason}");
    set_sentinel_password(&set, "nopass");
    becomes_ready(&server);
}

#[test]
fn password_for_sentinels_that_have_none() {
    let set = small().start();
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINEL_PASSWORD", "secret")]);
    says_at_start(&server, &["password", SENTINEL[0]]);
    set_sentinel_password(&set, ">secret");
    becomes_ready(&server);
}

#[test]
fn password_of_the_data_nodes_is_not_tried_on_the_sentinels() {
    let set = small().password("data").start();
    let server = with_set(set.env(), &[]);
    becomes_ready(&server);
    assert_eq!(complaints(&server), [""; 0]);
    let log = set.sentinel(0).cli(&["ACL", "LOG"]);
    assert_eq!(log, "", "a login that the Sentinel refused");
}

#[test]
fn data_nodes_and_sentinels_have_users_and_passwords_of_their_own() {
    let rules = "app on >data-secret ~leasehold:* resetchannels &leasehold:* +@all";
    let set = small().node_line("user", rules).start();
    let watcher = [
        "ACL",
        "SETUSER",
        "watcher",
        "on",
        ">watch-secret",
        "&*",
        "+@all",
    ];
    assert_eq!(set.sentinel(0).cli(&watcher), "OK");
    let env = [
        ("LEASEHOLD_REDIS_USERNAME", "app"),
        ("LEASEHOLD_REDIS_PASSWORD", "data-secret"),
        ("LEASEHOLD_SENTINEL_USERNAME", "watcher"),
        ("LEASEHOLD_SENTINEL_PASSWORD", "watch-secret"),
    ];
    let server = with_set(set.env(), &env);
    server.wait_ready();
    works(&server);
    let users =
        |list: String| list.matches("user=watcher").count() + list.matches("user=app").count();
    assert!(
        users(set.sentinel(0).cli(&["CLIENT", "LIST"])) > 0,
        "no client is logged in to the Sentinel"
    );
    assert!(
        users(set.nodes()[0].cli(&["CLIENT", "LIST"])) > 0,
        "no client is logged in to Redis"
    );
}
