//! An example of each refusal, for the documentation.

use axum::http::StatusCode;

use super::{Kind, Problem, ProblemBody};
use crate::lock::key::InvalidKey;
use crate::lock::rules::Loss;
use crate::service::ServiceError;
use crate::store::contract::Outcome;

impl Problem {
    /// The body of an example, for the documentation.
    pub(in crate::http) fn example(kind: Kind) -> Box<ProblemBody> {
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
                Self::with_outcome(kind, Outcome::None, "no effect; retry later")
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
}
