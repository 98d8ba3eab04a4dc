//! Who waits for a lock on this server, first come, first served.
//!
//! Only the first of a line asks the store; the others sleep. A line holds no lease and decides
//! nothing: the store does.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::lock::key::LockKey;
use crate::lock::lease::Digest;

/// The lines of all keys.
#[derive(Debug)]
pub(super) struct Lines {
    state: Mutex<State>,
    next_id: AtomicU64,
    max: usize,
    max_per_key: usize,
}

#[derive(Debug, Default)]
struct State {
    lines: HashMap<LockKey, VecDeque<Waiter>>,
    total: usize,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    /// The acquisition it waits for, if that may be asked for twice.
    acquisition: Option<Digest>,
    turn: Arc<Notify>,
}

/// A place in a line; dropping it leaves the line and lets the next one have its turn.
#[derive(Debug)]
pub(super) struct Place {
    lines: Arc<Lines>,
    key: LockKey,
    id: u64,
    turn: Arc<Notify>,
}

impl Lines {
    pub(super) fn new(max: usize, max_per_key: usize) -> Self {
        Self {
            state: Mutex::default(),
            next_id: AtomicU64::new(0),
            max,
            max_per_key,
        }
    }

    /// Joins the line of `key` at its end, or right behind a request for the same acquisition; `None`
    /// if there is no room.
    pub(super) fn join(
        self: &Arc<Self>,
        key: &LockKey,
        acquisition: Option<Digest>,
    ) -> Option<Place> {
        let mut state = self.state();
        let line_length = state.lines.get(key).map_or(0, VecDeque::len);
        if state.total >= self.max || line_length >= self.max_per_key {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let turn = Arc::new(Notify::new());
        let line = state.lines.entry(key.clone()).or_default();
        let twin =
            acquisition.and_then(|_| line.iter().rposition(|w| w.acquisition == acquisition));
        let at = twin.map_or(line.len(), |twin| twin + 1);
        line.insert(
            at,
            Waiter {
                id,
                acquisition,
                turn: Arc::clone(&turn),
            },
        );
        state.total += 1;
        Some(Place {
            lines: Arc::clone(self),
            key: key.clone(),
            id,
            turn,
        })
    }

    /// How many wait for `key`.
    pub(super) fn length(&self, key: &LockKey) -> usize {
        self.state().lines.get(key).map_or(0, VecDeque::len)
    }

    /// How many wait for any key.
    pub(super) fn total(&self) -> usize {
        self.state().total
    }

    /// Lets the first of a line look again.
    pub(super) fn wake(&self, key: &LockKey) {
        if let Some(first) = self.state().lines.get(key).and_then(VecDeque::front) {
            first.turn.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the lines")
    }
}

impl Place {
    /// How many are ahead.
    pub(super) fn ahead(&self) -> usize {
        let state = self.lines.state();
        let line = state.lines.get(&self.key);
        line.and_then(|line| line.iter().position(|w| w.id == self.id))
            .unwrap_or(0)
    }

    /// Waits until there is a reason to look: this place became the first, or the lock was let go.
    pub(super) async fn turn(&self) {
        self.turn.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.lines.state();
        let State { lines, total } = &mut *state;
        let Some(line) = lines.get_mut(&self.key) else {
            return;
        };
        let Some(at) = line.iter().position(|waiter| waiter.id == self.id) else {
            return;
        };
        line.remove(at);
        *total -= 1;
        match line.front() {
            None => drop(lines.remove(&self.key)),
            // Whoever left was granted the lock, or gave up a turn it may have been given.
            Some(first) if at == 0 => first.turn.notify_one(),
            Some(_) => {}
        }
    }
}
