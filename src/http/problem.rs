//! Every refusal, as `application/problem+json` (RFC 9457). Only this module assigns statuses to refusals.
//!
//! A 5xx names the problem and whether the operation may have had an effect, but never the cause. This module logs the
//! cause once, with the request id that the answer carries.

use std::borrow::Cow;
use std::time::Duration;

use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::lock::key::InvalidKey;
use crate::lock::lease::millis;
use crate::lock::rules::Loss;
use crate::service::{HeldBy, ServiceError};
use crate::store::contract::{Outcome, StoreError};

/// The `Retry-After` of a refusal without a better estimate, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// The kinds of refusal: name, status, title.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The path names no valid key.
    InvalidKey,
    /// The route does not accept this body, query or header.
    InvalidRequest,
    /// `Lease-Id` is missing.
    LeaseIdRequired,
    /// The request needs a bearer token.
    Unauthenticated,
    /// The bearer token does not permit this, or the request comes from a page of another origin.
    Forbidden,
    /// The route does not exist.
    NotFound,
    /// The route does not have this method.
    MethodNotAllowed,
    /// The body did not arrive in time.
    RequestTimeout,
    /// The lease is over, or was never the caller's.
    LeaseLost,
    /// The body is too large.
    PayloadTooLarge,
    /// The body is not plain JSON.
    UnsupportedMediaType,
    /// The request names another server.
    MisdirectedRequest,
    /// An earlier request with other parameters used the idempotency key.
    IdempotencyKeyReused,
    /// Another client holds the lock.
    LockHeld,
    /// Another client held the lock for the whole wait.
    WaitTimeout,
    /// The limit of waiters is reached.
    TooManyWaiters,
    /// The head is too large.
    HeadTooLarge,
    /// The limit of listings under way is reached.
    TooManyListings,
    /// A defect of this program.
    Internal,
    /// The store is unreachable.
    StoreUnavailable,
    /// The store has no memory left.
    StoreOutOfMemory,
    /// The store refuses writes because it cannot save them.
    StoreNotPersisting,
    /// Too few replicas confirmed in time.
    ReplicationUnconfirmed,
    /// The store pauses new grants: clients may still rely on leases that it lost.
    Recovering,
    /// The server drains.
    ShuttingDown,
    /// The limit of connections is reached.
    TooManyConnections,
}

impl Kind {
    /// All kinds, for the documentation.
    pub const ALL: [Self; 26] = [
        Self::InvalidKey,
        Self::InvalidRequest,
        Self::LeaseIdRequired,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::LeaseLost,
        Self::PayloadTooLarge,
        Self::UnsupportedMediaType,
        Self::MisdirectedRequest,
        Self::IdempotencyKeyReused,
        Self::LockHeld,
        Self::WaitTimeout,
        Self::TooManyWaiters,
        Self::TooManyListings,
        Self::HeadTooLarge,
        Self::Internal,
        Self::StoreUnavailable,
        Self::StoreOutOfMemory,
        Self::StoreNotPersisting,
        Self::ReplicationUnconfirmed,
        Self::Recovering,
        Self::ShuttingDown,
        Self::TooManyConnections,
    ];

    const fn facts(self) -> (&'static str, u16, &'static str) {
        match self {
            Self::InvalidKey => ("invalid-key", 400, "The lock key is not valid"),
            Self::InvalidRequest => ("invalid-request", 400, "The request is not valid"),
            Self::LeaseIdRequired => ("lease-id-required", 400, "The Lease-Id header is missing"),
            Self::Unauthenticated => ("unauthenticated", 401, "A bearer token is needed"),
            Self::Forbidden => ("forbidden", 403, "This is not permitted"),
            Self::NotFound => ("not-found", 404, "There is no such route"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                405,
                "The route does not take this method",
            ),
            Self::RequestTimeout => ("request-timeout", 408, "The body did not arrive in time"),
            Self::LeaseLost => ("lease-lost", 409, "The lease is lost"),
            Self::PayloadTooLarge => ("payload-too-large", 413, "The body is too large"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                415,
                "The body must be plain application/json",
            ),
            Self::MisdirectedRequest => (
                "misdirected-request",
                421,
                "The request names another server",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                422,
                "The Idempotency-Key was used for another request",
            ),
            Self::LockHeld => ("lock-held", 423, "The lock is held"),
            Self::WaitTimeout => ("wait-timeout", 423, "The lock was held for the whole wait"),
            Self::TooManyWaiters => ("too-many-waiters", 429, "Too many requests wait for locks"),
            Self::TooManyListings => ("too-many-listings", 429, "Too many listings are under way"),
            Self::HeadTooLarge => (
                "head-too-large",
                431,
                "The head of the request is too large",
            ),
            Self::Internal => ("internal", 500, "Internal error"),
            Self::StoreUnavailable => ("store-unavailable", 503, "The store is unavailable"),
            Self::StoreOutOfMemory => ("store-out-of-memory", 503, "The store is out of memory"),
            Self::StoreNotPersisting => (
                "store-not-persisting",
                503,
                "The store refuses writes because it cannot save them",
            ),
            Self::ReplicationUnconfirmed => (
                "replication-unconfirmed",
                503,
                "Too few replicas confirmed in time",
            ),
            Self::Recovering => ("recovering", 503, "New grants pause"),
            Self::ShuttingDown => ("shutting-down", 503, "The server is shutting down"),
            Self::TooManyConnections => (
                "too-many-connections",
                503,
                "The server serves as many connections as it may",
            ),
        }
    }

    /// The last part of the problem's `type`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.facts().0
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(self) -> StatusCode {
        StatusCode::from_u16(self.facts().1).expect("the table has statuses")
    }

    /// The title, the same for all problems of the kind.
    #[must_use]
    pub const fn title(self) -> &'static str {
        self.facts().2
    }
}

/// A refusal on its way to the client. The outermost layer writes it, once it has the request id.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    retry_after: Option<u64>,
    /// The log has it; the client never sees it.
    cause: Option<String>,
    body: Box<ProblemBody>,
}

/// The reason of `lease-lost`.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// No client holds the lock.
    NotHeld,
    /// Another client holds the lock.
    HeldByOther,
    /// The lease of this acquisition was released moments ago.
    Released,
}

/// Whether a failed operation may have had an effect.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It had no effect.
    None,
    /// It may have had an effect: repeat it with the same `Idempotency-Key` or `Lease-Id`.
    Unknown,
}

/// A refused request (RFC 9457, `application/problem+json`).
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// `urn:leasehold:problem:` and the name of the problem; the part to branch on.
    #[serde(rename = "type")]
    #[schema(example = "urn:leasehold:problem:lock-held")]
    pub kind: String,
    /// The kind of problem in words; the same each time.
    pub title: &'static str,
    /// The HTTP status again.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request.
    #[schema(value_type = String)]
    pub detail: Cow<'static, str>,
    /// The `X-Request-Id` of the answer; the server's log has it too.
    pub request_id: String,
    /// Who holds the lock, in that client's own words (`lock-held`, `wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "billing-7d9f", nullable = false)]
    pub holder: Option<String>,
    /// The fencing token of the current lease (`lock-held`, `wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub fencing_token: Option<u64>,
    /// Milliseconds since the current lease was granted (`lock-held`, `wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub held_for_ms: Option<u64>,
    /// Milliseconds left of the current lease, unless it is renewed (`lock-held`, `wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub expires_in_ms: Option<u64>,
    /// How many requests wait for the lock (`lock-held`, `wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub waiters: Option<u64>,
    /// The place of this request in the line when its time was over; 1 is the first
    /// (`wait-timeout`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    pub position: Option<u64>,
    /// Why the lease is lost (`lease-lost`): `not_held` (nobody holds the lock), `held_by_other`, or
    /// `released` (this acquisition was granted and released moments ago).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String)]
    pub reason: Option<Reason>,
    /// Whether an operation that failed may have taken effect (5xx): `none` (it certainly did not) or
    /// `unknown` (ask again, with the same `Idempotency-Key` or `Lease-Id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String)]
    pub outcome: Option<Effect>,
}

impl Problem {
    /// A problem of `kind`; `detail` describes the fault of this request.
    #[must_use]
    pub fn new(kind: Kind, detail: impl Into<Cow<'static, str>>) -> Self {
        let retry_after = match kind.status() {
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                Some(RETRY_AFTER_SECONDS)
            }
            _ => None,
        };
        let body = ProblemBody {
            kind: format!("urn:leasehold:problem:{}", kind.name()),
            title: kind.title(),
            status: kind.status().as_u16(),
            detail: detail.into(),
            ..ProblemBody::default()
        };
        Self {
            kind,
            retry_after,
            cause: None,
            body: Box::new(body),
        }
    }

    /// A request that the route does not accept; `detail` names the invalid part and its permitted values.
    #[must_use]
    pub fn invalid(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidRequest, detail)
    }

    /// A request without the required `Lease-Id`.
    #[must_use]
    pub fn lease_id_required() -> Self {
        Self::new(
            Kind::LeaseIdRequired,
            "send the lease_id that the acquisition answered in the Lease-Id header",
        )
    }

    /// A lock that another client holds.
    #[must_use]
    pub fn held(held_by: HeldBy) -> Self {
        let mut problem = Self::new(
            Kind::LockHeld,
            "somebody else holds the lock; wait_ms waits for it",
        );
        problem.describe(held_by);
        problem
    }

    /// A wait that timed out; `ahead` waiters were before it in the queue.
    #[must_use]
    pub fn wait_timeout(held_by: HeldBy, ahead: usize) -> Self {
        let mut problem = Self::new(
            Kind::WaitTimeout,
            "somebody else held the lock until wait_ms had passed",
        );
        problem.describe(held_by);
        problem.body.position = Some(count(ahead) + 1);
        problem
    }

    /// A lease that is over, or was never the caller's.
    #[must_use]
    pub fn lost(loss: Loss) -> Self {
        let (reason, detail) = match loss {
            Loss::NotHeld => (
                Reason::NotHeld,
                "nobody holds the lock: the lease expired or was ended",
            ),
            Loss::HeldByOther => (Reason::HeldByOther, "somebody else holds the lock"),
        };
        Self::lease_lost(reason, detail)
    }

    /// The replay of an acquisition whose lease was released moments ago.
    #[must_use]
    pub fn already_released() -> Self {
        Self::lease_lost(
            Reason::Released,
            "the lease of this Idempotency-Key was released moments ago",
        )
    }

    fn lease_lost(reason: Reason, detail: &'static str) -> Self {
        let mut problem = Self::new(Kind::LeaseLost, detail);
        problem.body.reason = Some(reason);
        problem
    }

    /// An idempotency key that an earlier request with other parameters used.
    #[must_use]
    pub fn key_reused() -> Self {
        Self::new(
            Kind::IdempotencyKeyReused,
            "this Idempotency-Key was used with another ttl_ms, holder or metadata; take a new one for each acquisition",
        )
    }

    /// The limit of waiters is reached.
    #[must_use]
    pub fn too_many_waiters() -> Self {
        Self::new(
            Kind::TooManyWaiters,
            "as many requests wait as may; try again later, or without wait_ms",
        )
    }

    /// The limit of listings under way is reached.
    #[must_use]
    pub fn too_many_listings() -> Self {
        Self::new(
            Kind::TooManyListings,
            "this server lists for as many requests as it may at once; try again later",
        )
    }

    /// A head of more than `max_bytes` bytes.
    #[must_use]
    pub fn head_too_large(max_bytes: usize) -> Self {
        Self::new(
            Kind::HeadTooLarge,
            format!("request line and headers may have at most {max_bytes} bytes"),
        )
    }

    /// The limit of connections or of large answers is reached; `detail` says which one.
    #[must_use]
    pub fn too_many_connections(detail: &'static str) -> Self {
        Self::with_outcome(Kind::TooManyConnections, Outcome::None, detail)
    }

    /// A defect of this program.
    #[must_use]
    pub fn internal() -> Self {
        Self::with_outcome(
            Kind::Internal,
            Outcome::Unknown,
            "the request id finds the cause in the server's log",
        )
    }

    fn with_outcome(kind: Kind, outcome: Outcome, detail: &'static str) -> Self {
        let mut problem = Self::new(kind, detail);
        problem.body.outcome = Some(match outcome {
            Outcome::None => Effect::None,
            Outcome::Unknown => Effect::Unknown,
        });
        problem
    }

    fn describe(&mut self, HeldBy { info, waiters }: HeldBy) {
        self.retry_after = Some(seconds_rounded_up(info.expires_in()).max(RETRY_AFTER_SECONDS));
        let body = &mut self.body;
        body.holder = info
            .holder
            .as_ref()
            .map(|holder| holder.as_str().to_owned());
        body.fencing_token = Some(info.fencing_token.get());
        body.held_for_ms = Some(millis(info.held_for()));
        body.expires_in_ms = Some(millis(info.expires_in()));
        body.waiters = Some(count(waiters));
    }

    /// The body of an example, for the documentation.
    pub(super) fn example(kind: Kind) -> Box<ProblemBody> {
        let mut body = match kind {
            Kind::InvalidKey => Self::from(InvalidKey::DotSegment),
            Kind::LeaseIdRequired => Self::lease_id_required(),
            Kind::LeaseLost => Self::lost(Loss::HeldByOther),
            Kind::IdempotencyKeyReused => Self::key_reused(),
            Kind::TooManyWaiters => Self::too_many_waiters(),
            Kind::TooManyListings => Self::too_many_listings(),
            Kind::Internal => Self::internal(),
            Kind::ShuttingDown => ServiceError::ShuttingDown.into(),
            kind if kind.status() == StatusCode::SERVICE_UNAVAILABLE => {
                Self::with_outcome(kind, Outcome::None, "nothing was done")
            }
            kind => Self::new(kind, kind.title()),
        }
        .body;
        if kind.status() == StatusCode::LOCKED {
            body.holder = Some("billing-7d9f".to_owned());
            body.fencing_token = Some(1_790_000_000_000_042);
            body.held_for_ms = Some(1200);
            body.expires_in_ms = Some(8800);
            body.waiters = Some(2);
            body.position = (kind == Kind::WaitTimeout).then_some(2);
        }
        "0b6f3c6e2f8a4d5f9f1f6a1f0c7f2f11".clone_into(&mut body.request_id);
        body
    }

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

impl From<InvalidKey> for Problem {
    fn from(why: InvalidKey) -> Self {
        Self::new(Kind::InvalidKey, why.to_string())
    }
}

impl From<ServiceError> for Problem {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::Store(error) => error.into(),
            ServiceError::ShuttingDown => Self::with_outcome(
                Kind::ShuttingDown,
                Outcome::None,
                "ask another server, or this one when it is back",
            ),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        let cause = (error != StoreError::InvalidCursor).then(|| error.to_string());
        let outcome = error.outcome();
        let problem = match error {
            StoreError::Unavailable { .. } => {
                let detail = match outcome {
                    Outcome::None => "nothing was done; GET /readyz says what the store is missing",
                    Outcome::Unknown => {
                        "the store did not answer in time; it may have done what was asked"
                    }
                };
                Self::with_outcome(Kind::StoreUnavailable, outcome, detail)
            }
            StoreError::OutOfMemory => Self::with_outcome(
                Kind::StoreOutOfMemory,
                outcome,
                "nothing was done; releasing still works",
            ),
            StoreError::NotPersisting => {
                Self::with_outcome(Kind::StoreNotPersisting, outcome, "nothing was done")
            }
            StoreError::ReplicationUnconfirmed { .. } => Self::with_outcome(
                Kind::ReplicationUnconfirmed,
                outcome,
                "the operation is not on enough replicas to survive a failover; count on nothing",
            ),
            StoreError::Recovering { retry_after } => {
                let mut problem = Self::with_outcome(
                    Kind::Recovering,
                    outcome,
                    "after a failover or a loss nothing new is granted until the leases that may still be counted on are known or over; renewals and releases go on",
                );
                problem.retry_after =
                    Some(seconds_rounded_up(retry_after).max(RETRY_AFTER_SECONDS));
                problem
            }
            StoreError::InvalidCursor => {
                Self::invalid("cursor is not one that this service gave out in next_cursor")
            }
            StoreError::Internal { .. } => Self::internal(),
        };
        Self { cause, ..problem }
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}

fn seconds_rounded_up(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}
