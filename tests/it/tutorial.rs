//! What a new user does first: the README's "Try it", on every store.

use crate::readme::check_shell_blocks;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisConfig;
use crate::support::sentinel::SentinelConfig;

#[test]
fn tutorial_works_in_memory() {
    check_shell_blocks(Leasehold::in_memory().addr());
}

#[test]
fn tutorial_works_on_one_redis_with_a_password() {
    let redis = RedisConfig::new().password("secret").start();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", format!("redis://{}", redis.addr())),
        ("LEASEHOLD_REDIS_PASSWORD", "secret".to_owned()),
    ]);
    server.wait_ready();
    check_shell_blocks(server.addr());
}

#[test]
fn tutorial_works_through_sentinel_with_passwords_on_both() {
    let config = SentinelConfig::new()
        .password("data-pw")
        .sentinel_password("sentinel-pw");
    let set = config.down_after_ms(5000).start();
    let server = Leasehold::start(set.env());
    server.wait_ready();
    check_shell_blocks(server.addr());
}
