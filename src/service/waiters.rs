//! The waiters of this server, so that events of the store reach them. The store decides their order.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::key::LockKey;
use crate::lock::request::{Ticket, WaiterId};

/// All waiters of this server.
#[derive(Debug)]
pub(super) struct WaiterTable {
    state: Mutex<State>,
    max: usize,
}

#[derive(Debug, Default)]
struct State {
    keys: HashMap<LockKey, KeyWaiters>,
    /// One waiter may wait with several requests.
    signals: HashMap<WaiterId, Vec<Arc<WakeSignal>>>,
    total: usize,
    next_number: u64,
}

/// The waiters of one key.
#[derive(Debug, Default)]
struct KeyWaiters {
    by_order: BTreeMap<Order, Arc<WakeSignal>>,
    /// The deadline of the holder's lease, as far as this server knows.
    held_until: Option<Instant>,
}

/// The ticket, then the order of arrival. Waiters without a ticket come last.
type Order = (u64, u64);

/// Wakes a waiter, and tells it whether it must ask the store.
#[derive(Debug, Default)]
pub(super) struct WakeSignal {
    must_ask: AtomicBool,
    woken: Notify,
}

/// One waiter. Dropping the handle ends its wait on this server.
#[derive(Debug)]
pub(super) struct WaiterHandle {
    waiting: Arc<WaiterTable>,
    key: LockKey,
    waiter: WaiterId,
    signal: Arc<WakeSignal>,
    order: Order,
}

impl WaiterTable {
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: Mutex::default(),
            max,
        }
    }

    /// Adds a waiter; `None` if the table is full.
    pub(super) fn join(self: &Arc<Self>, key: &LockKey, waiter: WaiterId) -> Option<WaiterHandle> {
        let mut state = self.state();
        if state.total >= self.max {
            return None;
        }
        state.total += 1;
        state.next_number += 1;
        let order = (u64::MAX, state.next_number);
        let signal = Arc::new(WakeSignal::default());
        state
            .signals
            .entry(waiter)
            .or_default()
            .push(Arc::clone(&signal));
        let local = state.keys.entry(key.clone()).or_default();
        local.by_order.insert(order, Arc::clone(&signal));
        Some(WaiterHandle {
            waiting: Arc::clone(self),
            key: key.clone(),
            waiter,
            signal,
            order,
        })
    }

    /// Makes all requests of this waiter ask the store. Returns whether there is one.
    pub(super) fn ask(&self, waiter: WaiterId) -> bool {
        let state = self.state();
        let signals = state.signals.get(&waiter);
        for signal in signals.into_iter().flatten() {
            signal.ask();
        }
        signals.is_some()
    }

    /// The lock is held or reserved until then. The first waiter checks again after it.
    pub(super) fn held_until(&self, key: &LockKey, until: Instant) {
        if let Some(local) = self.state().keys.get_mut(key) {
            local.held_until = Some(until);
            if let Some(first) = local.by_order.values().next() {
                first.woken.notify_one();
            }
        }
    }

    /// Makes all waiters ask the store.
    pub(super) fn ask_all(&self) {
        for signal in self.state().signals.values().flatten() {
            signal.ask();
        }
    }

    /// The number of waiters, and its maximum.
    pub(super) fn total(&self) -> (usize, usize) {
        (self.state().total, self.max)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the waiters")
    }
}

impl WakeSignal {
    fn ask(&self) {
        self.must_ask.store(true, Ordering::Release);
        self.woken.notify_one();
    }

    /// Whether its waiter must ask the store since this was last called.
    pub(super) fn take_must_ask(&self) -> bool {
        self.must_ask.swap(false, Ordering::AcqRel)
    }

    /// Waits until the signal is given.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}

impl WaiterHandle {
    pub(super) fn signal(&self) -> &WakeSignal {
        &self.signal
    }

    /// The store has confirmed the queue entry: its ticket, and until when the lock is held or reserved.
    pub(super) fn queued(&mut self, ticket: Ticket, held_until: Instant) {
        let order = (ticket.0, self.order.1);
        let mut state = self.waiting.state();
        let local = state.keys.entry(self.key.clone()).or_default();
        local.held_until = Some(held_until);
        local.by_order.remove(&self.order);
        local.by_order.insert(order, Arc::clone(&self.signal));
        self.order = order;
    }

    /// When this waiter must ask whether the lease ahead of it is over. `None` unless it is the first waiter of its key
    /// on this server.
    pub(super) fn ask_at(&self) -> Option<Instant> {
        let state = self.waiting.state();
        let local = state.keys.get(&self.key)?;
        let (first, _) = local.by_order.first_key_value()?;
        (*first == self.order).then_some(local.held_until).flatten()
    }

    /// This waiter has the lock: the others wait for its lease.
    pub(super) fn granted(&self, until: Instant) {
        if let Some(local) = self.waiting.state().keys.get_mut(&self.key) {
            local.held_until = Some(until);
        }
    }
}

impl Drop for WaiterHandle {
    fn drop(&mut self) {
        let mut state = self.waiting.state();
        state.total -= 1;
        if let Some(signals) = state.signals.get_mut(&self.waiter) {
            signals.retain(|signal| !Arc::ptr_eq(signal, &self.signal));
            // A repetition of this request still waits, and may have lost its queue entry.
            for signal in signals.iter() {
                signal.ask();
            }
            if signals.is_empty() {
                state.signals.remove(&self.waiter);
            }
        }
        let Some(local) = state.keys.get_mut(&self.key) else {
            return;
        };
        local.by_order.remove(&self.order);
        match local.by_order.first_key_value() {
            None => drop(state.keys.remove(&self.key)),
            // The waiter that is first now has to watch the deadline.
            Some((first, signal)) if *first > self.order => signal.woken.notify_one(),
            Some(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lock::lease::LeaseId;

    /// Each counts although its ticket is not known yet.
    #[test]
    fn first_arrival_has_the_timer_until_tickets_are_known() {
        let waiting = Arc::new(WaiterTable::new(10));
        let key = LockKey::parse("a").expect("a key");
        let handle = |number| {
            let waiter = WaiterId::of(LeaseId::from_bytes([number; 16]), None);
            waiting
                .join(&key, waiter)
                .expect("fewer waiters than the limit")
        };
        let (first, second) = (handle(1), handle(2));
        let until = Instant::now();
        waiting.held_until(&key, until);
        assert_eq!((first.ask_at(), second.ask_at()), (Some(until), None));
        drop(first);
        assert_eq!(second.ask_at(), Some(until));
        drop(second);
        assert_eq!(waiting.total(), (0, 10));
    }
}
