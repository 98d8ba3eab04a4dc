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
                "no effect; retry with another server, or with this one after its restart",
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
                    Outcome::None => "no effect; GET /readyz has the reason",
                    Outcome::Unknown => {
                        "the store did not answer in time; the operation may have had an effect"
                    }
                };
                Self::with_outcome(Kind::StoreUnavailable, outcome, detail)
            }
            StoreError::OutOfMemory => Self::with_outcome(
                Kind::StoreOutOfMemory,
                outcome,
                "no effect; releases still work",
            ),
            StoreError::NotPersisting => {
                Self::with_outcome(Kind::StoreNotPersisting, outcome, "no effect; retry later")
            }
            StoreError::ReplicationUnconfirmed { .. } => Self::with_outcome(
                Kind::ReplicationUnconfirmed,
                outcome,
                "too few replicas confirmed the operation, so a failover could lose it; do not rely on it",
            ),
            StoreError::Recovering { retry_after } => {
                let mut problem = Self::with_outcome(
                    Kind::Recovering,
                    outcome,
                    "new grants pause until the leases on which clients may still count are known or have ended; renewals and releases continue",
                );
                problem.set_retry_after(retry_after);
                problem
            }
            StoreError::InvalidCursor => {
                Self::invalid("cursor must be the next_cursor of an earlier page")
            }
            StoreError::Internal { .. } => Self::internal(),
        };
        Self { cause, ..problem }
    }
}
