//! Following the master: failovers, lost Sentinels, lost replicas, and fencing tokens across them.

use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::json;

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::http::{Reply, http};
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::{SentinelConfig, SentinelSet};

/// The least distance between the tokens of two activations.
const TOKEN_GAP: u64 = 1 << 22;

const FAILOVER: Duration = Duration::from_secs(30);

fn token(reply: &Reply) -> u64 {
    reply.json()["fencing_token"]
        .as_u64()
        .unwrap_or_else(|| panic!("no token in {}", reply.body))
}

fn lease_id(reply: &Reply) -> String {
    reply.json()["lease_id"]
        .as_str()
        .unwrap_or_else(|| panic!("no lease id in {}", reply.body))
        .to_owned()
}

/// Acquires as soon as that is possible again.
fn acquire_soon(api: &Api, key: &str) -> Reply {
    let mut granted = None;
    eventually(FAILOVER, "locks are granted again", || {
        let reply = api.acquire(key, json!({"ttl_ms": 1_500}));
        // What is not known to have failed may hold the key until its TTL is over.
        assert_ne!(reply.status, 500, "{}", reply.body);
        let done = reply.status == 201;
        granted = done.then_some(reply);
        done
    });
    granted.expect("granted")
}

fn serve(set: &SentinelSet) -> Leasehold {
    let server = Leasehold::start(set.env());
    server.wait_ready();
    server
}

#[test]
fn leases_and_the_order_of_tokens_survive_a_manual_failover() {
    let set = SentinelConfig::new().start();
    let server = serve(&set);
    let api = server.api();
    let before = api.acquire("a", json!({"ttl_ms": 120_000}));
    assert_eq!(before.status, 201, "{}", before.body);
    let old = set.failover();
    set.wait_for_new_master(old);
    let after = acquire_soon(&api, "b");
    assert!(
        token(&after) >= token(&before) + TOKEN_GAP,
        "{} after {}",
        token(&after),
        token(&before)
    );
    let renewed = api.renew("a", &lease_id(&before), None);
    assert_eq!(
        (renewed.status, token(&renewed)),
        (200, token(&before)),
        "{}",
        renewed.body
    );
    assert!(
        server.stderr().contains("the master changed"),
        "{}",
        server.stderr()
    );
}

#[test]
fn leases_survive_a_killed_master() {
    let set = SentinelConfig::new().start();
    let server = serve(&set);
    let api = server.api();
    let before = api.acquire("a", json!({"ttl_ms": 120_000}));
    let old = set.kill_master();
    set.wait_for_new_master(old);
    // `auto` counts the dead master's replica as gone after three seconds.
    let after = acquire_soon(&api, "b");
    assert!(token(&after) >= token(&before) + TOKEN_GAP);
    assert_eq!(api.renew("a", &lease_id(&before), None).status, 200);
    assert_eq!(api.acquire("a", None).status, 423);
}

#[test]
fn one_address_leads_to_all_sentinels() {
    let set = SentinelConfig::new().start();
    let mut env = set.env();
    let first = set
        .sentinels()
        .split(',')
        .next()
        .expect("an address")
        .to_owned();
    for (name, value) in &mut env {
        if name == "LEASEHOLD_SENTINELS" {
            value.clone_from(&first);
        }
    }
    let server = Leasehold::start(env);
    server.wait_ready();
    set.sentinel(0).pause();
    let old = set.kill_master();
    eventually(FAILOVER, "the other Sentinels agree on a master", || {
        set.sentinel(1)
            .cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"])
            .contains('\n')
            && !set
                .sentinel(1)
                .cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"])
                .contains(&old.to_string())
    });
    acquire_soon(&server.api(), "a");
    set.sentinel(0).resume();
}

#[test]
fn hung_sentinel_delays_nothing() {
    let set = SentinelConfig::new().down_after_ms(5000).start();
    set.sentinel(0).pause();
    let begun = Instant::now();
    let server = Leasehold::start(set.env());
    server.wait_ready();
    assert!(
        begun.elapsed() < Duration::from_secs(3),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(server.api().acquire("a", None).status, 201);
    set.sentinel(0).resume();
}

#[test]
fn minority_of_sentinels_names_no_master() {
    let set = SentinelConfig::new().down_after_ms(5000).start();
    set.sentinel(0).pause();
    set.sentinel(1).pause();
    let server = Leasehold::start(set.env());
    sleep(Duration::from_secs(3));
    let ready = http(server.addr(), "GET", "/readyz", &[], None);
    assert_eq!(ready.status, 503);
    assert!(
        ready.json()["reason"]
            .as_str()
            .expect("a reason")
            .contains("no majority"),
        "{}",
        ready.body
    );
    assert_eq!(server.api().acquire("a", None).json()["outcome"], "none");
    set.sentinel(0).resume();
    server.wait_ready();
    assert_eq!(acquire_soon(&server.api(), "a").status, 201);
    set.sentinel(1).resume();
}

#[test]
fn sentinel_that_is_lost_later_leaves_the_known_master_in_use() {
    let set = SentinelConfig::new().down_after_ms(5000).start();
    let server = serve(&set);
    for index in 0..3 {
        set.sentinel(index).kill();
    }
    let degraded =
        || http(server.addr(), "GET", "/readyz", &[], None).json()["store"] == "degraded";
    eventually(
        FAILOVER,
        "readyz says that the Sentinels are gone",
        degraded,
    );
    assert_eq!(http(server.addr(), "GET", "/readyz", &[], None).status, 200);
    assert_eq!(
        server.api().acquire("a", None).status,
        201,
        "the master's own guard decides"
    );
}

#[test]
fn grants_wait_for_a_replica_and_are_refused_without_one() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let server = serve(&set);
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 120_000}));
    assert_eq!(held.status, 201);
    let replica = set.replicas()[0];
    replica.pause();
    let begun = Instant::now();
    let refused = api.acquire("b", json!({"ttl_ms": 120_000}));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:replication-unconfirmed"
    );
    assert_eq!(
        (&refused.json()["outcome"], refused.header("retry-after")),
        (&json!("unknown"), Some("1"))
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    let renewal = api.renew("a", &lease_id(&held), None);
    assert_eq!(
        renewal.json()["type"],
        "urn:leasehold:problem:replication-unconfirmed",
        "{}",
        renewal.body
    );
    assert_eq!(
        api.release("a", &lease_id(&held)).status,
        204,
        "letting go waits for nobody"
    );
    replica.resume();
    eventually(FAILOVER, "the refused grant was taken back", || {
        api.inspect("b").json()["held"] == false
    });
    assert_eq!(acquire_soon(&api, "b").status, 201);
}

#[test]
fn lease_is_never_promised_for_longer_than_it_lasts() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let mut env = set.env();
    env.push((
        "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS".to_owned(),
        "5000".to_owned(),
    ));
    let server = Leasehold::start(env);
    server.wait_ready();
    let api = server.api();
    let held = api.acquire("b", json!({"ttl_ms": 3_000}));
    // The replica confirms late; what is left of the lease goes by meanwhile.
    let promised = |reply: &Reply| {
        let field = |name: &str| reply.json()[name].as_u64().expect("a number");
        assert!(field("waited_ms") >= 900, "{}", reply.body);
        field("waited_ms") + field("expires_in_ms")
    };
    let late = |call: &dyn Fn() -> Reply| {
        set.replicas()[0].pause();
        let reply = std::thread::scope(|scope| {
            scope.spawn(|| {
                sleep(Duration::from_secs(1));
                set.replicas()[0].resume();
            });
            call()
        });
        assert!(matches!(reply.status, 200 | 201), "{}", reply.body);
        promised(&reply)
    };
    let granted = late(&|| api.acquire("a", json!({"ttl_ms": 3_000})));
    let renewed = late(&|| api.renew("b", &lease_id(&held), None));
    for promised in [granted, renewed] {
        assert!(
            (2_500..=3_100).contains(&promised),
            "{promised} ms are promised of 3000"
        );
    }
}

#[test]
fn fixed_number_of_acknowledgements_is_taken_at_its_word() {
    let redis = RedisServer::plain();
    let with_acks = |acks: &str| {
        let server = Leasehold::start([
            ("LEASEHOLD_REDIS_URL", redis.url()),
            ("LEASEHOLD_REPLICA_ACKS", acks.to_owned()),
        ]);
        server.wait_ready();
        server
    };
    let (one, none, auto) = (with_acks("1"), with_acks("0"), with_acks("auto"));
    assert_eq!(
        one.api().acquire("a", None).json()["type"],
        "urn:leasehold:problem:replication-unconfirmed"
    );
    eventually(FAILOVER, "it was taken back", || {
        none.api().inspect("a").json()["held"] == false
    });
    assert_eq!(none.api().acquire("b", None).status, 201);
    assert_eq!(
        auto.api().acquire("c", None).status,
        201,
        "one Redis has no replica to ask"
    );
}

#[test]
fn tokens_rise_across_a_flush_a_restart_and_other_servers() {
    let redis = RedisServer::plain();
    let start = || {
        let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
        server.wait_ready();
        server
    };
    let (one, two) = (start(), start());
    let mut last = 0;
    let mut rises = |reply: &Reply, what: &str| {
        assert!(token(reply) > last, "{what}: {} after {last}", token(reply));
        last = token(reply);
    };
    rises(&one.api().acquire("a", json!({"ttl_ms": 1000})), "first");
    rises(
        &two.api().acquire("b", json!({"ttl_ms": 1000})),
        "another server",
    );
    redis.cli(&["FLUSHALL"]);
    rises(&acquire_soon(&one.api(), "a"), "after a flush");
    rises(
        &acquire_soon(&two.api(), "c"),
        "another server after the flush",
    );
    redis.restart();
    rises(&acquire_soon(&two.api(), "a"), "after an empty restart");
    rises(
        &acquire_soon(&one.api(), "b"),
        "another server after the restart",
    );
    // A server that knows nothing of what was, on a Redis that has lost all: the clock alone is left.
    // Each activation leaps ahead of it by the gap, so it needs as long to catch up.
    redis.restart();
    drop((one, two));
    eventually(FAILOVER, "the clock passes the last token", || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        now.expect("a clock after 1970").as_micros() > u128::from(last)
    });
    let rises = |reply: &Reply, what: &str| {
        assert!(token(reply) > last, "{what}: {} after {last}", token(reply));
    };
    rises(
        &acquire_soon(&start().api(), "a"),
        "a new server on an empty Redis",
    );
}

#[test]
fn tokens_rise_when_an_old_backup_is_restored() {
    let redis = RedisConfig::new()
        .line("dbfilename", "old.rdb")
        .line("save", "3600 1")
        .start();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 6_000}));
    redis.cli(&["SAVE"]);
    let gone = (0..50).map(|number| api.acquire(&format!("k{number}"), json!({"ttl_ms": 6_000})));
    let gone: Vec<Reply> = gone.collect();
    let last = gone.iter().map(token).max().expect("tokens");
    let granted = Instant::now();
    redis.kill();
    redis.restart();
    eventually(FAILOVER, "the loss is found", || {
        api.acquire("b", None).json()["type"] == "urn:leasehold:problem:recovering"
    });
    let refused = api.acquire("k1", None);
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["outcome"], "none");
    let ready = http(server.addr(), "GET", "/readyz", &[], None);
    assert_eq!(
        (ready.status, &ready.json()["store"]),
        (200, &json!("degraded")),
        "{}",
        ready.body
    );
    // What the backup holds goes on; what it lacks is not granted to another while it may be counted on.
    assert_eq!(api.renew("a", &lease_id(&held), None).status, 200);
    let after = acquire_soon(&api, "k1");
    assert!(
        granted.elapsed() >= Duration::from_secs(6),
        "{:?}",
        granted.elapsed()
    );
    assert!(token(&after) > last, "{} after {last}", token(&after));
}

#[test]
fn restart_that_lost_nothing_pauses_nothing() {
    let redis = RedisConfig::new()
        .line("appendonly", "yes")
        .line("appendfsync", "always")
        .start();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 60_000}));
    redis.restart();
    let again = Instant::now();
    let after = acquire_soon(&api, "b");
    assert!(
        again.elapsed() < Duration::from_secs(5),
        "{:?}",
        again.elapsed()
    );
    assert!(token(&after) >= token(&held) + TOKEN_GAP);
    assert_eq!(api.renew("a", &lease_id(&held), None).status, 200);
}

#[test]
fn deposed_master_grants_nothing() {
    let first = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", first.url())]);
    server.wait_ready();
    let api = server.api();
    assert_eq!(api.acquire("a", None).status, 201);
    let second = RedisServer::plain();
    first.cli(&["REPLICAOF", "127.0.0.1", &second.port().to_string()]);
    let refused = api.acquire("b", None);
    assert_eq!(
        (refused.status, &refused.json()["outcome"]),
        (503, &json!("none")),
        "{}",
        refused.body
    );
    first.cli(&["REPLICAOF", "NO", "ONE"]);
    let back = acquire_soon(&api, "b");
    assert!(token(&back) > 0);
}

#[test]
fn tokens_rise_when_the_clock_is_behind_them() {
    let redis = RedisServer::plain();
    let start = || {
        let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
        server.wait_ready();
        server
    };
    let server = start();
    redis.cli(&["HINCRBY", "leasehold:meta", "token", "1000000000000"]);
    let last = token(&server.api().acquire("a", json!({"ttl_ms": 1000})));
    redis.cli(&["FLUSHALL"]);
    let after = token(&acquire_soon(&server.api(), "a"));
    assert!(
        after >= last + TOKEN_GAP,
        "the server knows what it saw: {after} after {last}"
    );
    drop(server);
    redis.cli(&["HSET", "leasehold:meta", "replid", &"0".repeat(40)]);
    let later = token(&acquire_soon(&start().api(), "b"));
    assert!(
        later >= after + TOKEN_GAP,
        "Redis knows what it gave: {later} after {after}"
    );
}

#[test]
fn nothing_is_granted_under_the_record_of_another_life_of_the_node() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let before = token(&server.api().acquire("a", None));
    redis.cli(&["HSET", "leasehold:meta", "replid", &"0".repeat(40)]);
    let after = acquire_soon(&server.api(), "b");
    assert!(
        token(&after) >= before + TOKEN_GAP,
        "{} after {before}",
        token(&after)
    );
}

#[test]
fn deposed_master_answers_no_question() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    assert_eq!(server.api().acquire("a", None).status, 201);
    // Nobody is there: it keeps its data and its replication id, and is no master.
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let inspected = server.api().inspect("a");
    assert_eq!(inspected.status, 503, "{}", inspected.body);
}

#[test]
fn lone_master_of_a_set_grants_nothing() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    set.replicas()[0].kill();
    let gone = || {
        set.master()
            .cli(&["INFO", "replication"])
            .contains("connected_slaves:0")
    };
    eventually(FAILOVER, "the master sees its replica gone", gone);
    let refused = serve(&set).api().acquire("a", None);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:replication-unconfirmed",
        "{}",
        refused.body
    );
}

#[test]
fn replay_waits_for_replicas_and_an_unconfirmed_grant_is_taken_back() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let server = serve(&set);
    let acquire = |lock: &str| {
        let key = [("Idempotency-Key", "0123456789abcdef")];
        server
            .api()
            .acquire_with(lock, &key, json!({"ttl_ms": 600_000}))
    };
    assert_eq!(acquire("a").status, 201);
    let replica = set.replicas()[0];
    replica.pause();
    for (lock, what) in [("a", "a replay"), ("b", "a grant")] {
        let refused = acquire(lock);
        assert_eq!(
            refused.json()["type"],
            "urn:leasehold:problem:replication-unconfirmed",
            "{what}: {}",
            refused.body
        );
    }
    replica.resume();
    // The client could come back for it, so only the confirmation's own undo frees it.
    eventually(FAILOVER, "the refused grant was taken back", || {
        server.api().inspect("b").json()["held"] == false
    });
    assert_eq!(acquire("a").status, 200, "what was granted before stays");
}
