//! The memory store behind faults.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Mutex as AsyncMutex, mpsc};
use tokio::time::{Instant, sleep};

use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Ttl};
use crate::lock::request::{Acquire, WaiterId};
use crate::lock::rules::{Acquisition, EndOutcome, LeaseInfo, Renewal};
use crate::store::contract::{
    Health, LeaseStats, ListQuery, Outcome, Page, Store, StoreError, StoreEvent, Timed,
};
use crate::store::memory::MemoryStore;

/// What happens to an acquisition.
pub(super) enum Fault {
    /// None.
    Sound,
    /// It is not executed, and this is the error.
    Refused(StoreError),
    /// It is executed, and after this time an error says that the outcome is unknown.
    Unanswered(Duration),
    /// It is executed after this time.
    Slow(Duration),
    /// It is executed, and answered after this time.
    LateAnswer(Duration),
    /// Its answer says that the lease ahead is over by the clock that wrote its deadline.
    Overdue,
    /// Its answer says that the queue has lost its entry.
    EntryLost,
}

/// See the module. Notes its calls, each with its moment in milliseconds.
pub(super) struct FaultyStore {
    inner: MemoryStore,
    began: Instant,
    calls: Mutex<Vec<String>>,
    /// Of the next acquisitions, in their order.
    pub(super) acquisitions: Mutex<VecDeque<Fault>>,
    /// Of the next rollbacks.
    pub(super) rollbacks: Mutex<VecDeque<StoreError>>,
    /// How long all operations but acquisitions and rollbacks take.
    pub(super) delay: Mutex<Duration>,
    pub(super) events: mpsc::UnboundedSender<StoreEvent>,
    received: AsyncMutex<mpsc::UnboundedReceiver<StoreEvent>>,
    pub(super) closed: AtomicBool,
}

/// The store was out of reach.
pub(super) fn unavailable(outcome: Outcome) -> StoreError {
    StoreError::Unavailable {
        outcome,
        cause: "test".to_owned(),
    }
}

impl FaultyStore {
    pub(super) fn new() -> Self {
        let (events, received) = mpsc::unbounded_channel();
        Self {
            inner: MemoryStore::new(),
            began: Instant::now(),
            calls: Mutex::default(),
            acquisitions: Mutex::default(),
            rollbacks: Mutex::default(),
            delay: Mutex::default(),
            events,
            received: AsyncMutex::new(received),
            closed: AtomicBool::new(false),
        }
    }

    /// The acquisitions and rollbacks since the last question.
    pub(super) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().expect("the calls"))
    }

    fn note(&self, call: &str, key: &LockKey) {
        let now = self.began.elapsed().as_millis();
        let mut calls = self.calls.lock().expect("the calls");
        calls.push(format!("{now} {call} {key}"));
    }

    async fn delayed(&self) {
        let delay = *self.delay.lock().expect("the delay");
        sleep(delay).await;
    }
}

#[async_trait]
impl Store for FaultyStore {
    async fn acquire(
        &self,
        key: &LockKey,
        request: Acquire,
    ) -> Result<Timed<Acquisition>, StoreError> {
        let call = request.wait.map_or("acquire", |_| "queue");
        self.note(call, key);
        let asked_at = Instant::now();
        let fault = self.acquisitions.lock().expect("the faults").pop_front();
        if let Some(Fault::Refused(error)) = fault {
            return Err(error);
        }
        if let Some(Fault::Slow(delay)) = fault {
            sleep(delay).await;
        }
        let mut answer = self.inner.acquire(key, request).await?;
        match (fault, &mut answer.value) {
            (Some(Fault::Unanswered(delay)), _) => {
                sleep(delay).await;
                return Err(unavailable(Outcome::Unknown));
            }
            (Some(Fault::LateAnswer(delay)), _) => sleep(delay).await,
            (Some(Fault::Overdue), Acquisition::Queued { info, .. }) => {
                info.deadline = info.read_at;
            }
            (Some(Fault::EntryLost), Acquisition::Held { position, .. }) => *position = None,
            _ => {}
        }
        Ok(Timed { asked_at, ..answer })
    }

    async fn renew(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, StoreError> {
        let renewed = self.inner.renew(key, lease_id, ttl).await;
        self.delayed().await;
        renewed
    }

    async fn release(&self, key: &LockKey, lease_id: LeaseId) -> Result<EndOutcome, StoreError> {
        self.delayed().await;
        self.inner.release(key, lease_id).await
    }

    async fn break_lease(
        &self,
        key: &LockKey,
        token: FencingToken,
    ) -> Result<EndOutcome, StoreError> {
        self.delayed().await;
        self.inner.break_lease(key, token).await
    }

    async fn rollback(
        &self,
        key: &LockKey,
        waiter: WaiterId,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
    ) -> Result<bool, StoreError> {
        match keep {
            None => self.note("rollback", key),
            Some(keep) => self.note(&format!("shorten to {} s", keep.as_secs()), key),
        }
        if let Some(error) = self.rollbacks.lock().expect("the faults").pop_front() {
            return Err(error);
        }
        let store = &self.inner;
        store.rollback(key, waiter, lease_id, attempt, keep).await
    }

    async fn decline(&self, key: &LockKey, waiter: WaiterId) -> Result<bool, StoreError> {
        self.inner.decline(key, waiter).await
    }

    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError> {
        self.inner.inspect(key).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.delayed().await;
        self.inner.list(query).await
    }

    async fn next_event(&self) -> StoreEvent {
        let mut received = self.received.lock().await;
        tokio::select! {
            event = self.inner.next_event() => event,
            Some(event) = received.recv() => event,
        }
    }

    fn health(&self) -> Health {
        self.inner.health()
    }

    fn lease_stats(&self) -> Option<LeaseStats> {
        self.inner.lease_stats()
    }

    async fn end_recovery(&self) -> Result<Duration, StoreError> {
        self.inner.end_recovery().await
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }
}
