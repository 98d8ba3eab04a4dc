//! The one layer between HTTP and a store: mints lease ids, waits, and takes back what a client that
//! is gone was granted.
//!
//! Every operation that changes a lock runs in a task of its own, because the future of a request is
//! dropped when its client disconnects, and half an acquisition must not be left behind.

mod line;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::line::{Lines, Place};
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, Holder, Idempotency, LeaseId, Metadata, Ttl};
use crate::lock::rules::{Acquire, Acquisition, Ending, Holding, Lease, Renewal};
use crate::random;
use crate::store::contract::{Health, ListQuery, Outcome, Page, Store, StoreError, Timed};

/// How much of a lease is left to a client that disconnected before it had its answer and can ask
/// again with its `Idempotency-Key`.
const KEPT_FOR_A_RETURN: Duration = Duration::from_secs(10);

/// How often the first of a line looks whether another server let the lock go.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// The least between two looks: a lease may outlast its deadline by the skew of clocks.
const MIN_LOOK_AGAIN: Duration = Duration::from_millis(5);

/// For how long a grant whose client is gone is tried to be taken back, while the store does not answer.
const UNDO_FOR: Duration = Duration::from_secs(10);

/// Between two tries that the store did not answer.
const UNDO_PAUSE: Duration = Duration::from_millis(200);

/// Before an undo that found nothing is repeated: longer than a command can be late and still run.
const LATE_GRANT: Duration = Duration::from_secs(1);

/// How often a request without patience asks again while a free lock belongs to those who wait.
const LEFT_TO_WAITERS_TRIES: u32 = 20;

/// Between two of these.
const LEFT_TO_WAITERS_PAUSE: Duration = Duration::from_millis(5);

/// The most that may wait.
#[derive(Clone, Copy, Debug)]
pub struct WaitLimits {
    /// On this server.
    pub max_waiters: usize,
    /// For one key.
    pub max_waiters_per_key: usize,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct AcquireRequest {
    /// How long the lease lasts without a renewal.
    pub ttl: Ttl,
    /// Until when to wait for the lock; `None` not at all.
    pub wait_until: Option<Instant>,
    /// Who asks, in the client's words.
    pub holder: Option<Holder>,
    /// What the client attaches.
    pub metadata: Metadata,
    /// Present if the request may be repeated.
    pub idempotency: Option<Idempotency>,
}

/// The answer to an acquisition.
#[derive(Clone, Debug)]
pub enum Acquired {
    /// A new lease.
    Granted(Timed<Lease>),
    /// The lease that this acquisition has already.
    Replayed(Timed<Lease>),
    /// Somebody else's, and the request does not wait.
    Held(Standing),
    /// Somebody else's for as long as the request would wait; how many were ahead of it.
    TimedOut(Standing, usize),
    /// The idempotency key was used with another TTL, holder or metadata.
    KeyReused,
    /// This acquisition was granted and released moments ago.
    AlreadyReleased,
    /// As many wait as may.
    TooManyWaiters,
}

/// How a held lock stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Who has it.
    pub holding: Holding,
    /// How many wait for it on this server.
    pub waiters: usize,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceError {
    /// The store's reason.
    Store(StoreError),
    /// The server is about to end; nothing was done.
    ShuttingDown,
    /// A defect; the outcome is unknown.
    Panicked,
}

impl From<StoreError> for ServiceError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The lock service. Cheap to clone.
#[derive(Clone)]
pub struct LockService {
    store: Arc<dyn Store>,
    lines: Arc<Lines>,
    tasks: TaskTracker,
    draining: CancellationToken,
}

impl LockService {
    /// A service over `store`; the only user of it.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, limits: WaitLimits) -> Self {
        Self {
            store,
            lines: Arc::new(Lines::new(limits.max_waiters, limits.max_waiters_per_key)),
            tasks: TaskTracker::new(),
            draining: CancellationToken::new(),
        }
    }

    /// Acquires a lock, waiting for it if the request says so.
    ///
    /// If the future is dropped, the request leaves its line, and a grant that nobody received is
    /// taken back (or cut short, if an `Idempotency-Key` lets the client come back for it).
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether a grant may stand.
    pub async fn acquire(
        &self,
        key: LockKey,
        request: AcquireRequest,
    ) -> Result<Acquired, ServiceError> {
        if self.draining.is_cancelled() {
            return Err(ServiceError::ShuttingDown);
        }
        let gone = CancellationToken::new();
        let _leave_when_dropped = gone.clone().drop_guard();
        let (answer, answered) = oneshot::channel();
        let (received, was_received) = oneshot::channel();
        let acquisition = Attempted::new(self.clone(), key, request, gone);
        self.tasks.spawn(acquisition.run(answer, was_received));
        let result = answered.await.map_err(|_| ServiceError::Panicked)?;
        // No await since the answer came: from here on it is the caller's.
        let _task_ended = received.send(());
        result
    }

    /// Extends a lease.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may have been extended.
    pub async fn renew(
        &self,
        key: LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, ServiceError> {
        let store = Arc::clone(&self.store);
        self.detached(async move { store.renew(&key, lease_id, ttl).await })
            .await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may be over.
    pub async fn release(&self, key: LockKey, lease_id: LeaseId) -> Result<Ending, ServiceError> {
        let (store, lines) = (Arc::clone(&self.store), Arc::clone(&self.lines));
        self.detached(async move {
            let ending = store.release(&key, lease_id).await;
            lines.wake(&key);
            ending
        })
        .await
    }

    /// Ends whoever's lease has this token.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may be over.
    pub async fn break_lease(
        &self,
        key: LockKey,
        token: FencingToken,
    ) -> Result<Ending, ServiceError> {
        let (store, lines) = (Arc::clone(&self.store), Arc::clone(&self.lines));
        self.detached(async move {
            let ending = store.break_lease(&key, token).await;
            lines.wake(&key);
            ending
        })
        .await
    }

    /// How a lock stands; `None` and the number of waiters if nobody holds it.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn inspect(&self, key: &LockKey) -> Result<(Option<Holding>, usize), ServiceError> {
        let holding = self.store.inspect(key).await?;
        Ok((holding, self.lines.length(key)))
    }

    /// A page of the held locks, each with the number of its waiters on this server.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn list(&self, query: &ListQuery) -> Result<(Page, Vec<usize>), ServiceError> {
        let page = self.store.list(query).await?;
        let waiters = page
            .locks
            .iter()
            .map(|(key, _)| self.lines.length(key))
            .collect();
        Ok((page, waiters))
    }

    /// The store's state.
    #[must_use]
    pub fn health(&self) -> Health {
        self.store.health()
    }

    /// How many wait on this server.
    #[must_use]
    pub fn waiters(&self) -> usize {
        self.lines.total()
    }

    /// Whether [`LockService::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Refuses new acquisitions and answers those who wait; leases stay.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Waits for what is under way, then closes the store.
    pub async fn close(&self) {
        self.drain();
        self.tasks.close();
        self.tasks.wait().await;
        self.store.close().await;
    }

    /// Runs `operation` to its end, whether or not the caller stays to hear of it.
    async fn detached<T: Send + 'static>(
        &self,
        operation: impl Future<Output = Result<T, StoreError>> + Send + 'static,
    ) -> Result<T, ServiceError> {
        Ok(self
            .tasks
            .spawn(operation)
            .await
            .map_err(|_| ServiceError::Panicked)??)
    }
}

/// One request for a lock, in its own task.
struct Attempted {
    service: LockService,
    key: LockKey,
    request: AcquireRequest,
    lease_id: LeaseId,
    attempt: Attempt,
    /// Cancelled when the client is not there any more.
    gone: CancellationToken,
}

impl Attempted {
    fn new(
        service: LockService,
        key: LockKey,
        request: AcquireRequest,
        gone: CancellationToken,
    ) -> Self {
        let lease_id = LeaseId::from_bytes(random::bytes());
        let attempt = Attempt(random::number());
        Self {
            service,
            key,
            request,
            lease_id,
            attempt,
            gone,
        }
    }

    async fn run(
        self,
        answer: oneshot::Sender<Result<Acquired, ServiceError>>,
        was_received: oneshot::Receiver<()>,
    ) {
        let result = self.acquire().await;
        let granted = matches!(result, Ok(Acquired::Granted(_)));
        let unknown = matches!(&result, Err(ServiceError::Store(error)) if error.outcome() == Outcome::Unknown);
        let handed_over = answer.send(result).is_ok() && was_received.await.is_ok();
        // A client that has no Idempotency-Key cannot come back for what may have been granted to it. A
        // replay is not taken back: the answer before it may have arrived.
        if granted && !handed_over
            || unknown && (!handed_over || self.request.idempotency.is_none())
        {
            self.take_back(unknown).await;
        }
    }

    async fn acquire(&self) -> Result<Acquired, ServiceError> {
        let Some(wait_until) = self.request.wait_until else {
            return self.without_waiting().await;
        };
        let acquisition = self.request.idempotency.map(|idempotency| idempotency.key);
        let place = self.service.lines.join(&self.key, acquisition);
        // What this request was granted before is its own wherever it stands.
        if acquisition.is_some()
            && place.as_ref().is_none_or(|place| place.ahead() > 0)
            && let Some(done) = settled(self.ask(true).await?)
        {
            return Ok(done);
        }
        let Some(place) = place else {
            return Ok(Acquired::TooManyWaiters);
        };
        self.in_line(&place, wait_until).await
    }

    /// Takes the lock if it is free and nobody waits for it.
    async fn without_waiting(&self) -> Result<Acquired, ServiceError> {
        for _ in 0..LEFT_TO_WAITERS_TRIES {
            let behind_waiters = self.service.lines.length(&self.key) > 0;
            match self.ask_or_wake_the_first(behind_waiters).await? {
                Tried::Settled(done) => return Ok(done),
                Tried::Held(holding) => return Ok(Acquired::Held(self.standing(holding))),
                Tried::LeftToWaiters => {}
            }
        }
        Err(left_lying())
    }

    /// Asks; if a free lock is left to those who wait, sees to it that they take it.
    async fn ask_or_wake_the_first(&self, behind_waiters: bool) -> Result<Tried, StoreError> {
        let Timed { value, asked_at } = self.ask(behind_waiters).await?;
        match value {
            Acquisition::Held(holding) => Ok(Tried::Held(holding)),
            Acquisition::LeftToWaiters => {
                self.service.lines.wake(&self.key);
                tokio::time::sleep(LEFT_TO_WAITERS_PAUSE).await;
                Ok(Tried::LeftToWaiters)
            }
            value => {
                Ok(settled(Timed { value, asked_at }).map_or(Tried::LeftToWaiters, Tried::Settled))
            }
        }
    }

    /// Stands in line until the lock is this request's, or its time is over.
    async fn in_line(&self, place: &Place, wait_until: Instant) -> Result<Acquired, ServiceError> {
        let mut look_at = Instant::now();
        loop {
            let first = place.ahead() == 0;
            if first && look_at <= Instant::now() {
                let wait = match self.ask(false).await {
                    Ok(Timed {
                        value: Acquisition::Held(holding),
                        ..
                    }) => holding.expires_in(),
                    Ok(other) => match settled(other) {
                        Some(done) => return Ok(done),
                        None => LOOK_AGAIN,
                    },
                    // Nothing was done, and there is time: a failover is no reason to send a waiter away.
                    Err(error) if error.outcome() == Outcome::None => LOOK_AGAIN,
                    Err(error) => return Err(error.into()),
                };
                look_at = Instant::now() + wait.clamp(MIN_LOOK_AGAIN, LOOK_AGAIN);
            }
            tokio::select! {
                () = self.gone.cancelled() => return Err(ServiceError::ShuttingDown),
                () = self.service.draining.cancelled() => return Err(ServiceError::ShuttingDown),
                () = place.turn() => look_at = Instant::now(),
                () = sleep_until(wait_until) => return self.out_of_time(place).await,
                () = sleep_until(look_at), if first => {}
            }
        }
    }

    /// Asks one last time, so that the answer says who holds the lock now.
    async fn out_of_time(&self, place: &Place) -> Result<Acquired, ServiceError> {
        for _ in 0..LEFT_TO_WAITERS_TRIES {
            let ahead = place.ahead();
            match self.ask_or_wake_the_first(ahead > 0).await? {
                Tried::Settled(done) => return Ok(done),
                Tried::Held(holding) => {
                    return Ok(Acquired::TimedOut(self.standing(holding), ahead));
                }
                Tried::LeftToWaiters => {}
            }
        }
        Err(left_lying())
    }

    async fn ask(&self, behind_waiters: bool) -> Result<Timed<Acquisition>, StoreError> {
        let request = Acquire {
            lease_id: self.lease_id,
            attempt: self.attempt,
            ttl: self.request.ttl,
            holder: self.request.holder.clone(),
            metadata: self.request.metadata.clone(),
            idempotency: self.request.idempotency,
            behind_waiters,
        };
        self.service.store.acquire(&self.key, request).await
    }

    fn standing(&self, holding: Holding) -> Standing {
        Standing {
            holding,
            waiters: self.service.lines.length(&self.key),
        }
    }

    /// Undoes a grant that nobody received, or cuts it short for a client that can come back. A command
    /// whose outcome is unknown may reach the store after its undo, so that is repeated.
    async fn take_back(&self, unknown: bool) {
        let keep = self.request.idempotency.map(|_| KEPT_FOR_A_RETURN);
        let store = &self.service.store;
        let end = Instant::now() + UNDO_FOR;
        while Instant::now() < end {
            let undone = store
                .abandon(&self.key, self.lease_id, self.attempt, keep)
                .await;
            let pause = match undone {
                Ok(undone) if undone || !unknown => break,
                Ok(_) => LATE_GRANT,
                Err(error) => {
                    tracing::debug!(key = %self.key, "a grant could not be taken back yet: {error}");
                    UNDO_PAUSE
                }
            };
            // An end in order does not wait for a store that is out of reach: the TTL ends the lease then.
            let draining = &self.service.draining;
            if draining
                .run_until_cancelled(tokio::time::sleep(pause))
                .await
                .is_none()
            {
                break;
            }
        }
        self.service.lines.wake(&self.key);
    }
}

/// What became of one question.
enum Tried {
    Settled(Acquired),
    Held(Holding),
    LeftToWaiters,
}

fn left_lying() -> ServiceError {
    let cause = "a free lock was not taken by those who wait for it".to_owned();
    ServiceError::Store(StoreError::Unavailable {
        outcome: Outcome::None,
        cause,
    })
}

/// Answers that end a request, whether it waits or not.
fn settled(Timed { value, asked_at }: Timed<Acquisition>) -> Option<Acquired> {
    let timed = |lease| Timed {
        value: lease,
        asked_at,
    };
    match value {
        Acquisition::Granted(lease) => Some(Acquired::Granted(timed(lease))),
        Acquisition::Replayed(lease) => Some(Acquired::Replayed(timed(lease))),
        Acquisition::KeyReused => Some(Acquired::KeyReused),
        Acquisition::AlreadyReleased => Some(Acquired::AlreadyReleased),
        Acquisition::Held(_) | Acquisition::LeftToWaiters => None,
    }
}
