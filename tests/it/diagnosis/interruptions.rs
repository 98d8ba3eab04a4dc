//! Temporary faults of Redis: the server stays in service and recovers by itself.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    acquire, becomes_ready, grants_again, is_unavailable, problem, says_at_start, says_later,
    with_redis, works,
};
use crate::support::eventually;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::{RedisConfig, RedisServer};

/// The sum of the default connect and response timeouts.
const PATIENCE: Duration = Duration::from_millis(1500);

#[test]
fn redis_that_goes_down_and_comes_up() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    becomes_ready(&server);
    redis.kill();
    says_later(
        &server,
        &[&redis.addr(), "cannot be reached", "LEASEHOLD_REDIS_URL"],
    );
    redis.restart();
    becomes_ready(&server);
    assert_eq!(super::complaints(&server).len(), 1, "one trouble, one line");
    assert!(
        server.stderr().contains("restarted or was reset"),
        "{}",
        server.stderr()
    );
}

#[test]
fn cause_of_a_failure_outlives_the_connection() {
    let redis = RedisConfig::new().password("secret").start();
    let service = TcpProxy::start(&redis.addr());
    let server = with_redis(&format!("redis://{}", service.addr()));
    let reason = says_at_start(&server, &["requires a password"]);
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mute_addr = mute.local_addr().expect("an address").to_string();
    // The thread ends with the test's process; it closes each connection at once.
    let hung_up = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&hung_up);
    spawn(move || {
        for _connection in mute.incoming() {
            count.fetch_add(1, Ordering::SeqCst);
        }
    });
    service.set_target(&mute_addr);
    service.cut();
    eventually(Duration::from_secs(10), "it hangs up a few times", || {
        hung_up.load(Ordering::SeqCst) >= 20
    });
    assert_eq!(super::readyz(&server).json()["reason"], reason);
    assert_eq!(super::complaints(&server), [reason]);
}

#[test]
fn log_reports_the_end_of_a_failure() {
    let redis = RedisServer::plain();
    let name = TcpProxy::start(&redis.addr());
    let server = with_redis(&format!("redis://{}", name.addr()));
    becomes_ready(&server);
    name.refuse();
    says_later(&server, &["cannot be reached"]);
    name.heal();
    becomes_ready(&server);
    assert!(
        server.stderr().contains("healthy again"),
        "{}",
        server.stderr()
    );
}

#[test]
fn same_trouble_twice_is_said_twice() {
    let redis = RedisServer::plain();
    let name = TcpProxy::start(&redis.addr());
    let server = with_redis(&format!("redis://{}", name.addr()));
    becomes_ready(&server);
    for time in 1..=2 {
        name.refuse();
        super::reason_with(&server, 200, &["cannot be reached"]);
        name.heal();
        becomes_ready(&server);
        let said = super::complaints(&server);
        assert_eq!(said.len(), time, "{said:#?}");
    }
}

#[test]
fn flushed_scripts_cost_nothing() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    for round in 0..5 {
        assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
        let id = acquire(&server, "k");
        assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
        assert_eq!(server.api().renew("k", &id, None).status, 200, "{round}");
        assert_eq!(redis.cli(&["SCRIPT", "FLUSH"]), "OK");
        assert_eq!(server.api().release("k", &id).status, 204, "{round}");
    }
    assert_eq!(super::complaints(&server), [""; 0]);
}

#[test]
fn connections_that_were_killed_cost_at_most_one_unknown_answer() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    use_all_connections(&server);
    for round in 0..3 {
        assert_ne!(redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]), "0");
        let replies: Vec<Reply> = (0..20)
            .map(|request| server.api().acquire(&format!("{round}/{request}"), None))
            .collect();
        let failed: Vec<&Reply> = replies.iter().filter(|reply| reply.status != 201).collect();
        assert!(failed.len() <= 1, "{} of 20: {failed:?}", failed.len());
        for reply in failed {
            assert_eq!(
                (reply.status, problem(reply).1),
                (503, "store-unavailable"),
                "{reply:?}"
            );
        }
    }
    becomes_ready(&server);
}

#[test]
fn idle_connections_that_were_killed_cost_nothing() {
    // Redis' `timeout` setting and firewalls regularly close idle connections.
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    use_all_connections(&server);
    assert_ne!(redis.cli(&["CLIENT", "KILL", "TYPE", "normal"]), "0");
    sleep(Duration::from_millis(300));
    let replies: Vec<Reply> = (0..20)
        .map(|request| server.api().acquire(&format!("k/{request}"), None))
        .collect();
    let failed: Vec<&Reply> = replies.iter().filter(|reply| reply.status != 201).collect();
    assert!(failed.is_empty(), "{} of 20: {failed:?}", failed.len());
}

#[test]
fn redis_that_hangs_is_waited_for_no_longer_than_the_time_outs() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    let id = acquire(&server, "held");
    redis.pause();
    for round in 0..3 {
        let asked = Instant::now();
        let reply = server.api().acquire("new", json!({"ttl_ms": 60_000}));
        assert!(
            asked.elapsed() < PATIENCE * 2,
            "{round}: {:?}",
            asked.elapsed()
        );
        let (status, name, _) = problem(&reply);
        assert_eq!(
            (status, name),
            (503, "store-unavailable"),
            "{round}: {reply:?}"
        );
    }
    says_while_it_hangs(&server);
    redis.resume();
    grants_again(&server, "another");
    becomes_ready(&server);
    assert_eq!(server.api().renew("held", &id, None).status, 200);
}

#[test]
fn redis_that_hangs_answers_unknown_to_the_first_request() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    use_all_connections(&server);
    redis.pause();
    let reply = server.api().acquire("k", json!({"ttl_ms": 60_000}));
    // The command was sent, so Redis may execute it when it resumes.
    is_unavailable(&reply, &["unknown"]);
    redis.resume();
    becomes_ready(&server);
}

#[test]
fn request_that_was_refused_for_certain_does_not_run_when_redis_wakes_up() {
    let redis = RedisServer::plain();
    let server = with_redis(&redis.url());
    server.wait_ready();
    redis.pause();
    let replies: Vec<(String, Reply)> = (0..4)
        .map(|request| {
            let key = format!("asleep/{request}");
            let reply = server.api().acquire(&key, json!({"ttl_ms": 60_000}));
            (key, reply)
        })
        .collect();
    redis.resume();
    becomes_ready(&server);
    for (key, reply) in replies {
        let held = server.api().inspect(&key).json()["held"] == true;
        let certain = problem(&reply).2 == "none";
        assert!(!(certain && held), "{key} is held after {reply:?}");
    }
}

#[test]
fn network_that_swallows_everything_is_noticed() {
    let redis = RedisServer::plain();
    let name = TcpProxy::start(&redis.addr());
    let server = with_redis(&format!("redis://{}", name.addr()));
    becomes_ready(&server);
    name.blackhole();
    says_while_it_hangs(&server);
    name.heal();
    becomes_ready(&server);
    works(&server);
}

/// Waits for a reason that names the setting of the address. The server stays in service, degraded.
fn says_while_it_hangs(server: &Leasehold) {
    let reason = super::reason_with(server, 200, &["LEASEHOLD_REDIS_URL"]);
    let readiness = super::readyz(server).json();
    assert_eq!(readiness["store"], "degraded", "{reason}");
}

/// Makes the server open and use each of its connections.
fn use_all_connections(server: &Leasehold) {
    for request in 0..16 {
        acquire(server, &format!("warm/{request}"));
    }
}
