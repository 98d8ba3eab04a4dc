//! The embedded store: a map of locks and the rules.
//!
//! A first run needs no Redis with it, and tests of the rules need no network. It forgets every lease when the process
//! ends. Its tokens rise across restarts, because they start at the wall clock in microseconds. It is for one server
//! only: two servers would each grant the same lock.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::Instant;

use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Moment, Timestamp, Ttl};
use crate::lock::releases::Releases;
use crate::lock::request::{Acquire, WaiterId};
use crate::lock::rules::{Acquisition, Context, EndOutcome, LeaseInfo, Lock, Renewal};
use crate::store::clock::wall_clock;
use crate::store::contract::{
    Condition, Health, LeaseStats, ListQuery, MAX_PAGE_BYTES, Page, Store, StoreError, StoreEvent,
    Timed, listed_bytes,
};

/// How many expired keys one operation sweeps: enough to free memory faster than operations fill it, few enough to
/// keep each operation fast.
const SWEPT_PER_OPERATION: usize = 4;

/// How many locks a page examines, held or not: other operations wait meanwhile.
const EXAMINED_PER_PAGE: usize = 1024;

/// The maximum of events that the service has not read yet.
const MAX_PENDING_EVENTS: usize = 65_536;

/// See the module.
#[derive(Debug)]
pub struct MemoryStore {
    /// The wall clock at start; later moments are this plus monotonic time, so that a step of the
    /// system's clock moves no deadline.
    started_wall: Timestamp,
    started: Instant,
    state: Mutex<State>,
    events: (
        mpsc::Sender<StoreEvent>,
        AsyncMutex<mpsc::Receiver<StoreEvent>>,
    ),
}

#[derive(Debug)]
struct State {
    /// Ordered, so that a listing can go on where it ended.
    locks: BTreeMap<LockKey, Lock>,
    /// When each key's memory can be freed. Expiry itself never waits for this.
    disposals: BTreeSet<(Timestamp, LockKey)>,
    /// The leases by their deadlines: those that live, and those whose expiry is not counted yet.
    held: BTreeSet<(Timestamp, FencingToken)>,
    expired_total: u64,
    releases: Releases,
    last_token: u64,
}

impl MemoryStore {
    /// An empty store whose first token is the wall clock in microseconds.
    #[must_use]
    pub fn new() -> Self {
        let wall = wall_clock();
        let (events, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        let state = State {
            locks: BTreeMap::new(),
            disposals: BTreeSet::new(),
            held: BTreeSet::new(),
            expired_total: 0,
            releases: Releases::default(),
            last_token: wall.as_micros(),
        };
        Self {
            started_wall: wall,
            started: Instant::now(),
            state: Mutex::new(state),
            events: (events, AsyncMutex::new(receiver)),
        }
    }

    /// One clock needs no grace.
    fn moment(&self) -> Moment {
        Moment {
            now: self.started_wall.after(self.started.elapsed()),
            grace: Duration::ZERO,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no operation panics while it holds the state")
    }

    /// If the channel is full, the waiters find out when they ask again.
    fn tell(&self, event: StoreEvent) {
        let _full = self.events.0.try_send(event);
    }

    /// Applies `operation` to a lock. The time is read under the guard, so that it never goes back between operations.
    fn change<T>(
        &self,
        key: &LockKey,
        operation: impl FnOnce(&mut Lock, &mut Context<'_>) -> T,
    ) -> T {
        let mut state = self.state();
        let moment = self.moment();
        state.sweep(moment.now);
        let State {
            locks,
            disposals,
            held,
            releases,
            last_token,
            ..
        } = &mut *state;
        let mut next_token = || {
            *last_token += 1;
            FencingToken::new(*last_token)
                .expect("a clock in microseconds stays below 2^53 until 2255")
        };
        let lock = locks.entry(key.clone()).or_default();
        let due_before = lock.disposable_from(moment.grace);
        let reservation_before = lock.reservation(moment);
        let held_before = lock.held(moment);
        let ends_before = lock.held_until(moment);
        let result = operation(
            lock,
            &mut Context {
                key,
                moment,
                releases,
                next_number: &mut next_token,
            },
        );
        let reservation = lock.reservation(moment);
        if let (true, Some((waiter, _))) = (reservation != reservation_before, reservation) {
            self.tell(StoreEvent::Reserved(key.clone(), waiter));
        } else if let Some(ends) = lock.held_until(moment)
            && Some(ends) < ends_before
        {
            let until = Instant::now() + ends.since(moment.now);
            self.tell(StoreEvent::HeldUntil(key.clone(), until));
        }
        let held_after = lock.held(moment);
        if held_after != held_before {
            if let Some(before) = held_before {
                held.remove(&before);
            }
            held.extend(held_after);
        }
        let due = lock.disposable_from(moment.grace);
        if due != due_before {
            if let Some(before) = due_before {
                disposals.remove(&(before, key.clone()));
            }
            if let Some(due) = due {
                disposals.insert((due, key.clone()));
            }
        }
        if due.is_none() {
            locks.remove(key);
        }
        result
    }
}

impl State {
    fn sweep(&mut self, now: Timestamp) {
        self.releases.drop_expired(now);
        for _ in 0..SWEPT_PER_OPERATION {
            self.count_expired(now);
            match self.disposals.first() {
                Some((due, _)) if *due <= now => {}
                _ => return,
            }
            if let Some((_, key)) = self.disposals.pop_first() {
                self.locks.remove(&key);
            }
        }
    }

    /// Counts one expired lease that is not counted yet, if there is one.
    fn count_expired(&mut self, now: Timestamp) -> bool {
        let over = self
            .held
            .first()
            .is_some_and(|(deadline, _)| *deadline <= now);
        if over {
            self.held.pop_first();
            self.expired_total += 1;
        }
        over
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn acquire(
        &self,
        key: &LockKey,
        request: Acquire,
    ) -> Result<Timed<Acquisition>, StoreError> {
        let asked_at = Instant::now();
        let value = self.change(key, |lock, ctx| lock.acquire(request, ctx));
        Ok(Timed { value, asked_at })
    }

    async fn renew(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, StoreError> {
        let asked_at = Instant::now();
        let value = self.change(key, |lock, ctx| lock.renew(lease_id, ttl, ctx.moment));
        Ok(Timed { value, asked_at })
    }

    async fn release(&self, key: &LockKey, lease_id: LeaseId) -> Result<EndOutcome, StoreError> {
        Ok(self.change(key, |lock, ctx| lock.release(lease_id, ctx)))
    }

    async fn break_lease(
        &self,
        key: &LockKey,
        token: FencingToken,
    ) -> Result<EndOutcome, StoreError> {
        Ok(self.change(key, |lock, ctx| lock.break_lease(token, ctx)))
    }

    async fn rollback(
        &self,
        key: &LockKey,
        waiter: WaiterId,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
    ) -> Result<bool, StoreError> {
        Ok(self.change(key, |lock, ctx| {
            lock.rollback(waiter, lease_id, attempt, keep, ctx)
        }))
    }

    async fn decline(&self, key: &LockKey, waiter: WaiterId) -> Result<bool, StoreError> {
        Ok(self.change(key, |lock, ctx| lock.decline(waiter, ctx)))
    }

    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError> {
        let state = self.state();
        let moment = self.moment();
        let lock = state.locks.get(key);
        Ok(lock.map_or((None, 0), |lock| {
            (lock.lease_info(moment), lock.waiters(moment))
        }))
    }

    async fn next_event(&self) -> StoreEvent {
        let mut events = self.events.1.lock().await;
        match events.recv().await {
            Some(event) => event,
            // Cannot happen: the store owns a sender.
            None => std::future::pending().await,
        }
    }

    /// The cursor is the last key of the page before.
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let start = match &query.cursor {
            Some(cursor) if LockKey::parse(cursor).is_err() => {
                return Err(StoreError::InvalidCursor);
            }
            Some(cursor) if *cursor >= query.prefix => Bound::Excluded(cursor.as_str()),
            _ => Bound::Included(query.prefix.as_str()),
        };
        let state = self.state();
        let moment = self.moment();
        let mut examined = state
            .locks
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.as_str().starts_with(&query.prefix))
            .peekable();
        let (mut page, mut bytes) = (Page::default(), 0);
        for _ in 0..EXAMINED_PER_PAGE {
            let Some((key, lock)) = examined.next() else {
                break;
            };
            if let Some(info) = lock.lease_info(moment) {
                let listed = (key.clone(), info, lock.waiters(moment));
                bytes += listed_bytes(&listed);
                page.locks.push(listed);
            }
            // The last page has no cursor.
            page.next_cursor = examined.peek().map(|_| key.as_str().to_owned());
            if page.locks.len() >= query.limit || bytes >= MAX_PAGE_BYTES {
                break;
            }
        }
        Ok(page)
    }

    /// Exact: an expired lease is counted once, by a sweep or here.
    fn lease_stats(&self) -> Option<LeaseStats> {
        let mut state = self.state();
        let now = self.moment().now;
        while state.count_expired(now) {}
        Some(LeaseStats {
            held: u64::try_from(state.held.len()).unwrap_or(u64::MAX),
            expired_total: state.expired_total,
            releases_forgotten_total: state.releases.forgotten(),
        })
    }

    fn health(&self) -> Health {
        Health {
            condition: Condition::Ready,
            last_change: None,
            since: None,
            accepted_risk: None,
        }
    }

    /// Nothing can be lost and be counted on.
    async fn end_recovery(&self) -> Result<Duration, StoreError> {
        Ok(Duration::ZERO)
    }

    async fn close(&self) {}
}

#[cfg(test)]
mod tests;
