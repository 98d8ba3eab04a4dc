//! A lease as the store keeps it: how an acquisition makes one, and how a reservation becomes one.

use std::time::Duration;

use crate::lock::answers::{Acquisition, Lease, LeaseInfo};
use crate::lock::lease::{
    Attempt, FencingToken, Holder, Idempotency, LeaseId, Metadata, Moment, Timestamp, Ttl,
};
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// How long a lock stays reserved for the first waiter.
pub const RESERVATION: Duration = Duration::from_secs(3);

/// What a store keeps of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    pub(super) lease_id: LeaseId,
    pub(super) fencing_token: FencingToken,
    pub(super) holder: Option<Holder>,
    pub(super) metadata: Metadata,
    pub(super) ttl: Ttl,
    pub(super) hold_at_least: Duration,
    pub(super) acquired_at: Timestamp,
    pub(super) deadline: Timestamp,
    /// How long the lease outlasts its deadline for other clients. A reservation has none: no client counts on it.
    pub(super) grace: Duration,
    pub(super) renewals: u64,
    pub(super) idempotency: Option<Idempotency>,
    /// The attempt that a rollback must name. `None` after a replay or a renewal: a client may count on the lease.
    pub(super) attempt: Option<Attempt>,
    pub(super) state: State,
}

/// What a grant is to its client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The lock is only reserved for the waiter with this ticket: no client knows of the grant yet.
    Reserved(Ticket),
    /// The lease of a client.
    Leased,
    /// The client is gone, and may come back for the lease. Until then it is not held longer than that.
    Shortened,
    /// The client has released the lease. The lock is held for as long as asked.
    Released,
}

impl Grant {
    pub(super) fn new(request: Acquire, fencing_token: FencingToken, moment: Moment) -> Self {
        let now = moment.now;
        Self {
            lease_id: request.lease_id,
            fencing_token,
            holder: request.holder,
            metadata: request.metadata,
            ttl: request.ttl,
            hold_at_least: request.hold_at_least,
            acquired_at: now,
            deadline: now.after(request.ttl.get()),
            grace: moment.grace,
            renewals: 0,
            idempotency: request.idempotency,
            attempt: Some(request.attempt),
            state: State::Leased,
        }
    }

    /// A lock set aside for the waiter of this request.
    pub(super) fn reserved(
        request: Acquire,
        ticket: Ticket,
        fencing_token: FencingToken,
        now: Timestamp,
    ) -> Self {
        let grace = Duration::ZERO;
        Self {
            deadline: now.after(RESERVATION),
            state: State::Reserved(ticket),
            ..Self::new(request, fencing_token, Moment { now, grace })
        }
    }

    /// When other clients can have the lock, at the store's own grace or the longer one of the lease.
    pub(super) fn over_at(&self, own_grace: Duration) -> Timestamp {
        let grace = self.grace.max(own_grace);
        match self.state {
            State::Reserved(_) => self.deadline,
            State::Shortened => self.deadline.after(grace),
            State::Leased | State::Released => self.deadline.max(self.held_until()).after(grace),
        }
    }

    /// Until when others cannot have the lock, however the lease ends.
    fn held_until(&self) -> Timestamp {
        self.acquired_at.after(self.hold_at_least)
    }

    /// Whether the lock is still held after a release now.
    pub(super) fn outlasts_release(&self, now: Timestamp) -> bool {
        !self.hold_at_least.is_zero() && now < self.held_until()
    }

    /// Whether a client can still renew, release or replay the lease.
    pub(super) fn is_leased(&self, moment: Moment) -> bool {
        matches!(self.state, State::Leased | State::Shortened)
            && moment.now < self.deadline.after(self.grace.max(moment.grace))
    }

    pub(super) const fn is_reserved(&self) -> bool {
        matches!(self.state, State::Reserved(_))
    }

    /// Ends the lease. The lock is still held for as long as asked.
    pub(super) fn release(&mut self, now: Timestamp) {
        self.state = State::Released;
        self.deadline = self.deadline.min(now);
        self.attempt = None;
    }

    pub(super) fn is_live(&self, moment: Moment) -> bool {
        moment.now < self.over_at(moment.grace)
    }

    /// Turns a reservation into a lease of the asking request, with the token of the reservation.
    pub(super) fn claim(&mut self, request: Acquire, moment: Moment) -> Acquisition {
        if let Repetition::Altered = same_acquisition(self.idempotency, request.idempotency) {
            return Acquisition::KeyReused;
        }
        *self = Self::new(request, self.fencing_token, moment);
        Acquisition::Granted(self.lease(moment.now))
    }

    pub(super) fn waiter_id(&self) -> WaiterId {
        WaiterId::of(self.lease_id, self.idempotency)
    }

    /// How long the lease has been held; `None` for a reservation.
    pub(super) fn held_for(&self, now: Timestamp) -> Option<Duration> {
        (!self.is_reserved()).then(|| now.since(self.acquired_at))
    }

    /// The request that it was granted to.
    pub(super) fn request(&self, attempt: Attempt) -> Acquire {
        Acquire {
            lease_id: self.lease_id,
            attempt,
            ttl: self.ttl,
            hold_at_least: self.hold_at_least,
            holder: self.holder.clone(),
            metadata: self.metadata.clone(),
            idempotency: self.idempotency,
            wait: None,
        }
    }

    /// The public part: for other clients the lease ends with its grace.
    pub(super) fn lease_info(&self, moment: Moment) -> LeaseInfo {
        let info = self.info_until(self.over_at(moment.grace), moment.now);
        if self.is_reserved() || self.is_leased(moment) {
            return info;
        }
        LeaseInfo {
            holder: None,
            released: true,
            ..info
        }
    }

    /// The lease for its holder.
    pub(super) fn lease(&self, now: Timestamp) -> Lease {
        Lease {
            lease_id: self.lease_id,
            info: self.info_until(self.deadline, now),
        }
    }

    fn info_until(&self, deadline: Timestamp, now: Timestamp) -> LeaseInfo {
        LeaseInfo {
            holder: self.holder.clone(),
            metadata: self.metadata.clone(),
            fencing_token: self.fencing_token,
            ttl: self.ttl,
            acquired_at: self.acquired_at,
            deadline,
            renewals: self.renewals,
            hold_at_least: self.hold_at_least,
            released: false,
            read_at: now,
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
