//! Each number at its bounds and just beyond them, and values of a wrong type.

use super::{accepted, all, refused};

const REDIS: (&str, &str) = ("LEASEHOLD_REDIS_URL", "redis://127.0.0.1:1");
const WEEK_MS: &str = "604800000";
const MORE_THAN_A_WEEK_MS: &str = "604800001";

#[test]
fn numbers_just_beyond_their_bounds_are_refused_by_name() {
    all([
        ("LEASEHOLD_MAX_TTL_MS", "999"),
        ("LEASEHOLD_MAX_TTL_MS", MORE_THAN_A_WEEK_MS),
        ("LEASEHOLD_MAX_WAIT_MS", "-1"),
        ("LEASEHOLD_MAX_WAIT_MS", MORE_THAN_A_WEEK_MS),
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "0"),
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", MORE_THAN_A_WEEK_MS),
        ("LEASEHOLD_MAX_RECOVERY_MS", "0"),
        ("LEASEHOLD_MAX_RECOVERY_MS", MORE_THAN_A_WEEK_MS),
        ("LEASEHOLD_MAX_WAITERS", "0"),
        ("LEASEHOLD_MAX_WAITERS_PER_KEY", "0"),
        ("LEASEHOLD_REDIS_POOL_SIZE", "0"),
        ("LEASEHOLD_REDIS_POOL_SIZE", "65"),
        ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "9"),
        ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "60001"),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "9"),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "60001"),
        ("LEASEHOLD_HEADER_TIMEOUT_MS", "99"),
        ("LEASEHOLD_HEADER_TIMEOUT_MS", "600001"),
        ("LEASEHOLD_IDLE_TIMEOUT_MS", "999"),
        ("LEASEHOLD_IDLE_TIMEOUT_MS", "86400001"),
        ("LEASEHOLD_REPLICA_ACKS", "-1"),
        ("LEASEHOLD_REPLICA_ACKS", "17"),
        ("LEASEHOLD_REDIS_DB", "-1"),
        ("LEASEHOLD_REDIS_DB", "65536"),
        ("LEASEHOLD_LISTEN", "127.0.0.1:65536"),
        ("LEASEHOLD_MAX_TTL_MS", "18446744073709551616"),
    ]
    .map(|(name, value)| refused(&[REDIS, (name, value)], &[name])));
}

#[test]
fn numbers_at_their_bounds_are_accepted() {
    all([
        ("LEASEHOLD_MAX_TTL_MS", "1000"),
        ("LEASEHOLD_MAX_TTL_MS", WEEK_MS),
        ("LEASEHOLD_MAX_WAIT_MS", "0"),
        ("LEASEHOLD_MAX_WAIT_MS", WEEK_MS),
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "1"),
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", WEEK_MS),
        ("LEASEHOLD_MAX_RECOVERY_MS", "1"),
        ("LEASEHOLD_MAX_RECOVERY_MS", WEEK_MS),
        ("LEASEHOLD_MAX_WAITERS", "1"),
        ("LEASEHOLD_MAX_WAITERS_PER_KEY", "1"),
        ("LEASEHOLD_REDIS_POOL_SIZE", "1"),
        ("LEASEHOLD_REDIS_POOL_SIZE", "64"),
        ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "10"),
        ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "60000"),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10"),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "60000"),
        ("LEASEHOLD_HEADER_TIMEOUT_MS", "100"),
        ("LEASEHOLD_HEADER_TIMEOUT_MS", "600000"),
        ("LEASEHOLD_IDLE_TIMEOUT_MS", "1000"),
        ("LEASEHOLD_IDLE_TIMEOUT_MS", "86400000"),
        ("LEASEHOLD_REPLICA_ACKS", "0"),
        ("LEASEHOLD_REPLICA_ACKS", "16"),
        ("LEASEHOLD_REPLICA_ACKS", "auto"),
        ("LEASEHOLD_REDIS_DB", "0"),
        ("LEASEHOLD_REDIS_DB", "65535"),
    ]
    .map(|(name, value)| accepted(&[REDIS, (name, value)])));
}

#[test]
fn refusal_of_a_number_names_its_bounds() {
    all([
        refused(
            &[("LEASEHOLD_MAX_TTL_MS", "999")],
            &["LEASEHOLD_MAX_TTL_MS", "1000", WEEK_MS],
        ),
        refused(&[REDIS, ("LEASEHOLD_REDIS_POOL_SIZE", "65")], &["1", "64"]),
        refused(&[REDIS, ("LEASEHOLD_REPLICA_ACKS", "all")], &["auto", "16"]),
        refused(
            &[REDIS, ("LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS", "9")],
            &["10", "60000"],
        ),
    ]);
}

#[test]
fn values_of_another_kind_are_refused_by_name() {
    all([
        ("LEASEHOLD_LISTEN", "8080"),
        ("LEASEHOLD_LISTEN", "localhost"),
        ("LEASEHOLD_STORE", "postgres"),
        ("LEASEHOLD_MAX_TTL_MS", "1h"),
        ("LEASEHOLD_MAX_TTL_MS", "1e3"),
        ("LEASEHOLD_REDIS_TLS", "perhaps"),
        ("LEASEHOLD_REDIS_DB", "zero"),
        ("LEASEHOLD_REPLICA_ACKS", "majority"),
        ("LEASEHOLD_KEY_PREFIX", "lease hold:"),
        ("LEASEHOLD_KEY_PREFIX", "lease*"),
        ("LEASEHOLD_KEY_PREFIX", "lëasehold:"),
    ]
    .map(|(name, value)| refused(&[REDIS, (name, value)], &[name])));
}

#[test]
fn key_prefix_has_at_most_64_bytes() {
    let (fits, too_long) = ("p".repeat(64), "p".repeat(65));
    all([
        accepted(&[REDIS, ("LEASEHOLD_KEY_PREFIX", &fits)]),
        accepted(&[REDIS, ("LEASEHOLD_KEY_PREFIX", "{team-a}:v1._/")]),
        refused(
            &[REDIS, ("LEASEHOLD_KEY_PREFIX", &too_long)],
            &["LEASEHOLD_KEY_PREFIX", "64"],
        ),
    ]);
}

#[test]
fn redis_url_of_another_form_is_refused_by_name() {
    all([
        "127.0.0.1:6379",
        "http://127.0.0.1:6379",
        "redis://",
        "redis://127.0.0.1/locks",
        "redis://127.0.0.1/-1",
        "redis://127.0.0.1:65536",
        "redis://127.0.0.1:0",
        "redis+unix:///run/redis.sock",
        "rediss://127.0.0.1/#surprise",
        "redis://127.0.0.1/?timeout=3s",
    ]
    .map(|url| refused(&[("LEASEHOLD_REDIS_URL", url)], &["LEASEHOLD_REDIS_URL"])));
}

#[test]
fn redis_url_of_any_documented_form_is_accepted() {
    all([
        "redis://redis.example",
        "redis://redis.example:6380/15",
        "redis://:secret@redis.example",
        "redis://app:s%2Fcret@redis.example/0",
        "rediss://[::1]:6379",
    ]
    .map(|url| accepted(&[("LEASEHOLD_REDIS_URL", url)])));
}

#[test]
fn sentinel_address_of_another_form_is_refused_by_name() {
    all([
        "redis://a:26379",
        "a:b:26379",
        "a:0",
        "a:65536",
        "a:",
        "a,,b",
        "a;b",
        "a b",
    ]
    .map(|list| {
        refused(
            &[("LEASEHOLD_SENTINELS", list)],
            &["LEASEHOLD_SENTINELS", "host:port"],
        )
    }));
}

#[test]
fn sentinel_addresses_of_any_documented_form_are_accepted() {
    all([
        "sentinel",
        "sentinel:26379",
        "a:1,b:2,c",
        "a:1, b:2",
        "[::1]:26379,10.0.0.1",
    ]
    .map(|list| accepted(&[("LEASEHOLD_SENTINELS", list)])));
}

#[test]
fn name_of_the_master_set_is_one_word() {
    all([refused(
        &[
            ("LEASEHOLD_SENTINELS", "a"),
            ("LEASEHOLD_SENTINEL_MASTER", "my master"),
        ],
        &["LEASEHOLD_SENTINEL_MASTER"],
    )]);
}
