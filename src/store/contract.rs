//! The contract of a store, and the ways in which an operation can fail.
//!
//! A refusal is a result, not an error: `Err` means that the store *could not* execute the operation, or *cannot
//! know* whether it did. Every method is atomic for its key. Dropping a method's future does not undo the operation,
//! which may still take effect.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Timestamp, Ttl};
use crate::lock::request::{Acquire, WaiterId};
use crate::lock::rules::{Acquisition, EndOutcome, LeaseInfo, Renewal};

/// An answer, with a lower bound of the moment at which the store read its clock.
///
/// The remaining time of a lease shrinks from that moment on, while the answer is confirmed and sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed<T> {
    /// The answer.
    pub value: T,
    /// The lower bound, on this machine's monotonic clock.
    pub asked_at: Instant,
}

/// A store of locks.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// See [`crate::lock::rules::Lock::acquire`].
    async fn acquire(
        &self,
        key: &LockKey,
        request: Acquire,
    ) -> Result<Timed<Acquisition>, StoreError>;

    /// See [`crate::lock::rules::Lock::renew`].
    async fn renew(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, StoreError>;

    /// See [`crate::lock::rules::Lock::release`].
    async fn release(&self, key: &LockKey, lease_id: LeaseId) -> Result<EndOutcome, StoreError>;

    /// See [`crate::lock::rules::Lock::break_lease`].
    async fn break_lease(
        &self,
        key: &LockKey,
        token: FencingToken,
    ) -> Result<EndOutcome, StoreError>;

    /// See [`crate::lock::rules::Lock::rollback`].
    async fn rollback(
        &self,
        key: &LockKey,
        waiter: WaiterId,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
    ) -> Result<bool, StoreError>;

    /// See [`crate::lock::rules::Lock::decline`].
    async fn decline(&self, key: &LockKey, waiter: WaiterId) -> Result<bool, StoreError>;

    /// The live lease on a key, if there is one, and the number of waiters.
    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError>;

    /// A page of the held keys; see [`Page`].
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// The next event for the waiters of this server. Events may be lost or repeated: an event is a reason to ask again,
    /// and decides nothing. Dropping the future loses no event.
    async fn next_event(&self) -> StoreEvent;

    /// The state of the store, as far as it is known without asking it.
    fn health(&self) -> Health;

    /// The number of leases, without asking the store; `None` while it is not known yet.
    fn lease_stats(&self) -> Option<LeaseStats>;

    /// Ends the pause of new grants after a loss, although clients may still count on lost leases. Returns for how long
    /// the pause would have gone on; zero if there was none.
    async fn end_recovery(&self) -> Result<Duration, StoreError>;

    /// Ends the store's tasks and waits for them.
    async fn close(&self);
}

/// Which held keys to list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// Only keys that begin with these bytes.
    pub prefix: String,
    /// The most keys of a page.
    pub limit: usize,
    /// The end of the page before this one.
    pub cursor: Option<String>,
}

/// Held keys. A page may be shorter than the limit, even empty, before the end; a key may appear
/// again on a later page; a key that is held during the whole listing does appear.
#[derive(Debug, Default)]
pub struct Page {
    /// The keys with their leases and their numbers of waiters.
    pub locks: Vec<(LockKey, LeaseInfo, usize)>,
    /// The beginning of the next page; `None` at the end.
    pub next_cursor: Option<String>,
}

/// The approximate maximum of a page as JSON, in bytes; the lock that passes it is the last one.
pub const MAX_PAGE_BYTES: usize = 256 * 1024;

/// About the bytes of a lock in a page besides its key, holder and metadata.
const LISTED_BYTES: usize = 192;

/// About the bytes of a lock in a page.
#[must_use]
pub fn listed_bytes((key, info, _): &(LockKey, LeaseInfo, usize)) -> usize {
    let holder = info.holder.as_ref().map_or("", |holder| holder.as_str());
    let pairs = info.metadata.pairs().iter();
    let metadata = pairs.map(|(name, value)| name.len() + value.len() + "\"\":\"\",".len());
    LISTED_BYTES + key.as_str().len() + holder.len() + metadata.sum::<usize>()
}

/// The leases of a store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseStats {
    /// The leases that clients of all servers hold now, without reservations.
    pub held: u64,
    /// The expired leases that this server counted. Each is counted once, by one of the servers.
    pub expired_total: u64,
    /// The releases that this server saw forgotten early, because there were too many.
    pub releases_forgotten_total: u64,
}

/// A change that may concern waiters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A lock is reserved for this waiter, which must claim it by asking again.
    Reserved(LockKey, WaiterId),
    /// A waiter has the lock. Another request with its idempotency key, at any server, learns that by asking again.
    Granted(WaiterId),
    /// A lock is held or reserved until then, unless the lease is renewed.
    HeldUntil(LockKey, Instant),
    /// The store may have lost the queue entries of this server's waiters, or grants again: each must ask again.
    QueuesLost,
}

/// Why a store has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is unreachable, not ready or too slow.
    #[error("the store is unavailable, and {outcome}: {cause}")]
    Unavailable {
        /// Whether the operation may have had an effect.
        outcome: Outcome,
        /// For the log; never shown to a client.
        cause: String,
    },
    /// The store has no memory left for another lock; nothing was done.
    #[error("Redis is out of memory and rejects writes: raise maxmemory, or delete other data")]
    OutOfMemory,
    /// The store refuses writes because it cannot save them; nothing was done.
    #[error(
        "Redis rejects writes because it cannot save to disk (MISCONF): see its log, and free disk space"
    )]
    NotPersisting,
    /// Too few replicas confirmed the operation in time.
    #[error("too few replicas confirmed in time, and {outcome}")]
    ReplicationUnconfirmed {
        /// Whether the operation may have had an effect.
        outcome: Outcome,
    },
    /// Clients may still count on leases that the store lost; the store grants nothing new until these are over.
    #[error("new grants pause for {} ms after a loss", retry_after.as_millis())]
    Recovering {
        /// The time until then.
        retry_after: Duration,
    },
    /// A list cursor that this store did not issue.
    #[error("this store did not issue the cursor")]
    InvalidCursor,
    /// An unexpected reply of the store.
    #[error("internal error in the store: {cause}")]
    Internal {
        /// For the log; never shown to a client.
        cause: String,
    },
}

/// Whether an operation that failed may have had an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It certainly did not.
    None,
    /// It may have.
    Unknown,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "nothing was done",
            Self::Unknown => "the operation may have taken effect",
        })
    }
}

impl StoreError {
    /// The same error of a read, which never changes anything.
    #[must_use]
    pub fn of_a_read(self) -> Self {
        match self {
            Self::Unavailable { cause, .. } => Self::Unavailable {
                outcome: Outcome::None,
                cause,
            },
            Self::ReplicationUnconfirmed { .. } => Self::ReplicationUnconfirmed {
                outcome: Outcome::None,
            },
            other => other,
        }
    }

    /// Whether the operation may have had an effect in spite of the error.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Unavailable { outcome, .. } | Self::ReplicationUnconfirmed { outcome } => {
                *outcome
            }
            Self::OutOfMemory
            | Self::NotPersisting
            | Self::Recovering { .. }
            | Self::InvalidCursor => Outcome::None,
            Self::Internal { .. } => Outcome::Unknown,
        }
    }
}

/// The state of a store, as sentences for the operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether the store serves.
    pub condition: Condition,
    /// Since when it is not ready, on this server's clock.
    pub since: Option<Timestamp>,
    /// The latest change of the master, if there was one.
    pub last_change: Option<Event>,
    /// The guarantee that the operator's settings give up, if there is one.
    pub accepted_risk: Option<String>,
}

/// Whether a store serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Not reached yet, and why.
    Starting(String),
    /// Healthy.
    Ready,
    /// Reached before, but failing now or serving with fewer guarantees, and why.
    Degraded(String),
}

/// Something that happened once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The moment, on this server's clock.
    pub at: Timestamp,
    /// What happened.
    pub text: String,
}
