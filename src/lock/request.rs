//! An acquisition as the rules see it, and the ids of waiters.

use std::fmt;
use std::time::Duration;

use crate::lock::lease::{
    Attempt, Holder, Idempotency, LeaseId, Metadata, Ttl, bytes_to_hex, hex_to_bytes,
};

/// An acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The lease id that a grant will have.
    pub lease_id: LeaseId,
    /// This request's own attempt.
    pub attempt: Attempt,
    /// How long the lease lasts.
    pub ttl: Ttl,
    /// How long the lock is held at least, from the grant on, however the lease ends.
    pub hold_at_least: Duration,
    /// The holder's name, as the client gives it.
    pub holder: Option<Holder>,
    /// The client's name-value pairs.
    pub metadata: Metadata,
    /// Present if the client may repeat the request.
    pub idempotency: Option<Idempotency>,
    /// Present if the request waits for a lock that is not free.
    pub wait: Option<Wait>,
}

impl Acquire {
    /// The waiter id of this request and of every repetition of it.
    #[must_use]
    pub fn waiter_id(&self) -> WaiterId {
        WaiterId::of(self.lease_id, self.idempotency)
    }
}

/// Identifies an entry of a queue; the same for every repetition of a request.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct WaiterId([u8; 16]);

impl WaiterId {
    /// The id of the request that is to get this lease.
    #[must_use]
    pub fn of(lease_id: LeaseId, idempotency: Option<Idempotency>) -> Self {
        Self(idempotency.map_or_else(|| lease_id.to_bytes(), |asked| asked.key.to_bytes()))
    }

    /// Parses 32 lower-case hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex_to_bytes(text).map(Self)
    }

    /// The id itself, for the store: it may be a lease id, and so is a secret.
    #[must_use]
    pub fn expose(&self) -> String {
        bytes_to_hex(&self.0)
    }
}

/// Redacted, as lease ids are.
impl fmt::Debug for WaiterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WaiterId(redacted)")
    }
}

/// The order of queue entries: a number of the same counter as fencing tokens, so that all servers share one order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// How a request waits for a lock that is not free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// The longest wait from now on.
    pub timeout: Duration,
    /// The ticket of an earlier entry, in case the store has lost the entry.
    pub ticket: Option<Ticket>,
    /// The maximum of waiters for the key.
    pub max_waiters: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lease::Digest;

    #[test]
    fn waiter_id_follows_the_idempotency_key_or_the_lease_and_is_never_printed() {
        let lease_id = LeaseId::from_bytes([1; 16]);
        let once = WaiterId::of(lease_id, None);
        assert_eq!(once.expose(), "01".repeat(16));
        let idempotency = Idempotency {
            key: Digest::from_bytes([2; 16]),
            fingerprint: Digest::from_bytes([3; 16]),
        };
        let repeatable = WaiterId::of(lease_id, Some(idempotency));
        assert_eq!(repeatable.expose(), "02".repeat(16));
        assert_eq!(WaiterId::parse(&repeatable.expose()), Some(repeatable));
        assert_eq!(WaiterId::parse("02"), None);
        assert_eq!(format!("{once:?}"), "WaiterId(redacted)");
    }
}
