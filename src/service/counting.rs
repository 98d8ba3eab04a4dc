//! Maps results to label values of metrics.

use super::request::{Acquired, ServiceError};
use crate::lock::rules::{EndOutcome, Loss, Renewal};
use crate::store::contract::{StoreError, Timed};
use crate::telemetry::{
    AcquireOutcome, BreakOutcome, Ended, LockMetrics, ReleaseOutcome, RenewOutcome, Waited,
};

/// The outcome of an acquisition whose result the client receives.
pub(super) fn outcome(result: &Result<Acquired, ServiceError>) -> AcquireOutcome {
    match result {
        Ok(Acquired::Granted(_)) => AcquireOutcome::Granted,
        Ok(Acquired::Replayed(_)) => AcquireOutcome::Replayed,
        Ok(Acquired::Held(_)) => AcquireOutcome::Held,
        Ok(Acquired::TimedOut(..)) => AcquireOutcome::TimedOut,
        Ok(Acquired::KeyReused) => AcquireOutcome::KeyReused,
        Ok(Acquired::AlreadyReleased) => AcquireOutcome::AlreadyReleased,
        Ok(Acquired::TooManyWaiters) => AcquireOutcome::TooManyWaiters,
        Err(ServiceError::ShuttingDown) => AcquireOutcome::ShuttingDown,
        Err(ServiceError::Store(error)) => match error {
            StoreError::Recovering { .. } => AcquireOutcome::Recovering,
            StoreError::ReplicationUnconfirmed { .. } => AcquireOutcome::ReplicationUnconfirmed,
            StoreError::Unavailable { .. }
            | StoreError::OutOfMemory
            | StoreError::NotPersisting => AcquireOutcome::Unavailable,
            StoreError::InvalidCursor | StoreError::Internal { .. } => AcquireOutcome::Internal,
        },
    }
}

/// The end of a wait with this outcome.
pub(super) fn waited(outcome: AcquireOutcome) -> Waited {
    match outcome {
        AcquireOutcome::Granted | AcquireOutcome::Replayed => Waited::Granted,
        AcquireOutcome::TimedOut => Waited::TimedOut,
        AcquireOutcome::Abandoned => Waited::Abandoned,
        _ => Waited::Failed,
    }
}

pub(super) fn renewal(metrics: &LockMetrics, result: &Result<Timed<Renewal>, StoreError>) {
    metrics.renewals.count(match result {
        Ok(renewal) => match renewal.value {
            Renewal::Renewed(_) => RenewOutcome::Renewed,
            Renewal::Lost(Loss::NotHeld | Loss::Released) => RenewOutcome::NotHeld,
            Renewal::Lost(Loss::HeldByOther) => RenewOutcome::HeldByOther,
        },
        Err(_) => RenewOutcome::Error,
    });
}

pub(super) fn release(metrics: &LockMetrics, result: &Result<EndOutcome, StoreError>) {
    metrics.releases.count(match result {
        Ok(EndOutcome::Ended {
            held_for: Some(held),
        }) => {
            metrics.holds.observe(Ended::Release, *held);
            ReleaseOutcome::Released
        }
        Ok(EndOutcome::Ended { held_for: None }) => ReleaseOutcome::Repeated,
        Ok(EndOutcome::Lost(Loss::NotHeld | Loss::Released)) => ReleaseOutcome::NotHeld,
        Ok(EndOutcome::Lost(Loss::HeldByOther)) => ReleaseOutcome::HeldByOther,
        Err(_) => ReleaseOutcome::Error,
    });
}

pub(super) fn breaking(metrics: &LockMetrics, result: &Result<EndOutcome, StoreError>) {
    metrics.breaks.count(match result {
        Ok(EndOutcome::Ended {
            held_for: Some(held),
        }) => {
            metrics.holds.observe(Ended::Break, *held);
            BreakOutcome::Broken
        }
        Ok(EndOutcome::Ended { held_for: None }) => BreakOutcome::AlreadyOver,
        Ok(EndOutcome::Lost(_)) => BreakOutcome::HeldByOther,
        Err(_) => BreakOutcome::Error,
    });
}
