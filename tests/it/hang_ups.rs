//! A client that disconnects leaves nothing behind, whatever it sent before.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::Duration;

use serde_json::json;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

/// How long the server may take to detect a disconnect. It waits one second before it closes a connection with more
/// unread data than it reads ahead.
const NOTICED: Duration = Duration::from_secs(5);

/// A wait and a TTL long enough to make a leftover visible.
const BODY: &str = r#"{"wait_ms":45000,"ttl_ms":3600000}"#;

fn servers() -> Vec<(Leasehold, Option<RedisServer>)> {
    let redis = RedisServer::plain();
    let on_redis = Leasehold::on(&redis);
    vec![(Leasehold::in_memory(), None), (on_redis, Some(redis))]
}

/// A request for the lock `k` that waits.
fn request(version: &str) -> String {
    format!(
        "POST /locks/k HTTP/{version}\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{BODY}",
        BODY.len()
    )
}

fn chunked() -> String {
    format!(
        "POST /locks/k HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{BODY}\r\n0\r\n\r\n",
        BODY.len()
    )
}

/// Data that a client may have sent behind a request in progress.
fn behind() -> Vec<(&'static str, Vec<u8>)> {
    let next = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
    vec![
        ("nothing", Vec::new()),
        ("a line feed", b"\n".to_vec()),
        ("the start of a request", b"POST /locks/k HT".to_vec()),
        ("a request", next.into()),
        ("another acquisition", request("1.1").into()),
        ("many requests", next.repeat(100).into()),
        ("a chunk as TLS cuts it", vec![b'x'; 16 * 1024]),
        ("as much as is read ahead", vec![b'x'; 32 * 1024]),
        ("more than the system takes", vec![b'x'; 16 << 20]),
    ]
}

/// Sends data until the socket accepts no more for a while.
fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .expect("a time");
    // The test needs the rejected rest.
    let _sent = stream.write_all(bytes);
}

fn until_waiting(server: &Leasehold, number: u64) {
    eventually(NOTICED, &format!("{number} waiters"), || {
        server.metric("leasehold_waiters") == Some(number)
    });
}

/// Waits until the end of the stream from `client` is in the server's socket: on a busy machine the kernel may deliver
/// it late, and a paused server shows nothing.
fn until_closed_by(client: SocketAddr, server: &Leasehold) {
    let server: SocketAddr = server.addr().parse().expect("an address");
    // `CLOSE_WAIT` is state 8; the table writes addresses in hexadecimal.
    let ports = [server, client].map(|address| format!(":{:04X} ", address.port()));
    eventually(NOTICED, "the end of the client's stream", || {
        let table = fs::read_to_string("/proc/net/tcp").expect("the system's connections");
        table.lines().any(|line| {
            let after_server = line.split_once(&ports[0]).map(|(_, rest)| rest);
            after_server.is_some_and(|rest| rest.contains(&format!("{}08 ", ports[1])))
        })
    });
}

#[test]
fn client_that_hangs_up_gets_no_grant_despite_pipelined_data() {
    for (server, _redis) in servers() {
        let api = server.api();
        for first in [request("1.1"), request("1.0"), chunked()] {
            for (what, bytes) in behind() {
                let held = api.acquire("k", json!({"ttl_ms": 600_000}));
                assert_eq!(held.status, 201, "before {what}: {}", held.body);
                let mut ghost = TcpStream::connect(server.addr()).expect("it listens");
                ghost.write_all(first.as_bytes()).expect("it is taken");
                until_waiting(&server, 1);
                send(&mut ghost, &bytes);
                drop(ghost);
                until_waiting(&server, 0);
                assert_eq!(api.release("k", &held.lease_id()).status, 204);
                let next = api.acquire("k", None);
                assert_eq!(next.status, 201, "after {what}: {}", next.body);
                assert_eq!(api.release("k", &next.lease_id()).status, 204);
            }
        }
    }
}

#[test]
fn half_closed_client_gets_a_ready_answer_and_waits_no_longer() {
    let server = Leasehold::in_memory();
    let api = server.api();
    let half_closed = |request: &str| {
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        stream.write_all(request.as_bytes()).expect("it is taken");
        stream.shutdown(Shutdown::Write).expect("it is open");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .expect("an end of the stream");
        answer
    };
    for request in [
        "POST /locks/free HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /locks/free HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET /locks HTTP/1.0\r\n\r\n",
    ] {
        let answer = half_closed(request);
        assert!(answer.starts_with("HTTP/1."), "{request}: {answer}");
        assert!(answer.contains(" 20"), "{request}: {answer}");
    }
    let held = api.acquire("k", None);
    assert_eq!(half_closed(&request("1.1")), "");
    until_waiting(&server, 0);
    assert_eq!(api.release("k", &held.lease_id()).status, 204);
    assert_eq!(api.acquire("k", None).status, 201);
}

#[test]
fn client_that_pipelines_and_stays_gets_all_answers() {
    for (server, _redis) in servers() {
        let api = server.api();
        let held = api.acquire("k", None);
        let mut stream = TcpStream::connect(server.addr()).expect("it listens");
        let lives = "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let last = "GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        // About as much as the server reads ahead; the last part arrives during the first request.
        let all = [&request("1.1"), &*lives.repeat(300)].concat();
        stream.write_all(all.as_bytes()).expect("it is taken");
        until_waiting(&server, 1);
        stream.write_all(last.as_bytes()).expect("it is taken");
        sleep(Duration::from_millis(100));
        assert_eq!(api.release("k", &held.lease_id()).status, 204);
        let mut answers = String::new();
        stream.read_to_string(&mut answers).expect("all answers");
        assert_eq!(answers.matches("HTTP/1.1 201 Created").count(), 1);
        assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 301, "{answers}");
    }
}

/// The server sees both at once: the end of the waiter's connection, and the free lock.
#[test]
fn client_that_hangs_up_as_the_lock_is_released_is_granted_nothing() {
    let server = Leasehold::in_memory();
    let api = server.api();
    for round in 0..20 {
        let held = api.acquire("k", json!({"ttl_ms": 600_000}));
        assert_eq!(held.status, 201, "{round}: {}", held.body);
        let mut releasing = TcpStream::connect(server.addr()).expect("it listens");
        let mut ghost = TcpStream::connect(server.addr()).expect("it listens");
        ghost
            .write_all(request("1.1").as_bytes())
            .expect("it is taken");
        until_waiting(&server, 1);
        let client = ghost.local_addr().expect("an address");
        server.pause();
        let release = format!(
            "DELETE /locks/k HTTP/1.1\r\nHost: localhost\r\nLease-Id: {}\r\nConnection: close\r\n\r\n",
            held.lease_id()
        );
        if round % 2 == 0 {
            releasing
                .write_all(release.as_bytes())
                .expect("it is taken");
            drop(ghost);
        } else {
            drop(ghost);
            releasing
                .write_all(release.as_bytes())
                .expect("it is taken");
        }
        until_closed_by(client, &server);
        server.resume();
        let mut answer = String::new();
        releasing.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 204 "), "{round}: {answer}");
        until_waiting(&server, 0);
        eventually(NOTICED, "the lock is free", || {
            api.inspect("k").json()["held"] == false
        });
    }
}
