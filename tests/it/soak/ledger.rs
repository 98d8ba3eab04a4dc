//! The clients' knowledge of their leases, and the invariants of that knowledge.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The minimum distance between the tokens of two masters.
const TOKEN_GAP: u64 = 1 << 22;

pub(super) struct Ledger {
    keys: Vec<Mutex<Key>>,
    /// The highest token, and when each jump to another master's tokens was seen.
    highest: Mutex<(u64, Vec<Instant>)>,
}

#[derive(Default)]
struct Key {
    /// The lease that a client relies on, and its deadline.
    live: Option<(Lease, Instant)>,
    /// All grants by their tokens: the lease id, and the time of the grant by the clock of Redis.
    grants: BTreeMap<u64, (String, String)>,
}

/// A lease as its client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    pub(super) key: usize,
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) acquired_at: String,
}

impl Ledger {
    pub(super) fn new(keys: usize) -> Self {
        Self {
            keys: (0..keys).map(|_| Mutex::default()).collect(),
            highest: Mutex::default(),
        }
    }

    /// An answer gives the lease to a client until a deadline. False if the deadline has passed.
    pub(super) fn holds(&self, lease: &Lease, until: Instant) -> bool {
        self.saw_token(lease.token);
        let mut key = self.key(lease.key);
        let granted = (lease.id.clone(), lease.acquired_at.clone());
        let known = key.grants.entry(lease.token).or_insert(granted.clone());
        assert_eq!(*known, granted, "one token for two leases: {lease:?}");
        // The clock is read under the mutex, so that later entries have later times.
        let now = Instant::now();
        if until <= now {
            return false;
        }
        if let Some((other, until)) = &key.live
            && other.id != lease.id
            && now < *until
        {
            panic!(
                "held twice, the other for another {:?}: {lease:?} and {other:?}",
                *until - now
            );
        }
        let highest = key.grants.keys().next_back();
        assert_eq!(
            highest,
            Some(&lease.token),
            "a later token was granted already: {lease:?}"
        );
        key.live = Some((lease.clone(), until));
        true
    }

    /// The client no longer relies on the lease, or another client is about to break it. False if no client relied on
    /// it.
    pub(super) fn lets_go(&self, lease: &Lease) -> bool {
        let mut key = self.key(lease.key);
        let live = key.live.take_if(|(live, _)| live.id == lease.id);
        live.is_some_and(|(_, until)| Instant::now() < until)
    }

    /// An answer tells a client that its lease is lost.
    pub(super) fn is_lost(&self, lease: &Lease) {
        if let Some((live, until)) = &self.key(lease.key).live
            && live.id == lease.id
        {
            let left = until.saturating_duration_since(Instant::now());
            assert_eq!(
                left,
                Duration::ZERO,
                "lost while it was counted on: {lease:?}"
            );
        }
    }

    /// When the first grant of a new master was seen after this moment.
    pub(super) fn first_of_a_new_master(&self, after: Instant) -> Option<Instant> {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.1.iter().find(|at| **at > after).copied()
    }

    /// Later grants have higher tokens, including grants whose answer came after the end of the lease.
    pub(super) fn check_order(&self) {
        for key in &self.keys {
            let key = key.lock().unwrap_or_else(PoisonError::into_inner);
            let moments: Vec<&String> = key.grants.values().map(|(_, at)| at).collect();
            assert!(moments.is_sorted(), "tokens do not rise with time");
        }
    }

    fn saw_token(&self, token: u64) {
        let mut highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        if highest.0 > 0 && token >= highest.0 + TOKEN_GAP {
            highest.1.push(Instant::now());
        }
        highest.0 = highest.0.max(token);
    }

    fn key(&self, number: usize) -> MutexGuard<'_, Key> {
        self.keys[number]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
