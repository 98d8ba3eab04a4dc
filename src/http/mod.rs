//! The service over HTTP: routes and what surrounds them.
//!
//! Each request passes, from the outside in: the request id, the log line and the cache header; the lock's key
//! set apart from the path; the router and the guard against panics; the extractors, of which the first of each lock
//! route is for the bearer token; a handler of a few lines.

mod app;
pub mod auth;
mod docs;
pub mod extract;
pub mod health;
mod locks;
pub mod problem;
pub mod wire;

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::Service;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

pub use self::app::{App, Parts};
pub use self::auth::Auth;
use self::extract::{Arrived, named_key, set_key_apart};
use self::problem::{Kind, Problem};
use self::wire::Limits;
use crate::lock::lease::millis;
use crate::random;
use crate::telemetry::{self, Label, RequestLine, Route, log_request};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The longest request id that is taken from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

fn lock_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(locks::list))
        .routes(routes!(locks::acquire, locks::release, locks::inspect))
        .routes(routes!(locks::renew))
}

/// The OpenAPI document, made of the same table as the routes. The maxima that an operator sets are
/// not in it: each server names its own at `/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    document(None)
}

fn document(limits: Option<&Limits>) -> String {
    docs::complete(&routes().merge(lock_routes()).into_openapi(), limits)
}

/// Where requests come in. Cheap to clone.
#[derive(Clone)]
pub struct Door {
    app: App,
    routes: Router,
}

impl Door {
    /// All routes, with what surrounds them.
    #[must_use]
    pub fn new(app: App) -> Self {
        let locks: Router<App> = lock_routes().into();
        let others: Router<App> = routes().into();
        let routes = others
            .merge(locks)
            .merge(docs::routes(&app.limits))
            .fallback(async || {
                Problem::new(Kind::NotFound, "the routes are at /docs and /openapi.json")
            })
            .method_not_allowed_fallback(async || {
                Problem::new(
                    Kind::MethodNotAllowed,
                    "the Allow header names the methods of this route",
                )
            })
            .layer(CatchPanicLayer::custom(report_panic))
            .with_state(app.clone());
        Self { app, routes }
    }

    /// Answers a request: gives it an id and a time, finishes problems, logs and counts.
    ///
    /// Around the router and not a layer of it: a layer comes after the routing, before which the key must be set
    /// apart, and costs each request a clone of the router.
    ///
    /// # Errors
    /// Never: what goes wrong is a response too.
    pub fn answer(
        &self,
        request: axum::http::Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let (app, routes) = (self.app.clone(), self.routes.clone());
        async move { Ok(answer(&app, routes, request.map(Body::new)).await) }
    }
}

async fn answer(app: &App, mut routes: Router, mut request: Request) -> Response {
    let arrived = Instant::now();
    let request_id = request_id(request.headers());
    let id = request_id.to_str().unwrap_or_default();
    let method = request.method().clone();
    request.extensions_mut().insert(Arrived(arrived));
    let request = set_key_apart(request);
    let (key, path) = (named_key(&request), request.uri().path());
    let route = route_of(path);
    // Where the key is, the route says the rest.
    let path = key.is_none().then(|| path.to_owned());
    let mut response = match check_framing(&request) {
        Ok(()) => {
            let Ok(response) = routes.call(request).await;
            response
        }
        Err(problem) => problem.into_response(),
    };
    if let Some(problem) = pending_problem(&mut response) {
        problem.write(id, &mut response);
    }
    let status = response.status().as_u16();
    let took = arrived.elapsed();
    app.metrics
        .requests
        .answered(route, counted(&method), status, took);
    log_request(&RequestLine {
        request_id: id,
        method: method.as_str(),
        route: route.text(),
        key: key.as_deref(),
        path: path.as_deref(),
        status,
        duration_ms: millis(took),
    });
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REQUEST_ID, request_id);
    response
}

/// The route of a path whose key was set apart; what clients make up must not become a metric's label each.
fn route_of(path: &str) -> Route {
    match path {
        "/livez" => Route::Livez,
        "/readyz" => Route::Readyz,
        "/metrics" => Route::Metrics,
        "/openapi.json" => Route::OpenApi,
        "/locks" => Route::Locks,
        path if path.starts_with("/docs") => Route::Docs,
        path if path.starts_with("/locks/") && path.ends_with("/lease") => Route::Lease,
        path if path.starts_with("/locks/") => Route::Lock,
        _ => Route::None,
    }
}

/// What proxies disagree about is refused: no `Host` or two, or one that is none, and any transfer
/// coding but the one that everybody knows.
fn check_framing(request: &Request) -> Result<(), Problem> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let is_host = |value: &HeaderValue| {
        Authority::try_from(value.as_bytes()).is_ok_and(|host| !host.as_str().contains('@'))
    };
    match (hosts.next(), hosts.next()) {
        (None, _) if request.version() == Version::HTTP_10 => {}
        (Some(host), None) if is_host(host) => {}
        _ => {
            return Err(Problem::invalid(
                "the request must have exactly one Host header, a host with or without port",
            ));
        }
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::invalid(
            "the only Transfer-Encoding that is taken is chunked",
        )),
    }
}

/// The problem that a response stands for. A refusal that is none of ours (a part of axum that
/// answers by itself) becomes one.
fn pending_problem(response: &mut Response) -> Option<Problem> {
    if let Some(problem) = response.extensions_mut().remove::<Problem>() {
        return Some(problem);
    }
    let kind = match response.status() {
        StatusCode::NOT_FOUND => Kind::NotFound,
        StatusCode::METHOD_NOT_ALLOWED => Kind::MethodNotAllowed,
        status if status.is_client_error() => Kind::InvalidRequest,
        _ => return None,
    };
    let problem = Problem::new(kind, "the request was refused before it reached a handler");
    *response.status_mut() = kind.status();
    Some(problem)
}

/// The client's id, if it is one that can stand in a log; else a new one.
fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(&REQUEST_ID).iter();
    let plain = |id: &&HeaderValue| {
        let id = id.as_bytes();
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(allowed)
    };
    if let (Some(id), None) = (given.next().filter(plain), given.next()) {
        id.clone()
    } else {
        let id = format!("{:032x}", u128::from_be_bytes(random::bytes()));
        HeaderValue::try_from(id).expect("hex digits are a header value")
    }
}

/// A method as it is counted.
fn counted(method: &Method) -> telemetry::Method {
    match *method {
        Method::GET => telemetry::Method::Get,
        Method::HEAD => telemetry::Method::Head,
        Method::POST => telemetry::Method::Post,
        Method::PUT => telemetry::Method::Put,
        Method::DELETE => telemetry::Method::Delete,
        _ => telemetry::Method::Other,
    }
}

fn report_panic(_: Box<dyn Any + Send>) -> Response {
    // The panic itself was logged by the hook.
    Problem::internal().into_response()
}
