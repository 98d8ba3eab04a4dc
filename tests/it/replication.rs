//! Confirmed grants: the answers with and without enough replicas.

use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::FAILOVER;
use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::SentinelConfig;

#[test]
fn grants_wait_for_a_replica_and_are_refused_without_one() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let server = set.serve();
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
    let renewal = api.renew("a", &held.lease_id(), None);
    assert_eq!(
        renewal.json()["type"],
        "urn:leasehold:problem:replication-unconfirmed",
        "{}",
        renewal.body
    );
    assert_eq!(
        api.release("a", &held.lease_id()).status,
        204,
        "a release waits for no replica"
    );
    replica.resume();
    eventually(FAILOVER, "the refused grant was taken back", || {
        api.inspect("b").json()["held"] == false
    });
    assert_eq!(api.acquire_soon("b").status, 201);
}

/// Redis 7.2 and later answer a `WAIT` at once that follows no write on its connection.
#[test]
fn grant_is_not_confirmed_without_its_replica_after_a_script_flush() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let server = set.serve();
    let replica = set.replicas()[0];
    assert_eq!(server.api().acquire("before", None).status, 201);
    for round in 0..3 {
        assert_eq!(set.master().cli(&["SCRIPT", "FLUSH"]), "OK");
        replica.pause();
        let refused = server.api().acquire(&format!("lock-{round}"), None);
        assert_eq!(refused.status, 503, "{round}: {refused:?}");
        replica.resume();
        eventually(FAILOVER, "the replica confirms again", || {
            server.api().acquire(&format!("next-{round}"), None).status == 201
        });
    }
}

/// Without a call, and with calls whose replicas do not confirm.
#[test]
fn readyz_tells_that_too_few_replicas_are_online() {
    let set = SentinelConfig::new().start();
    let server = set.serve();
    for replica in set.replicas() {
        replica.kill();
    }
    let reason = || {
        let body = server.readiness().json();
        let degraded = body["store"] == "degraded" && body["since"].is_string();
        let reason = body["reason"].as_str().unwrap_or_default().to_owned();
        degraded.then_some(reason)
    };
    let says = |words: &[&str]| {
        eventually(FAILOVER, words[0], || {
            reason().is_some_and(|reason| words.iter().all(|word| reason.contains(word)))
        });
    };
    says(&[
        "0 of 1 needed replicas online",
        "replication-unconfirmed",
        "act only if this outlasts",
        "down-after-milliseconds + 10 s",
    ]);
    let refused = server.api().acquire("a", None);
    assert_eq!(refused.status, 503, "{refused:?}");
    assert_eq!(
        server.metric(r#"leasehold_store_condition{condition="degraded"}"#),
        Some(1)
    );
    for replica in set.replicas() {
        replica.restart();
    }
    eventually(FAILOVER, "healthy again", || {
        server.readiness().json()["store"] == "ok"
    });
    assert_eq!(server.api().acquire_soon("a").status, 201);
    for replica in set.replicas() {
        replica.pause();
    }
    let refused = server.api().acquire("b", None);
    assert_eq!(refused.status, 503, "{refused:?}");
    says(&["needed replicas confirmed in time"]);
    let since = server.readiness().json()["since"].clone();
    // A client that asks seldom makes no call for longer than a failure counts.
    let quiet = Instant::now();
    while quiet.elapsed() < Duration::from_secs(8) {
        let body = server.readiness().json();
        assert_eq!(
            (&body["store"], &body["since"]),
            (&json!("degraded"), &since),
            "{body}"
        );
        sleep(Duration::from_millis(100));
    }
    let said = server.stderr();
    assert_eq!(
        said.matches("needed replicas confirmed in time").count(),
        1,
        "{said}"
    );
    for replica in set.replicas() {
        replica.resume();
    }
    eventually(FAILOVER, "healthy again without a call", || {
        server.readiness().json()["store"] == "ok"
    });
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
    // The replica confirms late, and the rest of the lease shrinks meanwhile.
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
    let renewed = late(&|| api.renew("b", &held.lease_id(), None));
    for promised in [granted, renewed] {
        assert!(
            (2_500..=3_100).contains(&promised),
            "{promised} ms are promised of 3000"
        );
    }
}

#[test]
fn fixed_number_of_acknowledgements_is_required_exactly() {
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
    for (server, risk) in [
        (&one, "LEASEHOLD_REPLICA_ACKS=1: "),
        (&none, "LEASEHOLD_REPLICA_ACKS=0: "),
    ] {
        let accepted = server.readiness().json()["accepted_risk"].to_string();
        assert!(accepted.contains(risk), "{accepted}");
    }
    assert_eq!(auto.readiness().json()["accepted_risk"], Value::Null);
    assert_eq!(
        auto.api().acquire("c", None).status,
        201,
        "one Redis has no replica to ask"
    );
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
    let refused = set.serve().api().acquire("a", None);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:replication-unconfirmed",
        "{}",
        refused.body
    );
}

#[test]
fn replay_waits_for_replicas_and_an_unconfirmed_grant_is_rolled_back() {
    let set = SentinelConfig::new()
        .replicas(1)
        .down_after_ms(60_000)
        .start();
    let server = set.serve();
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
    // The client could come back for the grant, so only the rollback after the failed confirmation frees the lock.
    eventually(FAILOVER, "the refused grant was taken back", || {
        server.api().inspect("b").json()["held"] == false
    });
    assert_eq!(acquire("a").status, 200, "what was granted before stays");
}

#[test]
fn replicas_confirm_nothing_for_another_life_of_the_master() {
    let master = RedisServer::plain();
    let replica = RedisConfig::new()
        .replica_of("127.0.0.1", master.port())
        .start();
    let online = || master.info("replication").contains("state=online");
    eventually(FAILOVER, "the replica is online", online);
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", master.url()),
        ("LEASEHOLD_REPLICA_ACKS", "1".to_owned()),
    ]);
    server.wait_ready();
    for (field, other) in [("#replid", "0".repeat(40)), ("#activation", "f".repeat(32))] {
        let key = format!("while-{}-changes", &field[1..]);
        let granted_before = server.api().acquire_soon(&key);
        assert_eq!(
            server
                .api()
                .release(&key, &granted_before.lease_id())
                .status,
            204
        );
        replica.pause();
        let granted = spawn({
            let (api, key) = (server.api(), key.clone());
            move || api.acquire(&key, json!({"ttl_ms": 1000}))
        });
        let is_written = || {
            master
                .cli(&["HGET", "leasehold:locks", &key])
                .contains("L\t")
        };
        eventually(FAILOVER, "the grant waits to be confirmed", is_written);
        master.cli(&["HSET", "leasehold:locks", field, &other]);
        // Longer than one round of confirmation requests, because the last round began earlier.
        sleep(Duration::from_millis(400));
        replica.resume();
        let reply = granted.join().expect("an answer");
        assert_eq!(
            (reply.status, &reply.json()["outcome"]),
            (503, &json!("unknown")),
            "{field}: {}",
            reply.body
        );
    }
}
