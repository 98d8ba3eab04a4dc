//! The log is written by a thread of its own: whole, in order, and without a hold on the service.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::Duration;

use leasehold::telemetry::MAX_UNWRITTEN_LINES;
use serde_json::Value;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;

const MEMORY: [(&str, &str); 1] = [("LEASEHOLD_STORE", "memory")];

/// Lines that were lost, as the metrics say.
const LOST: &str = "leasehold_log_lines_lost_total";

/// More than fit into a pipe and into the buffer before it, of 64 KiB each.
const IN_PIPES: usize = 1000;

const LIMIT: Duration = Duration::from_secs(30);

/// Asks so many times whether the server lives, the request ids being numbers, and hears so many answers.
fn ask(server: &Leasehold, times: usize) {
    let stream = TcpStream::connect(server.addr()).expect("it listens");
    stream.set_read_timeout(Some(LIMIT)).expect("a time");
    let mut requests = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || {
        for number in 0..times {
            let request =
                format!("GET /livez HTTP/1.1\r\nHost: test\r\nX-Request-Id: {number}\r\n\r\n");
            requests.write_all(request.as_bytes()).expect("it is taken");
        }
    });
    let lines = BufReader::new(stream).lines();
    let answers = lines.map(|line| line.expect("an answer within the limit"));
    // Behind the body of the one before, which ends without a line feed.
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
    let requests = lines.filter(|line| line["path"] == "/livez");
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
        log.ends_with("\"message\":\"ended\",\"target\":\"leasehold::server\"}\n"),
        "{log}"
    );
}

#[test]
fn log_that_nobody_reads_stops_nothing_and_what_is_lost_is_counted() {
    let server = Leasehold::start_unread("127.0.0.1:0", MEMORY);
    let times = MAX_UNWRITTEN_LINES + 2 * IN_PIPES;
    ask(&server, times);
    let lost = server.metric(LOST).expect("a number");
    assert!(lost > 0, "{times} lines found room");
    // As soon as it is read it goes on, and each line is there or counted.
    server.read_log();
    eventually(LIMIT, "the lines that were not lost", || {
        logged(&server).len() + usize::try_from(lost).expect("few") == times
    });
    ask(&server, 1);
    eventually(LIMIT, "a line of now", || {
        logged(&server).last().is_some_and(|id| id == "0")
    });
}
