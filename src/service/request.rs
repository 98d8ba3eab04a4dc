//! What is asked of the service, and what it answers.

use tokio::time::Instant;

use crate::lock::lease::{Holder, Idempotency, Metadata, Ttl};
use crate::lock::rules::{Lease, LeaseInfo};
use crate::store::contract::{Page, StoreError, Timed};

/// The most that may wait.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// On this server.
    pub max_waiters: usize,
    /// For one key.
    pub max_waiters_per_key: usize,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// How long the lease lasts without a renewal.
    pub ttl: Ttl,
    /// Until when to wait for the lock; `None` not at all.
    pub wait_until: Option<Instant>,
    /// Who asks, in the client's words.
    pub holder: Option<Holder>,
    /// What the client attaches.
    pub metadata: Metadata,
    /// Present if the request may be repeated.
    pub idempotency: Option<Idempotency>,
}

/// The answer to an acquisition.
#[derive(Clone, Debug)]
pub enum Acquired {
    /// A new lease.
    Granted(Timed<Lease>),
    /// The lease that this acquisition has already.
    Replayed(Timed<Lease>),
    /// Somebody else's, and the request does not wait.
    Held(HeldBy),
    /// Somebody else's for as long as the request would wait; how many were ahead of it.
    TimedOut(HeldBy, usize),
    /// The idempotency key was used with another TTL, holder or metadata.
    KeyReused,
    /// This acquisition was granted and released moments ago.
    AlreadyReleased,
    /// As many wait as may.
    TooManyWaiters,
}

/// The answer to a listing.
#[derive(Debug)]
pub enum Listing {
    /// A page of the held locks.
    Page(Page),
    /// As many listings as may be are under way.
    TooMany,
}

/// How a held lock stands.
#[derive(Clone, Debug)]
pub struct HeldBy {
    /// Who has it.
    pub info: LeaseInfo,
    /// How many wait for it.
    pub waiters: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// The store's reason.
    Store(StoreError),
    /// The server is about to end; nothing was done.
    ShuttingDown,
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
