//! A separate thread writes the log: completely, in order, and without blocking the service.

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use leasehold::telemetry::{MAX_LOGGED_BYTES, MAX_UNWRITTEN_BYTES, MAX_UNWRITTEN_LINES};
use serde_json::Value;

use crate::support::eventually;
use crate::support::http::raw;
use crate::support::leasehold::Leasehold;

const MEMORY: [(&str, &str); 1] = [("LEASEHOLD_STORE", "memory")];

/// The number of lost log lines in the metrics.
const LOST: &str = "leasehold_log_lines_lost_total";

/// More than fits into a pipe and the buffer before it, of 64 KiB each.
const IN_PIPES: usize = 1000;

const LIMIT: Duration = Duration::from_secs(30);

/// Sends this many requests with numbers as request ids, and reads as many answers.
fn ask(server: &Leasehold, times: usize) {
    let stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    let mut requests = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        for number in 0..times {
            let request =
                format!("GET / HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {number}\r\n\r\n");
            requests.write_all(request.as_bytes()).expect("it is taken");
        }
    });
    let lines = BufReader::new(stream).lines();
    let answers = lines.map(|line| line.expect("an answer within the limit"));
    // The answer follows the previous body, which has no line feed at its end.
    let answered = answers
        .filter(|line| line.ends_with("HTTP/1.1 200 OK"))
        .take(times);
    assert_eq!(answered.count(), times);
    sender.join().expect("all were sent");
}

/// The request ids of the lines of requests.
fn logged(server: &Leasehold) -> Vec<String> {
    let log = server.stderr();
    let lines = log.lines().map(serde_json::from_str::<Value>);
    let lines = lines.map(|line| line.expect("a whole line"));
    let requests = lines.filter(|line| line["path"] == "/");
    let id = |line: Value| line["request_id"].as_str().expect("an id").to_owned();
    requests.map(id).collect()
}

#[test]
fn log_is_complete_and_in_order_when_the_server_has_ended() {
    let server = Leasehold::start(MEMORY);
    let times = MAX_UNWRITTEN_LINES / 2;
    ask(&server, times);
    assert_eq!(server.metric(LOST), Some(0));
    server.terminate();
    server.wait_exit(LIMIT);
    let expected: Vec<_> = (0..times).map(|number| number.to_string()).collect();
    assert_eq!(logged(&server), expected);
    let log = server.stderr();
    assert!(
        log.ends_with("\"message\":\"stopped\",\"target\":\"leasehold::server\"}\n"),
        "{log}"
    );
}

#[test]
fn unread_log_blocks_nothing_and_lost_lines_are_counted() {
    let server = Leasehold::start_unread("127.0.0.1:0", MEMORY);
    let times = MAX_UNWRITTEN_LINES + 2 * IN_PIPES;
    ask(&server, times);
    let lost = server.metric(LOST).expect("a number");
    assert!(lost > 0, "none of {times} lines was dropped");
    // The log continues as soon as it is read, and each line is either present or counted as lost.
    server.read_log();
    eventually(LIMIT, "the lines that were not lost", || {
        logged(&server).len() + usize::try_from(lost).expect("few") == times
    });
    ask(&server, 1);
    eventually(LIMIT, "a line of now", || {
        logged(&server).last().is_some_and(|id| id == "0")
    });
}

/// Requests a path on its own connection.
fn get(server: &Leasehold, path: &str) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(!raw(server.addr(), request.as_bytes()).is_empty());
}

#[test]
fn text_of_clients_is_truncated_in_the_log() {
    let server = Leasehold::start(MEMORY);
    let encoded = "%00".repeat(5000);
    get(&server, &format!("/locks/{encoded}"));
    get(&server, &format!("/nowhere/{}", "y".repeat(15_000)));
    let method = "Z".repeat(15_000);
    let request =
        format!("{method} /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert!(!raw(server.addr(), request.as_bytes()).is_empty());
    let log = server.stderr();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 3, "{log}");
    for line in lines {
        // The log may need six bytes for each byte of a key.
        assert!(
            line.len() < 6 * MAX_LOGGED_BYTES + 512,
            "{} bytes",
            line.len()
        );
        let line: Value = serde_json::from_str(line).expect("JSON");
        let made_up = ["key", "path", "method"].map(|name| line[name].as_str().unwrap_or_default());
        let longest = made_up.iter().map(|text| text.len()).max();
        let with_mark = MAX_LOGGED_BYTES + "…".len();
        assert_eq!(longest, Some(with_mark), "{line}");
    }
}

#[test]
fn successful_probes_are_logged_at_the_level_debug_only() {
    for (level, probes) in [("info", 0), ("debug", 3)] {
        let server = Leasehold::start([("LEASEHOLD_STORE", "memory"), ("RUST_LOG", level)]);
        for path in ["/livez", "/readyz", "/metrics"] {
            get(&server, path);
        }
        get(&server, "/metrics/nothing");
        let log = server.stderr();
        let lines = log.lines().map(serde_json::from_str::<Value>);
        let requests: Vec<Value> = lines
            .map(|line| line.expect("a whole line"))
            .filter(|line| line["message"] == "request")
            .collect();
        let at = |level: &str| {
            requests
                .iter()
                .filter(|line| line["level"] == level)
                .count()
        };
        assert_eq!((at("INFO"), at("DEBUG")), (1, probes), "{log}");
    }
}

#[test]
fn log_line_cannot_be_hidden_or_forged() {
    let server = Leasehold::start(MEMORY);
    // DEL, C1 controls, line and paragraph separators, and marks of the writing direction.
    let invisible = [
        "7F", "C2%80", "C2%9B", "C2%9F", "D8%9C", "E2%80%8E", "E2%80%A8", "E2%80%A9", "E2%80%AE",
        "E2%81%A6", "E2%81%A9",
    ];
    get(&server, &format!("/locks/a%{}b", invisible.join("%")));
    get(&server, "/locks/a%0A%1B%5B2J%22%5Cb");
    let log = server.stderr();
    let hidden = |c: char| {
        c.is_control() && c != '\n'
            || matches!(c, '\u{61C}' | '\u{200E}'..='\u{200F}' | '\u{2028}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!log.contains(hidden), "{log:?}");
    let keys: Vec<Value> = log
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a whole line")["key"].clone())
        .collect();
    assert_eq!(
        keys[0],
        "a\u{7f}\u{80}\u{9b}\u{9f}\u{61c}\u{200e}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}b"
    );
    assert_eq!(keys[1], "a\n\u{1b}[2J\"\\b");
}

#[test]
fn unread_log_uses_bounded_memory() {
    let server = Leasehold::start_unread("127.0.0.1:0", MEMORY);
    ask(&server, 100);
    let before = server.process().resident_kib();
    // The log needs six bytes for each byte of these keys.
    let request = format!(
        "GET /locks/{} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "%01".repeat(4000)
    );
    let mut stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    let mut answers = stream.try_clone().expect("a second handle");
    let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    for _ in 0..2 * MAX_UNWRITTEN_LINES {
        stream.write_all(request.as_bytes()).expect("it is taken");
    }
    eventually(LIMIT, "lines are lost", || {
        server.metric(LOST).is_some_and(|lost| lost > 1000)
    });
    let grown = server.process().peak_kib() - before;
    let bound = (MAX_UNWRITTEN_BYTES / 1024 + 16 * 1024) as u64;
    assert!(grown < bound, "{grown} KiB");
    // The reader has another handle of the socket, and would wait until the server closes the idle connection.
    stream.shutdown(Shutdown::Both).expect("it is open");
    server.read_log();
    let _read = reader.join();
}
