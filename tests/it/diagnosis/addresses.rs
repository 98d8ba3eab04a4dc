//! Addresses of a server that is not a master, or of no server.

use std::thread;
use std::time::Duration;

use super::{becomes_ready, complaints, says_at_start, says_later, with_redis, with_set, works};
use crate::support::leasehold::Leasehold;
use crate::support::net::{TcpProxy, free_port};
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::{SentinelConfig, SentinelSet};

fn small() -> SentinelSet {
    SentinelConfig::new().replicas(1).sentinels(1).start()
}

/// A master and its replica, without Sentinels.
fn pair() -> (RedisServer, RedisServer) {
    let master = RedisServer::plain();
    let replica = RedisConfig::new()
        .replica_of("127.0.0.1", master.port())
        .start();
    super::eventually(Duration::from_secs(20), "the replica is online", || {
        master.info("replication").contains("state=online")
    });
    (master, replica)
}

fn url(proxy: &TcpProxy) -> String {
    format!("redis://{}", proxy.addr())
}

#[test]
fn wrong_name_of_the_master_set() {
    let set = small();
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINEL_MASTER", "theirmaster")]);
    says_at_start(&server, &["\"theirmaster\"", "LEASEHOLD_SENTINEL_MASTER"]);
    let port = set.nodes()[0].port().to_string();
    let monitor = [
        "SENTINEL",
        "MONITOR",
        "theirmaster",
        "127.0.0.1",
        &port,
        "1",
    ];
    assert_eq!(set.sentinel(0).cli(&monitor), "OK");
    becomes_ready(&server);
}

#[test]
fn address_of_a_replica() {
    let (master, replica) = pair();
    let server = with_redis(&replica.url());
    let reason = says_at_start(
        &server,
        &["is a replica", "LEASEHOLD_REDIS_URL", "LEASEHOLD_SENTINELS"],
    );
    assert!(
        reason.contains(&master.addr()),
        "it knows the master: {reason}"
    );
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    becomes_ready(&server);
}

#[test]
fn service_over_any_node() {
    let (master, replica) = pair();
    let (a, b) = (master.addr(), replica.addr());
    for targets in [[&*a, &*b], [&*b, &*a]] {
        let service = TcpProxy::start(&a);
        service.round_robin(&targets);
        let server = with_redis(&url(&service));
        says_at_start(&server, &["different nodes", "LEASEHOLD_SENTINELS"]);
        assert_eq!(complaints(&server).len(), 1, "{:#?}", complaints(&server));
        service.set_target(&a);
        service.cut();
        becomes_ready(&server);
    }
}

#[test]
fn service_over_any_node_that_led_to_the_master_at_first() {
    let (master, replica) = pair();
    let service = TcpProxy::start(&master.addr());
    let server = with_redis(&url(&service));
    becomes_ready(&server);
    service.round_robin(&[&replica.addr(), &master.addr()]);
    service.cut();
    // Regardless of the order of connections, one of these leads to the replica.
    connect_often(&server);
    says_later(&server, &["different nodes", "LEASEHOLD_SENTINELS"]);
    service.set_target(&master.addr());
    service.cut();
    becomes_ready(&server);
}

/// Concurrent requests, each of which may open its own connection.
fn connect_often(server: &Leasehold) {
    thread::scope(|scope| {
        for client in 0..8 {
            let api = server.api();
            scope.spawn(move || api.acquire(&format!("client-{client}"), None));
        }
    });
}

#[test]
fn service_over_any_node_that_shows_only_in_the_connections_of_requests() {
    let (master, replica) = pair();
    let service = TcpProxy::start(&master.addr());
    let server = with_redis(&url(&service));
    server.wait_ready();
    // The resolver keeps its connection to the master; the connections for requests do not exist yet.
    service.round_robin(&[&replica.addr(), &master.addr()]);
    connect_often(&server);
    says_later(&server, &["different nodes", "LEASEHOLD_SENTINELS"]);
    service.set_target(&master.addr());
    service.cut();
    becomes_ready(&server);
}

#[test]
fn port_of_a_sentinel_in_place_of_a_redis() {
    let set = small();
    let name = TcpProxy::start(&set.sentinel(0).addr());
    let server = with_redis(&url(&name));
    says_at_start(&server, &["is a Sentinel", "LEASEHOLD_SENTINELS"]);
    name.set_target(&set.master().addr());
    name.cut();
    becomes_ready(&server);
}

#[test]
fn port_of_a_sentinel_in_place_of_a_redis_with_a_database_number() {
    // A Sentinel has no databases, so it refuses earlier.
    let set = small();
    let url = format!("{}/3", set.sentinel(0).url());
    says_at_start(&with_redis(&url), &["is a Sentinel", "LEASEHOLD_SENTINELS"]);
}

#[test]
fn port_of_a_redis_in_place_of_a_sentinel() {
    let set = small();
    let name = TcpProxy::start(&set.master().addr());
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINELS", &name.addr())]);
    says_at_start(
        &server,
        &[
            "not a Sentinel",
            "LEASEHOLD_SENTINELS",
            "LEASEHOLD_REDIS_URL",
        ],
    );
    name.set_target(&set.sentinel(0).addr());
    name.cut();
    becomes_ready(&server);
}

#[test]
fn port_of_something_else() {
    let other = Leasehold::in_memory();
    let name = TcpProxy::start(other.addr());
    let redis = RedisServer::plain();
    let server = with_redis(&url(&name));
    says_at_start(&server, &[&name.addr(), "LEASEHOLD_REDIS_URL"]);
    name.set_target(&redis.addr());
    name.cut();
    becomes_ready(&server);
}

#[test]
fn redis_that_is_down() {
    let port = free_port();
    let server = with_redis(&format!("redis://127.0.0.1:{port}"));
    let addr = format!("127.0.0.1:{port}");
    says_at_start(
        &server,
        &[&addr, "cannot be reached", "LEASEHOLD_REDIS_URL"],
    );
    let _redis = RedisConfig::new().port(port).start();
    becomes_ready(&server);
}

#[test]
fn redis_behind_a_black_hole() {
    let redis = RedisServer::plain();
    let name = TcpProxy::start(&redis.addr());
    name.blackhole();
    let server = with_redis(&url(&name));
    says_at_start(&server, &[&name.addr(), "LEASEHOLD_REDIS_URL"]);
    name.heal();
    becomes_ready(&server);
}

#[test]
fn sentinels_that_are_down() {
    let set = small();
    let name = TcpProxy::start(&set.sentinel(0).addr());
    name.refuse();
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINELS", &name.addr())]);
    says_at_start(
        &server,
        &[&name.addr(), "cannot be reached", "LEASEHOLD_SENTINELS"],
    );
    name.heal();
    becomes_ready(&server);
}

#[test]
fn host_that_does_not_resolve() {
    let server = with_redis("redis://no-such-host.invalid:6379");
    says_at_start(
        &server,
        &[
            "no-such-host.invalid:6379",
            "cannot be reached",
            "LEASEHOLD_REDIS_URL",
        ],
    );
}

#[test]
fn sentinel_host_that_does_not_resolve() {
    let server = Leasehold::start([("LEASEHOLD_SENTINELS", "no-such-host.invalid")]);
    says_at_start(
        &server,
        &["no-such-host.invalid:26379", "LEASEHOLD_SENTINELS"],
    );
}

#[test]
fn one_wrong_sentinel_among_right_ones_costs_nothing() {
    let set = SentinelConfig::new().replicas(1).start();
    let list = format!(
        "no-such-host.invalid,{},{}",
        set.master().addr(),
        set.sentinels()
    );
    let server = with_set(set.env(), &[("LEASEHOLD_SENTINELS", &list)]);
    server.wait_ready();
    works(&server);
}
