//! The answers of the rules.

use std::time::Duration;

use crate::lock::lease::{FencingToken, Holder, LeaseId, Metadata, Timestamp, Ttl};
use crate::lock::request::Ticket;

/// The public part of a live lease, as of the store's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// The holder's name, as the client gave it.
    pub holder: Option<Holder>,
    /// The client's name-value pairs.
    pub metadata: Metadata,
    /// The token of this grant.
    pub fencing_token: FencingToken,
    /// The TTL that a renewal without one of its own applies.
    pub ttl: Ttl,
    /// When it was granted.
    pub acquired_at: Timestamp,
    /// From this moment on the lease is over for the reader: for its holder at the deadline; for others a grace later, and
    /// not before the lock was held at least as long as asked.
    pub deadline: Timestamp,
    /// How often it was renewed.
    pub renewals: u64,
    /// How long the lock is held at least, from the grant on.
    pub hold_at_least: Duration,
    /// The lease is over, and only its [`hold_at_least`](Self::hold_at_least) keeps others from the lock.
    pub released: bool,
    /// When the store answered.
    pub read_at: Timestamp,
}

/// A live lease with its secret: for its holder alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Proves that a lease is the caller's.
    pub lease_id: LeaseId,
    /// All else about it.
    pub info: LeaseInfo,
}

/// The answer to an acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// A new lease.
    Granted(Lease),
    /// The lease that this acquisition was granted before, still alive.
    Replayed(Lease),
    /// The lock is held or reserved, and this request does not wait.
    Held {
        /// Whose.
        info: LeaseInfo,
        /// How many wait.
        waiters: usize,
        /// The position of this request in the queue, from one on, if it had an entry.
        position: Option<usize>,
    },
    /// The lock is held or reserved, and this request waits for it.
    Queued {
        /// Whose.
        info: LeaseInfo,
        /// The number of waiters, this one included.
        waiters: usize,
        /// The order of this request's entry.
        ticket: Ticket,
    },
    /// The limit of waiters for the key is reached.
    TooManyWaiters,
    /// The idempotency key was used with another TTL, hold, holder or metadata.
    KeyReused,
    /// This acquisition was granted, and released moments ago or while its lock is still held.
    AlreadyReleased,
}

/// The answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease lives on.
    Renewed(Lease),
    /// The lease is lost.
    Lost(Loss),
}

/// The answer to a release or a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndOutcome {
    /// The lease is over, by this call or by an earlier one like it.
    Ended {
        /// How long the lease was held, if this call ended it.
        held_for: Option<Duration>,
    },
    /// The lease was lost before.
    Lost(Loss),
}

/// Why the caller no longer has a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The lock is free.
    NotHeld,
    /// Another lease holds the lock.
    HeldByOther,
    /// The lease was released, and its lock is still held for as long as asked.
    Released,
}

impl LeaseInfo {
    /// The remaining time of the lease when the store answered.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.deadline.since(self.read_at)
    }

    /// How long the lock is certainly not granted to others, from the answer on.
    #[must_use]
    pub fn counts_for(&self) -> Duration {
        let held_until = self.acquired_at.after(self.hold_at_least);
        self.deadline.max(held_until).since(self.read_at)
    }

    /// How long it had been held when the store answered.
    #[must_use]
    pub fn held_for(&self) -> Duration {
        self.read_at.since(self.acquired_at)
    }
}
