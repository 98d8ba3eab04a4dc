//! Every refusal, as `application/problem+json` (RFC 9457). Only this module assigns statuses to refusals.
//!
//! A 5xx names the problem and whether the operation may have had an effect, but never the cause. This module logs the
//! cause once, with the request id that the answer carries.

mod body;
mod errors;
mod example;
mod kind;
mod refusals;
mod response;

use std::borrow::Cow;
use std::time::Duration;

use axum::http::StatusCode;

pub use self::body::{Effect, ProblemBody, Reason};
pub use self::kind::Kind;
use crate::store::contract::Outcome;

/// The `Retry-After` of a refusal without a better estimate, in seconds.
const RETRY_AFTER_SECONDS: u64 = 1;

/// A refusal on its way to the client. The outermost layer writes it, once it has the request id.
#[derive(Clone, Debug)]
pub struct Problem {
    kind: Kind,
    retry_after: Option<u64>,
    /// The log has it; the client never sees it.
    cause: Option<String>,
    body: Box<ProblemBody>,
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

    fn with_outcome(kind: Kind, outcome: Outcome, detail: &'static str) -> Self {
        let mut problem = Self::new(kind, detail);
        problem.body.outcome = Some(match outcome {
            Outcome::None => Effect::None,
            Outcome::Unknown => Effect::Unknown,
        });
        problem
    }

    /// Sets `Retry-After` to a duration, rounded up to whole seconds.
    fn set_retry_after(&mut self, pause: Duration) {
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        self.retry_after = Some(seconds.max(RETRY_AFTER_SECONDS));
    }
}
