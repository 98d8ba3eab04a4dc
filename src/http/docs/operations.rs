//! The parts that operations share: parameters, refusals with their problem types, and headers of answers.

use serde_json::{Map, Value, json};

use super::parameters::parameter;
use crate::http::problem::{Kind, Problem};

/// The shared parts that an operation of a lock route has.
struct Shared {
    parameters: &'static [&'static str],
    refusals: &'static [Kind],
}

/// Refusals of every lock route.
const LOCK_ROUTE: [Kind; 10] = [
    Kind::InvalidRequest,
    Kind::Unauthenticated,
    Kind::MisdirectedRequest,
    Kind::HeadTooLarge,
    Kind::TooManyConnections,
    Kind::Internal,
    Kind::StoreUnavailable,
    Kind::StoreOutOfMemory,
    Kind::StoreNotPersisting,
    Kind::ReplicationUnconfirmed,
];

fn shared(operation_id: &str) -> Option<Shared> {
    let (parameters, refusals): (&[&str], &[Kind]) = match operation_id {
        "acquire" => (
            &["key", "Idempotency-Key"],
            &[
                Kind::InvalidKey,
                Kind::Forbidden,
                Kind::RequestTimeout,
                Kind::LeaseLost,
                Kind::PayloadTooLarge,
                Kind::UnsupportedMediaType,
                Kind::IdempotencyKeyReused,
                Kind::LockHeld,
                Kind::WaitTimeout,
                Kind::TooManyWaiters,
                Kind::Recovering,
                Kind::ShuttingDown,
            ],
        ),
        "renew" => (
            &["key", "Lease-Id"],
            &[
                Kind::InvalidKey,
                Kind::LeaseIdRequired,
                Kind::Forbidden,
                Kind::RequestTimeout,
                Kind::LeaseLost,
                Kind::PayloadTooLarge,
                Kind::UnsupportedMediaType,
                Kind::ShuttingDown,
            ],
        ),
        "release" => (
            &["key", "optional Lease-Id", "force", "fencing_token"],
            &[
                Kind::InvalidKey,
                Kind::LeaseIdRequired,
                Kind::Forbidden,
                Kind::LeaseLost,
            ],
        ),
        "end_recovery" => (&["required force"], &[Kind::Forbidden]),
        "inspect" => (&["key"], &[Kind::InvalidKey]),
        "list_locks" => (&["prefix", "limit", "cursor"], &[Kind::TooManyListings]),
        _ => return None,
    };
    Some(Shared {
        parameters,
        refusals,
    })
}

/// Adds the shared parts to an operation.
pub(super) fn complete_operation(operation: &mut Value) {
    let id = operation["operationId"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    if let Some(body) = operation.get_mut("requestBody") {
        body["required"] = json!(false);
    }
    let mut refusals = vec![
        Kind::InvalidRequest,
        Kind::MethodNotAllowed,
        Kind::HeadTooLarge,
        Kind::Internal,
    ];
    if id == "metrics" || id == "index" {
        refusals.push(Kind::MisdirectedRequest);
        refusals.push(Kind::TooManyConnections);
    }
    if let Some(shared) = shared(&id) {
        operation["security"] = json!([{}, {"bearer": []}]);
        operation["parameters"] = shared
            .parameters
            .iter()
            .map(|name| parameter(name))
            .collect();
        refusals = [&LOCK_ROUTE, shared.refusals].concat();
    }
    let responses = operation["responses"]
        .as_object_mut()
        .expect("an operation has responses");
    for kind in Kind::ALL.iter().filter(|kind| refusals.contains(kind)) {
        add_refusal(responses, *kind);
    }
    for (status, response) in responses.iter_mut() {
        for (name, reference) in headers_of(&id, status) {
            response["headers"][name] =
                json!({"$ref": format!("#/components/headers/{reference}")});
        }
    }
}

/// Adds a problem type to the response of its status: OpenAPI has one response for a status, with many examples.
fn add_refusal(responses: &mut Map<String, Value>, kind: Kind) {
    let response = responses.entry(kind.status().as_str()).or_insert_with(|| {
        json!({
            "description": "",
            "content": {"application/problem+json": {
                "schema": {"$ref": "#/components/schemas/Problem"}, "examples": {},
            }},
        })
    });
    let before = response["description"].as_str().unwrap_or_default();
    let separator = if before.is_empty() { "" } else { " " };
    response["description"] =
        format!("{before}{separator}`{}`: {}.", kind.name(), kind.title()).into();
    response["content"]["application/problem+json"]["examples"][kind.name()] =
        json!({"summary": kind.title(), "value": Problem::example(kind)});
}

/// The headers that the answers refer to.
pub(super) fn headers() -> Value {
    let text =
        |description: &str| json!({"description": description, "schema": {"type": "string"}});
    let seconds = |description: &str| json!({"description": description, "schema": {"type": "integer", "format": "int64", "minimum": 1}});
    json!({
        "Allow": text("The methods of this route."),
        "IdempotencyReplayed": text("Always `true`."),
        "Location": text("The path of the lock, with its key percent-encoded."),
        "RequestId": text("The id of this request: the `X-Request-Id` of the client if it has 1 to 128 characters of `A-Z a-z 0-9 . _ -`, otherwise a new id."),
        "RetryAfter": seconds("Seconds to wait before the next attempt."),
        "WwwAuthenticate": text("Always `Bearer`."),
    })
}

fn headers_of(operation_id: &str, status: &str) -> Vec<(&'static str, &'static str)> {
    let own = match (operation_id, status) {
        ("acquire", "200") => Some(("Idempotency-Replayed", "IdempotencyReplayed")),
        ("acquire", "201") => Some(("Location", "Location")),
        (_, "401") => Some(("WWW-Authenticate", "WwwAuthenticate")),
        (_, "405") => Some(("Allow", "Allow")),
        (_, "423" | "429" | "503") => Some(("Retry-After", "RetryAfter")),
        _ => None,
    };
    own.into_iter()
        .chain([("X-Request-Id", "RequestId")])
        .collect()
}
