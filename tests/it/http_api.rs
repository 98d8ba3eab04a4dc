//! The answers of each route without faults, and the common properties of all answers.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::http::{Reply, http};
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

/// A server on each store that needs no set of its own, with its Redis.
fn servers() -> Vec<(Leasehold, Option<RedisServer>)> {
    let redis = RedisServer::plain();
    let on_redis = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    on_redis.wait_ready();
    vec![(Leasehold::in_memory(), None), (on_redis, Some(redis))]
}

fn fields(value: &Value) -> BTreeSet<&str> {
    value
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_str)
        .collect()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field]
        .as_u64()
        .unwrap_or_else(|| panic!("{field} is no integer in {value}"))
}

fn lease_id(lease: &Reply) -> String {
    lease.json()["lease_id"]
        .as_str()
        .expect("a lease id")
        .to_owned()
}

fn detail_of(problem: &Reply) -> String {
    problem.json()["detail"]
        .as_str()
        .expect("a detail")
        .to_owned()
}

#[test]
fn acquire_answers_a_whole_lease() {
    for (server, _redis) in servers() {
        let api = server.api();
        let body = json!({"ttl_ms": 10_000, "holder": "me", "metadata": {"job": "42"}});
        let reply = api.acquire("billing/2024", body);
        assert_eq!(
            (reply.status, reply.header("location")),
            (201, Some("/locks/billing%2F2024")),
            "{}",
            reply.body
        );
        assert_eq!(reply.header("content-type"), Some("application/json"));
        let lease = reply.json();
        let expected = [
            "key",
            "lease_id",
            "fencing_token",
            "holder",
            "metadata",
            "ttl_ms",
            "acquired_at",
            "expires_at",
            "expires_in_ms",
            "renew_after_ms",
            "waited_ms",
        ];
        assert_eq!(fields(&lease), expected.into());
        assert_eq!(
            (&lease["key"], &lease["holder"]),
            (&json!("billing/2024"), &json!("me"))
        );
        assert_eq!(lease["metadata"], json!({"job": "42"}));
        assert_eq!(
            (number(&lease, "ttl_ms"), number(&lease, "renew_after_ms")),
            (10_000, 3_333)
        );
        let left = number(&lease, "expires_in_ms");
        assert!((9_000..=10_000).contains(&left), "{left}");
        assert!(number(&lease, "fencing_token") < 1 << 53);
        for instant in ["acquired_at", "expires_at"] {
            let text = lease[instant].as_str().expect("a text");
            assert_eq!(
                (text.len(), &text[10..11], &text[19..20], &text[23..]),
                (24, "T", ".", "Z"),
                "{text}"
            );
        }
        assert_eq!(
            api.call("GET", reply.header("location").expect("set"), &[], None)
                .json()["held"],
            true
        );
    }
}

#[test]
fn acquire_needs_no_body_and_has_defaults() {
    for (server, _redis) in servers() {
        let lease = server.api().acquire("a", None);
        assert_eq!(lease.status, 201);
        assert_eq!(number(&lease.json(), "ttl_ms"), 30_000);
        assert_eq!(
            (lease.json()["metadata"].clone(), lease.json().get("holder")),
            (json!({}), None)
        );
        assert_eq!(server.api().acquire("b", json!({})).status, 201);
    }
}

#[test]
fn options_answer_with_the_methods_of_the_route() {
    let server = Leasehold::in_memory();
    for (path, methods) in [
        ("/locks/a", "POST,DELETE,GET,HEAD"),
        ("/locks/a/b", "POST,DELETE,GET,HEAD"),
        ("/locks/a/lease", "PUT"),
        ("/locks", "GET,HEAD"),
        ("/recovery", "DELETE"),
        ("/readyz", "GET,HEAD"),
    ] {
        let answer = http(server.addr(), "OPTIONS", path, &[], None);
        assert_eq!(
            (answer.status, answer.header("allow")),
            (204, Some(methods)),
            "{path}"
        );
    }
}

#[test]
fn other_method_on_the_route_of_a_lease_learns_the_rule() {
    let server = Leasehold::in_memory();
    for (method, path) in [
        ("POST", "/locks/a/lease"),
        ("GET", "/locks/a/b/lease"),
        ("DELETE", "/locks/a/lease"),
    ] {
        let refused = http(server.addr(), method, path, &[], None);
        assert_eq!(refused.status, 405, "{method} {path}");
        assert!(
            detail_of(&refused).contains("last segment /lease"),
            "{refused:?}"
        );
    }
}

#[test]
fn refusal_of_a_held_lock_describes_its_lease() {
    for (server, _redis) in servers() {
        let api = server.api();
        let lease = api
            .acquire("a", json!({"ttl_ms": 8_500, "holder": "me"}))
            .json();
        let refusal = api.acquire("a", None);
        assert_eq!(
            (refusal.status, refusal.header("retry-after")),
            (423, Some("9")),
            "{}",
            refusal.body
        );
        let problem = refusal.json();
        assert_eq!(problem["type"], "urn:leasehold:problem:lock-held");
        assert_eq!(
            (&problem["holder"], &problem["fencing_token"]),
            (&json!("me"), &lease["fencing_token"])
        );
        assert_eq!(number(&problem, "waiters"), 0);
        assert!(number(&problem, "expires_in_ms") + number(&problem, "held_for_ms") >= 8_499);
        assert!(
            !refusal
                .body
                .contains(lease["lease_id"].as_str().expect("a text"))
        );
        let almost_free = api.acquire("b", json!({"ttl_ms": 100}));
        assert_eq!(almost_free.status, 201);
        assert_eq!(
            api.acquire("b", None).header("retry-after"),
            Some("1"),
            "at least one second"
        );
    }
}

#[test]
fn renew_release_and_repeated_release_answer_as_promised() {
    for (server, _redis) in servers() {
        let api = server.api();
        let id = lease_id(&api.acquire("a", json!({"ttl_ms": 10_000})));
        let renewed = api.renew("a", &id, json!({"ttl_ms": 20_000}));
        assert_eq!(
            (renewed.status, number(&renewed.json(), "ttl_ms")),
            (200, 20_000),
            "{}",
            renewed.body
        );
        assert_eq!(renewed.json()["lease_id"], id);
        assert_eq!(number(&api.inspect("a").json(), "renewals"), 1);
        for _ in 0..2 {
            let released = api.release("a", &id);
            assert_eq!((released.status, released.body.as_str()), (204, ""));
        }
        let lost = api.renew("a", &id, None);
        assert_eq!(
            (lost.status, &lost.json()["reason"]),
            (409, &json!("not_held"))
        );
        assert_eq!(lost.json()["type"], "urn:leasehold:problem:lease-lost");
        api.acquire("a", None);
        assert_eq!(api.renew("a", &id, None).json()["reason"], "held_by_other");
    }
}

#[test]
fn lock_stays_held_as_long_as_asked_after_its_release() {
    const KEY: [(&str, &str); 1] = [("Idempotency-Key", "0123456789abcdef")];
    for (server, _redis) in servers() {
        let api = server.api();
        let body = json!({"ttl_ms": 1000, "hold_at_least_ms": 60_000, "holder": "me"});
        let lease = api.acquire_with("a", &KEY, body.clone());
        assert_eq!(lease.status, 201, "{lease:?}");
        let status = api.inspect("a").json();
        assert_eq!(
            (&status["released"], &status["holder"]),
            (&json!(null), &json!("me"))
        );
        assert!(number(&status, "expires_in_ms") > 50_000, "{status}");
        for _ in 0..2 {
            assert_eq!(api.release("a", &lease_id(&lease)).status, 204);
        }
        let status = api.inspect("a").json();
        let refusal = api.acquire("a", None);
        assert_eq!(refusal.status, 423, "{refusal:?}");
        for told in [&status, &refusal.json()] {
            assert_eq!(
                (&told["released"], &told["holder"]),
                (&json!(true), &json!(null))
            );
            assert_eq!(told["fencing_token"], lease.json()["fencing_token"]);
            assert!(number(told, "expires_in_ms") > 50_000, "{told}");
        }
        assert_eq!(status["held"], true);
        assert_eq!(api.list("").json()["locks"][0]["released"], true);
        for over in [
            api.renew("a", &lease_id(&lease), None),
            api.acquire_with("a", &KEY, body),
        ] {
            assert_eq!(
                (over.status, &over.json()["reason"]),
                (409, &json!("released")),
                "{over:?}"
            );
        }
        let other = json!({"ttl_ms": 1000, "hold_at_least_ms": 60_001, "holder": "me"});
        assert_eq!(api.acquire_with("a", &KEY, other).status, 422);
        let token = number(&lease.json(), "fencing_token");
        assert_eq!(api.break_lease("a", token).status, 204);
        assert_eq!(api.acquire("a", None).status, 201);
    }
}

#[test]
fn idempotency_key_gives_the_same_lease_again() {
    for (server, _redis) in servers() {
        let api = server.api();
        let with_key =
            |body: Value| api.acquire_with("a", &[("Idempotency-Key", "0123456789abcdef")], body);
        let first = with_key(json!({"ttl_ms": 10_000}));
        let again = with_key(json!({"ttl_ms": 10_000, "wait_ms": 5}));
        assert_eq!((first.status, again.status), (201, 200), "{}", again.body);
        assert_eq!(
            (
                first.header("idempotency-replayed"),
                again.header("idempotency-replayed")
            ),
            (None, Some("true"))
        );
        for field in ["lease_id", "fencing_token", "expires_at", "acquired_at"] {
            assert_eq!(first.json()[field], again.json()[field], "{field}");
        }
        let altered = with_key(json!({"ttl_ms": 10_001}));
        assert_eq!(
            (altered.status, &altered.json()["type"]),
            (422, &json!("urn:leasehold:problem:idempotency-key-reused"))
        );
        assert_eq!(api.release("a", &lease_id(&first)).status, 204);
        let late = with_key(json!({"ttl_ms": 10_000}));
        assert_eq!(
            (late.status, &late.json()["reason"]),
            (409, &json!("released")),
            "{}",
            late.body
        );
        assert_eq!(api.inspect("a").json()["held"], false);
    }
}

#[test]
fn inspect_and_list_never_show_the_lease_id() {
    for (server, _redis) in servers() {
        let api = server.api();
        let free = api.inspect("a").json();
        assert_eq!(free, json!({"key": "a", "held": false, "waiters": 0}));
        let id = lease_id(&api.acquire("a", json!({"holder": "me", "metadata": {"k": "v"}})));
        let held = api.inspect("a");
        let expected = [
            "key",
            "held",
            "waiters",
            "holder",
            "metadata",
            "fencing_token",
            "acquired_at",
            "held_for_ms",
            "expires_in_ms",
            "renewals",
        ];
        assert_eq!(fields(&held.json()), expected.into());
        let listed = api.list("");
        assert!(!held.body.contains(&id) && !listed.body.contains(&id));
        assert_eq!(fields(&listed.json()["locks"][0]), expected.into());
    }
}

#[test]
fn list_comes_in_pages_by_prefix() {
    for (server, _redis) in servers() {
        let api = server.api();
        for number in 0..25 {
            assert_eq!(api.acquire(&format!("jobs/{number}"), None).status, 201);
        }
        api.acquire("other", None);
        let mut seen = BTreeSet::new();
        let mut query = "prefix=jobs/&limit=10".to_owned();
        loop {
            let page = api.list(&query);
            assert_eq!(page.status, 200, "{}", page.body);
            let page = page.json();
            let locks = page["locks"].as_array().expect("a list");
            assert!(locks.len() <= 10);
            seen.extend(
                locks
                    .iter()
                    .map(|lock| lock["key"].as_str().expect("a key").to_owned()),
            );
            let Some(cursor) = page.get("next_cursor") else {
                break;
            };
            query = format!(
                "prefix=jobs/&limit=10&cursor={}",
                cursor.as_str().expect("a text")
            );
        }
        assert_eq!(seen.len(), 25, "{seen:?}");
        assert!(seen.iter().all(|key| key.starts_with("jobs/")));
    }
}

#[test]
fn break_names_the_grant_that_it_ends() {
    for (server, _redis) in servers() {
        let api = server.api();
        let lease = api.acquire("a", None);
        let token = number(&lease.json(), "fencing_token");
        let wrong = api.break_lease("a", token + 1);
        assert_eq!(
            (wrong.status, &wrong.json()["reason"]),
            (409, &json!("held_by_other"))
        );
        assert_eq!(api.break_lease("a", token).status, 204);
        assert_eq!(api.break_lease("a", token).status, 204);
        assert_eq!(
            api.release("a", &lease_id(&lease)).status,
            409,
            "its owner is told"
        );
    }
}

#[test]
fn two_spellings_of_a_key_are_one_lock() {
    for (server, _redis) in servers() {
        let api = server.api();
        assert_eq!(api.acquire("a/b", None).status, 201);
        for spelling in ["a/b", "a%2Fb", "a%2fb", "%61/b"] {
            assert_eq!(api.acquire(spelling, None).status, 423, "{spelling}");
        }
        let id = lease_id(&api.acquire("c%2Fd", None));
        assert_eq!(api.renew("c/d", &id, None).status, 200);
        assert_eq!(api.release("c%2Fd", &id).status, 204);
    }
}

#[test]
fn every_answer_has_a_request_id_and_is_not_to_be_stored() {
    let server = Leasehold::in_memory();
    let paths = [
        "/",
        "/locks/a",
        "/locks",
        "/livez",
        "/readyz",
        "/metrics",
        "/openapi.json",
        "/docs/",
        "/nowhere",
        "/docs/nowhere",
    ];
    for path in paths {
        let own = http(
            server.addr(),
            "GET",
            path,
            &[("X-Request-Id", "My_id.1-2")],
            None,
        );
        assert_eq!(own.header("x-request-id"), Some("My_id.1-2"), "{path}");
        assert_eq!(own.header("cache-control"), Some("no-store"), "{path}");
        let minted = http(
            server.addr(),
            "GET",
            path,
            &[("X-Request-Id", "no good")],
            None,
        );
        let id = minted.header("x-request-id").expect("an id").to_owned();
        assert_eq!(id.len(), 32, "{path}");
        if minted.status >= 400 {
            assert_eq!(
                minted.header("content-type"),
                Some("application/problem+json"),
                "{path}"
            );
            assert_eq!(minted.json()["request_id"], id, "{path}");
        }
    }
}

#[test]
fn each_request_is_one_line_of_the_log() {
    let server = Leasehold::in_memory();
    let request = |method, path, id, body| {
        let headers = [("X-Request-Id", id), ("Content-Type", "application/json")];
        http(server.addr(), method, path, &headers, body);
    };
    let lease = r#"{"ttl_ms":1000}"#;
    request("POST", "/locks/jobs%2Fa", "first", Some(lease));
    request("POST", "/locks/jobs/%61", "second", Some(lease));
    request("PUT", "/locks/%FF%0A%22/lease", "third", Some("{}"));
    request("GET", "/no/such/route", "fourth", None);
    let lines = || -> Vec<Value> {
        let log = server.stderr();
        let parsed = log.lines().map(serde_json::from_str::<Value>);
        let lines = parsed.map(|line| line.expect("JSON"));
        lines.filter(|line| line["message"] == "request").collect()
    };
    eventually(Duration::from_secs(5), "four lines", || lines().len() == 4);
    let lines = lines();
    let shown = |line: &Value| {
        ["request_id", "method", "route", "key", "path", "status"].map(|field| line[field].clone())
    };
    let lock = "/locks/{key}";
    let expected = [
        json!(["first", "POST", lock, "jobs/a", null, 201]),
        json!(["second", "POST", lock, "jobs/a", null, 423]),
        json!([
            "third",
            "PUT",
            "/locks/{key}/lease",
            "\u{fffd}\n\"",
            null,
            400
        ]),
        json!(["fourth", "GET", "none", null, "/no/such/route", 404]),
    ];
    for (line, expected) in lines.iter().zip(expected) {
        assert_eq!(json!(shown(line)), expected, "{line}");
        assert!(line["duration_ms"].as_f64().is_some(), "{line}");
    }
}

#[test]
fn cause_of_a_503_is_in_the_log_under_its_request_id_and_nowhere_else() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    redis.kill();
    let reply = server.api().acquire("a", None);
    assert_eq!(reply.status, 503, "{reply:?}");
    let id = reply.header("x-request-id").expect("an id");
    assert_eq!(reply.json()["request_id"], id);
    let causes = || -> Vec<String> {
        let log = server.stderr();
        let lines = log.lines().map(serde_json::from_str::<Value>);
        let lines = lines.map(|line| line.expect("JSON"));
        let of_it = lines.filter(|line| line["request_id"] == id && line["level"] == "ERROR");
        of_it
            .map(|line| line["message"].as_str().expect("a text").to_owned())
            .collect()
    };
    eventually(Duration::from_secs(5), "a cause", || !causes().is_empty());
    let causes = causes();
    let [cause] = &causes[..] else {
        panic!("not one cause: {causes:?}")
    };
    // The cause may name addresses and connections, which the client must not see.
    assert!(cause.len() > 20, "{cause}");
    let detail = reply.json()["detail"].as_str().expect("a text").to_owned();
    assert!(
        !detail.contains(&**cause) && !cause.contains(&detail),
        "{reply:?}"
    );
    for word in ["127.0.0.1", &redis.port().to_string()] {
        assert!(!reply.body.contains(word), "{reply:?}");
    }
}

#[test]
fn front_page_leads_browsers_to_the_docs_and_others_to_links() {
    let server = Leasehold::in_memory();
    let get =
        |path: &str, accept: &str| http(server.addr(), "GET", path, &[("Accept", accept)], None);
    for accept in ["*/*", "application/json", "text/plain, text/htmlx", ""] {
        let index = get("/", accept);
        assert_eq!(
            (index.status, index.header("vary")),
            (200, Some("accept")),
            "{accept}"
        );
        let links = index.json();
        for name in ["locks", "docs", "openapi", "livez", "readyz", "metrics"] {
            let path = links[name].as_str().expect("a path");
            assert!([200, 303].contains(&get(path, accept).status), "{path}");
        }
    }
    for accept in ["text/html", "application/json;q=0.5,TEXT/HTML;q=0.9"] {
        let redirect = get("/", accept);
        assert_eq!(redirect.status, 303, "{accept}");
        assert_eq!(redirect.header("location"), Some("docs/"), "{accept}");
        assert_eq!(redirect.header("vary"), Some("accept"), "{accept}");
    }
    assert_eq!(get("/docs/", "text/html").status, 200);
    let posted = http(server.addr(), "POST", "/", &[], None);
    assert_eq!(
        (posted.status, posted.header("allow")),
        (405, Some("GET,HEAD"))
    );
}

#[test]
fn health_metrics_and_documents_are_served() {
    for (server, _redis) in servers() {
        let get = |path| http(server.addr(), "GET", path, &[], None);
        assert_eq!(get("/livez").json(), json!({"status": "alive"}));
        assert_eq!(
            get("/readyz").json(),
            json!({"status": "ready", "store": "ok"})
        );
        server.api().acquire("a", None);
        server.api().acquire("a", None);
        let metrics = get("/metrics");
        assert_eq!(
            metrics.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        for line in [
            "leasehold_acquires_total{outcome=\"granted\"} 1",
            "leasehold_acquires_total{outcome=\"held\"} 1",
            "leasehold_waiters 0",
            "leasehold_build_info{version=",
            "method=\"POST\",route=\"/locks/{key}\",status=\"423\"",
        ] {
            assert!(
                metrics.body.contains(line),
                "{line} is not in\n{}",
                metrics.body
            );
        }
        assert_eq!(get("/openapi.json").json()["openapi"], "3.1.0");
        assert_eq!(
            (get("/docs").status, get("/docs").header("location")),
            (303, Some("/docs/"))
        );
        let page = get("/docs/");
        assert!(
            page.body.contains("swagger-ui") && !page.body.contains("https://"),
            "{}",
            page.body
        );
        let policy = page.header("content-security-policy").expect("a policy");
        assert!(policy.starts_with("default-src 'none'"), "{policy}");
    }
}

#[test]
fn head_never_acquires() {
    for (server, _redis) in servers() {
        assert_eq!(
            http(server.addr(), "HEAD", "/locks/a", &[], None).status,
            200
        );
        assert_eq!(server.api().inspect("a").json()["held"], false);
    }
}

#[test]
fn tokens_open_lock_routes_and_only_one_of_them_breaks() {
    let server = Leasehold::start([
        ("LEASEHOLD_TOKEN", "token-for-the-locks"),
        ("LEASEHOLD_BREAK_TOKEN", "token-for-the-breaks"),
    ]);
    let anonymous = server.api();
    let client = Api::new(server.addr()).with_header("Authorization", "Bearer token-for-the-locks");
    let breaker =
        Api::new(server.addr()).with_header("Authorization", "Bearer token-for-the-breaks");
    let refused = anonymous.acquire("a", None);
    assert_eq!(
        (refused.status, refused.header("www-authenticate")),
        (401, Some("Bearer"))
    );
    let lease = client.acquire("a", None);
    assert_eq!(lease.status, 201);
    let token = number(&lease.json(), "fencing_token");
    assert_eq!(client.break_lease("a", token).status, 403);
    assert_eq!(anonymous.break_lease("a", token).status, 401);
    assert_eq!(breaker.break_lease("a", token).status, 204);
    assert_eq!(breaker.acquire("a", None).status, 201);
}

#[test]
fn idempotency_keys_of_one_principal_are_not_those_of_another() {
    let server = Leasehold::start([
        ("LEASEHOLD_TOKEN", "token-for-the-locks"),
        ("LEASEHOLD_BREAK_TOKEN", "token-for-the-breaks"),
    ]);
    let as_whom = |token: &str| {
        let api = Api::new(server.addr()).with_header("Authorization", &format!("Bearer {token}"));
        api.acquire_with("a", &[("Idempotency-Key", "0123456789abcdef")], None)
            .status
    };
    assert_eq!(
        (
            as_whom("token-for-the-locks"),
            as_whom("token-for-the-breaks"),
            as_whom("token-for-the-locks")
        ),
        (201, 423, 200)
    );
}

#[test]
fn break_token_alone_leaves_lock_routes_open() {
    let server = Leasehold::start([("LEASEHOLD_BREAK_TOKEN", "token-for-the-breaks")]);
    let lease = server.api().acquire("a", None);
    assert_eq!(lease.status, 201);
    let token = number(&lease.json(), "fencing_token");
    assert_eq!(server.api().break_lease("a", token).status, 401);
    let breaker =
        Api::new(server.addr()).with_header("Authorization", "Bearer token-for-the-breaks");
    assert_eq!(breaker.break_lease("a", token).status, 204);
}

#[test]
fn body_that_does_not_come_is_waited_for_no_longer_than_the_limit() {
    let server = Leasehold::in_memory();
    let mut stream = TcpStream::connect(server.addr()).expect("a connection");
    let head = "POST /locks/a HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{";
    stream.write_all(head.as_bytes()).expect("sent");
    stream
        .set_read_timeout(Some(Duration::from_secs(60)))
        .expect("a time-out");
    let begun = Instant::now();
    let mut answer = String::new();
    // The server closes after its answer, because the rest of the body would look like the next request.
    stream
        .read_to_string(&mut answer)
        .expect("an answer and the end");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(
        answer.contains("urn:leasehold:problem:request-timeout"),
        "{answer}"
    );
    assert!(begun.elapsed() >= leasehold::http::extract::BODY_TIMEOUT);
    assert_eq!(server.api().inspect("a").json()["held"], false);
}
