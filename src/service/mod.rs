//! The layer between HTTP and a store: mints lease ids, waits, and rolls back grants that their clients never received.
//!
//! The future of a request is dropped when its client disconnects. Every operation that changes a lock runs to its end
//! all the same, in a task of its own if necessary, because half an acquisition must not stay behind.

mod acquire_state;
mod acquisition;
mod counting;
mod detach;
mod kept;
mod request;
mod rollback;
mod waiters;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::acquisition::{PendingAcquire, Shared};
use self::detach::DetachOnDrop;
use self::kept::KeptEntries;
use self::waiters::WaiterTable;
use crate::auth::{Acquire, Break, ListPermit, Permit, Read, RecoveryPermit};
use crate::lock::lease::{FencingToken, LeaseId, Ttl, millis};
use crate::lock::rules::{EndOutcome, LeaseInfo, Renewal};
use crate::store::contract::{
    Health, LeaseStats, ListQuery, Outcome, Store, StoreError, StoreEvent, Timed,
};
use crate::telemetry::{AcquireOutcome, Limit, LockMetrics};

pub use self::kept::WAITERS_PER_KEPT_ENTRY;
pub use self::request::{AcquireRequest, Acquired, HeldBy, Listing, ServiceError, WaitLimits};

/// The maximum of concurrent listings: more would only wait for each other.
pub const MAX_LISTINGS: usize = 4;

/// The lock service. Cheap to clone.
#[derive(Clone)]
pub struct LockService {
    shared: Arc<Shared>,
    listings: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl LockService {
    /// A service that is the only user of `store`. It starts a task, and so needs a Tokio runtime.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, limits: WaitLimits, metrics: LockMetrics) -> Self {
        let shared = Arc::new(Shared {
            store,
            waiting: Arc::new(WaiterTable::new(limits.max_waiters)),
            kept: KeptEntries::new(limits),
            max_waiters_per_key: limits.max_waiters_per_key,
            metrics,
            draining: CancellationToken::new(),
        });
        let service = Self {
            shared: Arc::clone(&shared),
            listings: Arc::new(Semaphore::new(MAX_LISTINGS)),
            tasks: TaskTracker::new(),
        };
        let tasks = service.tasks.clone();
        service.tasks.spawn(async move {
            let draining = shared.draining.clone();
            draining
                .run_until_cancelled(dispatch(&shared, &tasks))
                .await;
        });
        service
    }

    /// Acquires a lock, waiting for it if the request says so.
    ///
    /// If the future is dropped, the request leaves the queue and its grant is rolled back; a grant with an
    /// `Idempotency-Key` is shortened instead, since its client may come back.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether a grant may stand.
    pub async fn acquire(
        &self,
        permit: Permit<Acquire>,
        request: AcquireRequest,
    ) -> Result<Acquired, ServiceError> {
        let metrics = &self.shared.metrics;
        if self.shared.draining.is_cancelled() {
            metrics.acquires.count(AcquireOutcome::ShuttingDown);
            return Err(ServiceError::ShuttingDown);
        }
        // Only a waiting request must notice that its client is gone.
        let gone = request.wait_until.map(|_| CancellationToken::new());
        let _leave_when_dropped = gone.clone().map(CancellationToken::drop_guard);
        let key = permit.into_key();
        let acquisition = PendingAcquire::new(Arc::clone(&self.shared), key, request, gone);
        let tasks = self.tasks.clone();
        let (acquisition, result) = DetachOnDrop::new(acquisition.run(), move |rest| {
            tasks.spawn(async move {
                let (acquisition, result) = rest.await;
                acquisition.count(AcquireOutcome::Abandoned);
                acquisition.cleanup(&result, false).await;
            });
        })
        .await;
        // There is no await between the result and the return, so the caller receives the result.
        acquisition.count(counting::outcome(&result));
        if acquisition.needs_cleanup(&result) {
            let result = result.clone();
            self.tasks
                .spawn(async move { acquisition.cleanup(&result, true).await });
        }
        result
    }

    /// Extends a lease.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may have been extended.
    pub async fn renew(
        &self,
        permit: Permit<Acquire>,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, ServiceError> {
        let key = permit.into_key();
        self.detached(|service| async move {
            let renewed = service.store.renew(&key, lease_id, ttl).await;
            let renewed = match renewed {
                // Its holder must not count on it, whatever the store has.
                Ok(Timed {
                    value: Renewal::Renewed(lease),
                    asked_at,
                }) if acquisition::is_nearly_over(&lease, asked_at) => {
                    let outcome = Outcome::Unknown;
                    Err(StoreError::ReplicationUnconfirmed { outcome })
                }
                renewed => renewed,
            };
            counting::renewal(&service.metrics, &renewed);
            renewed
        })
        .await
    }

    /// Ends a lease.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may be over.
    pub async fn release(
        &self,
        permit: Permit<Acquire>,
        lease_id: LeaseId,
    ) -> Result<EndOutcome, ServiceError> {
        let key = permit.into_key();
        self.detached(|service| async move {
            let released = service.store.release(&key, lease_id).await;
            counting::release(&service.metrics, &released);
            released
        })
        .await
    }

    /// Breaks the lease with this token. The caller need not know its lease id.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the lease may be over.
    pub async fn break_lease(
        &self,
        permit: Permit<Break>,
        token: FencingToken,
    ) -> Result<EndOutcome, ServiceError> {
        let key = permit.into_key();
        self.detached(|service| async move {
            let broken = service.store.break_lease(&key, token).await;
            counting::breaking(&service.metrics, &broken);
            broken
        })
        .await
    }

    /// Ends the pause of new grants after a loss.
    ///
    /// # Errors
    /// [`ServiceError`]; its outcome says whether the pause may be over.
    pub async fn end_recovery(&self, _: RecoveryPermit) -> Result<(), ServiceError> {
        self.detached(|service| async move {
            let left = service.store.end_recovery().await?;
            if !left.is_zero() {
                let left_ms = millis(left);
                tracing::warn!(left_ms, "a client with the right to break ended the pause of new grants: leases that were lost may still be counted on");
            }
            Ok(())
        })
        .await
    }

    /// The live lease on a lock, if there is one, and the number of waiters.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn inspect(
        &self,
        permit: Permit<Read>,
    ) -> Result<(Option<LeaseInfo>, usize), ServiceError> {
        Ok(self.shared.store.inspect(&permit.into_key()).await?)
    }

    /// A page of the held locks whose keys begin as the permit says.
    ///
    /// # Errors
    /// [`ServiceError::Store`]; nothing was changed.
    pub async fn list(
        &self,
        permit: ListPermit,
        query: &ListQuery,
    ) -> Result<Listing, ServiceError> {
        let Ok(_one_of_them) = self.listings.try_acquire() else {
            self.shared.metrics.limits.count(Limit::Listings);
            return Ok(Listing::TooMany);
        };
        let query = ListQuery {
            prefix: permit.prefix().to_owned(),
            ..query.clone()
        };
        Ok(Listing::Page(self.shared.store.list(&query).await?))
    }

    /// The store's state.
    #[must_use]
    pub fn health(&self) -> Health {
        self.shared.store.health()
    }

    /// The number of leases, as far as it is known without asking the store.
    #[must_use]
    pub fn lease_stats(&self) -> Option<LeaseStats> {
        self.shared.store.lease_stats()
    }

    /// The number of waiters on this server, and its maximum.
    #[must_use]
    pub fn waiters(&self) -> (usize, usize) {
        self.shared.waiting.total()
    }

    /// Whether [`LockService::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.draining.is_cancelled()
    }

    /// Waits until [`LockService::drain`] was called and `grace` has passed since.
    pub async fn drained_for(&self, grace: Duration) {
        self.shared.draining.cancelled().await;
        sleep(grace).await;
    }

    /// Refuses new acquisitions and answers all waiters; leases stay.
    pub fn drain(&self) {
        self.shared.draining.cancel();
    }

    /// Drains, waits for all operations, and closes the store.
    pub async fn close(&self) {
        self.drain();
        self.tasks.close();
        self.tasks.wait().await;
        self.shared.store.close().await;
    }

    /// Runs `operation` to its end, even if the caller drops the future.
    async fn detached<T: Send + 'static, F>(
        &self,
        operation: impl FnOnce(Arc<Shared>) -> F,
    ) -> Result<T, ServiceError>
    where
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let tasks = self.tasks.clone();
        let operation = operation(Arc::clone(&self.shared));
        let detachable = DetachOnDrop::new(operation, move |rest| drop(tasks.spawn(rest)));
        Ok(detachable.await?)
    }
}

/// Passes the store's events on to the waiters of this server. A lock that is reserved for a request which has ended
/// goes on to the next waiter: a failover can lose the rollback of its entry.
async fn dispatch(shared: &Arc<Shared>, tasks: &TaskTracker) {
    loop {
        match shared.store.next_event().await {
            StoreEvent::Reserved(key, waiter) => {
                if !shared.waiting.ask(waiter) {
                    let shared = Arc::clone(shared);
                    tasks.spawn(async move {
                        if let Err(error) = shared.store.decline(&key, waiter).await {
                            // The reservation expires by itself.
                            tracing::debug!(%key, "could not decline a reservation: {error}");
                        }
                    });
                }
            }
            StoreEvent::Granted(waiter) => {
                shared.waiting.ask(waiter);
            }
            StoreEvent::HeldUntil(key, until) => shared.waiting.held_until(&key, until),
            StoreEvent::QueuesLost => shared.waiting.ask_all(),
        }
    }
}

#[cfg(test)]
mod tests;
