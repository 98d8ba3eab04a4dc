//! Servers follow the master through failovers: leases stay, tokens rise, and a deposed master has no effect.

use std::thread::spawn;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::api::FAILOVER;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::{SentinelConfig, SentinelSet};
use crate::support::{eventually, poll};

/// The minimum distance between the tokens of two activations.
const TOKEN_GAP: u64 = 1 << 22;

/// How soon after the switch the first grant must follow.
const FIRST_GRANT: Duration = Duration::from_secs(1);

/// Replaces the master by `fault`: leases stay, tokens jump ahead, and grants resume soon after the switch. The switch
/// is complete when all Sentinels name the new master and it has a replica. Returns the old master's port.
fn survives(set: &SentinelSet, server: &Leasehold, fault: impl FnOnce(&SentinelSet) -> u16) -> u16 {
    let api = server.api();
    let before = api.acquire("a", json!({"ttl_ms": 120_000}));
    assert_eq!(before.status, 201, "{}", before.body);
    let old = fault(set);
    let first_grant = spawn({
        let (api, least) = (api.clone(), before.fencing_token() + TOKEN_GAP);
        move || {
            // Until then the grant may come from the old master.
            let granted = poll(FAILOVER, || {
                let granted = api.acquire_soon("b");
                let is_new = granted.fencing_token() >= least;
                if !is_new {
                    assert_eq!(api.release("b", &granted.lease_id()).status, 204);
                }
                is_new.then(Instant::now)
            });
            granted.expect("a token that is_new")
        }
    });
    let new = set.wait_for_new_master(old);
    let has_a_replica = || new.info("replication").contains("state=online");
    eventually(FAILOVER, "the new master has a replica", has_a_replica);
    let switched = Instant::now();
    let first_grant = first_grant.join().expect("a grant of the new master");
    let took = first_grant.saturating_duration_since(switched);
    println!("the first grant came {took:?} after the switch");
    assert!(took < 5 * FIRST_GRANT, "{took:?}\n{}", server.stderr());

    let renewed = api.renew("a", &before.lease_id(), None);
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert_eq!(renewed.fencing_token(), before.fencing_token());
    assert_eq!(api.acquire("a", None).status, 423);
    let what = server.readiness().json()["last_change"]["what"].to_string();
    let change = format!(
        "the master changed from 127.0.0.1:{old} to {} (configuration epoch ",
        new.addr()
    );
    for said in [&what, &server.stderr()] {
        assert!(said.contains(&change), "{said}");
        assert!(
            said.contains("no confirmed write that this server knows is missing"),
            "{said}"
        );
    }
    old
}

#[test]
fn killed_master_is_replaced() {
    let set = SentinelConfig::new().start();
    survives(&set, &set.serve(), SentinelSet::kill_master);
}

#[test]
fn healthy_master_is_replaced_by_hand() {
    let set = SentinelConfig::new().start();
    survives(&set, &set.serve(), SentinelSet::failover);
}

#[test]
fn stopped_master_is_replaced_and_grants_nothing_when_it_resumes() {
    let set = SentinelConfig::new().start();
    let server = set.serve();
    let api = server.api();
    let stop = |set: &SentinelSet| {
        let master = set.master();
        master.pause();
        // The command goes to a stopped master, which reads it when it resumes.
        let late = api.acquire("late", json!({"ttl_ms": 120_000}));
        assert_eq!(late.status, 503, "{}", late.body);
        master.port()
    };
    let old = survives(&set, &server, stop);
    set.node(old).resume();
    // The master may close the connection at this moment.
    let is_a_replica = || {
        let info = set.node(old).try_info("replication");
        info.is_ok_and(|info| info.contains("role:slave"))
    };
    eventually(FAILOVER, "the old master is a replica", is_a_replica);
    set.wait_for_replicas(2);
    assert_eq!(api.inspect("late").json()["held"], false);
    assert_eq!(api.acquire_soon("late").status, 201);
}

#[test]
fn new_master_in_a_split_brain_grants_higher_tokens_than_the_deposed_one() {
    let old = RedisServer::plain();
    let new = RedisConfig::new()
        .replica_of("127.0.0.1", old.port())
        .start();
    let on_old = Leasehold::on(&old);
    eventually(FAILOVER, "the replica is in step", || {
        new.info("replication").contains("master_link_status:up")
            && new.cli(&["EXISTS", "leasehold:locks"]) == "1"
    });
    new.cli(&["REPLICAOF", "NO", "ONE"]);
    let on_new = Leasehold::on(&new);
    let first = on_new.api().acquire_soon("a").fencing_token();
    // The replica that left still counts for 3 s.
    on_old.api().acquire_soon("a");
    for number in 0..200 {
        let granted = on_old.api().acquire(&format!("k{number}"), None);
        assert!(
            granted.fencing_token() + TOKEN_GAP / 2 < first,
            "{granted:?}"
        );
    }
}

#[test]
fn reset_of_the_sentinels_changes_nothing_for_locks() {
    let set = SentinelConfig::new().start();
    let server = set.serve();
    for index in 0..3 {
        assert_eq!(set.sentinel(index).cli(&["SENTINEL", "RESET", "*"]), "1");
    }
    let first = server.api().acquire_soon("a").fencing_token();
    set.wait_until_known();
    survives(&set, &server, SentinelSet::kill_master);
    assert!(server.api().acquire_soon("c").fencing_token() > first);
}

#[test]
fn deposed_master_grants_nothing() {
    let first = RedisServer::plain();
    let server = Leasehold::on(&first);
    let api = server.api();
    let before = api.acquire("a", json!({"ttl_ms": 100}));
    assert_eq!(before.status, 201);
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
    let back = api.acquire_soon("b");
    assert!(back.fencing_token() >= before.fencing_token() + TOKEN_GAP);
}

#[test]
fn deposed_master_answers_no_reads() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    assert_eq!(server.api().acquire("a", None).status, 201);
    // No Redis runs here: the node keeps its data and its replication id, and is no master.
    redis.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let inspected = server.api().inspect("a");
    assert_eq!(inspected.status, 503, "{}", inspected.body);
}

#[test]
fn activation_record_of_an_earlier_process_permits_no_grant() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let before = server.api().acquire("a", None).fencing_token();
    redis.cli(&["HSET", "leasehold:locks", "#replid", &"0".repeat(40)]);
    let after = server.api().acquire_soon("b");
    assert!(
        after.fencing_token() >= before + TOKEN_GAP,
        "{} after {before}",
        after.fencing_token()
    );
}
