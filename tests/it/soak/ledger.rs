//! What clients were told of their leases, and what must be true of it at all times.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The least distance between the tokens of two masters.
const TOKEN_GAP: u64 = 1 << 22;

pub(super) struct Ledger {
    keys: Vec<Mutex<Key>>,
    /// The highest token, and when each leap to another master's tokens was seen.
    highest: Mutex<(u64, Vec<Instant>)>,
}

#[derive(Default)]
struct Key {
    /// What somebody counts on, and until when.
    live: Option<(Lease, Instant)>,
    /// All grants by their tokens: lease id, and when it was granted by the clock of Redis.
    grants: BTreeMap<u64, (String, String)>,
}

/// A lease as its client was told of it.
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

    /// A client was told that the lease is its own until then. False if that is over already.
    pub(super) fn holds(&self, lease: &Lease, until: Instant) -> bool {
        self.saw_token(lease.token);
        let mut key = self.key(lease.key);
        let granted = (lease.id.clone(), lease.acquired_at.clone());
        let known = key.grants.entry(lease.token).or_insert(granted.clone());
        assert_eq!(*known, granted, "one token for two leases: {lease:?}");
        // After the lock was taken: whatever is told later is told of a later moment.
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

    /// Its client counts on the lease no more, or somebody is about to break it. False if nobody did anyhow.
    pub(super) fn lets_go(&self, lease: &Lease) -> bool {
        let mut key = self.key(lease.key);
        let live = key.live.take_if(|(live, _)| live.id == lease.id);
        live.is_some_and(|(_, until)| Instant::now() < until)
    }

    /// A client was told that the lease is not its own any more.
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

    /// When the first grant of another master than before was seen after this moment.
    pub(super) fn first_of_a_new_master(&self, after: Instant) -> Option<Instant> {
        let highest = self.highest.lock().unwrap_or_else(PoisonError::into_inner);
        highest.1.iter().find(|at| **at > after).copied()
    }

    /// Whoever was granted a lock later has the higher token, also those whose answer came after their lease was over.
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
