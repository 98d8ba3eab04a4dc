//! The requests of the service and its answers.

use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lease::{Holder, Idempotency, Metadata, Ttl};
use crate::lock::rules::{Lease, LeaseInfo};
use crate::store::contract::{Page, StoreError, Timed};

/// The maximum numbers of waiters.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// On this server.
    pub max_waiters: usize,
    /// For one key.
    pub max_waiters_per_key: usize,
}

/// An acquisition as a client asks for it.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// How long the lease lasts without a renewal.
    pub ttl: Ttl,
    /// How long the lock is held at least, from the grant on, however the lease ends.
    pub hold_at_least: Duration,
    /// Until when to wait for the lock; `None` to not wait.
    pub wait_until: Option<Instant>,
    /// The holder's name, as the client gives it.
    pub holder: Option<Holder>,
    /// The client's name-value pairs.
    pub metadata: Metadata,
    /// Present if the client may repeat the request.
    pub idempotency: Option<Idempotency>,
}

/// The answer to an acquisition.
#[derive(Clone, Debug)]
pub enum Acquired {
    /// A new lease.
    Granted(Timed<Lease>),
    /// The live lease of an earlier request of the same acquisition.
    Replayed(Timed<Lease>),
    /// The lock is held, and the request does not wait.
    Held(HeldBy),
    /// The lock was held until the end of the wait; with the number of waiters ahead of this one.
    TimedOut(HeldBy, usize),
    /// The idempotency key was used with another TTL, hold, holder or metadata.
    KeyReused,
    /// This acquisition was granted, and released moments ago or while its lock is still held.
    AlreadyReleased,
    /// The limit of waiters is reached, for the key or for the server.
    TooManyWaiters,
}

/// The answer to a listing.
#[derive(Debug)]
pub enum Listing {
    /// A page of the held locks.
    Page(Page),
    /// The limit of concurrent listings is reached.
    TooMany,
}

/// The lease on a held lock, and its queue.
#[derive(Clone, Debug)]
pub struct HeldBy {
    /// The live lease or reservation.
    pub info: LeaseInfo,
    /// The number of waiters.
    pub waiters: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// The store's reason.
    Store(StoreError),
    /// The server is draining; nothing was done.
    ShuttingDown,
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
