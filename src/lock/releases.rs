//! The releases of the last seconds, so that the repetition of a release succeeds and a late acquisition gets nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use crate::lock::key::LockKey;
use crate::lock::lease::{Idempotency, LeaseId, Timestamp};

/// How long a release is remembered.
pub const RELEASE_MEMORY: Duration = Duration::from_secs(10);

/// The most entries of releases that a store remembers. A release has one entry, and a second one if the acquisition had an
/// idempotency key. Beyond the limit the store forgets the oldest ones.
pub const MAX_REMEMBERED_RELEASES: usize = 500_000;

/// The remembered releases of all locks.
#[derive(Clone, Debug, Default)]
pub struct Releases {
    forget_at: HashMap<Entry, Timestamp>,
    /// The oldest first.
    order: VecDeque<Entry>,
    forgotten: u64,
}

/// A released lease by one of its names. An idempotency key alone does not name the lock.
type Entry = (LockKey, Name);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Name {
    Lease([u8; 16]),
    Idempotency([u8; 16]),
}

impl Releases {
    pub(super) fn remember(
        &mut self,
        key: &LockKey,
        lease_id: LeaseId,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) {
        self.drop_expired(now);
        for name in names(lease_id, idempotency) {
            if self.order.len() >= MAX_REMEMBERED_RELEASES
                && let Some(oldest) = self.order.pop_front()
            {
                self.forget_at.remove(&oldest);
                self.forgotten += 1;
            }
            let entry = (key.clone(), name);
            self.order.push_back(entry.clone());
            self.forget_at.insert(entry, now.after(RELEASE_MEMORY));
        }
    }

    /// Whether the lease with this id, or one of the same idempotency key, was released moments ago.
    pub(super) fn has(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        idempotency: Option<Idempotency>,
        now: Timestamp,
    ) -> bool {
        !self.forget_at.is_empty()
            && names(lease_id, idempotency).any(|name| {
                let forget_at = self.forget_at.get(&(key.clone(), name));
                forget_at.is_some_and(|forget_at| now < *forget_at)
            })
    }

    /// Frees the memory of releases that are no longer remembered.
    pub fn drop_expired(&mut self, now: Timestamp) {
        while let Some(oldest) = self.order.front() {
            if self.forget_at.get(oldest).is_some_and(|at| now < *at) {
                return;
            }
            self.forget_at.remove(oldest);
            self.order.pop_front();
        }
    }

    /// The entries that were forgotten early.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

fn names(lease_id: LeaseId, idempotency: Option<Idempotency>) -> impl Iterator<Item = Name> {
    let key = idempotency.map(|idempotency| Name::Idempotency(idempotency.key.to_bytes()));
    [Some(Name::Lease(lease_id.to_bytes())), key]
        .into_iter()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_releases_are_forgotten_beyond_the_limit() {
        let key = LockKey::parse("k").expect("a key");
        let now = Timestamp::from_micros(1);
        let id = |number: usize| LeaseId::from_bytes((number as u128).to_be_bytes());
        let mut releases = Releases::default();
        for number in 0..=MAX_REMEMBERED_RELEASES {
            releases.remember(&key, id(number), None, now);
        }
        assert!(!releases.has(&key, id(0), None, now));
        assert!(releases.has(&key, id(1), None, now));
        assert!(releases.has(&key, id(MAX_REMEMBERED_RELEASES), None, now));
        assert_eq!(releases.forgotten(), 1);
        releases.drop_expired(now.after(RELEASE_MEMORY));
        assert!(releases.order.is_empty() && releases.forget_at.is_empty());
    }
}
