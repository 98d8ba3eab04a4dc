//! The HTTP interface: the routes and the layers around them.
//!
//! Each request passes these layers, from the outside in:
//!
//! - request id, log line, metrics and the headers that every answer has;
//! - extraction of the lock's key from the path;
//! - the gate, with the checks that need no route;
//! - the router, with a guard against panics;
//! - the extractors: on lock routes the bearer token comes first;
//! - the handler.

mod answers;
mod app;
pub mod auth;
mod browsers;
mod common_headers;
mod docs;
pub mod extract;
mod gate;
pub mod health;
mod index;
mod labels;
mod locks;
pub mod problem;
mod recovery;
pub mod wire;

use std::any::Any;
use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::Service;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use self::answers::LargeBody;
pub use self::answers::{LargeAnswers, MAX_LARGE_ANSWERS};
pub use self::app::{App, AppState};
pub use self::auth::Auth;
pub use self::browsers::{AllowedHost, AllowedOrigin, Browsers};
use self::common_headers::{add_common_headers, request_id};
use self::extract::{Arrived, named_key, set_key_apart};
pub use self::gate::{AtCapacity, BothLengths, MAX_HEAD_BYTES};
use self::labels::{method_of, route_of};
use self::problem::{Kind, Problem};
use self::wire::Limits;
use crate::lock::lease::millis;
use crate::random;
use crate::telemetry::{self, Label, Limit, RequestLine, Route, cut_for_log, log_request};

/// A body of more bytes needs a permit of [`LargeAnswers`]. The permits bound the memory that clients can occupy by not
/// reading their answers.
const LARGE_BODY_BYTES: u64 = 32 * 1024;

fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(docs::description())
        .routes(routes!(index::index))
        .routes(routes!(health::livez))
        .routes(routes!(health::readyz))
        .routes(routes!(health::metrics))
}

fn lock_routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(locks::list))
        .routes(routes!(locks::acquire, locks::release, locks::inspect))
        .routes(routes!(locks::renew))
        .routes(routes!(recovery::end))
}

/// The OpenAPI document, generated from the same table as the routes. It lacks the maxima that operators set: each
/// server adds its own at `/openapi.json`.
#[must_use]
pub fn openapi() -> String {
    document(None)
}

fn document(limits: Option<&Limits>) -> String {
    docs::complete(&routes().merge(lock_routes()).into_openapi(), limits)
}

/// The answer to a method that the route does not have; the router adds `Allow`.
async fn other_method(method: Method, uri: Uri) -> Response {
    if method == Method::OPTIONS {
        return StatusCode::NO_CONTENT.into_response();
    }
    let is_lease = uri.path().starts_with("/locks/") && uri.path().ends_with("/lease");
    let detail = if is_lease {
        "the last segment /lease is no part of a key: PUT /locks/<key>/lease renews the lease of <key>"
    } else {
        "the header Allow names the methods of this route"
    };
    Problem::new(Kind::MethodNotAllowed, detail).into_response()
}

/// The entry point of all requests. Cheap to clone.
#[derive(Clone)]
pub struct HttpService {
    app: App,
    routes: Router,
}

impl HttpService {
    /// Builds the router with its layers.
    #[must_use]
    pub fn new(app: App) -> Self {
        let locks: Router<App> = lock_routes().into();
        let others: Router<App> = routes().into();
        let routes = others
            .merge(locks)
            .merge(docs::routes(&app.limits))
            .fallback(async || {
                Problem::new(Kind::NotFound, "/docs and /openapi.json list the routes")
            })
            .method_not_allowed_fallback(other_method)
            .layer(CatchPanicLayer::custom(report_panic))
            .with_state(app.clone());
        Self { app, routes }
    }

    /// Answers a request: assigns its id, completes the problem body of a refusal, logs and counts.
    ///
    /// This code wraps the router and is no layer of it. A layer runs after the routing, but the key must leave the
    /// path before; and a layer costs each request a clone of the router.
    ///
    /// # Errors
    /// Never: a failure is a response too.
    pub fn answer(
        &self,
        request: axum::http::Request<Incoming>,
    ) -> impl Future<Output = Result<Response, Infallible>> + Send + use<> {
        let (app, routes) = (self.app.clone(), self.routes.clone());
        async move { Ok(answer(&app, routes, request.map(Body::new)).await) }
    }

    /// The whole response to a head larger than [`MAX_HEAD_BYTES`], as bytes: hyper does not write it.
    #[must_use]
    pub fn refuse_head(&self) -> Vec<u8> {
        let (id, route, method) = (random::id(), Route::None, telemetry::Method::Other);
        let problem = Problem::head_too_large(MAX_HEAD_BYTES);
        let mut response = problem.clone().into_response();
        let body = problem.write(&id, &mut response);
        self.app
            .metrics
            .requests
            .answered(route, method, response.status(), Duration::ZERO);
        log_request(&RequestLine {
            request_id: &id,
            method: method.text(),
            route: route.text(),
            key: None,
            path: None,
            status: response.status().as_u16(),
            duration_ms: 0,
            is_routine: false,
        });
        let id = HeaderValue::try_from(id).expect("hex digits are a header value");
        add_common_headers(response.headers_mut(), id);
        let mut bytes = format!("HTTP/1.1 {}\r\n", response.status()).into_bytes();
        for (name, value) in response.headers() {
            bytes.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        bytes.extend(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend(body);
        bytes
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
    // For a lock route the log line has the key and the route, so it needs no path.
    let path = key.is_none().then(|| cut_for_log(path).into_owned());
    let mut response = match gate::check(app, route, &request) {
        Ok(()) => {
            let Ok(response) = routes.call(request).await;
            response
        }
        Err(problem) => problem.into_response(),
    };
    if response.body().size_hint().lower() > LARGE_BODY_BYTES {
        response = bounded(app, route, response);
    }
    if let Some(problem) = pending_problem(&mut response) {
        let body = problem.write(id, &mut response);
        *response.body_mut() = body.into();
    }
    let status = response.status();
    let took = arrived.elapsed();
    app.metrics
        .requests
        .answered(route, method_of(&method), status, took);
    log_request(&RequestLine {
        request_id: id,
        method: &cut_for_log(method.as_str()),
        route: route.text(),
        key: key.as_deref(),
        path: path.as_deref(),
        status: status.as_u16(),
        duration_ms: millis(took),
        is_routine: is_probe(route) && status.is_success(),
    });
    add_common_headers(response.headers_mut(), request_id);
    response
}

/// Whether monitoring asks for this route every few seconds.
const fn is_probe(route: Route) -> bool {
    matches!(route, Route::Livez | Route::Readyz | Route::Metrics)
}

/// Sends a large answer in parts under a permit, or refuses the request when no permit is left.
fn bounded(app: &App, route: Route, response: Response) -> Response {
    match app.large_answers.take() {
        Some(permit) => response.map(|body| Body::new(LargeBody::new(body, permit))),
        None if route == Route::Locks => {
            app.metrics.locks.limits.count(Limit::Listings);
            Problem::too_many_listings().into_response()
        }
        None => {
            app.metrics.locks.limits.count(Limit::LargeAnswers);
            Problem::too_many_connections("the limit of large answers in progress is reached")
                .into_response()
        }
    }
}

/// The problem that a response stands for. A refusal that axum itself produces becomes a problem too.
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
    let problem = Problem::new(kind, "the server cannot read this request");
    *response.status_mut() = kind.status();
    Some(problem)
}

fn report_panic(_: Box<dyn Any + Send>) -> Response {
    // The panic hook has logged the panic.
    Problem::internal().into_response()
}
