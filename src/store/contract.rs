//! What every store does, and the ways in which it can fail to.
//!
//! A refusal is a result, not an error: `Err` means that the store *could not do* it or *cannot
//! know* whether it did. Every method is atomic for its key. Dropping a method's future never
//! undoes anything; the operation may still take effect.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Timestamp, Ttl};
use crate::lock::request::{Acquire, WaiterId};
use crate::lock::rules::{Acquisition, EndOutcome, LeaseInfo, Renewal};

/// An answer, and a moment at which its store had not yet read its clock.
///
/// What is left of a lease shrinks from then on, while the answer is confirmed and handed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed<T> {
    /// The answer.
    pub value: T,
    /// On this machine's monotonic clock.
    pub asked_at: Instant,
}

/// A keeper of locks.
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

    /// The live lease on a key, if there is one, and how many wait for it.
    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError>;

    /// A page of the held keys; see [`Page`].
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// The next piece of news for those who wait here. StoreEvent may be lost or come twice: it is a reason to ask
    /// again, and decides nothing. Nothing is lost if the future is dropped.
    async fn next_event(&self) -> StoreEvent;

    /// What is known of the store's state without asking it.
    fn health(&self) -> Health;

    /// How many leases there are, without asking the store; `None` while that is not known yet.
    fn lease_stats(&self) -> Option<LeaseStats>;

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
    /// Where the page before this one ended.
    pub cursor: Option<String>,
}

/// Held keys. A page may be shorter than the limit, even empty, before the end; a key may appear
/// again on a later page; a key that is held during the whole listing does appear.
#[derive(Debug, Default)]
pub struct Page {
    /// The keys, their holdings, and how many wait for each.
    pub locks: Vec<(LockKey, LeaseInfo, usize)>,
    /// Where the next page begins; `None` at the end.
    pub next_cursor: Option<String>,
}

/// About how many bytes a page may have as JSON; the lock that passes it is the last one.
pub const MAX_PAGE_BYTES: usize = 256 * 1024;

/// About how many bytes a lock takes in a page besides its key and what its holder said.
const LISTED_BYTES: usize = 192;

/// About how many bytes a lock takes in a page.
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
    /// How many all servers' clients hold now; what is only reserved is not held.
    pub held: u64,
    /// How many ran out without being ended, as this server counted: each is counted once, by one of the servers.
    pub expired_total: u64,
}

/// What may matter to those who wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreEvent {
    /// A lock is reserved for this waiter, which must claim it by asking again.
    Reserved(LockKey, WaiterId),
    /// A lock is somebody else's until then, unless that is renewed.
    HeldUntil(LockKey, Instant),
    /// The store may have lost the places of all who wait here: each must ask again.
    QueuesLost,
}

/// Why a store has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreError {
    /// The store is out of reach, not ready or too slow.
    Unavailable {
        /// Whether the operation may have taken effect.
        outcome: Outcome,
        /// For the log; never shown to a client.
        cause: String,
    },
    /// The store has no memory left for another lock; nothing was done.
    OutOfMemory,
    /// The store refuses writes because it cannot save them; nothing was done.
    NotPersisting,
    /// Too few replicas confirmed the operation in time.
    ReplicationUnconfirmed {
        /// Whether the operation may stand.
        outcome: Outcome,
    },
    /// Leases that the store lost may still be counted on; nothing new is granted until they are over.
    Recovering {
        /// How long that takes.
        retry_after: Duration,
    },
    /// A list cursor that this store never gave out.
    InvalidCursor,
    /// The store answered something that this program does not understand.
    Internal {
        /// For the log; never shown to a client.
        cause: String,
    },
}

/// Whether an operation that failed may have taken effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It certainly did not.
    None,
    /// It may have.
    Unknown,
}

impl StoreError {
    /// The error of a read: whatever happened, nothing was changed.
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

    /// Whether the operation may have taken effect all the same.
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

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable { outcome, cause } => {
                write!(f, "the store is unavailable (outcome {outcome:?}): {cause}")
            }
            Self::OutOfMemory => f.write_str(
                "the store is out of memory: raise maxmemory of Redis, or free memory in it",
            ),
            Self::NotPersisting => f.write_str(
                "Redis refuses writes because it cannot save to disk (MISCONF): see its log, free the disk",
            ),
            Self::ReplicationUnconfirmed { outcome } => {
                write!(f, "too few replicas confirmed in time (outcome {outcome:?})")
            }
            Self::Recovering { retry_after } => {
                write!(f, "new grants pause for {} ms after a loss", retry_after.as_millis())
            }
            Self::InvalidCursor => f.write_str("not a cursor of this store"),
            Self::Internal { cause } => write!(f, "internal error in the store: {cause}"),
        }
    }
}

impl std::error::Error for StoreError {}

/// A store's state, in the operator's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether it serves.
    pub condition: Condition,
    /// What became of the store's master last, if it is not the one that it began with.
    pub last_change: Option<Event>,
    /// What the operator's settings give up, if they do.
    pub accepted_risk: Option<String>,
}

/// Whether a store serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Never reached so far, and why.
    Starting(String),
    /// In order.
    Ready,
    /// Reached before, in trouble now or running with less than it promises, and why.
    Degraded(String),
}

/// Something that happened once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// On this server's clock.
    pub at: Timestamp,
    /// What it was.
    pub text: String,
}
