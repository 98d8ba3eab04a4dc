//! The checks before routing: the size of the head, unambiguous framing, the server's name, and the origin of the page.

use axum::extract::Request;
use axum::http::header::{HOST, TRANSFER_ENCODING};
use axum::http::uri::Authority;
use axum::http::{HeaderValue, Version};

use crate::http::app::App;
use crate::http::problem::Problem;
use crate::telemetry::Route;

/// The largest head of a request, in bytes: request line and headers, with their separators and line ends.
pub const MAX_HEAD_BYTES: usize = 16 * 1024;

/// Marks a request with a `Transfer-Encoding` from which hyper may have dropped a `Content-Length`.
#[derive(Clone, Copy, Debug)]
pub struct BothLengths;

/// Marks a request on a connection beyond the limit: the server answers only health checks and metrics on it.
#[derive(Clone, Copy, Debug)]
pub struct AtCapacity;

/// Refuses a request that no handler may see.
pub(super) fn check(app: &App, route: Route, request: &Request) -> Result<(), Problem> {
    if head_bytes(request) > MAX_HEAD_BYTES {
        return Err(Problem::head_too_large(MAX_HEAD_BYTES));
    }
    check_framing(request)?;
    // Probes use any host name, and must get an answer at the limit of connections: a busy server is not a broken one.
    if matches!(route, Route::Livez | Route::Readyz) {
        return Ok(());
    }
    let at_capacity = request.extensions().get::<AtCapacity>().is_some();
    if at_capacity && !matches!(route, Route::Metrics) {
        return Err(Problem::too_many_connections(
            "the limit of connections is reached (LEASEHOLD_MAX_CONNECTIONS), and each has a request in progress",
        ));
    }
    app.browsers.check_host(request)?;
    app.browsers.check_origin(request)
}

/// The size of the head in its usual form: hyper does not pass on the original bytes.
fn head_bytes(request: &Request) -> usize {
    const REQUEST_LINE: usize = "  HTTP/1.1\r\n".len();
    const LINE: usize = ": \r\n".len();
    const END: usize = "\r\n".len();
    let uri = request.uri();
    let authority = uri
        .authority()
        .map_or(0, |authority| "http://".len() + authority.as_str().len());
    let target = authority + uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers = request.headers().iter();
    let headers: usize = headers
        .map(|(name, value)| name.as_str().len() + value.len() + LINE)
        .sum();
    request.method().as_str().len() + target + REQUEST_LINE + headers + END
}

/// Refuses requests that proxies interpret differently: `Host` missing, repeated or invalid; a transfer coding besides
/// `chunked`; both a `Content-Length` and a `Transfer-Encoding`.
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
                "the request must have exactly one header Host, with a host and an optional port",
            ));
        }
    }
    if request.extensions().get::<BothLengths>().is_some() {
        return Err(Problem::invalid(
            "send Content-Length or Transfer-Encoding, not both, and do not pipeline a request with Transfer-Encoding",
        ));
    }
    let mut codings = request.headers().get_all(TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(coding), None) if coding.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Problem::invalid("Transfer-Encoding must be chunked")),
    }
}
