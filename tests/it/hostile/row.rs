//! A request with its expected answer, and the properties that every answer must have.

use serde_json::Value;

use super::request::Request;
use crate::support::http::Reply;

/// The request, the status, and the name of the problem or one of the constants below.
pub(super) type Row = (Request, u16, &'static str);

/// In a row: a success.
pub(super) const OK: &str = "ok";
/// In a row: a refusal that hyper writes itself, before the service has a request.
pub(super) const BARE: &str = "bare";
/// In a row, with the status 0: the server closes the connection without an answer.
pub(super) const CLOSED: &str = "closed";

/// Rows with the same expected answer.
pub(super) fn all<const N: usize>(
    status: u16,
    kind: &'static str,
    requests: [Request; N],
) -> Vec<Row> {
    requests
        .map(|request| (request, status, kind))
        .into_iter()
        .collect()
}

/// The deviation of `replies` from the row.
pub(super) fn faults((request, status, kind): &Row, replies: &[Reply]) -> Vec<String> {
    let reply = match replies {
        [] if *kind == CLOSED => return Vec::new(),
        [reply] => reply,
        // A second answer means that the server read a body as a request.
        _ => return vec![format!("{} answers: {replies:?}", replies.len())],
    };
    let mut faults = Faults::default();
    faults.unless(reply.status == *status, format!("is not {status}"));
    if *kind == BARE {
        faults.unless(
            reply.body.is_empty() && reply.header("content-type").is_none(),
            "is not bare",
        );
    } else {
        check_headers(request, reply, &mut faults);
        let right_kind = match problem(reply) {
            None if reply.status < 400 => *kind == OK,
            None => request.is_head(),
            Some(problem) => {
                check_problem(reply, &problem, &mut faults);
                problem["type"] == format!("urn:leasehold:problem:{kind}")
            }
        };
        faults.unless(right_kind, format!("is not {kind}"));
    }
    faults.unless(
        faults.0.is_empty(),
        format!("in the answer {}", shown(reply)),
    );
    faults.0
}

#[derive(Default)]
struct Faults(Vec<String>);

impl Faults {
    fn unless(&mut self, right: bool, what: impl Into<String>) {
        if !right {
            self.0.push(what.into());
        }
    }
}

/// The headers of each answer of the router.
fn check_headers(request: &Request, reply: &Reply, faults: &mut Faults) {
    faults.unless(
        reply.header("cache-control") == Some("no-store"),
        "has no cache-control: no-store",
    );
    faults.unless(
        reply.header("x-content-type-options") == Some("nosniff"),
        "may be sniffed",
    );
    let policy = reply.header("content-security-policy").unwrap_or_default();
    faults.unless(policy.contains("frame-ancestors 'none'"), "may be framed");
    faults.unless(
        reply.header("referrer-policy") == Some("no-referrer"),
        "tells where it was",
    );
    let id = reply.header("x-request-id").unwrap_or_default();
    let right_id = match &request.kept_id {
        Some(kept) => id == kept,
        None => id.len() == 32 && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')),
    };
    faults.unless(right_id, format!("has the request id {id:?}"));
    let ids = reply
        .headers
        .iter()
        .filter(|(name, _)| name == "x-request-id");
    faults.unless(ids.count() == 1, "has not one request id");
    if reply.status == 405 {
        let mut allowed: Vec<&str> = reply
            .header("allow")
            .unwrap_or_default()
            .split(',')
            .collect();
        allowed.sort_unstable();
        let right = methods_of(&request.path());
        faults.unless(allowed == right, format!("allows not {right:?}"));
    }
    let challenged = reply.header("www-authenticate") == Some("Bearer");
    faults.unless(
        challenged == (reply.status == 401),
        "challenges at the wrong time",
    );
}

fn methods_of(path: &str) -> &'static [&'static str] {
    if path.ends_with("/lease") {
        &["PUT"]
    } else if path.starts_with("/locks/") {
        &["DELETE", "GET", "HEAD", "POST"]
    } else {
        &["GET", "HEAD"]
    }
}

/// The members that RFC 9457 and the contract require in each refusal.
fn check_problem(reply: &Reply, problem: &Value, faults: &mut Faults) {
    let right_type = reply.header("content-type") == Some("application/problem+json");
    faults.unless(right_type, "has another content-type");
    faults.unless(problem["status"] == reply.status, "has another status");
    faults.unless(
        problem["request_id"].as_str() == reply.header("x-request-id"),
        "has another request id in its body",
    );
    for name in ["title", "detail"] {
        let said = problem[name].as_str().is_some_and(|text| !text.is_empty());
        faults.unless(said, format!("has no {name}"));
    }
}

/// The body of a refusal; `null` if it is not JSON.
fn problem(reply: &Reply) -> Option<Value> {
    let refused = reply.status >= 400 && !reply.body.is_empty();
    refused.then(|| serde_json::from_str(&reply.body).unwrap_or_default())
}

fn shown(reply: &Reply) -> String {
    let body: String = reply.body.chars().take(400).collect();
    format!("{} {:?} {body}", reply.status, reply.headers)
}
