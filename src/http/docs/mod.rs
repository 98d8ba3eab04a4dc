//! The OpenAPI document, and `/docs` to browse it.
//!
//! Utoipa generates the operations, their successful responses and the schemas from the routes. This module adds the
//! parts that operations share: parameters, refusals with their problem types, and headers. Statuses, titles and bounds
//! come from the tables of the server, so that the document agrees with its answers.

mod operations;
mod parameters;
mod schemas;

use axum::Router;
use axum::body::Bytes;
use axum::http::HeaderValue;
use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::routing::get;
use serde_json::json;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::OpenApi;
use utoipa_swagger_ui::{Config, SwaggerUi};

use self::operations::{complete_operation, headers};
use self::schemas::complete_schemas;
use crate::http::app::App;
use crate::http::problem::ProblemBody;
use crate::http::wire::Limits;

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
            monotonic clock. Refusals are `application/problem+json`; programs branch on their `type`.\n\nA body may \
            write a whole number in any notation of JSON (`30000`, `30000.0`, `3e4`); a query uses digits only. Limits \
            of texts are in bytes.\n\nA key can \
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
