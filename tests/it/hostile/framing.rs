//! What is hardly HTTP: wrong lengths, chunks and hosts, too much of everything, other protocols.

use super::request::{LEASE, MAX_HEAD, Request, get, line, post, put, verbatim};
use super::row::{BARE, CLOSED, OK, Row, all};
use super::stage::Stage;

pub(super) fn rows() -> Vec<Row> {
    [lengths(), chunks(), hosts(), heads(), other_protocols()].concat()
}

/// Would take a free lock, with JSON framed as the row says.
fn acquire() -> Request {
    post("/locks/free").header("Content-Type: application/json")
}

fn lengths() -> Vec<Row> {
    let length = |text: &str| acquire().header(format!("Content-Length: {text}"));
    let wrong = [
        length("-1"),
        length("+2").bytes("{}"),
        length("2.0").bytes("{}"),
        length("0x2").bytes("{}"),
        length("").bytes("{}"),
        length("2, 3").bytes("{}"),
        length("2 2").bytes("{}"),
        length("2").header("Content-Length: 3").bytes("{} "),
        length("18446744073709551616"),
    ];
    let too_large = [length("18446744073709551615")];
    [all(400, BARE, wrong), all(431, BARE, too_large)].concat()
}

fn chunks() -> Vec<Row> {
    let coded = |coding: &str| acquire().header(format!("Transfer-Encoding: {coding}"));
    let wrong = [
        coded("chunked").bytes("ZZ\r\n{}\r\n0\r\n\r\n"),
        coded("chunked").bytes("-2\r\n{}\r\n0\r\n\r\n"),
        coded("chunked").bytes("\r\n{}\r\n0\r\n\r\n"),
        coded("chunked").bytes("10000000000000000\r\n{}\r\n0\r\n\r\n"),
        coded("chunked").bytes("2\r\n{}XX0\r\n\r\n"),
        coded("chunked").bytes("1\r\n{}\r\n0\r\n\r\n"),
        coded("chunked").bytes("2\n{}\n0\n\n"),
        coded("gzip, chunked").bytes("2\r\n{}\r\n0\r\n\r\n"),
        coded("identity, chunked").bytes("2\r\n{}\r\n0\r\n\r\n"),
        coded("chunked, chunked").bytes("2\r\n{}\r\n0\r\n\r\n"),
    ];
    // Proxies do not agree which of two lengths counts.
    let two_lengths = [
        coded("chunked").header("Content-Length: 2"),
        coded("chunked").header("Content-Length: 0"),
        coded("chunked").header("cONTENT-lENGTH: 99"),
        acquire()
            .header("Content-Length: 2")
            .header("Transfer-Encoding: chunked"),
        acquire()
            .header("Content-Length: 12")
            .header("X: y")
            .header("transfer-encoding: Chunked"),
    ];
    let two_lengths = two_lengths.map(|request| request.bytes("2\r\n{}\r\n0\r\n\r\n"));
    let never_read = [
        coded("gzip").bytes("{}"),
        coded("chunked, gzip").bytes("2\r\n{}\r\n0\r\n\r\n"),
        coded("xchunked").bytes("2\r\n{}\r\n0\r\n\r\n"),
        acquire()
            .header("Transfer-Encoding : chunked")
            .bytes("0\r\n\r\n"),
        acquire()
            .header("Transfer-Encoding:\x0Bchunked")
            .bytes("0\r\n\r\n"),
        line("POST /locks/free HTTP/1.0")
            .header("Transfer-Encoding: chunked")
            .bytes("0\r\n\r\n"),
    ];
    [
        all(400, "invalid-request", wrong),
        all(400, "invalid-request", two_lengths),
        all(400, BARE, never_read),
    ]
    .concat()
}

fn hosts() -> Vec<Row> {
    let wrong = [
        post("/locks/free").without("Host"),
        get("/livez").without("Host"),
        post("/locks/free").header("Host: localhost"),
        post("/locks/free").header("host: other.test"),
        post("http://localhost/locks/free").without("Host"),
        line("GET /livez HTTP/1.0").header("Host: other.test"),
        get("/livez").without("Host").header("Host: a b"),
        get("/livez").without("Host").header("Host: <x>"),
        get("/livez").without("Host").header("Host: user@localhost"),
        get("/livez").without("Host").header("Host:"),
    ];
    let right = [line("GET /livez HTTP/1.0").without("Host")];
    [all(400, "invalid-request", wrong), all(200, OK, right)].concat()
}

fn heads() -> Vec<Row> {
    let crowd = |count: usize| {
        let others = 0..count - 2;
        others.fold(get("/livez"), |request, n| {
            request.header(format!("X-{n}: x"))
        })
    };
    let bulk = |bytes| get("/livez").padded_to(bytes);
    let right = [
        crowd(100),
        bulk(MAX_HEAD),
        get("/livez").header("Expect: the-unexpected"),
        get("/livez")
            .header("Upgrade: h2c")
            .header("Connection: upgrade"),
        get("/livez").header("Range: bytes=0-0"),
        get("/livez").header("If-None-Match: *"),
        get("/livez").header("Accept: image/png"),
    ];
    // So many headers the HTTP library refuses by itself, which is before the server knows them.
    let too_many = [crowd(101), crowd(1000), crowd(2000)];
    let too_much = [bulk(MAX_HEAD + 1), bulk(70 * 1024), bulk(200 * 1024)];
    let wrong = [
        post("/locks/free").header("Idempotency-Key: 0123456789\r\n abcdef"),
        post("/locks/free").header("X: y\r\n\tfolded"),
        put("/locks/free/lease").header(format!(" {LEASE}")),
        get("/livez").header("X Y: z"),
        get("/livez").header("X : z"),
        get("/livez").header(": z"),
        get("/livez").header("no colon"),
        get("/livez").header("X-é: z"),
        get("/livez").header(b"X: a\0b"),
        get("/livez").header("X: a\rb"),
    ];
    [
        all(200, OK, right),
        all(431, BARE, too_many),
        all(431, "head-too-large", too_much),
        all(400, BARE, wrong),
    ]
    .concat()
}

fn other_protocols() -> Vec<Row> {
    let wrong = [
        verbatim("GET /livez\r\n\r\n"),
        verbatim("GET\r\n\r\n"),
        verbatim("\0".repeat(64)),
        verbatim(b"\xFF\xFE\xFD\xFC\r\n\r\n"),
        verbatim(b"\x16\x03\x01\x02\0\x01\0\x01\xFC\x03\x03"),
        verbatim("*1\r\n$4\r\nPING\r\n"),
        verbatim("HTTP/1.1 200 OK\r\n\r\n"),
        verbatim("{\"ttl_ms\":1000}\r\n\r\n"),
    ];
    let http_2 = [verbatim("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")];
    let endless = [verbatim("A".repeat(200 * 1024))];
    [
        all(400, BARE, wrong),
        all(0, CLOSED, http_2),
        all(431, "head-too-large", endless),
    ]
    .concat()
}

#[test]
fn a_body_is_never_read_as_the_next_request() {
    let stage = Stage::in_memory();
    let smuggled = "POST /locks/smuggled HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let with_body = |request: Request| request.without("Connection").body(smuggled);
    let requests = [
        (200, with_body(get("/livez"))),
        (200, with_body(get("/locks/free"))),
        (404, with_body(get("/nowhere"))),
        (405, with_body(put("/locks/free"))),
        (400, with_body(post("/locks/a%00"))),
        (400, with_body(post("/locks/free").without("Host"))),
        (415, with_body(post("/locks/free"))),
        (400, with_body(acquire())),
        (400, with_body(acquire().header("Expect: 100-continue"))),
        (
            415,
            post("/locks/free")
                .without("Connection")
                .chunked(smuggled)
                .header("Content-Encoding: br"),
        ),
        (
            405,
            put("/locks/free").without("Connection").chunked(smuggled),
        ),
        // Either length may be what a proxy went by.
        (
            400,
            acquire()
                .without("Connection")
                .header("Content-Length: 5")
                .header("Transfer-Encoding: chunked")
                .bytes("1\r\nX\r\n0\r\n\r\n")
                .bytes(smuggled),
        ),
        (
            400,
            acquire()
                .without("Connection")
                .header("Transfer-Encoding: chunked")
                .header("Content-Length: 5")
                .bytes("1\r\nX\r\n0\r\n\r\n")
                .bytes(smuggled),
        ),
    ];
    for (status, request) in requests {
        let next = get("/locks").header("X-Request-Id: next");
        let replies = request
            .clone()
            .followed_by(&next)
            .send(stage.server().addr());
        let statuses: Vec<u16> = replies.iter().map(|reply| reply.status).collect();
        // A server that gave up the connection instead is as safe.
        assert!(
            statuses == [status, 200] || statuses == [status],
            "{request:?}\n{replies:?}"
        );
        stage.expect_nothing_held();
    }
    stage.end();
}

#[test]
fn a_request_that_breaks_off_acquires_nothing() {
    let stage = Stage::in_memory();
    let requests = [
        acquire().header("Content-Length: 20").bytes("{}"),
        acquire().header("Content-Length: 20"),
        acquire()
            .header("Transfer-Encoding: chunked")
            .bytes("2\r\n{}\r\n"),
        acquire()
            .header("Transfer-Encoding: chunked")
            .bytes("2\r\n{}\r\n0\r\n"),
        acquire()
            .header("Transfer-Encoding: chunked")
            .bytes("5\r\n{}"),
        verbatim("POST /locks/free HTTP/1.1\r\nHost: localhost\r\n"),
        verbatim("POST /locks/free HTTP/1.1\r\nHost: localhost"),
        verbatim("POST /locks/free HTTP/1.1"),
        verbatim("POST /locks/fr"),
    ];
    for request in requests {
        let answer = request.send_and_hang_up(stage.server().addr());
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 400 "),
            "{request:?}\n{answer}"
        );
        stage.expect_nothing_held();
    }
    stage.end();
}
