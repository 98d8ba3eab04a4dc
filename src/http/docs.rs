//! The OpenAPI document, and `/docs` to browse it.
//!
//! Utoipa generates the operations, their successful responses and the schemas from the routes. This module adds the
//! parts that operations share: parameters, refusals with their problem types, and headers. Statuses, titles and bounds
//! come from the tables of the server, so that the document agrees with its answers.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::routing::get;
use serde_json::{Map, Value, json};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::http::app::App;
use crate::http::health::{Status, StoreStatus};
use crate::http::problem::{Effect, Kind, Problem, ProblemBody, Reason};
use crate::http::wire::{
    DEFAULT_LIST_LIMIT, IDEMPOTENCY_KEY_LENGTH, Limits, MAX_CURSOR_BYTES, MAX_LIST_LIMIT,
};
use crate::lock::key::MAX_KEY_BYTES;
use crate::lock::lease::{FencingToken, Metadata, millis};

/// The keys as a regular expression. It avoids look-ahead, which some engines lack. So it admits a last segment
/// `lease`, although the service refuses it.
const KEY_PATTERN: &str = r"^(?:\.{0,2}[A-Za-z0-9_~:@+=,-][A-Za-z0-9._~:@+=,-]*|\.{3}[A-Za-z0-9._~:@+=,-]*)(?:/(?:\.{0,2}[A-Za-z0-9_~:@+=,-][A-Za-z0-9._~:@+=,-]*|\.{3}[A-Za-z0-9._~:@+=,-]*))*$";

/// Text without control characters, as a regular expression.
const PRINTABLE_PATTERN: &str = r"^[^\x00-\x1F\x7F-\x9F]*$";

/// The pages of `/docs` load nothing from other servers.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Leasehold",
        description = "A lock service over HTTP: leases with fencing tokens.\n\nAcquire a lock with `POST /locks/{key}`, \
            renew the lease with `PUT /locks/{key}/lease`, release it with `DELETE /locks/{key}`. A client can count on \
            its lease until the moment at which it sent the request, plus `waited_ms`, plus `expires_in_ms`, on its own \
            monotonic clock. Refusals are `application/problem+json`; programs branch on their `type`.\n\nIntegers \
            consist of digits only: the server refuses `1e3` and `1.0`. Limits of texts are in bytes.\n\nA key can \
            contain slashes, written `/` or `%2F`.",
        license(name = "MIT OR Apache-2.0", identifier = "MIT OR Apache-2.0"),
        contact(name = "Leasehold maintainers"),
    ),
    servers((url = "/", description = "This server")),
    tags(
        (name = "locks", description = "Acquire, renew, release, break, inspect and list."),
        (name = "health", description = "Liveness, readiness, metrics, and the front page."),
    ),
    components(schemas(ProblemBody)),
)]
struct Description;

/// The document without its operations.
pub(super) fn description() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

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
        "inspect" => (&["key"], &[Kind::InvalidKey]),
        "list_locks" => (&["prefix", "limit", "cursor"], &[Kind::TooManyListings]),
        _ => return None,
    };
    Some(Shared {
        parameters,
        refusals,
    })
}

/// The description of a parameter. `/docs` sends examples as they are, so only the key has one: an example of an
/// `Idempotency-Key` would give two readers the same lease.
fn parameter(name: &str) -> Value {
    match name {
        "key" => json!({
            "name": "key", "in": "path", "required": true,
            "description": "The key of the lock, percent-encoded. A slash can be written as `/` or `%2F`. The key must not \
                have an empty, `.` or `..` segment, and its last segment must not be `lease`.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_KEY_BYTES, "pattern": KEY_PATTERN},
            "example": "my_lock",
        }),
        "Lease-Id" | "optional Lease-Id" => json!({
            "name": "Lease-Id", "in": "header", "required": name == "Lease-Id",
            "description": "The `lease_id` of the lease, from the answer to its acquisition.",
            "schema": {"type": "string", "pattern": "^[0-9a-f]{32}$"},
        }),
        "Idempotency-Key" => json!({
            "name": "Idempotency-Key", "in": "header", "required": false,
            "description": "Makes it safe to repeat the request. Use a random value for each acquisition (such as a UUID), and \
                the same value for its repetitions. The value is as secret as a lease id: any client that sends it \
                gets the lease.",
            "schema": {
                "type": "string", "pattern": "^[!-~]+$",
                "minLength": IDEMPOTENCY_KEY_LENGTH.start(), "maxLength": IDEMPOTENCY_KEY_LENGTH.end(),
            },
        }),
        "force" => json!({
            "name": "force", "in": "query", "required": false,
            "description": "`true` breaks the lease that `fencing_token` names.",
            "schema": {"type": "boolean", "default": false},
        }),
        "fencing_token" => json!({
            "name": "fencing_token", "in": "query", "required": false,
            "description": "The fencing token of the lease to break, from the status of the lock. Only with `force=true`.",
            "schema": {"type": "integer", "format": "int64", "minimum": 0, "maximum": FencingToken::MAX},
        }),
        "prefix" => json!({
            "name": "prefix", "in": "query", "required": false,
            "description": "List only keys that begin with this text, such as `billing/`.",
            "schema": {"type": "string", "maxLength": MAX_KEY_BYTES, "pattern": "^[A-Za-z0-9._~:@/+=,-]*$"},
        }),
        "limit" => json!({
            "name": "limit", "in": "query", "required": false,
            "description": "The maximum number of locks of the page.",
            "schema": {
                "type": "integer", "format": "int32", "minimum": 1, "maximum": MAX_LIST_LIMIT,
                "default": DEFAULT_LIST_LIMIT,
            },
        }),
        "cursor" => json!({
            "name": "cursor", "in": "query", "required": false,
            "description": "The `next_cursor` of the previous page.",
            "schema": {"type": "string", "minLength": 1, "maxLength": MAX_CURSOR_BYTES},
        }),
        other => unreachable!("{other} is in the table above"),
    }
}

/// The whole document, as JSON with a line feed at its end. With `limits` it names the maxima of this server.
pub(super) fn complete(api: &utoipa::openapi::OpenApi, limits: Option<&Limits>) -> String {
    let mut document = serde_json::to_value(api).expect("a document is JSON");
    document["components"]["securitySchemes"] = json!({"bearer": {
        "type": "http", "scheme": "bearer",
        "description": "`LEASEHOLD_TOKEN`, or `LEASEHOLD_BREAK_TOKEN`, which also permits breaking a lease. A server without tokens requires none.",
    }});
    document["security"] = json!([{}]);
    document["components"]["headers"] = headers();
    complete_schemas(&mut document["components"]["schemas"], limits);
    let paths = document["paths"]
        .as_object_mut()
        .expect("a document has paths");
    for operation in paths.values_mut().flat_map(|path| {
        path.as_object_mut()
            .expect("a path is an object")
            .values_mut()
    }) {
        complete_operation(operation);
    }
    let mut text = serde_json::to_string_pretty(&document).expect("a document is JSON");
    text.push('\n');
    text
}

/// Adds keywords that utoipa's derive lacks; for an enumeration with a description it would generate a union.
fn complete_schemas(schemas: &mut Value, limits: Option<&Limits>) {
    let mut add = |schema: &str, property: &str, keyword: &str, value: Value| {
        schemas[schema]["properties"][property][keyword] = value;
    };
    add(
        "AcquireBody",
        "metadata",
        "maxProperties",
        json!(Metadata::MAX_PAIRS),
    );
    add(
        "AcquireBody",
        "metadata",
        "propertyNames",
        json!({"minLength": 1, "pattern": PRINTABLE_PATTERN}),
    );
    add(
        "AcquireBody",
        "metadata",
        "additionalProperties",
        json!({"type": "string", "pattern": PRINTABLE_PATTERN}),
    );
    add("AcquireBody", "holder", "pattern", json!(PRINTABLE_PATTERN));
    add(
        "Problem",
        "reason",
        "enum",
        json!([Reason::NotHeld, Reason::HeldByOther, Reason::Released]),
    );
    add(
        "Problem",
        "outcome",
        "enum",
        json!([Effect::None, Effect::Unknown]),
    );
    add(
        "Readiness",
        "status",
        "enum",
        json!([Status::Ready, Status::Starting, Status::Draining]),
    );
    add(
        "Readiness",
        "store",
        "enum",
        json!([
            StoreStatus::Ok,
            StoreStatus::Degraded,
            StoreStatus::Unreached
        ]),
    );
    if let Some(limits) = limits {
        bound(&mut schemas["AcquireBody"], "ttl_ms", limits.max_ttl);
        bound(&mut schemas["AcquireBody"], "wait_ms", limits.max_wait);
        bound(&mut schemas["RenewBody"], "ttl_ms", limits.max_ttl);
    }
}

/// Sets the maximum of a property in milliseconds, and lowers its default and example to it.
fn bound(schema: &mut Value, property: &str, maximum: Duration) {
    let maximum = millis(maximum);
    let lower = |value: &mut Value| {
        if value.as_u64().is_some_and(|value| value > maximum) {
            *value = json!(maximum);
        }
    };
    lower(&mut schema["example"][property]);
    let property = &mut schema["properties"][property];
    property.get_mut("default").into_iter().for_each(lower);
    property["maximum"] = json!(maximum);
}

fn complete_operation(operation: &mut Value) {
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

fn headers() -> Value {
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

/// The routes `/openapi.json`, with the limits of this server, and `/docs`. Both work without internet access.
pub(super) fn routes(limits: &Limits) -> Router<App> {
    let document = Bytes::from(super::document(Some(limits)));
    let json = [(CONTENT_TYPE, "application/json")];
    let policy = SetResponseHeaderLayer::overriding(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(CONTENT_POLICY),
    );
    let ui: Router<App> = SwaggerUi::new("/docs")
        .config(Config::from("/openapi.json"))
        .into();
    let ui = ui.layer(policy);
    ui.route("/openapi.json", get(async move || (json, document.clone())))
}
