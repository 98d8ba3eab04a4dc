//! The front page: a browser is led to the documentation, and any other client gets a list of links.

use axum::http::header::{ACCEPT, LOCATION, VARY};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// Relative, so that it is right behind a proxy that adds a path prefix.
const DOCS: (HeaderName, HeaderValue) = (LOCATION, HeaderValue::from_static("docs/"));

/// The answer depends on this header of the request.
const BY_ACCEPT: [(HeaderName, HeaderValue); 1] = [(VARY, HeaderValue::from_static("accept"))];

/// The paths of the server.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Links {
    /// The name of the service.
    #[schema(example = "leasehold")]
    pub(super) name: &'static str,
    /// The list of held locks. The path of a lock is below it.
    #[schema(example = "/locks")]
    pub(super) locks: &'static str,
    /// The documentation of the API, for browsers.
    #[schema(example = "/docs")]
    pub(super) docs: &'static str,
    /// The OpenAPI document.
    #[schema(example = "/openapi.json")]
    pub(super) openapi: &'static str,
    /// The liveness check.
    #[schema(example = "/livez")]
    pub(super) livez: &'static str,
    /// The readiness check.
    #[schema(example = "/readyz")]
    pub(super) readyz: &'static str,
    /// The metrics, for Prometheus.
    #[schema(example = "/metrics")]
    pub(super) metrics: &'static str,
}

const LINKS: Links = Links {
    name: "leasehold",
    locks: "/locks",
    docs: "/docs",
    openapi: "/openapi.json",
    livez: "/livez",
    readyz: "/readyz",
    metrics: "/metrics",
};

/// Front page
///
/// Returns the paths of the server. A client that accepts `text/html`, such as a browser, is redirected to `/docs`.
#[utoipa::path(get, path = "/", operation_id = "index", tag = "health",
    responses(
        (status = 200, description = "The paths of the server.", body = Links),
        (status = 303, description = "For browsers: a redirect to the documentation at `/docs`."),
    ))]
pub(super) async fn index(headers: HeaderMap) -> Response {
    if accepts_html(&headers) {
        return (StatusCode::SEE_OTHER, BY_ACCEPT, [DOCS]).into_response();
    }
    (BY_ACCEPT, axum::Json(LINKS)).into_response()
}

/// Whether `text/html` is named. `*/*` is not enough: `curl` and most HTTP libraries send it.
fn accepts_html(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter();
    let mut ranges = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    ranges.any(|range| {
        let essence = range.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("text/html")
    })
}
