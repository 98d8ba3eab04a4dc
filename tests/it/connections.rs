//! Limits of connections: their number, their time limits, and the choice of the connection to close.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use leasehold::http::MAX_LARGE_ANSWERS;
use leasehold::server::{MAX_REFUSED_CONNECTIONS, WRITE_TIMEOUT};
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::support::http::{Reply, http, raw, try_http};
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::{eventually, poll};

const SLACK: Duration = Duration::from_secs(5);
const LIVEZ: &[u8] = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n";
const HALF_A_HEAD: &[u8] = b"GET /livez HTTP/1.1\r\nX: y";

fn limited(max: usize) -> Leasehold {
    Leasehold::start([
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_MAX_CONNECTIONS", max.to_string()),
    ])
}

/// An accepted connection that sends nothing.
fn connect(server: &Leasehold) -> TcpStream {
    let stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(SLACK)).expect("a time");
    stream
}

/// As `connect`, with a small receive buffer on the client's side.
fn connect_with_small_buffer(server: &Leasehold) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a size");
    let addr: SocketAddr = server.addr().parse().expect("an address");
    socket.connect(&addr.into()).expect("it listens");
    socket.into()
}

fn send(stream: &mut TcpStream, bytes: &[u8]) {
    stream.write_all(bytes).expect("it is taken");
}

/// The status of the answer, which stays unread.
fn first_status(stream: &TcpStream) -> String {
    stream
        .set_read_timeout(Some(4 * SLACK))
        .expect("a duration");
    let mut line = [0; 12];
    eventually(4 * SLACK, "the first line of the answer", || {
        stream.peek(&mut line).expect("an answer") == line.len()
    });
    String::from_utf8_lossy(&line[9..]).into_owned()
}

/// Requests `/livez` on an open connection.
fn lives(stream: &mut TcpStream) -> bool {
    let mut answer = [0; 1024];
    stream.write_all(LIVEZ).is_ok()
        && matches!(stream.read(&mut answer), Ok(length) if answer[..length].starts_with(b"HTTP/1.1 200 "))
}

/// Whether the server closes the connection within this time. Earlier bytes are ignored.
fn is_closed_within(stream: &mut TcpStream, limit: Duration) -> bool {
    let end = Instant::now() + limit;
    let mut rest = vec![0; 65536];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        stream.set_read_timeout(Some(left)).expect("a time");
        match stream.read(&mut rest) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return false;
            }
            Err(_) => return true,
        }
    }
}

/// A connection with a request that waits for a held lock.
fn waiting(server: &Leasehold, number: u64) -> TcpStream {
    let mut stream = connect(server);
    let body = r#"{"wait_ms":50000}"#;
    let request = format!(
        "POST /locks/held HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(&mut stream, request.as_bytes());
    // Until the server has read its head, the connection could be closed for the next one.
    sleep(Duration::from_millis(300));
    eventually(SLACK, "it waits", || {
        let status = server.readiness().status;
        status == 200 && server.metric("leasehold_waiters") == Some(number)
    });
    stream
}

#[test]
fn new_connection_replaces_the_one_longest_without_a_request() {
    let server = limited(4);
    let mut streams: Vec<_> = (0..4)
        .map(|_| {
            let mut stream = connect(&server);
            assert!(lives(&mut stream));
            stream
        })
        .collect();
    // The first connection has had a request since, so the second is the oldest.
    assert!(lives(&mut streams[0]));
    let mut fifth = connect(&server);
    assert!(lives(&mut fifth));
    assert!(is_closed_within(&mut streams[1], SLACK));
    for at in [2, 3, 0] {
        assert!(lives(&mut streams[at]), "{at}");
    }
    let mut sixth = connect(&server);
    assert!(lives(&mut sixth));
    assert!(is_closed_within(&mut fifth, SLACK));
}

#[test]
fn incomplete_head_blocks_no_other_client() {
    let server = limited(8);
    let mut slow: Vec<_> = (0..8)
        .map(|_| {
            let mut stream = connect(&server);
            send(&mut stream, HALF_A_HEAD);
            stream
        })
        .collect();
    for _ in 0..20 {
        assert_eq!(http(server.addr(), "GET", "/locks", &[], None).status, 200);
    }
    // Each request replaced one of the slow connections or the previous request's connection.
    assert!(is_closed_within(&mut slow[0], SLACK));
}

#[test]
fn thousands_of_connections_that_come_and_go_leave_none_behind() {
    let server = limited(50);
    for round in 0..10 {
        let streams: Vec<_> = (0..200).map(|_| connect(&server)).collect();
        let lives = try_http(server.addr(), "GET", "/livez", &[], None);
        assert_eq!(lives.expect("an answer").status, 200, "round {round}");
        drop(streams);
    }
    eventually(SLACK, "the descriptors are back", || {
        server.process().descriptors() < 40
    });
}

#[test]
fn at_capacity_new_requests_are_refused_and_health_checks_answered() {
    let server = limited(3);
    let held = server.api().acquire("held", json!({"ttl_ms": 600_000}));
    assert_eq!(held.status, 201);
    let mut waiters: Vec<_> = (1..=3).map(|number| waiting(&server, number)).collect();
    for _ in 0..3 * MAX_REFUSED_CONNECTIONS {
        let refused = server.api().acquire("free", None);
        assert_eq!(refused.status, 503, "{refused:?}");
        let body = refused.json();
        assert_eq!(body["type"], "urn:leasehold:problem:too-many-connections");
        assert_eq!(body["outcome"], "none");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert_eq!(refused.header("connection"), Some("close"));
        for path in ["/livez", "/readyz", "/metrics"] {
            let reply = http(server.addr(), "GET", path, &[], None);
            assert_eq!(reply.status, 200, "{path}: {reply:?}");
        }
    }
    // Refused clients that send no request cannot block the probes either.
    let _silent: Vec<_> = (0..3 * MAX_REFUSED_CONNECTIONS)
        .map(|_| {
            let mut stream = connect(&server);
            send(&mut stream, HALF_A_HEAD);
            stream
        })
        .collect();
    assert_eq!(server.readiness().status, 200);
    // A waiter that disconnects frees a connection.
    waiters.pop();
    eventually(SLACK, "a free connection", || {
        server.api().acquire("free", None).status != 503
    });
    let hits = server.metric("leasehold_limits_hit_total{limit=\"connections\"}");
    assert!(hits > Some(0), "{hits:?}");
}

#[test]
fn head_has_a_time_of_its_own() {
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_HEADER_TIMEOUT_MS", "1000"),
    ]);
    let mut idle = connect(&server);
    let mut used = connect(&server);
    assert!(lives(&mut used));
    let mut slow = connect(&server);
    let begun = Instant::now();
    send(&mut slow, HALF_A_HEAD);
    send(&mut used, HALF_A_HEAD);
    // An occasional byte does not extend the limit.
    let closed = poll(SLACK, || {
        let sent = slow.write_all(b"y").is_ok();
        let closed = is_closed_within(&mut slow, Duration::from_millis(100));
        (closed || !sent).then(|| begun.elapsed())
    });
    let closed = closed.expect("it is closed");
    assert!(closed >= Duration::from_secs(1), "{closed:?}");
    assert!(is_closed_within(&mut used, SLACK));
    // A connection without any byte is idle and stays open.
    assert!(lives(&mut idle));
}

/// Proxies keep idle connections for long, and a request on a connection that the server closes meanwhile is a 502.
#[test]
fn idle_connection_is_closed_after_the_time_of_the_setting() {
    let idle_for = |milliseconds| {
        let server = Leasehold::start([
            ("LEASEHOLD_STORE", "memory"),
            ("LEASEHOLD_IDLE_TIMEOUT_MS", milliseconds),
        ]);
        let mut connection = connect(&server);
        assert!(lives(&mut connection));
        let begun = Instant::now();
        let closed = is_closed_within(&mut connection, Duration::from_secs(3));
        (closed, begun.elapsed())
    };
    let (closed, after) = idle_for("1000");
    assert!(closed && after >= Duration::from_millis(900), "{after:?}");
    assert!(!idle_for("60000").0);
}

/// A server with this many locks of 4 KB, and the approximate size of their listing in bytes.
fn with_large_locks(count: usize) -> (Leasehold, u64) {
    let server = Leasehold::in_memory();
    let metadata: serde_json::Map<_, _> = (0..32)
        .map(|n| (format!("{n:02}"), json!("x".repeat(124))))
        .collect();
    for number in 0..count {
        let body = json!({"ttl_ms": 600_000, "metadata": metadata});
        let reply = server.api().acquire(&format!("large/{number}"), body);
        assert_eq!(reply.status, 201, "{reply:?}");
    }
    (server, 4 * 1024 * u64::try_from(count).expect("few"))
}

#[test]
fn client_that_does_not_read_is_disconnected_and_its_memory_freed() {
    const CLIENTS: u64 = 60;
    let (server, _) = with_large_locks(100);
    let before = server.process().resident_kib();
    let descriptors = server.process().descriptors();
    let page = "GET /locks?limit=1000 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    // One after the other: more listings at once are refused.
    let answers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut stream = connect_with_small_buffer(&server);
            send(&mut stream, page.as_bytes());
            let status = first_status(&stream);
            (stream, status)
        })
        .collect();
    // The server refuses clients beyond the limit of large answers; they need not read the refusal.
    let pages = answers.iter().filter(|(_, status)| status == "200").count();
    assert!(pages >= MAX_LARGE_ANSWERS, "{pages} pages");
    sleep(WRITE_TIMEOUT);
    eventually(4 * SLACK, "the clients with pages are disconnected", || {
        server.process().descriptors() <= descriptors + answers.len() - pages
    });
    let most = server.process().peak_kib() - before;
    assert!(most < 64 * 1024, "{most} KiB for {CLIENTS} clients");
    // The clients' sockets are still open.
    eventually(4 * SLACK, "the memory is back", || {
        server.process().resident_kib() < before + 24 * 1024
    });
    drop(answers);
    assert_eq!(http(server.addr(), "GET", "/locks", &[], None).status, 200);
}

#[test]
fn client_that_reads_slowly_has_the_whole_answer() {
    let server = Leasehold::in_memory();
    let mut stream = connect(&server);
    let asset = "/docs/swagger-ui-bundle.js";
    let request = format!("GET {asset} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    send(&mut stream, request.as_bytes());
    let (mut whole, mut part) = (Vec::new(), vec![0; 64 * 1024]);
    loop {
        let length = stream.read(&mut part).expect("the next part");
        if length == 0 {
            break;
        }
        whole.extend_from_slice(&part[..length]);
        sleep(Duration::from_millis(20));
    }
    let expected = http(server.addr(), "GET", asset, &[], None).body;
    assert!(whole.ends_with(expected.as_bytes()) && expected.len() > 1_000_000);
}

#[test]
fn slow_clients_do_not_delay_the_drain_of_others() {
    let redis = RedisServer::plain();
    for server in [Leasehold::in_memory(), Leasehold::on(&redis)] {
        let slow_body = b"POST /locks/slow HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{";
        let pages =
            b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(20);
        let mut slow: Vec<TcpStream> = [HALF_A_HEAD, slow_body, &pages]
            .into_iter()
            .map(|bytes| {
                let mut stream = connect(&server);
                send(&mut stream, bytes);
                stream
            })
            .collect();
        sleep(Duration::from_millis(200));
        let told = Instant::now();
        server.terminate();
        assert!(server.wait_exit(SLACK).success());
        assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
        // A client whose body did not arrive is told the reason.
        let mut answer = String::new();
        slow[1].read_to_string(&mut answer).expect("an answer");
        assert!(answer.contains("shutting-down"), "{answer}");
        assert!(!server.stderr().contains("still under way"));
    }
}

/// The warnings in the log so far.
fn warnings(server: &Leasehold) -> Vec<String> {
    let log = server.stderr();
    let lines = log.lines().filter(|line| line.contains("\"WARN\""));
    lines.map(str::to_owned).collect()
}

#[test]
fn server_with_48_descriptors_starts_and_stays_well() {
    let set = SentinelConfig::new().start();
    let mut env = set.env();
    env.push(("LEASEHOLD_REPLICA_ACKS".to_owned(), "auto".to_owned()));
    let server = Leasehold::start_with_descriptors(48, env);
    server.wait_ready();
    let lease = server.api().acquire("kept", json!({"ttl_ms": 60_000}));
    assert_eq!(lease.status, 201, "{lease:?}");
    for round in 0..3 {
        let mut crowd: Vec<_> = (0..100).map(|_| connect(&server)).collect();
        for stream in &mut crowd {
            // The server has closed some of them already.
            let _sent = stream.write_all(HALF_A_HEAD);
        }
        for _ in 0..10 {
            let renewed = server.api().renew("kept", &lease.lease_id(), None);
            assert_eq!(renewed.status, 200, "{round}: {renewed:?}");
            assert_eq!(server.readiness().json()["store"], "ok");
        }
        assert!(server.process().descriptors() <= 48);
    }
    // A failover needs additional connections.
    set.failover();
    server.api().acquire_soon("after");
    let renewed = server.api().renew("kept", &lease.lease_id(), None);
    assert_eq!(renewed.status, 200, "{renewed:?}");
    let limits: Vec<_> = warnings(&server)
        .into_iter()
        .filter(|line| line.contains("LEASEHOLD_MAX_CONNECTIONS"))
        .collect();
    assert_eq!(limits.len(), 1, "{limits:?}");
    let not_taken = warnings(&server)
        .into_iter()
        .filter(|line| line.contains("cannot accept"));
    assert!(not_taken.count() <= 1);
}

#[test]
fn every_answer_has_security_headers() {
    let server = Leasehold::in_memory();
    let get = |path: &str| http(server.addr(), "GET", path, &[], None);
    let mut replies: Vec<Reply> = [
        "/",
        "/livez",
        "/locks",
        "/locks/a",
        "/metrics",
        "/nowhere",
        "/docs/",
        "/openapi.json",
    ]
    .map(get)
    .into();
    replies.push(server.api().acquire("a", None));
    replies.push(server.api().acquire("a", None));
    let too_large = format!(
        "GET /livez HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n",
        "x".repeat(1 << 17)
    );
    replies.extend(raw(server.addr(), too_large.as_bytes()));
    for reply in replies {
        assert_eq!(
            reply.header("x-content-type-options"),
            Some("nosniff"),
            "{reply:?}"
        );
        assert_eq!(
            reply.header("referrer-policy"),
            Some("no-referrer"),
            "{reply:?}"
        );
        let policy = reply.header("content-security-policy").unwrap_or_default();
        assert!(policy.contains("frame-ancestors 'none'"), "{reply:?}");
    }
}
