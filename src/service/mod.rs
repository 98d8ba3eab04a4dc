//! The one layer between HTTP and a store: mints lease ids, waits, and takes back what a client that
//! is gone was granted.
//!
//! Every operation that changes a lock outlives its request, because the future of a request is dropped
//! when its client disconnects, and half an acquisition must not be left behind: what is left of it then
//! runs on in a task of its own.

mod acquisition;
mod counting;
mod kept;
mod outlive;
mod request;
mod waiting;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::acquisition::{Attempted, Surroundings};
use self::kept::KeptPlaces;
use self::outlive::Outlive;
use self::waiting::Waiting;
use crate::lock::key::LockKey;
use crate::lock::lease::{FencingToken, LeaseId, Ttl};
use crate::lock::rules::{Ending, Holding, Renewal};
use crate::store::contract::{Census, Health, ListQuery, News, Store, StoreError, Timed};
use crate::telemetry::{AcquireOutcome, Limit, LockMetrics};

pub use self::kept::WAITERS_PER_KEPT_PLACE;
pub use self::request::{AcquireRequest, Acquired, Listing, ServiceError, Standing, WaitLimits};

/// How many listings may be under way at once: more would only wait for one another.
pub const MAX_LISTINGS: usize = 4;

/// The lock service. Cheap to clone.
#[derive(Clone)]
pub struct LockService {
    surroundings: Arc<Surroundings>,
    listings: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl LockService {
    /// A service over `store`; the only user of it. Starts a task, and so needs a Tokio runtime.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, limits: WaitLimits, metrics: LockMetrics) -> Self {
        let surroundings = Arc::new(Surroundings {
            store,
            waiting: Arc::new(Waiting::new(limits.max_waiters)),
            kept: KeptPlaces::new(limits),
            max_waiters_per_key: limits.max_waiters_per_key,
            metrics,
            draining: CancellationToken::new(),
        });
        let service = Self {
            surroundings: Arc::clone(&surroundings),
            listings: Arc::new(Semaphore::new(MAX_LISTINGS)),
            tasks: TaskTracker::new(),
        };
        service.tasks.spawn(async move {
            let draining = surroundings.draining.clone();
            draining.run_until_cancelled(spread(&surroundings)).await;
        });
        service
    }

    /// Acquires a lock, waiting for it if the request says so.
    ///
    /// If the future is dropped, the request leaves the queue, and a grant that nobody received is
    /// taken back (or cut short, if an `Idempotency-Key` lets the client come back for it).
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether a grant may stand.
    pub async fn acquire(
        &self,
        key: LockKey,
        request: AcquireRequest,
    ) -> Result<Acquired, ServiceError> {
        let metrics = &self.surroundings.metrics;
        if self.surroundings.draining.is_cancelled() {
            metrics.acquires.count(AcquireOutcome::ShuttingDown);
            return Err(ServiceError::ShuttingDown);
        }
        // Only who waits must be told.
        let gone = request.wait_until.map(|_| CancellationToken::new());
        let _leave_when_dropped = gone.clone().map(CancellationToken::drop_guard);
        let acquisition = Attempted::new(Arc::clone(&self.surroundings), key, request, gone);
        let tasks = self.tasks.clone();
        let (acquisition, result) = Outlive::new(acquisition.run(), move |rest| {
            tasks.spawn(async move {
                let (acquisition, result) = rest.await;
                acquisition.count(AcquireOutcome::Abandoned);
                acquisition.clean_up(&result, false).await;
            });
        })
        .await;
        // No await since the result came: from here on it is the caller's.
        acquisition.count(counting::outcome(&result));
        if acquisition.needs_clean_up(&result) {
            let result = result.clone();
            self.tasks
                .spawn(async move { acquisition.clean_up(&result, true).await });
        }
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
        self.detached(|service| async move {
            let renewed = service.store.renew(&key, lease_id, ttl).await;
            counting::renewal(&service.metrics, &renewed);
            renewed
        })
        .await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may be over.
    pub async fn release(&self, key: LockKey, lease_id: LeaseId) -> Result<Ending, ServiceError> {
        self.detached(|service| async move {
            let released = service.store.release(&key, lease_id).await;
            counting::release(&service.metrics, &released);
            released
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
        self.detached(|service| async move {
            let broken = service.store.break_lease(&key, token).await;
            counting::breaking(&service.metrics, &broken);
            broken
        })
        .await
    }

    /// Who holds a lock, if somebody does, and how many wait for it.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn inspect(&self, key: &LockKey) -> Result<(Option<Holding>, usize), ServiceError> {
        Ok(self.surroundings.store.inspect(key).await?)
    }

    /// A page of the held locks.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn list(&self, query: &ListQuery) -> Result<Listing, ServiceError> {
        let Ok(_one_of_them) = self.listings.try_acquire() else {
            self.surroundings.metrics.limits.count(Limit::Listings);
            return Ok(Listing::TooMany);
        };
        Ok(Listing::Page(self.surroundings.store.list(query).await?))
    }

    /// The store's state.
    #[must_use]
    pub fn health(&self) -> Health {
        self.surroundings.store.health()
    }

    /// How many leases there are, as far as that is known without asking the store.
    #[must_use]
    pub fn census(&self) -> Option<Census> {
        self.surroundings.store.census()
    }

    /// How many wait on this server, and how many may.
    #[must_use]
    pub fn waiters(&self) -> (usize, usize) {
        self.surroundings.waiting.total()
    }

    /// Whether [`LockService::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.surroundings.draining.is_cancelled()
    }

    /// Waits until [`LockService::drain`] was called and `grace` has passed since.
    pub async fn drained_for(&self, grace: Duration) {
        self.surroundings.draining.cancelled().await;
        sleep(grace).await;
    }

    /// Refuses new acquisitions and answers those who wait; leases stay.
    pub fn drain(&self) {
        self.surroundings.draining.cancel();
    }

    /// Waits for what is under way, then closes the store.
    pub async fn close(&self) {
        self.drain();
        self.tasks.close();
        self.tasks.wait().await;
        self.surroundings.store.close().await;
    }

    /// Runs `operation` to its end, whether or not the caller stays to hear of it.
    async fn detached<T: Send + 'static, F>(
        &self,
        operation: impl FnOnce(Arc<Surroundings>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let operation = operation(Arc::clone(&self.surroundings));
        let outliving = Outlive::new(operation, move |rest| drop(tasks.spawn(rest)));
        Ok(outliving.await?)
    }
}

/// Tells those who wait here the store's news.
async fn spread(surroundings: &Surroundings) {
    loop {
        match surroundings.store.news().await {
            News::Turn(_, waiter) => surroundings.waiting.turn(waiter),
            News::Reserved(key, until) => surroundings.waiting.reserved(&key, until),
            News::PlacesLost => surroundings.waiting.ask_all(),
        }
    }
}

#[cfg(test)]
mod tests;
