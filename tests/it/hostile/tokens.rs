//! Bearer tokens: missing, wrong or repeated ones.

use super::request::{LEASE, Request, call, delete, get, post, put};
use super::row::{OK, Row};
use super::stage::Stage;

const LOCK_TOKEN: &str = "lock-token-0123456789";
const BREAK_TOKEN: &str = "break-token-0123456789";

/// The documented routes that need no token.
const OPEN: [&str; 4] = ["/", "/livez", "/readyz", "/metrics"];

#[test]
fn lock_routes_are_closed_to_all_but_the_bearers_of_the_tokens() {
    let stage = Stage::with(&[
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", LOCK_TOKEN),
        ("LEASEHOLD_BREAK_TOKEN", BREAK_TOKEN),
    ]);
    let bearer = |token: &str| format!("Authorization: Bearer {token}");
    let (lock, breaker) = (bearer(LOCK_TOKEN), bearer(BREAK_TOKEN));
    let mut rows = strangers(&lock);
    rows.extend(strangers(&breaker));
    rows.extend(bearers(&lock, &breaker));
    rows.extend(
        ["/livez", "/readyz", "/metrics", "/openapi.json", "/docs/"]
            .map(|path| (get(path), 200, OK)),
    );
    for (request, status, kind) in rows {
        stage.expect(request, status, kind);
    }
    end_without_a_secret(stage);
}

#[test]
fn each_route_except_the_public_ones_requires_a_token() {
    let stage = Stage::with(&[
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", LOCK_TOKEN),
    ]);
    let document = stage.expect(get("/openapi.json"), 200, OK).json();
    let paths = document["paths"].as_object().expect("paths");
    let mut closed = 0;
    for (path, methods) in paths {
        for method in methods.as_object().expect("methods").keys() {
            let request = call(&method.to_uppercase(), path.replace("{key}", "a"));
            if OPEN.contains(&&**path) {
                stage.expect(request, 200, OK);
            } else {
                stage.expect(request, 401, "unauthenticated");
                closed += 1;
            }
        }
    }
    assert!(closed >= 5, "only {closed} routes");
    end_without_a_secret(stage);
}

#[test]
fn only_breaking_is_closed_when_only_the_break_token_is_set() {
    let stage = Stage::with(&[
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_BREAK_TOKEN", BREAK_TOKEN),
    ]);
    let breaker = format!("Authorization: Bearer {BREAK_TOKEN}");
    let rows: Vec<Row> = vec![
        (get("/locks/a"), 200, OK),
        (break_free(), 401, "unauthenticated"),
        (
            break_free().header("Authorization: Bearer x"),
            401,
            "unauthenticated",
        ),
        (
            break_free().header("Authorization: Basic eDp5"),
            401,
            "unauthenticated",
        ),
        (
            get("/locks/a").header("Authorization: Bearer x"),
            401,
            "unauthenticated",
        ),
        (break_free().header(&breaker), 204, OK),
        (get("/locks/a").header(&breaker), 200, OK),
    ];
    for (request, status, kind) in rows {
        stage.expect(request, status, kind);
    }
    end_without_a_secret(stage);
}

/// Headers with less, more or something other than the token in `header`.
fn strangers(header: &str) -> Vec<Row> {
    let token = header.rsplit(' ').next().unwrap_or_default();
    let shown = |value: String| {
        (
            get("/locks").header(format!("Authorization: {value}")),
            401,
            "unauthenticated",
        )
    };
    let mut rows: Vec<Row> = vec![
        (get("/locks"), 401, "unauthenticated"),
        (post("/locks/a"), 401, "unauthenticated"),
        (get("/locks/a"), 401, "unauthenticated"),
        (put("/locks/a/lease").header(LEASE), 401, "unauthenticated"),
        (delete("/locks/a").header(LEASE), 401, "unauthenticated"),
        (break_free(), 401, "unauthenticated"),
        // Only an authorised client learns the problem of its request.
        (post("/locks/a%00"), 401, "unauthenticated"),
        (post("/locks/a?x=y").json("[]"), 401, "unauthenticated"),
        (call("HEAD", "/locks/a"), 401, "unauthenticated"),
        (
            get("/locks").header(header).header(header),
            401,
            "unauthenticated",
        ),
        (
            get("/locks")
                .header(header)
                .header("Authorization: Bearer x"),
            401,
            "unauthenticated",
        ),
        (
            get("/locks").header(b"Authorization: Bearer \xFF"),
            401,
            "unauthenticated",
        ),
        (
            get("/locks").header(format!("Proxy-{header}")),
            401,
            "unauthenticated",
        ),
        (
            get("/locks").header(format!("Cookie: token={token}")),
            401,
            "unauthenticated",
        ),
        (
            get(format!("/locks?access_token={token}")),
            401,
            "unauthenticated",
        ),
    ];
    rows.extend([
        shown(String::new()),
        shown("Bearer".to_owned()),
        shown("Bearer ".to_owned()),
        shown(token.to_owned()),
        shown(format!("Bearer{token}")),
        shown(format!("Basic {token}")),
        shown(format!("Token {token}")),
        shown("Bearer wrong".to_owned()),
        shown(format!("Bearer {token} x")),
        shown(format!("Bearer {token}x")),
        shown(format!("Bearer {token},")),
        shown(format!("Bearer {token}, Bearer {token}")),
        shown(format!("Bearer {}", &token[..token.len() - 1])),
        shown(format!("Bearer {}", token.to_uppercase())),
        shown(format!("Bearer \"{token}\"")),
        shown(format!("Bearer {}", "x".repeat(10 * 1024))),
        shown(format!("Bearer Bearer {token}")),
    ]);
    rows
}

fn bearers(lock: &str, breaker: &str) -> Vec<Row> {
    vec![
        (get("/locks").header(lock), 200, OK),
        (
            get("/locks").header(lock.replace("Authorization: Bearer", "authorization: bEARER")),
            200,
            OK,
        ),
        (get("/locks/a").header(lock), 200, OK),
        (
            put("/locks/a/lease").header(LEASE).header(lock),
            409,
            "lease-lost",
        ),
        (
            delete("/locks/a").header(LEASE).header(lock),
            409,
            "lease-lost",
        ),
        (post("/locks/a%00").header(lock), 400, "invalid-key"),
        (break_free().header(lock), 403, "forbidden"),
        (
            post("/locks/a").header(lock).json(r#"{"ttl_ms":60000}"#),
            201,
            OK,
        ),
        (break_held().header(lock), 403, "forbidden"),
        (get("/locks").header(breaker), 200, OK),
        (post("/locks/a").header(breaker), 423, "lock-held"),
        (
            put("/locks/a/lease").header(LEASE).header(breaker),
            409,
            "lease-lost",
        ),
        (break_held().header(breaker), 409, "lease-lost"),
        (break_free().header(breaker), 204, OK),
        (post("/locks/b").header(breaker), 201, OK),
    ]
}

fn break_free() -> Request {
    delete("/locks/free?force=true&fencing_token=1")
}

fn break_held() -> Request {
    delete("/locks/a?force=true&fencing_token=1")
}

/// No request of these tests may put a token into the log.
fn end_without_a_secret(stage: Stage) {
    let log = stage.server().stderr() + &stage.server().stdout();
    assert!(
        !log.contains(LOCK_TOKEN) && !log.contains(BREAK_TOKEN),
        "{log}"
    );
    stage.end();
}
