//! The headers that the service reads: lease ids, idempotency keys, request ids.

use super::request::{LEASE, Request, delete, get, post, put};
use super::row::{OK, Row};

pub(super) fn rows() -> Vec<Row> {
    [lease_ids(), idempotency_keys(), request_ids()].concat()
}

fn lease_ids() -> Vec<Row> {
    let long = "a".repeat(10 * 1024);
    let wrong = [
        "0123456789abcdef0123456789abcde",
        "0123456789abcdef0123456789abcdef0",
        "0123456789ABCDEF0123456789ABCDEF",
        "0123456789abcdef0123456789abcdeg",
        "01234567-89ab-cdef-0123-456789abcdef",
        "0x23456789abcdef0123456789abcdef",
        "0123456789abcdef 123456789abcdef",
        "\"0123456789abcdef0123456789abcdef\"",
        "0123456789abcdef0123456789abcdef, 0123456789abcdef0123456789abcdef",
        "null",
        "*",
        "1790000000000001",
        "é",
        &long,
    ];
    let mut rows: Vec<Row> = vec![
        (put("/locks/held/lease").header(LEASE), 409, "lease-lost"),
        (
            put("/locks/free/lease").header(LEASE.to_lowercase()),
            409,
            "lease-lost",
        ),
        (delete("/locks/held").header(LEASE), 409, "lease-lost"),
        (delete("/locks/free").header(LEASE), 409, "lease-lost"),
        (put("/locks/held/lease"), 400, "lease-id-required"),
        (
            put("/locks/held/lease").header("Lease-Id:"),
            400,
            "lease-id-required",
        ),
        (
            put("/locks/held/lease").header("Lease_Id: 0123456789abcdef0123456789abcdef"),
            400,
            "lease-id-required",
        ),
        (delete("/locks/held"), 400, "lease-id-required"),
        (
            delete("/locks/free?force=true&fencing_token=0").header("Lease-Id:"),
            400,
            "lease-id-required",
        ),
        (
            delete("/locks/held").header("Lease-Id:  "),
            400,
            "lease-id-required",
        ),
        (
            put("/locks/held/lease").header(LEASE).header(LEASE),
            400,
            "invalid-request",
        ),
        (
            put("/locks/held/lease").header(LEASE).header("lease-id:"),
            400,
            "invalid-request",
        ),
        (
            delete("/locks/held").header(LEASE).header(LEASE),
            400,
            "invalid-request",
        ),
        (
            put("/locks/held/lease").header(b"Lease-Id: \xFF"),
            400,
            "invalid-request",
        ),
        (
            put("/locks/held/lease").header("Lease-Id: 0123456789abcdef\t123456789abcdef"),
            400,
            "invalid-request",
        ),
    ];
    for id in wrong {
        let header = format!("Lease-Id: {id}");
        rows.push((
            put("/locks/held/lease").header(&header),
            400,
            "invalid-request",
        ));
        rows.push((
            delete("/locks/held").header(&header),
            400,
            "invalid-request",
        ));
    }
    rows
}

fn idempotency_keys() -> Vec<Row> {
    let keyed = |lock: &str, key: &str| -> Request {
        post(format!("/locks/{lock}")).header(format!("Idempotency-Key: {key}"))
    };
    let sixteen = "0123456789-._~!$";
    vec![
        (keyed("held", sixteen), 423, "lock-held"),
        (keyed("held", &"k".repeat(255)), 423, "lock-held"),
        (keyed("free", &"k".repeat(15)), 400, "invalid-request"),
        (keyed("free", &"k".repeat(256)), 400, "invalid-request"),
        (
            keyed("free", &"k".repeat(10 * 1024)),
            400,
            "invalid-request",
        ),
        (keyed("free", ""), 400, "invalid-request"),
        (keyed("free", "0123456789 abcdef"), 400, "invalid-request"),
        (keyed("free", "0123456789\tabcdef"), 400, "invalid-request"),
        (keyed("free", "0123456789abcdefé"), 400, "invalid-request"),
        (
            post("/locks/free").header(b"Idempotency-Key: 0123456789abcdef\xFF"),
            400,
            "invalid-request",
        ),
        (
            keyed("free", sixteen).header("Idempotency-Key: 0123456789abcdef"),
            400,
            "invalid-request",
        ),
        (
            keyed("free", sixteen).header(format!("idempotency-key: {sixteen}")),
            400,
            "invalid-request",
        ),
    ]
}

fn request_ids() -> Vec<Row> {
    let named = |id: &str| get("/livez").header(format!("X-Request-Id: {id}"));
    vec![
        (get("/livez").kept_id("a.B_c-1"), 200, OK),
        (
            post("/locks/held").kept_id(&"r".repeat(128)),
            423,
            "lock-held",
        ),
        (get("/locks/a%00").kept_id("mine"), 400, "invalid-key"),
        (get("/nowhere").kept_id("mine"), 404, "not-found"),
        (named(&"r".repeat(129)), 200, OK),
        (named(&"r".repeat(10 * 1024)), 200, OK),
        (named("a b"), 200, OK),
        (named("a\tb"), 200, OK),
        (named("a/b"), 200, OK),
        (named("a\"b"), 200, OK),
        (named("é"), 200, OK),
        (named(""), 200, OK),
        (named("one").header("X-Request-Id: two"), 200, OK),
        (named("one").header("x-request-id: one"), 200, OK),
        (get("/livez").header(b"X-Request-Id: \xFF"), 200, OK),
        (
            get("/locks/a%00").header("X-Request-Id: <script>"),
            400,
            "invalid-key",
        ),
    ]
}
