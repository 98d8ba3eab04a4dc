//! The JSON body of a refusal.

use std::borrow::Cow;

use serde::Serialize;
use utoipa::ToSchema;

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
    /// `urn:leasehold:problem:` and the name of the problem. Programs branch on it.
    #[serde(rename = "type")]
    #[schema(example = "urn:leasehold:problem:lock-held")]
    pub kind: String,
    /// A short description, the same for all problems of this type.
    pub title: &'static str,
    /// The HTTP status of the answer.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What is wrong with this request, and what to do.
    #[schema(value_type = String)]
    pub detail: Cow<'static, str>,
    /// The `X-Request-Id` of the answer. The log of the server has the same id.
    pub request_id: String,
    /// The name of the holder, as that client gave it (`lock-held`, `wait-timeout`; absent without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "billing-7d9f", nullable = false)]
    pub holder: Option<String>,
    /// `true` if the lease is over, and only its `hold_at_least_ms` keeps the lock held (`lock-held`, `wait-timeout`; absent
    /// without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub released: Option<bool>,
    /// The fencing token of the current lease (`lock-held`, `wait-timeout`; absent without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub fencing_token: Option<u64>,
    /// Milliseconds since the current lease was granted (`lock-held`, `wait-timeout`; absent without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub held_for_ms: Option<u64>,
    /// Milliseconds until other clients can have the lock if its holder does not renew (`lock-held`, `wait-timeout`): until the
    /// deadline and the end of `hold_at_least_ms`, plus the clock skew on Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub expires_in_ms: Option<u64>,
    /// The number of requests that wait for the lock (`lock-held`, `wait-timeout`; absent without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub waiters: Option<u64>,
    /// The position of this request in the queue when the wait timed out; 1 is the first
    /// (`wait-timeout`; absent without the right to read the lock).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, nullable = false)]
    pub position: Option<u64>,
    /// Why the lease is lost (`lease-lost`): `not_held` (no client holds the lock), `held_by_other`, or
    /// `released` (this acquisition was granted, and then released at most 10 seconds ago, or its `hold_at_least_ms` keeps the
    /// lock held).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String)]
    pub reason: Option<Reason>,
    /// Whether the failed operation may have had an effect (5xx): `none` (it had no effect) or `unknown` (it
    /// may have: repeat it with the same `Idempotency-Key` or `Lease-Id`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, value_type = String)]
    pub outcome: Option<Effect>,
}
