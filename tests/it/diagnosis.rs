//! Faults of Redis: the server reports each in one clear line with its remedy, and recovers by itself after the repair.

mod acl;
mod addresses;
mod commands;
mod full;
mod interruptions;
mod logins;
mod placement;
mod tls;
mod unfit;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::{eventually, poll};

/// How long a report may take: a check takes up to the connect and response timeouts, and name resolution has no limit.
const SAY_LIMIT: Duration = Duration::from_secs(15);
/// How long the server may take to recover after the repair; it checks every second.
const MEND_LIMIT: Duration = Duration::from_secs(15);
/// The beginning of the log line.
const COMPLAINT: &str = "the store is not usable: ";

/// Waits until a server that never reached its store states a reason with all of `words`. The log has the reason once,
/// as one line, and requests get correct refusals meanwhile. Returns the reason.
fn says_at_start(server: &Leasehold, words: &[&str]) -> String {
    let reason = reason_with(server, 503, words);
    let readiness = readyz(server);
    assert_eq!(readiness.header("Retry-After"), Some("1"), "{readiness:?}");
    let expected = json!({"status": "starting", "store": "unreached", "reason": reason});
    assert_eq!(without_time(&readiness), expected);
    refuses_honestly(server, &["none"]);
    // The requests took longer than the next checks of the store.
    assert_eq!(complaints(server), [&*reason], "not one line");
    reason
}

/// As `says_at_start`, for a server that was ready before: it stays in service, degraded.
fn says_later(server: &Leasehold, words: &[&str]) -> String {
    let reason = reason_with(server, 200, words);
    let expected = json!({"status": "ready", "store": "degraded", "reason": reason});
    assert_eq!(without_time(&readyz(server)), expected);
    // Operations in flight, or sent to a node that failed unnoticed, have an unknown outcome.
    refuses_honestly(server, &["none", "unknown"]);
    let said = complaints(server);
    let times = said.iter().filter(|line| **line == reason).count();
    assert_eq!(times, 1, "{reason}\nis not once in {said:#?}");
    reason
}

/// The body of `/readyz` of a store that is not healthy, without the moment since which that is so.
fn without_time(readiness: &Reply) -> Value {
    let mut body = readiness.json();
    let since = body.as_object_mut().and_then(|body| body.remove("since"));
    let text = since.as_ref().and_then(Value::as_str).unwrap_or_default();
    assert!(text.ends_with('Z'), "{readiness:?}");
    body
}

/// The reason in `/readyz`, once it has all of `words`.
fn reason_with(server: &Leasehold, status: u16, words: &[&str]) -> String {
    let said = poll(SAY_LIMIT, || {
        let reply = readyz(server);
        let reason = reply.json()["reason"].as_str()?.to_owned();
        let complete = words.iter().all(|word| reason.contains(word));
        (reply.status == status && complete).then_some(reason)
    });
    let reason = said.unwrap_or_else(|| {
        panic!(
            "no reason with {words:?}\n{:?}\n{}",
            readyz(server),
            server.stderr()
        )
    });
    assert!(
        reason.len() <= 500 && !reason.contains('\n') && !reason.contains("  "),
        "not one clear line: {reason}"
    );
    reason
}

/// Every operation is refused within its time limit, with one of these outcomes.
fn refuses_honestly(server: &Leasehold, outcomes: &[&str]) {
    let api = server.api();
    let asked = Instant::now();
    let replies = std::thread::scope(|scope| {
        let calls = [
            scope.spawn(|| api.acquire("trouble", None)),
            scope.spawn(|| api.acquire("trouble", json!({"wait_ms": 200}))),
            scope.spawn(|| api.inspect("trouble")),
            scope.spawn(|| api.release("trouble", &"0".repeat(32))),
            scope.spawn(|| api.list("")),
        ];
        calls.map(|call| call.join().expect("a call that was answered"))
    });
    assert!(asked.elapsed() < Duration::from_secs(10), "answered late");
    for reply in replies {
        is_unavailable(&reply, outcomes);
    }
}

/// Whether an answer is 503 `store-unavailable` with one of these outcomes and a Retry-After, and names no cause.
fn is_unavailable(reply: &Reply, outcomes: &[&str]) {
    let (status, name, outcome) = problem(reply);
    assert_eq!((status, name), (503, "store-unavailable"), "{reply:?}");
    assert!(outcomes.contains(&outcome), "{reply:?}");
    let retry: u64 = reply
        .header("Retry-After")
        .and_then(|seconds| seconds.parse().ok())
        .unwrap_or_else(|| panic!("no Retry-After: {reply:?}"));
    assert!(retry >= 1, "{reply:?}");
    for cause in ["127.0.0.1", "LEASEHOLD_", "Redis", "password"] {
        assert!(!reply.body.contains(cause), "a cause in {reply:?}");
    }
}

/// Status, name and outcome of a refusal.
fn problem(reply: &Reply) -> (u16, &'static str, &'static str) {
    let body = reply.json();
    let text = |field: &str| body[field].as_str().unwrap_or_default().to_owned();
    let known = |text: &str, all: &[&'static str]| {
        let found = all.iter().find(|known| text.ends_with(**known));
        *found.unwrap_or_else(|| panic!("{text:?} in {reply:?}"))
    };
    let names = [
        ":store-unavailable",
        ":store-out-of-memory",
        ":store-not-persisting",
        ":replication-unconfirmed",
    ];
    (
        reply.status,
        &known(&text("type"), &names)[1..],
        known(&text("outcome"), &["none", "unknown"]),
    )
}

/// Waits until the server has recovered by itself, then uses it.
fn becomes_ready(server: &Leasehold) {
    let ready = poll(MEND_LIMIT, || {
        let reply = readyz(server);
        let body = reply.json();
        let in_order =
            body["store"] == "ok" && body.get("reason").is_none() && body.get("since").is_none();
        (reply.status == 200 && body["status"] == "ready" && in_order).then_some(())
    });
    assert!(
        ready.is_some(),
        "not ready after it was mended\n{:?}\n{}",
        readyz(server),
        server.stderr()
    );
    works(server);
}

/// Runs a lock through all operations.
fn works(server: &Leasehold) {
    let api = server.api();
    // Short leases: after a loss, new grants wait until the last lease is over. A recent fault may still cost an
    // answer.
    let lease = poll(MEND_LIMIT, || {
        let reply = api.acquire("works", json!({"ttl_ms": 3_000, "metadata": {"a": "b"}}));
        (reply.status != 503).then_some(reply)
    });
    let lease = lease.unwrap_or_else(|| panic!("no lock\n{}", server.stderr()));
    assert_eq!(lease.status, 201, "{lease:?}\n{}", server.stderr());
    let id = lease_id(&lease);
    let renewed = api.renew("works", &id, None);
    assert_eq!(renewed.status, 200, "{renewed:?}");
    assert_eq!(api.inspect("works").json()["held"], true);
    assert!(is_listed(server, "works"), "not in the list");
    assert_eq!(api.release("works", &id).status, 204);
    assert_eq!(api.release("works", &id).status, 204, "once more");
    let again = api.acquire("works", json!({"ttl_ms": 3_000}));
    assert_eq!(again.status, 201, "{again:?}");
    let token = again.json()["fencing_token"].as_u64().expect("a number");
    assert!(Some(token) > lease.json()["fencing_token"].as_u64());
    assert_eq!(api.break_lease("works", token).status, 204);
    assert_eq!(api.inspect("works").json()["held"], false);
}

/// Whether the listing has this key on any page; pages may be short.
fn is_listed(server: &Leasehold, key: &str) -> bool {
    let mut cursor = String::new();
    for _ in 0..1000 {
        let page = server.api().list(&format!("prefix={key}{cursor}")).json();
        let locks = page["locks"].as_array().expect("a page has locks");
        if locks.iter().any(|lock| lock["key"] == key) {
            return true;
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return false,
        }
    }
    panic!("the list does not end");
}

/// Acquires a lock that must be free.
fn acquire(server: &Leasehold, key: &str) -> String {
    let reply = server.api().acquire(key, json!({"ttl_ms": 60_000}));
    assert_eq!(reply.status, 201, "{reply:?}\n{}", server.stderr());
    lease_id(&reply)
}

fn lease_id(reply: &Reply) -> String {
    let id = reply.json()["lease_id"].as_str().map(str::to_owned);
    id.unwrap_or_else(|| panic!("no lease id in {reply:?}"))
}

fn readyz(server: &Leasehold) -> Reply {
    server.api().call("GET", "/readyz", &[], None)
}

/// The complaints about the store in the log so far.
fn complaints(server: &Leasehold) -> Vec<String> {
    let log = server.stderr();
    let messages = log.lines().filter_map(|line| {
        let entry: Value = serde_json::from_str(line).ok()?;
        assert!(entry["level"].is_string(), "{line}");
        entry["message"].as_str().map(str::to_owned)
    });
    messages
        .filter_map(|message| message.strip_prefix(COMPLAINT).map(str::to_owned))
        .collect()
}

/// A server on one Redis at this URL.
fn with_redis(url: &str) -> Leasehold {
    Leasehold::start([("LEASEHOLD_REDIS_URL", url)])
}

/// A server with the variables of a set, some of them replaced.
fn with_set(env: Vec<(String, String)>, other: &[(&str, &str)]) -> Leasehold {
    let replaced = |name: &str| other.iter().any(|(other, _)| *other == name);
    let kept = env.into_iter().filter(|(name, _)| !replaced(name));
    let other = other
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Leasehold::start(kept.chain(other))
}

/// Waits until the server grants again.
fn grants_again(server: &Leasehold, key: &str) {
    eventually(MEND_LIMIT, "a lock is granted again", || {
        server.api().acquire(key, json!({"ttl_ms": 100})).status == 201
    });
}
