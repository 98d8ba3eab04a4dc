//! A lease as the store keeps it: how an acquisition makes one, and how a reservation becomes one.

use std::time::Duration;

use crate::lock::answers::{Acquisition, Lease, LeaseInfo};
use crate::lock::lease::{
    Attempt, FencingToken, Holder, Idempotency, LeaseId, Metadata, Timestamp, Ttl,
};
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// What a store keeps of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lease_id: LeaseId,
    pub(super) fencing_token: FencingToken,
    pub(super) holder: Option<Holder>,
    pub(super) metadata: Metadata,
    pub(super) ttl: Ttl,
    pub(super) acquired_at: Timestamp,
    pub(super) deadline: Timestamp,
    pub(super) renewals: u64,
    pub(super) idempotency: Option<Idempotency>,
    /// The attempt that a rollback must name. `None` after a replay or a renewal: a client may count on the lease.
    pub(super) attempt: Option<Attempt>,
    /// The ticket of its queue entry while the lock is only reserved: no client knows of the grant yet.
    pub(super) reserved: Option<Ticket>,
}

impl Grant {
    pub(super) fn new(request: Acquire, fencing_token: FencingToken, now: Timestamp) -> Self {
        Self {
            lease_id: request.lease_id,
            fencing_token,
            holder: request.holder,
            metadata: request.metadata,
            ttl: request.ttl,
            acquired_at: now,
            deadline: now.after(request.ttl.get()),
            renewals: 0,
            idempotency: request.idempotency,
            attempt: Some(request.attempt),
            reserved: None,
        }
    }

    /// Turns a reservation into a lease of the asking request.
    pub(super) fn claim(&mut self, request: &Acquire, now: Timestamp) -> Acquisition {
        if let Repetition::Altered = same_acquisition(self.idempotency, request.idempotency) {
            return Acquisition::KeyReused;
        }
        self.reserved = None;
        self.lease_id = request.lease_id;
        self.attempt = Some(request.attempt);
        self.acquired_at = now;
        self.deadline = now.after(self.ttl.get());
        Acquisition::Granted(self.lease(now))
    }

    pub(super) fn waiter_id(&self) -> WaiterId {
        WaiterId::of(self.lease_id, self.idempotency)
    }

    /// How long the lease has been held; `None` for a reservation.
    pub(super) fn held_for(&self, now: Timestamp) -> Option<Duration> {
        self.reserved.is_none().then(|| now.since(self.acquired_at))
    }

    /// The request that it was granted to.
    pub(super) fn request(&self, attempt: Attempt) -> Acquire {
        Acquire {
            lease_id: self.lease_id,
            attempt,
            ttl: self.ttl,
            holder: self.holder.clone(),
            metadata: self.metadata.clone(),
            idempotency: self.idempotency,
            wait: None,
        }
    }

    pub(super) fn lease_info(&self, now: Timestamp) -> LeaseInfo {
        LeaseInfo {
            holder: self.holder.clone(),
            metadata: self.metadata.clone(),
            fencing_token: self.fencing_token,
            ttl: self.ttl,
            acquired_at: self.acquired_at,
            deadline: self.deadline,
            renewals: self.renewals,
            read_at: now,
        }
    }

    pub(super) fn lease(&self, now: Timestamp) -> Lease {
        Lease {
            lease_id: self.lease_id,
            info: self.lease_info(now),
        }
    }
}

/// How two requests relate by their idempotency keys.
pub(super) enum Repetition {
    Same,
    Altered,
    Other,
}

pub(super) fn same_acquisition(
    known: Option<Idempotency>,
    asked: Option<Idempotency>,
) -> Repetition {
    match (known, asked) {
        (Some(known), Some(asked)) if known == asked => Repetition::Same,
        (Some(known), Some(asked)) if known.key == asked.key => Repetition::Altered,
        _ => Repetition::Other,
    }
}
