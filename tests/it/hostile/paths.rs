//! Keys in all their spellings, other forms of the request target, and methods.

use super::request::{MAX_HEAD, call, get, line, post, put};
use super::row::{BARE, OK, Row, all};

/// The longest URI that hyper would parse, in bytes. The router sees a path that may be two bytes longer, so the bound
/// on the head must stop such a URI before.
const LONGEST_URI: usize = 65_534;

pub(super) fn rows() -> Vec<Row> {
    [spellings(), wrong_keys(), targets(), methods()].concat()
}

/// Every spelling of a held lock's key must find the lock held.
fn spellings() -> Vec<Row> {
    vec![
        (post("/locks/held"), 423, "lock-held"),
        (post("/locks/%68%65l%64"), 423, "lock-held"),
        (post("/locks/held/key"), 423, "lock-held"),
        (post("/locks/held%2Fkey"), 423, "lock-held"),
        (post("/locks/held%2fkey"), 423, "lock-held"),
        (post("/locks/held#fragment"), 423, "lock-held"),
        (post("http://localhost/locks/held"), 423, "lock-held"),
        (post("http://localhost/locks/held%2Fkey"), 423, "lock-held"),
        (get(format!("/locks/{}", "k".repeat(256))), 200, OK),
        (get(format!("/locks/{}", "%6B".repeat(256))), 200, OK),
        (get("/locks/AZaz09-._~:@/+=,"), 200, OK),
        (get("/locks/leases"), 200, OK),
        (get("/locks/lease/x"), 200, OK),
    ]
}

fn wrong_keys() -> Vec<Row> {
    let wrong = [
        post("/locks/held%252Fkey"),
        post("/locks/a%00"),
        post("/locks/a%0D%0Ab"),
        post("/locks/%FF"),
        post("/locks/a%C0%AFb"),
        post("/locks/%C3%A9"),
        post("/locks/%ED%A0%80"),
        post("/locks/a%"),
        post("/locks/a%2"),
        post("/locks/a%zz"),
        post("/locks/%u0061"),
        post("/locks/."),
        post("/locks/.."),
        post("/locks/%2e"),
        post("/locks/%2e%2e"),
        post("/locks/a/../b"),
        post("/locks/a%2F%2E%2E%2Fb"),
        post("/locks/a/./b"),
        post("/locks/../livez"),
        post("/locks/a//b"),
        post("/locks/a/%2Fb"),
        post("/locks//a"),
        post("/locks/%2Fa"),
        post("/locks/a/"),
        post("/locks/a%2F"),
        post("/locks/"),
        get("/locks/?limit=1"),
        post("http://localhost/locks/a%00"),
        post(format!("/locks/{}", "k".repeat(257))),
        post(format!("/locks/{}", "%6B".repeat(257))),
        post(format!("/locks/{}", "a/".repeat(10_000))),
        post("/locks/lease"),
        post("/locks/a%2Flease"),
        post("/locks/a/%6Cease"),
        put("/locks//lease"),
        put("/locks/a/lease/lease"),
        put("/locks/a%00/lease"),
        post("/locks/a%20b"),
        post("/locks/a;b"),
        post("/locks/a*b"),
        post("/locks/{key}"),
        post("/locks/a\\b"),
        post("/locks/é"),
    ];
    let no_uri = [
        post("/locks/a b"),
        post(b"/locks/\xFF"),
        post(b"/locks/a\0"),
        post(b"/locks/a\x7F"),
    ];
    [all(400, "invalid-key", wrong), all(400, BARE, no_uri)].concat()
}

fn targets() -> Vec<Row> {
    let no_route = [
        get("*"),
        call("OPTIONS", "*"),
        get("//locks/held"),
        get("/Locks/held"),
        get("/%6Cocks/held"),
        get("/livez/"),
        get("//"),
        get("localhost:80"),
        call("CONNECT", "localhost:80"),
    ];
    let front_page = [get("/"), get("http://localhost"), get("/?")];
    let no_target = [get("locks/held"), get("http://"), get("")];
    let padded = |start: &str, length| format!("{start}{}", "x".repeat(length - start.len()));
    let long = MAX_HEAD - 100;
    let long_keys = [get(padded("/locks/a", long))];
    let long_queries = [
        get(padded("/locks/a?", long)),
        put(padded("/locks/a/lease?", long)),
    ];
    let too_long = [
        get(padded("/locks/a", LONGEST_URI)),
        get(padded("/locks/a?", LONGEST_URI)),
        put(padded("/locks/a/lease?", LONGEST_URI)),
        get(padded("/locks/a?", LONGEST_URI + 1)),
        get(padded("/locks/a", 1 << 20)),
    ];
    [
        all(404, "not-found", no_route),
        all(200, OK, front_page),
        all(400, BARE, no_target),
        all(400, "invalid-key", long_keys),
        all(400, "invalid-request", long_queries),
        all(431, "head-too-large", too_long),
    ]
    .concat()
}

fn methods() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        (call("HEAD", "/locks/free"), 200, OK),
        (call("HEAD", "/locks/held"), 200, OK),
        (call("HEAD", "/locks"), 200, OK),
        (call("HEAD", "/locks/a%00"), 400, "invalid-key"),
        (
            post("/locks/held").header("X-HTTP-Method-Override: DELETE"),
            423,
            "lock-held",
        ),
        (call("G ET", "/locks/held"), 400, BARE),
        (call("", "/locks/held"), 400, BARE),
        (call("GE\u{e9}T", "/locks/held"), 400, BARE),
        (line("GET"), 400, BARE),
        (line("GET /locks/held HTTP/1.2"), 400, BARE),
        (line("GET /locks/held HTTP/2.0"), 400, BARE),
        (line("GET /locks/held http/1.1"), 400, BARE),
        (line("GET /locks/held HTTP/1.1 "), 400, BARE),
    ];
    let refused = [
        ("PATCH", "/locks/free"),
        ("TRACE", "/locks/free"),
        ("CONNECT", "/locks/free"),
        ("get", "/locks/free"),
        ("post", "/locks/free"),
        ("FROBNICATE", "/locks/free"),
        ("PUT", "/locks/free"),
        ("PUT", "/locks/free%2Fx"),
        ("POST", "/locks/free/lease"),
        ("GET", "/locks/free/lease"),
        ("HEAD", "/locks/free/lease"),
        ("DELETE", "/locks/free/lease"),
        ("POST", "/locks/free/x/lease"),
        ("POST", "/locks"),
        ("DELETE", "/locks"),
        ("POST", "/livez"),
        ("DELETE", "/metrics"),
        ("PUT", "/openapi.json"),
    ];
    let refused = refused.map(|(method, path)| (call(method, path), 405, "method-not-allowed"));
    rows.extend(refused);
    rows.push((call("OPTIONS", "/locks/free"), 204, OK));
    rows
}
