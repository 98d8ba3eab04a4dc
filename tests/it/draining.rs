//! A draining server: the requests that it still answers, and its time limit.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use leasehold::server::DRAIN_DEADLINE;
use serde_json::json;

use crate::support::eventually;
use crate::support::http::{Reply, try_http};
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

const SLACK: Duration = Duration::from_secs(5);

/// A server whose timeout for Redis is much longer than its drain timeout.
fn patient(redis: &RedisServer) -> Leasehold {
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "30000".to_owned()),
    ]);
    server.wait_ready();
    server
}

/// Renews a lease while Redis does not answer.
fn stuck_renewal(
    redis: &RedisServer,
    server: &Leasehold,
    lease: &Reply,
) -> JoinHandle<Option<Reply>> {
    redis.pause();
    let (addr, id) = (server.addr().to_owned(), lease.lease_id());
    let renewal = thread::spawn(move || {
        try_http(&addr, "PUT", "/locks/a/lease", &[("Lease-Id", &id)], None).ok()
    });
    sleep(Duration::from_millis(300));
    renewal
}

#[test]
fn call_under_way_is_answered_and_readiness_is_503_until_then() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    let lease = server.api().acquire("a", json!({"ttl_ms": 60_000}));
    let renewal = stuck_renewal(&redis, &server, &lease);
    server.terminate();
    let ready = || try_http(server.addr(), "GET", "/readyz", &[], None).ok();
    eventually(SLACK, "readiness is 503", || {
        ready().is_some_and(|reply| reply.status == 503 && reply.json()["status"] == "draining")
    });
    let refused = server.api().acquire("b", json!({"wait_ms": 20_000}));
    assert_eq!(refused.status, 503, "{}", refused.body);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:shutting-down"
    );
    assert_eq!(refused.json()["outcome"], "none");
    redis.resume();
    let renewed = renewal.join().expect("an end").expect("an answer");
    assert_eq!(renewed.status, 200, "{}", renewed.body);
    assert!(server.wait_exit(SLACK).success());
    let next = Leasehold::on(&redis);
    assert_eq!(
        next.api().inspect("a").fencing_token(),
        lease.fencing_token()
    );
}

#[test]
fn server_ends_at_its_deadline_although_a_call_is_under_way_and_leases_stay() {
    let redis = RedisServer::plain();
    let server = patient(&redis);
    let lease = server.api().acquire("a", json!({"ttl_ms": 60_000}));
    let renewal = stuck_renewal(&redis, &server, &lease);
    let told = Instant::now();
    server.terminate();
    assert!(server.wait_exit(DRAIN_DEADLINE + SLACK).success());
    let took = told.elapsed();
    assert!(took >= DRAIN_DEADLINE, "{took:?}");
    assert_eq!(
        renewal.join().expect("an end").map(|reply| reply.status),
        None
    );
    redis.resume();
    let next = Leasehold::on(&redis);
    assert_eq!(next.api().renew("a", &lease.lease_id(), None).status, 200);
}

#[test]
fn idle_connections_do_not_hold_up_the_end() {
    let redis = RedisServer::plain();
    for server in [Leasehold::in_memory(), Leasehold::on(&redis)] {
        let silent = [(); 3].map(|()| TcpStream::connect(server.addr()).expect("a connection"));
        server.wait_ready();
        let told = Instant::now();
        server.terminate();
        assert!(server.wait_exit(SLACK).success());
        assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
        drop(silent);
    }
}

/// Requests sent before the drain but not read by the server until then.
#[test]
fn request_that_nobody_has_read_yet_is_answered() {
    let redis = RedisServer::plain();
    for server in [Leasehold::in_memory(), Leasehold::on(&redis)] {
        server.wait_ready();
        let (looking, asking) = (
            format!("GET /locks/a HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr()),
            format!("POST /locks/a HTTP/1.1\r\nHost: {}\r\n\r\n", server.addr()),
        );
        let connect = || {
            let addr = server.addr().parse().expect("an address");
            let stream = TcpStream::connect_timeout(&addr, SLACK).expect("a connection");
            stream.set_read_timeout(Some(SLACK)).expect("a time-out");
            stream
        };
        let mut used = [(); 20].map(|()| connect());
        for stream in &mut used {
            stream.write_all(looking.as_bytes()).expect("it is sent");
            assert_eq!(status(stream), "200");
        }
        let mut unused = [(); 20].map(|()| connect());
        // The server has accepted these connections and received nothing on them.
        assert_eq!(server.readiness().status, 200);
        server.pause();
        // More than the runtime accepts at a time.
        let mut new = [(); 300].map(|()| connect());
        for stream in used.iter_mut().chain(&mut unused).chain(&mut new) {
            stream.write_all(asking.as_bytes()).expect("it is sent");
        }
        server.terminate();
        server.resume();
        for stream in used.iter_mut().chain(&mut unused).chain(&mut new) {
            // The request may arrive before the signal or after it.
            let status = status(stream);
            assert!(
                ["201", "423", "503"].contains(&&*status),
                "{status}\n{}",
                server.stderr()
            );
        }
        assert!(server.wait_exit(SLACK).success());
    }
}

/// The status of the next answer; a text without a status if the connection ended.
fn status(stream: &mut TcpStream) -> String {
    let mut answer = [0; 4096];
    let read = stream.read(&mut answer);
    let answer = String::from_utf8_lossy(&answer[..read.unwrap_or(0)]).into_owned();
    answer.split(' ').nth(1).unwrap_or("no answer").to_owned()
}

#[test]
fn many_waiters_are_answered_at_once_on_every_store() {
    let redis = RedisServer::plain();
    for server in [Leasehold::in_memory(), Leasehold::on(&redis)] {
        let api = server.api();
        assert_eq!(api.acquire("a", json!({"ttl_ms": 60_000})).status, 201);
        let waiters: Vec<_> = (0..40)
            .map(|_| {
                let api = api.clone();
                thread::spawn(move || api.acquire("a", json!({"wait_ms": 40_000})))
            })
            .collect();
        eventually(SLACK, "all wait", || {
            api.inspect("a").json()["waiters"] == 40
        });
        let told = Instant::now();
        server.terminate();
        for waiter in waiters {
            let refused = waiter.join().expect("an answer");
            assert_eq!(refused.status, 503, "{}", refused.body);
            assert_eq!(
                refused.json()["type"],
                "urn:leasehold:problem:shutting-down"
            );
        }
        assert!(server.wait_exit(SLACK).success());
        assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
    }
    let next = Leasehold::on(&redis).api().inspect("a").json();
    assert_eq!((&next["held"], &next["waiters"]), (&json!(true), &json!(0)));
}
