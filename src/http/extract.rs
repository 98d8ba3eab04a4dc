//! The extractors of the handlers' arguments. Every refusal is a [`Problem`].

use std::error::Error;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{self, FromRequest, FromRequestParts, Request};
use axum::http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Uri};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use percent_encoding::percent_decode_str;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};

use crate::auth::Principal;
use crate::http::app::App;
use crate::http::problem::{Kind, Problem};
use crate::http::wire::IDEMPOTENCY_KEY_LENGTH;
use crate::lock::key::LockKey;
use crate::lock::lease::LeaseId;
use crate::service::ServiceError;
use crate::telemetry::{MAX_LOGGED_BYTES, beginning, cut_for_log};

/// The largest body, in bytes.
pub const MAX_BODY_BYTES: usize = 16 * 1024;

/// How long a body may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a body may still take once the server drains.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// When the request arrived; set by the outermost layer.
#[derive(Clone, Copy, Debug)]
pub struct Arrived(pub Instant);

/// The part of the path that names the lock, still encoded.
#[derive(Clone, Debug)]
struct RawKey(String);

/// The key of the lock that the path names.
pub struct Key(pub LockKey);

/// The query parameters of the route. An unknown or repeated parameter is refused.
pub struct Query<T>(pub T);

/// The caller of a request that may wait, and the headers by which it is known again after the wait.
pub struct Caller {
    /// Who it was at the arrival.
    pub principal: Principal,
    /// All headers.
    pub headers: HeaderMap,
}

/// The `Lease-Id` header, if there is one.
pub struct OptionalLeaseId(pub Option<LeaseId>);

/// The `Idempotency-Key` header, if there is one.
pub struct IdempotencyKey(pub Option<String>);

/// A JSON object, or the default for an empty body.
pub struct Json<T>(pub T);

/// Moves the lock's key from the path into an extension, and leaves one fixed segment in its stead for the router.
///
/// A key may hold slashes, written `/` or `%2F`: proxies replace one by the other, so both must name
/// the same lock. The last segment `lease` marks the route of a lease: no key may end with it.
pub fn set_key_apart(mut request: Request) -> Request {
    let path = request.uri().path();
    let Some(rest) = path.strip_prefix("/locks/") else {
        return request;
    };
    let (key, plain_path) = match rest.strip_suffix("/lease") {
        Some(key) => (key, "/locks/key/lease"),
        None => (rest, "/locks/key"),
    };
    let key = RawKey(key.to_owned());
    if !key.0.is_empty() && !key.0.contains('/') {
        // The router matches a key of one segment without a change to the path.
        request.extensions_mut().insert(key);
        return request;
    }
    let mut parts = request.uri().clone().into_parts();
    let query = request
        .uri()
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    parts.path_and_query = Some(
        format!("{plain_path}{query}")
            .parse()
            .expect("a head has far fewer bytes than a URI may have"),
    );
    *request.uri_mut() = Uri::from_parts(parts).expect("only the path was changed");
    request.extensions_mut().insert(key);
    request
}

/// The key that `set_key_apart` found, for the log: decoded, and not yet known to be valid.
pub fn named_key(request: &Request) -> Option<String> {
    let RawKey(raw) = request.extensions().get()?;
    // Percent-encoding has up to three bytes for one. The cut comes first, so that decoding a long key costs little.
    let raw = beginning(raw, 3 * (MAX_LOGGED_BYTES + 1));
    let key = percent_decode_str(raw).decode_utf8_lossy();
    Some(cut_for_log(&key).into_owned())
}

/// The first extractor of each lock route: a caller without a required token learns nothing about a lock.
impl FromRequestParts<App> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        app.auth.authenticate(&parts.headers).await
    }
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self {
            principal: Principal::from_request_parts(parts, app).await?,
            headers: parts.headers.clone(),
        })
    }
}

impl<S: Sync> FromRequestParts<S> for Key {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let RawKey(raw) = parts.extensions.get().ok_or_else(Problem::internal)?;
        let decoded = percent_decode_str(raw).decode_utf8();
        let text = decoded.map_err(|_| Problem::new(Kind::InvalidKey, "the key is not UTF-8"))?;
        Ok(Self(LockKey::parse(&text)?))
    }
}

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let extract::Query(parameters) =
            extract::Query::try_from_uri(&parts.uri).map_err(|rejection| {
                // The source says what is wrong, without the rejection's sentence about deserialization. It quotes the
                // name of an unknown parameter, which may be long.
                let cause = rejection.source().map(ToString::to_string);
                let cause = cut_for_log(cause.as_deref().unwrap_or_default());
                Problem::invalid(format!("the query is not valid: {cause}"))
            })?;
        Ok(Self(parameters))
    }
}

impl<S: Sync> FromRequestParts<S> for OptionalLeaseId {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let lease_id = match single_header(&parts.headers, "Lease-Id")? {
            None => None,
            // A script whose variable is empty sends this.
            Some("") => return Err(Problem::lease_id_required()),
            Some(text) => Some(LeaseId::parse(text).ok_or_else(|| {
                Problem::invalid(
                    "Lease-Id must be the lease_id of an acquisition: 32 lower-case hex digits",
                )
            })?),
        };
        Ok(Self(lease_id))
    }
}

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let key = single_header(&parts.headers, "Idempotency-Key")?;
        let valid = |key: &str| {
            IDEMPOTENCY_KEY_LENGTH.contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
        };
        match key {
            Some(key) if !valid(key) => Err(Problem::invalid(format!(
                "Idempotency-Key must be {} to {} visible ASCII characters, random for each acquisition",
                IDEMPOTENCY_KEY_LENGTH.start(),
                IDEMPOTENCY_KEY_LENGTH.end()
            ))),
            key => Ok(Self(key.map(str::to_owned))),
        }
    }
}

/// An empty body gives the default and may have any `Content-Type`: many HTTP clients send one even then.
impl<T: DeserializeOwned + Default> FromRequest<App> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        if parts.headers.contains_key(CONTENT_ENCODING) {
            return Err(Problem::new(
                Kind::UnsupportedMediaType,
                "send the body without Content-Encoding",
            ));
        }
        let read = read_body(&parts.headers, body);
        let bytes = tokio::select! {
            bytes = read => bytes?,
            // A slow client does not delay the drain.
            () = app.service.drained_for(DRAIN_GRACE) => return Err(ServiceError::ShuttingDown.into()),
        };
        if bytes.is_empty() {
            return Ok(Self(T::default()));
        }
        check_content_type(&parts.headers)?;
        // Serde would accept an array as the fields by position.
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) != Some(&b'{') {
            return Err(Problem::invalid("the body must be a JSON object"));
        }
        // Only a refusal names the path of the field, so valid bodies avoid the cost of tracking it.
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Self(value)),
            Err(_) => parse_with_path(&bytes).map(Self),
        }
    }
}

/// Parses a body; the refusal names the invalid field.
fn parse_with_path<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let cause = error.into_inner();
        if path == "." {
            invalid_body(&cause)
        } else {
            Problem::invalid(format!("{path}: {cause}"))
        }
    })?;
    json.end().map_err(|error| invalid_body(&error))?;
    Ok(value)
}

fn invalid_body(error: &serde_json::Error) -> Problem {
    Problem::invalid(format!("the body is not valid: {error}"))
}

async fn read_body(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            Kind::PayloadTooLarge,
            format!("the body must have at most {MAX_BODY_BYTES} bytes"),
        )
    };
    let announced = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > MAX_BODY_BYTES) {
        return Err(too_large());
    }
    match timeout(BODY_TIMEOUT, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes().into()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(Problem::invalid(
            "the body is incomplete, or its framing is not valid HTTP",
        )),
        Err(_) => {
            let detail = format!("the body must arrive within {} s", BODY_TIMEOUT.as_secs());
            Err(Problem::new(Kind::RequestTimeout, detail))
        }
    }
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Problem> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let essence = match (types.next(), types.next()) {
        (Some(one), None) => one
            .to_str()
            .ok()
            .and_then(|text| text.split(';').next())
            .map(str::trim),
        _ => None,
    };
    if essence.is_some_and(|essence| essence.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    Err(Problem::new(
        Kind::UnsupportedMediaType,
        "send the body with Content-Type: application/json",
    ))
}

/// A header that may occur once. The server refuses two, because proxies disagree which one counts.
fn single_header<'h>(headers: &'h HeaderMap, name: &str) -> Result<Option<&'h str>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str();
            text.map(Some)
                .map_err(|_| Problem::invalid(format!("{name} must be visible ASCII characters")))
        }
        _ => Err(Problem::invalid(format!(
            "send the header {name} only once"
        ))),
    }
}
