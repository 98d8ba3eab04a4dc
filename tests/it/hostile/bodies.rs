//! Bodies: JSON that is none or not that of the route, encodings, types and sizes.

use super::request::{LEASE, acquire, acquire_held, post, put, renew};
use super::row::{Row, all};

/// The largest body, in bytes.
const MAX_BODY: usize = 16 * 1024;

pub(super) fn rows() -> Vec<Row> {
    [no_json(), other_fields(), encodings(), types(), sizes()].concat()
}

fn no_json() -> Vec<Row> {
    let requests = [
        acquire("[30000]"),
        acquire("[]"),
        renew("[30000]"),
        acquire("30000"),
        acquire(r#""ttl_ms""#),
        acquire("null"),
        acquire("true"),
        acquire("{} x"),
        acquire("{}{}"),
        acquire("{}\0"),
        acquire(r#"{"ttl_ms":1000,}"#),
        acquire(r#"{"ttl_ms":1000"#),
        acquire(r#"{"holder":"a"#),
        acquire("{"),
        acquire("{'ttl_ms':1000}"),
        acquire("{ttl_ms:1000}"),
        acquire("{/* none */}"),
        acquire(" \r\n\t "),
        acquire("\x0C{}"),
        acquire("[".repeat(10_000)),
        acquire(format!(r#"{{"x":{}"#, "[".repeat(10_000))),
        acquire(format!(r#"{{"ttl_ms":{}"#, "[".repeat(10_000))),
        acquire(format!(r#"{{"metadata":{{"a":{}"#, "[".repeat(10_000))),
        acquire(r#"{"metadata":"#.repeat(1_200)),
        renew(format!(r#"{{"ttl_ms":{}"#, "[".repeat(10_000))),
    ];
    all(400, "invalid-request", requests)
}

fn other_fields() -> Vec<Row> {
    let requests = [
        acquire(r#"{"ttl_ms":1000,"ttl_ms":1000}"#),
        acquire(r#"{"ttl_ms":1000,"ttl\u005fms":1000}"#),
        acquire(r#"{"wait_ms":0,"wait_ms":0}"#),
        acquire(r#"{"holder":"a","holder":"a"}"#),
        acquire(r#"{"metadata":{},"metadata":{}}"#),
        acquire(r#"{"metadata":{"a":"1","a":"1"}}"#),
        acquire(r#"{"metadata":{"a":"1","\u0061":"2"}}"#),
        renew(r#"{"ttl_ms":1000,"ttl_ms":1000}"#),
        acquire(r#"{"ttl":1000}"#),
        acquire(r#"{"TTL_MS":1000}"#),
        acquire(r#"{"":1}"#),
        acquire(r#"{"__proto__":{}}"#),
        acquire(r#"{"key":"other"}"#),
        renew(r#"{"wait_ms":0}"#),
        renew(r#"{"lease_id":"0123456789abcdef0123456789abcdef"}"#),
    ];
    all(400, "invalid-request", requests)
}

fn encodings() -> Vec<Row> {
    let utf_16 =
        |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let requests = [
        acquire(b"\xEF\xBB\xBF{}"),
        acquire([&b"\xFF\xFE"[..], &utf_16("{}")].concat()),
        acquire(utf_16("{}")),
        acquire(b"{\"holder\":\"\xFF\"}"),
        acquire(b"{\"holder\":\"\xC0\xAF\"}"),
        acquire(b"{\"holder\":\"\xED\xA0\x80\"}"),
        acquire(b"{\"\xFF\":1}"),
        acquire(b"{\"metadata\":{\"\xFF\":\"a\"}}"),
        acquire(b"\x1F\x8B\x08\0"),
        acquire(b"\0"),
    ];
    all(400, "invalid-request", requests)
}

fn types() -> Vec<Row> {
    let held = |header| post("/locks/held").header(header).body("{}");
    let free = |header| post("/locks/free").header(header).body("{}");
    let right = [
        held("Content-Type: application/json; charset=utf-8"),
        held("content-type: APPLICATION/JSON ;charset=\"utf-8\""),
        post("/locks/held").header("Content-Type: text/plain"),
        acquire_held(" {} \n"),
    ];
    let wrong = [
        post("/locks/free").body("{}"),
        put("/locks/free/lease").header(LEASE).body("{}"),
        free("Content-Type:"),
        free("Content-Type: text/plain"),
        free("Content-Type: text/json"),
        free("Content-Type: application/jsonx"),
        free("Content-Type: application/problem+json"),
        free("Content-Type: application/x-www-form-urlencoded"),
        free("Content-Type: application/json, text/plain"),
        free("Content-Type: ;application/json"),
        acquire("{}").header("Content-Type: application/json"),
        acquire("{}").header("Content-Type: text/plain"),
        acquire(b"\x1F\x8B\x08\0").header("Content-Encoding: gzip"),
        acquire("{}").header("Content-Encoding: identity"),
        acquire("{}").header("Content-Encoding:"),
        renew("{}").header("Content-Encoding: br"),
    ];
    [
        all(423, "lock-held", right),
        all(415, "unsupported-media-type", wrong),
    ]
    .concat()
}

fn sizes() -> Vec<Row> {
    let of_bytes = |bytes| format!("{{}}{}", " ".repeat(bytes - 2));
    let acquire_free = || post("/locks/free").header("Content-Type: application/json");
    let right = [
        acquire_held(of_bytes(MAX_BODY)),
        post("/locks/held").chunked(of_bytes(MAX_BODY)),
        post("/locks/held").chunked("{}"),
        post("/locks/held").chunked(""),
    ];
    let too_large = [
        acquire(of_bytes(MAX_BODY + 1)),
        renew(of_bytes(MAX_BODY + 1)),
        acquire(of_bytes(1 << 20)),
        post("/locks/free").chunked(of_bytes(MAX_BODY + 1)),
        acquire_free()
            .header("Transfer-Encoding: chunked")
            .bytes("FFFFFFFFFFFFFFFF\r\n")
            .bytes(of_bytes(MAX_BODY + 1)),
        acquire_free().header("Content-Length: 99999999999"),
        acquire_free()
            .header("Content-Length: 99999999999")
            .header("Expect: 100-continue"),
    ];
    [
        all(423, "lock-held", right),
        all(413, "payload-too-large", too_large),
    ]
    .concat()
}
