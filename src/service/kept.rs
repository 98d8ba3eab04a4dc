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
    places: HashMap<LockKey, BTreeMap<Order, KeptEntry>>,
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
    pub(super) fn keep(&self, place: KeptEntry, now: Instant) -> Vec<KeptEntry> {
        let mut state = self
            .state
            .lock()
            .expect("no method panics while it holds the entries");
        while state.first().is_some_and(|(until, _)| until <= now) {
            state.remove_first();
        }
        let key = place.key.clone();
        state.insert(place, now + ENTRY_KEPT);
        let mut gone = Vec::new();
        while state.places[&key].len() > self.max_per_key {
            let oldest = state.places[&key]
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
        let places = self.places.get_mut(&key)?;
        let place = places.remove(&order);
        if places.is_empty() {
            self.places.remove(&key);
        }
        place
    }

    /// Adds an entry. It replaces the waiter's earlier one.
    fn insert(&mut self, place: KeptEntry, until: Instant) {
        self.next_number += 1;
        let order = (until, self.next_number);
        let key = place.key.clone();
        let places = self.places.entry(key.clone()).or_default();
        let same = |(_, other): &(&Order, &KeptEntry)| other.waiter == place.waiter;
        if let Some(before) = places.iter().find(same).map(|(order, _)| *order) {
            places.remove(&before);
            self.keys.remove(&before);
        }
        places.insert(order, place);
        self.keys.insert(order, key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(key: &str, number: u8) -> KeptEntry {
        let lease_id = LeaseId::from_bytes([number; 16]);
        KeptEntry {
            key: LockKey::parse(key).expect("a key"),
            waiter: WaiterId::of(lease_id, None),
            lease_id,
            attempt: Attempt(u64::from(number)),
        }
    }

    fn numbers(places: Vec<KeptEntry>) -> Vec<u64> {
        places.into_iter().map(|place| place.attempt.0).collect()
    }

    #[test]
    fn oldest_place_goes_first_of_its_key_and_of_the_server() {
        let kept = KeptEntries::new(WaitLimits {
            max_waiters: 40,
            max_waiters_per_key: 20,
        });
        let now = Instant::now();
        assert!(numbers(kept.keep(place("a", 1), now)).is_empty());
        assert!(numbers(kept.keep(place("a", 2), now)).is_empty());
        // The same waiter again takes no other place.
        assert!(numbers(kept.keep(place("a", 2), now)).is_empty());
        assert_eq!(numbers(kept.keep(place("a", 3), now)), [1]);
        assert!(numbers(kept.keep(place("b", 4), now)).is_empty());
        assert!(numbers(kept.keep(place("b", 5), now)).is_empty());
        assert_eq!(numbers(kept.keep(place("c", 6), now)), [2]);
        // What is over by itself takes no place.
        let later = now + ENTRY_KEPT;
        assert!(numbers(kept.keep(place("c", 7), later)).is_empty());
    }

    #[test]
    fn however_few_may_wait_one_place_is_kept() {
        let kept = KeptEntries::new(WaitLimits {
            max_waiters: 1,
            max_waiters_per_key: 1,
        });
        let now = Instant::now();
        assert!(numbers(kept.keep(place("a", 1), now)).is_empty());
        assert_eq!(numbers(kept.keep(place("b", 2), now)), [1]);
    }
}
