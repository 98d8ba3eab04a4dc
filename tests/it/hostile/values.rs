//! The valid and invalid values of the fields of a body.

use super::request::{acquire, acquire_held, renew};
use super::row::{Row, all};

/// Texts that are not whole numbers of a sensible size.
const NO_MILLISECONDS: [&str; 21] = [
    "-1",
    "1.5",
    "1e309",
    "-1e309",
    "\"30\"",
    "\"\"",
    "9007199254740993",
    "18446744073709551615",
    "18446744073709551616",
    "true",
    "null",
    "[]",
    "[1000]",
    "{}",
    "NaN",
    "Infinity",
    "0x3e8",
    "01000",
    "+1000",
    "1_000",
    "",
];

pub(super) fn rows() -> Vec<Row> {
    [
        durations_out_of_bounds(),
        texts_out_of_bounds(),
        values_at_their_bounds(),
    ]
    .concat()
}

fn durations_out_of_bounds() -> Vec<Row> {
    let ttl = |number: &str| format!(r#"{{"ttl_ms":{number}}}"#);
    let wait = |number: &str| format!(r#"{{"wait_ms":{number}}}"#);
    let ttls = ["0", "99", "3600001"];
    [
        all(400, "invalid-request", ttls.map(|n| acquire(ttl(n)))),
        all(400, "invalid-request", ttls.map(|n| renew(ttl(n)))),
        all(400, "invalid-request", [acquire(wait("50001"))]),
        all(
            400,
            "invalid-request",
            NO_MILLISECONDS.map(|n| acquire(ttl(n))),
        ),
        all(
            400,
            "invalid-request",
            NO_MILLISECONDS.map(|n| renew(ttl(n))),
        ),
        all(
            400,
            "invalid-request",
            NO_MILLISECONDS.map(|n| acquire(wait(n))),
        ),
    ]
    .concat()
}

fn texts_out_of_bounds() -> Vec<Row> {
    let holder = |json: &str| acquire(format!(r#"{{"holder":{json}}}"#));
    let metadata = |json: &str| acquire(format!(r#"{{"metadata":{json}}}"#));
    let requests = [
        acquire(holder_of(&"h".repeat(257))),
        acquire(holder_of(&"é".repeat(129))),
        holder(r#""""#),
        holder(r#""a\nb""#),
        holder(r#""a\u0000""#),
        holder(r#""\u001b[31m""#),
        holder(r#""\u007f""#),
        holder(r#""\u0085""#),
        holder("\"a\nb\""),
        holder("null"),
        holder("1"),
        holder("[\"a\"]"),
        holder(r#""\ud800""#),
        holder(r#""\ud800\u0041""#),
        holder(r#""\udc00\ud800""#),
        holder(r#""\x41""#),
        acquire(metadata_of_pairs(33)),
        acquire(metadata_of_bytes(4097)),
        metadata(r#"{"a":1}"#),
        metadata(r#"{"a":null}"#),
        metadata(r#"{"a":true}"#),
        metadata(r#"{"a":["b"]}"#),
        metadata(r#"{"a":{"b":"c"}}"#),
        metadata(r#"{"":"a"}"#),
        metadata(r#"{"a\n":"b"}"#),
        metadata(r#"{"a":"\u0000"}"#),
        metadata(r#"{"\ud800":"b"}"#),
        metadata(r#"[["a","b"]]"#),
        metadata("null"),
        metadata("[]"),
        metadata(r#""a""#),
    ];
    all(400, "invalid-request", requests)
}

fn values_at_their_bounds() -> Vec<Row> {
    let right = [
        acquire_held(r#"{"ttl_ms":100,"wait_ms":0}"#),
        acquire_held(r#"{"ttl_ms":3600000}"#),
        acquire_held(holder_of(&"h".repeat(256))),
        acquire_held(r#"{"holder":"\ud83d\ude00 é"}"#),
        acquire_held(metadata_of_pairs(32)),
        acquire_held(metadata_of_bytes(4096)),
        acquire_held(r#"{"metadata":{"a":""}}"#),
        acquire_held(r#"{"metadata":{}}"#),
    ];
    let right_renewals = [
        renew(r#"{"ttl_ms":100}"#),
        renew(r#"{"ttl_ms":3600000}"#),
        renew("{}"),
    ];
    [
        all(423, "lock-held", right),
        all(409, "lease-lost", right_renewals),
    ]
    .concat()
}

fn holder_of(text: &str) -> String {
    format!(r#"{{"holder":"{text}"}}"#)
}

fn metadata_of_pairs(count: usize) -> String {
    let pairs: Vec<String> = (0..count).map(|n| format!(r#""{n}":"v""#)).collect();
    format!(r#"{{"metadata":{{{}}}}}"#, pairs.join(","))
}

/// One pair with a name of one byte and this many bytes in total.
fn metadata_of_bytes(bytes: usize) -> String {
    format!(r#"{{"metadata":{{"n":"{}"}}}}"#, "v".repeat(bytes - 1))
}
