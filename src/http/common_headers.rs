//! The headers that every answer has.

use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue};

use crate::random;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Answers load nothing, and no page may frame them. `/docs` has a policy of its own.
const CONTENT_POLICY: &str = "default-src 'none'; frame-ancestors 'none'";

/// The longest request id that the server adopts from a client.
const MAX_REQUEST_ID_BYTES: usize = 128;

pub(super) fn add_common_headers(headers: &mut HeaderMap, request_id: HeaderValue) {
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers
        .entry(CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static(CONTENT_POLICY));
    headers.insert(REQUEST_ID, request_id);
}

/// The client's id if it is safe to log: one header of 1 to 128 plain characters. Otherwise a new id.
pub(super) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let mut given = headers.get_all(&REQUEST_ID).iter();
    let plain = |id: &&HeaderValue| {
        let id = id.as_bytes();
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        (1..=MAX_REQUEST_ID_BYTES).contains(&id.len()) && id.iter().all(allowed)
    };
    if let (Some(id), None) = (given.next().filter(plain), given.next()) {
        id.clone()
    } else {
        HeaderValue::try_from(random::id()).expect("hex digits are a header value")
    }
}
