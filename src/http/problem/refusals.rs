//! The refusals with a text of their own.

use super::{Kind, Problem, Reason};
use crate::lock::lease::millis;
use crate::lock::rules::Loss;
use crate::service::HeldBy;
use crate::store::contract::Outcome;

impl Problem {
    /// A request without the required `Lease-Id`.
    #[must_use]
    pub fn lease_id_required() -> Self {
        Self::new(
            Kind::LeaseIdRequired,
            "send the lease_id of the acquisition in the header Lease-Id",
        )
    }

    /// A lock that another client holds. Only who `reads` it learns more than for how long.
    #[must_use]
    pub fn held(held_by: HeldBy, reads: bool) -> Self {
        let mut problem = Self::new(
            Kind::LockHeld,
            "another client holds the lock; set wait_ms to wait for it",
        );
        problem.describe(held_by, reads);
        problem
    }

    /// A wait that timed out; `ahead` waiters were before it in the queue. Only who `reads` the lock learns more than for how
    /// long.
    #[must_use]
    pub fn wait_timeout(held_by: HeldBy, ahead: usize, reads: bool) -> Self {
        let mut problem = Self::new(
            Kind::WaitTimeout,
            "another client held the lock until wait_ms had passed",
        );
        problem.describe(held_by, reads);
        problem.body.position = reads.then(|| count(ahead) + 1);
        problem
    }

    /// A lease that is over, or was never the caller's.
    #[must_use]
    pub fn lost(loss: Loss) -> Self {
        let (reason, detail) = match loss {
            Loss::NotHeld => (
                Reason::NotHeld,
                "no client holds the lock: the lease expired, or was released or broken",
            ),
            Loss::HeldByOther => (Reason::HeldByOther, "another client holds the lock"),
            Loss::Released => (
                Reason::Released,
                "the lease was released, and hold_at_least_ms keeps the lock held",
            ),
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
            "this Idempotency-Key was used with another ttl_ms, hold_at_least_ms, holder or metadata; use a new key for each acquisition",
        )
    }

    /// The limit of waiters is reached.
    #[must_use]
    pub fn too_many_waiters() -> Self {
        Self::new(
            Kind::TooManyWaiters,
            "the limit of waiters is reached; retry later, or without wait_ms",
        )
    }

    /// The limit of listings in progress is reached.
    #[must_use]
    pub fn too_many_listings() -> Self {
        Self::new(
            Kind::TooManyListings,
            "this server has reached its limit of listings; retry later",
        )
    }

    /// A head of more than `max_bytes` bytes.
    #[must_use]
    pub fn head_too_large(max_bytes: usize) -> Self {
        Self::new(
            Kind::HeadTooLarge,
            format!("request line and headers must have at most {max_bytes} bytes"),
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
            "the log of the server has the cause, under this request id",
        )
    }

    fn describe(&mut self, HeldBy { info, waiters }: HeldBy, reads: bool) {
        self.set_retry_after(info.expires_in());
        let body = &mut self.body;
        body.expires_in_ms = Some(millis(info.expires_in()));
        if !reads {
            return;
        }
        body.holder = info
            .holder
            .as_ref()
            .map(|holder| holder.as_str().to_owned());
        body.released = info.released.then_some(true);
        body.fencing_token = Some(info.fencing_token.get());
        body.held_for_ms = Some(millis(info.held_for()));
        body.waiters = Some(count(waiters));
    }
}

fn count(number: usize) -> u64 {
    u64::try_from(number).unwrap_or(u64::MAX)
}
