//! The refusals that errors of the lower layers become.

use super::{Kind, Problem};
use crate::lock::key::InvalidKey;
use crate::service::ServiceError;
use crate::store::contract::{Outcome, StoreError};

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
                problem.set_retry_after(retry_after);
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
