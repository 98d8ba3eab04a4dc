//! Query parameters, of listings and of releases.

use super::request::{LEASE, call, delete, get, post, put};
use super::row::{OK, Row};
use super::stage::Stage;

pub(super) fn rows() -> Vec<Row> {
    [listings(), releases(), routes_without()].concat()
}

fn listings() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        (get("/locks?limit=1000&prefix="), 200, OK),
        (get("/locks?&&limit=%31%30&"), 200, OK),
        (get("/locks?"), 200, OK),
        (get("/locks?prefix=held%2F"), 200, OK),
        (get("/locks?prefix=a//b/"), 200, OK),
        (get(format!("/locks?prefix={}", "k".repeat(256))), 200, OK),
    ];
    let long_prefix = format!("prefix={}", "k".repeat(257));
    let long_cursor = format!("cursor={}", "1".repeat(513));
    let refused = [
        "limit=0",
        "limit=01",
        "limit=00",
        "limit=1001",
        "limit=-1",
        "limit=+1",
        "limit=%2B1",
        "limit=1.0",
        "limit=1e2",
        "limit=0x10",
        "limit=abc",
        "limit=",
        "limit",
        "limit=%201",
        "limit=%D9%A1",
        "limit=1%FF",
        "limit=1%EF%BF%BD",
        "limit=18446744073709551616",
        "limit=1&limit=1",
        "limit=1&%6Cimit=1",
        "LIMIT=1",
        "limit[]=1",
        "unknown=1",
        "=",
        "%00=1",
        "prefix=a&prefix=a",
        "prefix=%FF",
        "prefix=held%FF",
        "prefix=%EF%BF%BD",
        "%FF=a",
        "limit%FF=1",
        "prefix=%C0%AF",
        "prefix=%00",
        "prefix=a*",
        "prefix=a+b",
        "prefix=é",
        "prefix=[a-z]",
        "cursor=",
        "cursor=!!",
        "cursor=%00",
        "cursor=0%0D%0A",
        "cursor=%FF",
        "cursor=held%FF",
        "cursor=%EF%BF%BD",
        "cursor=../..",
        "cursor=1&cursor=1",
        &long_prefix,
        &long_cursor,
    ];
    rows.extend(refused.map(|query| (get(format!("/locks?{query}")), 400, "invalid-request")));
    rows
}

fn releases() -> Vec<Row> {
    let mut rows: Vec<Row> = vec![
        (
            delete("/locks/held?force=true&fencing_token=0"),
            409,
            "lease-lost",
        ),
        (
            delete("/locks/held?force=true&fencing_token=1"),
            409,
            "lease-lost",
        ),
        (
            delete("/locks/held?fencing_token=9007199254740991&force=true"),
            409,
            "lease-lost",
        ),
        (
            delete("/locks/held?force=true&fencing_token=1").header(LEASE),
            400,
            "invalid-request",
        ),
        (
            delete("/locks/held?force=1").header(LEASE),
            400,
            "invalid-request",
        ),
        (delete("/locks/held?force=false"), 400, "lease-id-required"),
        (
            delete("/locks/held?force=false").header(LEASE),
            409,
            "lease-lost",
        ),
        (
            delete("/locks/%00?force=true&fencing_token=1"),
            400,
            "invalid-key",
        ),
    ];
    let refused = [
        "force=1",
        "force",
        "force=",
        "force=TRUE",
        "force=true",
        "force=true&force=true&fencing_token=1",
        "force=true&force=false&fencing_token=1",
        "fencing_token=1",
        "force=false&fencing_token=1",
        "force=true&fencing_token=",
        "force=true&fencing_token=-1",
        "force=true&fencing_token=%2B1",
        "force=true&fencing_token=9007199254740992",
        "force=true&fencing_token=18446744073709551617",
        "force=true&fencing_token=1e3",
        "force=true&fencing_token=1.0",
        "force=true&fencing_token=0x1",
        "force=true&fencing_token=01",
        "force=true&fencing_token=00",
        "force=true&fencing_token=abc",
        "force=true&fencing_token=1&fencing_token=1",
        "force=true&fencing_token=1&holder=x",
        "force=true&fencing_token=%FF",
        "force=true&fencing_token=1%FF",
        "force=true%FF&fencing_token=1",
        "force=true+&fencing_token=1",
        "force=True&fencing_token=1",
        "force=1&fencing_token=1",
        "force=true;fencing_token=1",
    ];
    let refused = refused.map(|query| {
        (
            delete(format!("/locks/held?{query}")),
            400,
            "invalid-request",
        )
    });
    rows.extend(refused);
    rows
}

fn routes_without() -> Vec<Row> {
    vec![
        (post("/locks/free?ttl_ms=1000"), 400, "invalid-request"),
        (
            post("/locks/free?force=true&fencing_token=1"),
            400,
            "invalid-request",
        ),
        (post("/locks/free?%FF"), 400, "invalid-request"),
        (post("/locks/free?="), 400, "invalid-request"),
        (get("/locks/free?"), 200, OK),
        (
            delete("/locks/free?force=false&force=false").header(LEASE),
            400,
            "invalid-request",
        ),
        (get("/locks/free?limit=1"), 400, "invalid-request"),
        (call("HEAD", "/locks/free?limit=1"), 400, "invalid-request"),
        (
            put("/locks/free/lease?ttl_ms=1000").header(LEASE),
            400,
            "invalid-request",
        ),
        (
            put("/locks/free/lease?force=true").header(LEASE),
            400,
            "invalid-request",
        ),
    ]
}

/// The answer names the wrong parameter, and the parameters that the route has.
#[test]
fn refusal_of_a_query_says_what_is_wrong_and_what_is_right() {
    let stage = Stage::in_memory();
    let page = |query: &str| get(format!("/locks?{query}"));
    let end = |query: &str| delete(format!("/locks/held?{query}"));
    let cases = [
        (
            page("offset=1"),
            "the query is not valid: offset: unknown field `offset`, expected one of `prefix`, `limit`, `cursor`",
        ),
        (
            page("limit=1&limit=2"),
            "the query is not valid: duplicate field `limit`",
        ),
        (page("limit=+1"), "limit must be an integer from 1 to 1000"),
        (
            page("prefix=%FF"),
            "prefix must be the beginning of a key: at most 256 of its characters",
        ),
        (
            page("cursor=%FF"),
            "cursor must be the next_cursor of an earlier page",
        ),
        (
            end("token=1"),
            "the query is not valid: token: unknown field `token`, expected `force` or `fencing_token`",
        ),
        (
            end("force=yes"),
            "the query is not valid: force: provided string was not `true` or `false`",
        ),
        (
            end("force=true&fencing_token=01"),
            "fencing_token must be an integer from 0 to 9007199254740991",
        ),
        (
            get("/locks/free?limit=1"),
            "the query is not valid: limit: unknown field `limit`, there are no fields",
        ),
    ];
    for (request, detail) in cases {
        let refusal = stage.expect(request, 400, "invalid-request");
        assert_eq!(refusal.json()["detail"], detail);
    }
    let long = page(&format!("{}=1", "x".repeat(10_000)));
    let refusal = stage.expect(long, 400, "invalid-request");
    assert!(refusal.body.len() < 1000, "{}", refusal.body);
    stage.end();
}

#[test]
fn a_cursor_that_only_looks_like_one_of_ours_is_refused() {
    let stage = Stage::on_redis();
    for key in ["a", "b", "c"] {
        stage.expect(post(format!("/locks/{key}")), 201, OK);
    }
    let page = stage.expect(get("/locks?limit=1"), 200, OK).json();
    let cursor = page["next_cursor"].as_str().expect("a second page");
    let (mark, _) = cursor.split_once('-').expect("a mark and a position");
    let forged = [
        "",
        "-",
        "-x",
        "--1",
        "-+1",
        "-1.0",
        "-0x1",
        "-1-",
        "-1-2",
        "-1-2-",
        "-1-2-a%20b",
        "-1-x-a",
        "-1-2-a%FF",
        "-1-2-a%EF%BF%BD",
        "-1-2-a/..",
        "-18446744073709551616",
        "-99999999999999999999",
        "-99999999999999999999-0-a",
        "-100000000000000000000",
    ];
    for rest in forged {
        stage.expect(
            get(format!("/locks?cursor={mark}{rest}")),
            400,
            "invalid-request",
        );
    }
    // The server accepts any position that Redis could have given: at worst the caller lists in circles.
    for rest in ["-0", "-1", "-18446744073709551615", "-0-0-a", "-0-99-zzz"] {
        stage.expect(get(format!("/locks?cursor={mark}{rest}")), 200, OK);
    }
    stage.end();
}
