//! The flow that users come from: a program that takes `my_lock` for ten seconds, on every store.

use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::support::api::Api;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisConfig;
use crate::support::sentinel::SentinelConfig;

fn tutorial(api: &Api) {
    let ten_seconds = || json!({"ttl_ms": 10_000});
    let first = api.acquire("my_lock", ten_seconds());
    assert_eq!(first.status, 201, "{}", first.body);
    let second = api.acquire("my_lock", ten_seconds());
    assert_eq!(second.status, 423, "{}", second.body);
    sleep(Duration::from_secs(5));
    let third = api.acquire("my_lock", ten_seconds());
    assert_eq!(third.status, 423, "{}", third.body);
    let left = third.json()["expires_in_ms"].as_u64().expect("a number");
    assert!(left <= 5000, "{left} ms are left");
    assert_eq!(api.release("my_lock", lease_id(&first.json())).status, 204);
    let fourth = api.acquire("my_lock", ten_seconds());
    assert_eq!(fourth.status, 201, "{}", fourth.body);
    assert!(fourth.json()["fencing_token"].as_u64() > first.json()["fencing_token"].as_u64());
    assert_eq!(api.release("my_lock", lease_id(&fourth.json())).status, 204);
}

fn lease_id(lease: &serde_json::Value) -> &str {
    lease["lease_id"].as_str().expect("a lease id")
}

#[test]
fn tutorial_works_in_memory() {
    tutorial(&Leasehold::in_memory().api());
}

#[test]
fn tutorial_works_on_one_redis_with_a_password() {
    let redis = RedisConfig::new().password("secret").start();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", format!("redis://{}", redis.addr())),
        ("LEASEHOLD_REDIS_PASSWORD", "secret".to_owned()),
    ]);
    server.wait_ready();
    tutorial(&server.api());
}

#[test]
fn tutorial_works_through_sentinel_with_passwords_on_both() {
    let config = SentinelConfig::new()
        .password("data-pw")
        .sentinel_password("sentinel-pw");
    let set = config.down_after_ms(5000).start();
    let server = Leasehold::start(set.env());
    server.wait_ready();
    tutorial(&server.api());
}
