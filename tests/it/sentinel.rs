//! Finding the master: lost, hung and forgetful Sentinels.

use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::support::api::FAILOVER;
use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::sentinel::SentinelConfig;

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
    server.api().acquire_soon("a");
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
    let ready = server.readiness();
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
    assert_eq!(server.api().acquire_soon("a").status, 201);
    set.sentinel(1).resume();
}

#[test]
fn two_dead_sentinels_are_told_once() {
    let set = SentinelConfig::new().down_after_ms(5000).start();
    let server = set.serve();
    set.sentinel(0).kill();
    set.sentinel(1).kill();
    eventually(FAILOVER, "no majority", || {
        server.readiness().json()["store"] == "degraded"
    });
    // Some dozens of polls.
    sleep(Duration::from_secs(8));
    let log = server.stderr();
    let lines: Vec<_> = log
        .lines()
        .filter(|line| line.contains("no majority of the Sentinels"))
        .collect();
    // One of the two may have died between two polls.
    assert!(matches!(lines.len(), 1 | 2), "{lines:#?}");
    assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
}

#[test]
fn sentinel_that_is_lost_later_leaves_the_known_master_in_use() {
    let set = SentinelConfig::new().down_after_ms(5000).start();
    let server = set.serve();
    for index in 0..3 {
        set.sentinel(index).kill();
    }
    let degraded = || server.readiness().json()["store"] == "degraded";
    eventually(
        FAILOVER,
        "readyz says that the Sentinels are gone",
        degraded,
    );
    assert_eq!(server.readiness().status, 200);
    assert_eq!(
        server.api().acquire("a", None).status,
        201,
        "the master's own guard decides"
    );
}
