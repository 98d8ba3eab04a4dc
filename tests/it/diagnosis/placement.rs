//! The location of the data: only the configured database and prefix.

use super::{acquire, with_set, works};
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::SentinelConfig;

/// Holds a lock and uses the other operations.
fn use_everything(server: &Leasehold) {
    server.wait_ready();
    acquire(server, "held");
    works(server);
}

/// The databases that contain any key.
fn databases(redis: &RedisServer) -> Vec<String> {
    let info = redis.info("keyspace");
    let names = info.lines().filter_map(|line| line.split_once(':'));
    names.map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn database_number_is_used() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_DB", "3".to_owned()),
    ]);
    use_everything(&server);
    assert_eq!(databases(&redis), ["db3"]);
}

#[test]
fn database_number_in_the_url_is_used() {
    let redis = RedisServer::plain();
    let server = super::with_redis(&format!("{}/3", redis.url()));
    use_everything(&server);
    assert_eq!(databases(&redis), ["db3"]);
}

#[test]
fn database_number_is_used_behind_sentinels() {
    let set = SentinelConfig::new().replicas(1).sentinels(1).start();
    let server = with_set(set.env(), &[("LEASEHOLD_REDIS_DB", "3")]);
    use_everything(&server);
    assert_eq!(databases(set.master()), ["db3"]);
}

#[test]
fn database_numbers_keep_two_services_apart() {
    let redis = RedisServer::plain();
    let server = |number: &str| {
        let server = super::with_redis(&format!("{}/{number}", redis.url()));
        server.wait_ready();
        server
    };
    let (one, other) = (server("1"), server("2"));
    acquire(&one, "k");
    acquire(&other, "k");
    assert_eq!(one.api().acquire("k", None).status, 423);
}

#[test]
fn key_prefix_is_used() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_KEY_PREFIX", "{team-a}/".to_owned()),
    ]);
    use_everything(&server);
    let keys = redis.keys();
    assert!(keys.contains(&"{team-a}/locks".to_owned()), "{keys:?}");
    assert!(
        keys.iter().all(|key| key.starts_with("{team-a}/")),
        "{keys:?}"
    );
}

#[test]
fn key_prefix_that_looks_like_a_pattern_lists_its_own_keys_only() {
    let redis = RedisConfig::new().start();
    let server = |prefix: &str| {
        let server = Leasehold::start([
            ("LEASEHOLD_REDIS_URL", redis.url()),
            ("LEASEHOLD_KEY_PREFIX", prefix.to_owned()),
        ]);
        server.wait_ready();
        server
    };
    // One prefix is the beginning of the other.
    let (short, long) = (server("a:"), server("a:lock:a:"));
    acquire(&short, "of-short");
    acquire(&long, "of-long");
    let names = |server: &Leasehold| server.api().list("").json()["locks"].to_string();
    assert!(names(&long).contains("of-long") && !names(&long).contains("of-short"));
    assert!(names(&short).contains("\"of-short\""));
}
