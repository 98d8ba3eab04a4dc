//! One request for a lock, from its arrival until its client has the answer, or until the rollback of what it left.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::acquire_state::{AcquireState, QueueState};
use super::counting;
use super::kept::KeptEntries;
use super::request::{AcquireRequest, Acquired, HeldBy, ServiceError};
use super::waiters::{WaiterHandle, WaiterTable};
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, LeaseId};
use crate::lock::request::{Acquire, Ticket, Wait, WaiterId};
use crate::lock::rules::{Acquisition, Lease};
use crate::random;
use crate::store::contract::{Outcome, Store, StoreError, Timed};
use crate::telemetry::{AcquireOutcome, Limit, LockMetrics};

/// The pause before a waiter asks again after an error of the store.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The shortest pause before a waiter asks again whether the lease ahead of it is over. A lease may outlast its
/// deadline by the skew of clocks, and the waiter must not ask in a tight loop until then.
const MIN_ASK_AGAIN: Duration = Duration::from_millis(5);

/// What all requests of a service share.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) waiting: Arc<WaiterTable>,
    pub(super) kept: KeptEntries,
    pub(super) max_waiters_per_key: usize,
    pub(super) metrics: LockMetrics,
    /// Cancelled when the server begins to drain.
    pub(super) draining: CancellationToken,
}

/// See the module.
pub(super) struct PendingAcquire {
    pub(super) service: Arc<Shared>,
    pub(super) key: LockKey,
    pub(super) request: AcquireRequest,
    pub(super) lease_id: LeaseId,
    pub(super) attempt: Attempt,
    /// Cancelled when the client of a waiting request has disconnected.
    pub(super) gone: Option<CancellationToken>,
    pub(super) state: AcquireState,
    pub(super) queue: QueueState,
}

impl PendingAcquire {
    pub(super) fn new(
        service: Arc<Shared>,
        key: LockKey,
        request: AcquireRequest,
        gone: Option<CancellationToken>,
    ) -> Self {
        let lease_id = LeaseId::from_bytes(random::bytes());
        // 32 bits suffice, as a lease is found by its id first. Each lease in Redis stores the digits.
        let attempt = Attempt(random::number().into());
        Self {
            service,
            key,
            request,
            lease_id,
            attempt,
            gone,
            state: AcquireState::Clean,
            queue: QueueState::NoEntry,
        }
    }

    /// Runs the request to its end. Returns it with its result, because the cleanup depends on whether the client
    /// receives the result.
    pub(super) async fn run(mut self) -> (Self, Result<Acquired, ServiceError>) {
        let result = self.acquire().await.map_err(|error| self.or_unknown(error));
        let result = match result {
            Ok(Acquired::Granted(lease)) if is_nearly_over(&lease.value, lease.asked_at) => {
                self.give_back().await;
                let outcome = Outcome::Unknown;
                Err(StoreError::ReplicationUnconfirmed { outcome }.into())
            }
            result => result,
        };
        (self, result)
    }

    /// Rolls a grant back once: if that fails, the lease is over soon.
    async fn give_back(&self) {
        let (store, waiter) = (&self.service.store, self.waiter_id());
        let rolled_back = store.rollback(&self.key, waiter, self.lease_id, self.attempt, None);
        if let Err(error) = rolled_back.await {
            tracing::debug!(key = %self.key, "could not roll back a grant that came too late: {error}");
        }
    }

    /// Counts the outcome, and the wait if there was one.
    pub(super) fn count(&self, outcome: AcquireOutcome) {
        let metrics = &self.service.metrics;
        metrics.acquires.count(outcome);
        if let QueueState::Queued { since } = self.queue {
            metrics
                .waits
                .observe(counting::waited(outcome), since.elapsed());
        }
    }

    /// Reports `unknown` instead of `none` while an earlier attempt may have succeeded.
    fn or_unknown(&self, error: ServiceError) -> ServiceError {
        let outcome = Outcome::Unknown;
        match error {
            ServiceError::Store(error) if self.state.in_doubt() && error.outcome() != outcome => {
                let cause = error.to_string();
                StoreError::Unavailable { outcome, cause }.into()
            }
            other => other,
        }
    }

    async fn acquire(&mut self) -> Result<Acquired, ServiceError> {
        let Some(wait_until) = self.request.wait_until else {
            return Ok(self.without_waiting().await?);
        };
        let waiter = self.waiter_id();
        let Some(mut handle) = self.service.waiting.join(&self.key, waiter) else {
            // A full waiter table does not reject an immediate grant.
            return Ok(match self.without_waiting().await? {
                Acquired::Held(_) => {
                    self.service.metrics.limits.count(Limit::ServerWaiters);
                    Acquired::TooManyWaiters
                }
                settled => settled,
            });
        };
        let begun = Instant::now();
        let result = self.wait_loop(&mut handle, wait_until, begun).await;
        if let Ok(Acquired::TooManyWaiters) = result {
            self.service.metrics.limits.count(Limit::KeyWaiters);
        }
        result
    }

    /// Takes the lock if it is free and has no waiters.
    async fn without_waiting(&mut self) -> Result<Acquired, StoreError> {
        let Timed { value, asked_at } = self.ask(None).await?;
        Ok(match value {
            Acquisition::Held { info, waiters, .. } => Acquired::Held(HeldBy { info, waiters }),
            value => settled(value, asked_at)?,
        })
    }

    /// Waits until the lock is granted to this request or its wait is over.
    async fn wait_loop(
        &mut self,
        handle: &mut WaiterHandle,
        wait_until: Instant,
        begun: Instant,
    ) -> Result<Acquired, ServiceError> {
        let gone = self.gone.clone().unwrap_or_default();
        let mut ticket = None;
        let mut ask_at = Some(begun);
        let mut not_before = begun;
        loop {
            let wanted = [ask_at, handle.ask_at()].into_iter().flatten().min();
            let due = |at: Instant| at.max(not_before) <= Instant::now();
            let woken = due(not_before) && handle.signal().take_must_ask();
            if woken || wanted.is_some_and(due) {
                ask_at = None;
                match self.ask_and_wait(ticket, wait_until).await {
                    Ok(Timed {
                        value:
                            Acquisition::Queued {
                                info,
                                ticket: given,
                                ..
                            },
                        asked_at,
                    }) => {
                        ticket = Some(given);
                        self.queue.confirmed(begun);
                        let soonest = Instant::now() + MIN_ASK_AGAIN;
                        handle.queued(given, soonest.max(asked_at + info.expires_in()));
                    }
                    Ok(Timed { value, asked_at }) => {
                        let settled = settled(value, asked_at)?;
                        if let Acquired::Granted(lease) = &settled {
                            handle.granted(lease.asked_at + lease.value.info.expires_in());
                        }
                        return Ok(settled);
                    }
                    Err(error @ StoreError::Internal { .. }) => return Err(error.into()),
                    // Asking again does no harm, so a failover does not end the wait.
                    Err(_) => {
                        not_before = Instant::now() + ASK_AGAIN;
                        ask_at = Some(not_before);
                    }
                }
            }
            let next = [ask_at, handle.ask_at()].into_iter().flatten().min();
            let next = next.map(|at| at.max(not_before));
            tokio::select! {
                () = gone.cancelled() => return Err(ServiceError::ShuttingDown),
                () = self.service.draining.cancelled() => return Err(ServiceError::ShuttingDown),
                () = handle.signal().woken() => {}
                () = sleep_until(wait_until) => return self.give_up().await,
                () = sleep_until(next.unwrap_or(wait_until)) => {}
            }
        }
    }

    async fn ask_and_wait(
        &mut self,
        ticket: Option<Ticket>,
        wait_until: Instant,
    ) -> Result<Timed<Acquisition>, StoreError> {
        self.queue.asked();
        let wait = Wait {
            timeout: wait_until.saturating_duration_since(Instant::now()),
            ticket,
            max_waiters: self.service.max_waiters_per_key,
        };
        self.ask(Some(wait)).await
    }

    /// Asks a last time without waiting: the answer names the present holder, and the queue entry goes.
    async fn give_up(&mut self) -> Result<Acquired, ServiceError> {
        let Timed { value, asked_at } = self.ask(None).await?;
        Ok(match value {
            Acquisition::Held {
                info,
                waiters,
                position,
            } => {
                let ahead = position.unwrap_or(waiters + 1) - 1;
                Acquired::TimedOut(HeldBy { info, waiters }, ahead)
            }
            value => settled(value, asked_at)?,
        })
    }

    async fn ask(&mut self, wait: Option<Wait>) -> Result<Timed<Acquisition>, StoreError> {
        let request = Acquire {
            lease_id: self.lease_id,
            attempt: self.attempt,
            ttl: self.request.ttl,
            hold_at_least: self.request.hold_at_least,
            holder: self.request.holder.clone(),
            metadata: self.request.metadata.clone(),
            idempotency: self.request.idempotency,
            wait,
        };
        let answer = self.service.store.acquire(&self.key, request).await;
        let failure = answer.as_ref().err().map(StoreError::outcome);
        self.state = self.state.after_command(failure, Instant::now());
        answer
    }

    pub(super) fn waiter_id(&self) -> WaiterId {
        WaiterId::of(self.lease_id, self.request.idempotency)
    }
}

/// Whether the store took so long that less than a tenth of the lease is left: its client could do nothing with it.
pub(super) fn is_nearly_over(lease: &Lease, asked_at: Instant) -> bool {
    let left = lease.info.expires_in();
    left.saturating_sub(asked_at.elapsed()) < lease.info.ttl.get() / 10
}

/// The answers that end a request, waiting or not.
fn settled(value: Acquisition, asked_at: Instant) -> Result<Acquired, StoreError> {
    let timed = |lease| Timed {
        value: lease,
        asked_at,
    };
    Ok(match value {
        Acquisition::Granted(lease) => Acquired::Granted(timed(lease)),
        Acquisition::Replayed(lease) => Acquired::Replayed(timed(lease)),
        Acquisition::KeyReused => Acquired::KeyReused,
        Acquisition::AlreadyReleased => Acquired::AlreadyReleased,
        Acquisition::TooManyWaiters => Acquired::TooManyWaiters,
        Acquisition::Held { .. } | Acquisition::Queued { .. } => {
            let cause = "the store sent an answer of another kind than was asked for".to_owned();
            return Err(StoreError::Internal { cause });
        }
    })
}
