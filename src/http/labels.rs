//! The route and the method of a request, as the metrics and the log name them.

use axum::http::Method;

use crate::telemetry::{self, Route};

/// The route of a path without its key. Unknown paths share one label, so that clients cannot create labels of metrics.
pub(super) fn route_of(path: &str) -> Route {
    match path {
        "/" => Route::Index,
        "/livez" => Route::Livez,
        "/readyz" => Route::Readyz,
        "/metrics" => Route::Metrics,
        "/openapi.json" => Route::OpenApi,
        "/locks" => Route::Locks,
        "/recovery" => Route::Recovery,
        path if path.starts_with("/docs") => Route::Docs,
        path if path.starts_with("/locks/") && path.ends_with("/lease") => Route::Lease,
        path if path.starts_with("/locks/") => Route::Lock,
        _ => Route::None,
    }
}

/// The metrics' label of a method: methods that the routes do not use share one.
pub(super) fn method_of(method: &Method) -> telemetry::Method {
    match *method {
        Method::GET => telemetry::Method::Get,
        Method::HEAD => telemetry::Method::Head,
        Method::POST => telemetry::Method::Post,
        Method::PUT => telemetry::Method::Put,
        Method::DELETE => telemetry::Method::Delete,
        _ => telemetry::Method::Other,
    }
}
