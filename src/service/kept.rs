//! Bounds the queue entries that are kept for clients that may come back.
//!
//! An entry is kept for a while after its request has ended, and counts in its queue although no connection belongs to
//! it. Clients that ask and hang up could fill a queue this way. Beyond a share of the waiters, this server drops the
//! oldest of its kept entries.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use tokio::time::Instant;

use super::request::WaitLimits;
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, LeaseId};
use crate::lock::queue::ENTRY_KEPT;
use crate::lock::request::WaiterId;

/// One kept entry is allowed for this many waiters, for each key and for the server.
pub const WAITERS_PER_KEPT_ENTRY: usize = 10;

/// An entry whose request has ended, with what a rollback must name.
#[derive(Clone, Debug)]
pub(super) struct KeptEntry {
    pub(super) key: LockKey,
    pub(super) waiter: WaiterId,
    pub(super) lease_id: LeaseId,
    pub(super) attempt: Attempt,
}

/// See the module.
#[derive(Debug)]
pub(super) struct KeptEntries {
    state: Mutex<State>,
    max: usize,
    max_per_key: usize,
}

/// Until when an entry is kept, and a unique number.
type Order = (Instant, u64);

#[derive(Debug, Default)]
struct State {
    next_number: u64,
    keys: BTreeMap<Order, LockKey>,
    entries: HashMap<LockKey, BTreeMap<Order, KeptEntry>>,
}

impl KeptEntries {
    pub(super) fn new(limits: WaitLimits) -> Self {
        Self {
            state: Mutex::default(),
            max: (limits.max_waiters / WAITERS_PER_KEPT_ENTRY).max(1),
            max_per_key: (limits.max_waiters_per_key / WAITERS_PER_KEPT_ENTRY).max(1),
        }
    }

    /// Adds an entry that is kept from now on. Returns the entries that must be dropped for it.
    pub(super) fn keep(&self, entry: KeptEntry, now: Instant) -> Vec<KeptEntry> {
        let mut state = self
            .state
            .lock()
            .expect("no method panics while it holds the entries");
        while state.first().is_some_and(|(until, _)| until <= now) {
            state.remove_first();
        }
        let key = entry.key.clone();
        state.insert(entry, now + ENTRY_KEPT);
        let mut gone = Vec::new();
        while state.entries[&key].len() > self.max_per_key {
            let oldest = state.entries[&key]
                .first_key_value()
                .map(|(order, _)| *order);
            gone.extend(oldest.and_then(|oldest| state.remove(oldest)));
        }
        while state.keys.len() > self.max {
            gone.extend(state.remove_first());
        }
        gone
    }
}

impl State {
    fn first(&self) -> Option<Order> {
        self.keys.first_key_value().map(|(order, _)| *order)
    }

    fn remove_first(&mut self) -> Option<KeptEntry> {
        self.first().and_then(|first| self.remove(first))
    }

    fn remove(&mut self, order: Order) -> Option<KeptEntry> {
        let key = self.keys.remove(&order)?;
        let entries = self.entries.get_mut(&key)?;
        let entry = entries.remove(&order);
        if entries.is_empty() {
            self.entries.remove(&key);
        }
        entry
    }

    /// Adds an entry. It replaces the waiter's earlier one.
    fn insert(&mut self, entry: KeptEntry, until: Instant) {
        self.next_number += 1;
        let order = (until, self.next_number);
        let key = entry.key.clone();
        let entries = self.entries.entry(key.clone()).or_default();
        let same = |(_, other): &(&Order, &KeptEntry)| other.waiter == entry.waiter;
        if let Some(before) = entries.iter().find(same).map(|(order, _)| *order) {
            entries.remove(&before);
            self.keys.remove(&before);
        }
        entries.insert(order, entry);
        self.keys.insert(order, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, number: u8) -> KeptEntry {
        let lease_id = LeaseId::from_bytes([number; 16]);
        KeptEntry {
            key: LockKey::parse(key).expect("a key"),
            waiter: WaiterId::of(lease_id, None),
            lease_id,
            attempt: Attempt(u64::from(number)),
        }
    }

    fn numbers(entries: Vec<KeptEntry>) -> Vec<u64> {
        entries.into_iter().map(|entry| entry.attempt.0).collect()
    }

    #[test]
    fn oldest_kept_entry_of_the_key_and_of_the_server_goes_first() {
        let kept = KeptEntries::new(WaitLimits {
            max_waiters: 40,
            max_waiters_per_key: 20,
        });
        let now = Instant::now();
        assert!(numbers(kept.keep(entry("a", 1), now)).is_empty());
        assert!(numbers(kept.keep(entry("a", 2), now)).is_empty());
        // The same waiter again takes no second entry.
        assert!(numbers(kept.keep(entry("a", 2), now)).is_empty());
        assert_eq!(numbers(kept.keep(entry("a", 3), now)), [1]);
        assert!(numbers(kept.keep(entry("b", 4), now)).is_empty());
        assert!(numbers(kept.keep(entry("b", 5), now)).is_empty());
        assert_eq!(numbers(kept.keep(entry("c", 6), now)), [2]);
        // An entry that is no longer kept does not count.
        let later = now + ENTRY_KEPT;
        assert!(numbers(kept.keep(entry("c", 7), later)).is_empty());
    }

    #[test]
    fn one_entry_is_kept_however_low_the_limit_is() {
        let kept = KeptEntries::new(WaitLimits {
            max_waiters: 1,
            max_waiters_per_key: 1,
        });
        let now = Instant::now();
        assert!(numbers(kept.keep(entry("a", 1), now)).is_empty());
        assert_eq!(numbers(kept.keep(entry("b", 2), now)), [1]);
    }
}
