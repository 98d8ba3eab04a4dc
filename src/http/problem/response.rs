//! The HTTP response of a refusal.

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};

use super::{Kind, Problem};

impl Problem {
    /// Completes the response that [`Problem::into_response`] began: sets headers, returns the body, logs the cause.
    pub fn write(mut self, request_id: &str, response: &mut Response) -> Vec<u8> {
        if let Some(cause) = self.cause {
            tracing::error!(request_id, "{cause}");
        }
        request_id.clone_into(&mut self.body.request_id);
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        // Axum has set the length of the empty body.
        headers.remove(CONTENT_LENGTH);
        serde_json::to_vec(&*self.body).expect("a problem is JSON")
    }
}

/// The response has no body yet: the outermost layer adds it, because only that layer knows the request id.
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = self.kind.status().into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if self.kind == Kind::Unauthenticated {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let ends_connection = [
            Kind::RequestTimeout,
            Kind::PayloadTooLarge,
            Kind::HeadTooLarge,
            Kind::TooManyConnections,
        ];
        if ends_connection.contains(&self.kind) {
            // The unread rest of the request would count as the next request, or the server has no capacity for one.
            headers.insert(
                HeaderName::from_static("connection"),
                HeaderValue::from_static("close"),
            );
        }
        response.extensions_mut().insert(self);
        response
    }
}
