//! One request for a lock, from its arrival until its client has the answer or what it got is taken back.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::counting;
use super::kept::{KeptEntries, KeptEntry};
use super::request::{AcquireRequest, Acquired, HeldBy, ServiceError};
use super::waiters::{WaiterHandle, WaiterTable};
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, LeaseId};
use crate::lock::request::{Acquire, Ticket, Wait, WaiterId};
use crate::lock::rules::Acquisition;
use crate::random;
use crate::store::contract::{Outcome, Store, StoreError, Timed};
use crate::telemetry::{AcquireOutcome, Limit, LockMetrics};

/// How much of a lease is left to a client that disconnected before it had its answer and can ask
/// again with its `Idempotency-Key`.
const SHORTENED_TO: Duration = Duration::from_secs(10);

/// How soon a waiter asks again after the store had no answer.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// The least time until the end of a lease is looked at again: a lease may outlast its deadline by the skew
/// of clocks.
const MIN_ASK_AGAIN: Duration = Duration::from_millis(5);

/// For how long what a client got that is gone is tried to be taken back, while the store does not answer.
const ROLLBACK_FOR: Duration = Duration::from_secs(10);

/// Between two tries that the store did not answer.
const ROLLBACK_PAUSE: Duration = Duration::from_millis(200);

/// For how long what the store did not answer may still reach it and be done: longer than a command can be late
/// and still run.
const LATE_GRANT: Duration = Duration::from_secs(1);

/// What requests have in common.
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) waiting: Arc<WaiterTable>,
    pub(super) kept: KeptEntries,
    pub(super) max_waiters_per_key: usize,
    pub(super) metrics: LockMetrics,
    /// Cancelled when the server is about to end.
    pub(super) draining: CancellationToken,
}

/// See the module.
pub(super) struct PendingAcquire {
    service: Arc<Shared>,
    key: LockKey,
    request: AcquireRequest,
    lease_id: LeaseId,
    attempt: Attempt,
    /// Cancelled when the client of a request that waits is not there any more.
    gone: Option<CancellationToken>,
    /// It may have a place in the store's queue.
    queued: bool,
    /// It was asked for without an answer, and had none since.
    in_doubt: bool,
    /// Until then what had no answer may still be done, whatever was answered since.
    late_until: Option<Instant>,
    /// Since when it is in line, once the store has said that it is.
    queued_since: Option<Instant>,
}

impl PendingAcquire {
    pub(super) fn new(
        service: Arc<Shared>,
        key: LockKey,
        request: AcquireRequest,
        gone: Option<CancellationToken>,
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
            queued: false,
            in_doubt: false,
            late_until: None,
            queued_since: None,
        }
    }

    /// Runs the request to its end, and gives it back with its result: what is left to do depends on whether
    /// the client gets it.
    pub(super) async fn run(mut self) -> (Self, Result<Acquired, ServiceError>) {
        let result = self.acquire().await.map_err(|error| self.or_unknown(error));
        (self, result)
    }

    /// Counts how it ended.
    pub(super) fn count(&self, outcome: AcquireOutcome) {
        let metrics = &self.service.metrics;
        metrics.acquires.count(outcome);
        if let Some(since) = self.queued_since {
            metrics
                .waits
                .observe(counting::waited(outcome), since.elapsed());
        }
    }

    /// Whether anything is left to do for a client that has the result.
    pub(super) fn needs_cleanup(&self, result: &Result<Acquired, ServiceError>) -> bool {
        self.needs_rollback(result, true) || self.keeps_its_place(result)
    }

    /// Does what is left to do for a client that has the result, or is gone.
    pub(super) async fn cleanup(&self, result: &Result<Acquired, ServiceError>, delivered: bool) {
        if self.needs_rollback(result, delivered) {
            self.roll_back().await;
        }
        if self.keeps_its_place(result) {
            self.bound_kept_places().await;
        }
    }

    /// Whether a client that got the result, or did not, leaves something in the store that nobody will come for. A
    /// client that has no Idempotency-Key cannot come back for what may have been granted to it. A replay is not
    /// taken back: the answer before it may have arrived.
    fn needs_rollback(&self, result: &Result<Acquired, ServiceError>, delivered: bool) -> bool {
        match result {
            Ok(Acquired::Granted(_)) => !delivered,
            Ok(Acquired::Replayed(_)) => false,
            Ok(_) => self.late_until.is_some(),
            Err(_) => {
                let can_come_back = delivered && self.request.idempotency.is_some();
                self.queued || self.in_doubt && !can_come_back
            }
        }
    }

    /// What was certainly not done now may have been done before.
    fn or_unknown(&self, error: ServiceError) -> ServiceError {
        let outcome = Outcome::Unknown;
        match error {
            ServiceError::Store(error) if self.in_doubt && error.outcome() != outcome => {
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
            // What needs no waiting needs no room.
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

    /// Takes the lock if it is free and nobody waits for it.
    async fn without_waiting(&mut self) -> Result<Acquired, StoreError> {
        let Timed { value, asked_at } = self.ask(None).await?;
        Ok(match value {
            Acquisition::Held { info, waiters, .. } => Acquired::Held(HeldBy { info, waiters }),
            value => settled(value, asked_at)?,
        })
    }

    /// Waits until the lock is this request's, or its time is over.
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
                        self.queued_since.get_or_insert(begun);
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
                    // Asking again does no harm, and there is time: a failover is no reason to send a waiter away.
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
        self.queued = true;
        let wait = Wait {
            timeout: wait_until.saturating_duration_since(Instant::now()),
            ticket,
            max_waiters: self.service.max_waiters_per_key,
        };
        self.ask(Some(wait)).await
    }

    /// Asks one last time, and gives up the place, so that the answer says who holds the lock now.
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
            holder: self.request.holder.clone(),
            metadata: self.request.metadata.clone(),
            idempotency: self.request.idempotency,
            wait,
        };
        let answer = self.service.store.acquire(&self.key, request).await;
        let doubt = answer
            .as_ref()
            .is_err_and(|error| error.outcome() == Outcome::Unknown);
        // Certainly not done now does not settle what was in doubt before; only an answer does.
        if doubt || answer.is_ok() {
            self.in_doubt = doubt;
        }
        if doubt {
            self.late_until = Some(Instant::now() + LATE_GRANT);
        }
        answer
    }

    fn waiter_id(&self) -> WaiterId {
        WaiterId::of(self.lease_id, self.request.idempotency)
    }

    /// Whether a request that ended so has left a place that is kept, and not because the server ends: all of its
    /// waiters may come back to another one.
    fn keeps_its_place(&self, result: &Result<Acquired, ServiceError>) -> bool {
        let ended_without = matches!(result, Err(_) | Ok(Acquired::TimedOut(..)));
        let draining = self.service.draining.is_cancelled();
        self.queued && self.request.idempotency.is_some() && ended_without && !draining
    }

    /// Lets places of others go, if too many are kept now.
    async fn bound_kept_places(&self) {
        let place = KeptEntry {
            key: self.key.clone(),
            waiter: self.waiter_id(),
            lease_id: self.lease_id,
            attempt: self.attempt,
        };
        for oldest in self.service.kept.keep(place, Instant::now()) {
            let KeptEntry {
                key,
                waiter,
                lease_id,
                attempt,
            } = oldest;
            self.service.metrics.limits.count(Limit::KeptPlaces);
            let store = &self.service.store;
            if let Err(error) = store.rollback(&key, waiter, lease_id, attempt, None).await {
                // It goes by itself in a while.
                tracing::debug!(%key, "a kept place could not be let go: {error}");
            }
        }
    }

    /// Undoes what nobody received, or cuts it short for a client that can come back; and once more when nothing
    /// can reach the store any more that it has not answered.
    async fn roll_back(&self) {
        let keep = self.request.idempotency.map(|_| SHORTENED_TO);
        let end = Instant::now() + ROLLBACK_FOR;
        while Instant::now() < end {
            let begun = Instant::now();
            let rolled_back = self
                .service
                .store
                .rollback(
                    &self.key,
                    self.waiter_id(),
                    self.lease_id,
                    self.attempt,
                    keep,
                )
                .await;
            let again_at = match rolled_back {
                Ok(_) => match self.late_until.filter(|until| begun < *until) {
                    Some(until) => until,
                    None => break,
                },
                Err(error) => {
                    tracing::debug!(key = %self.key, "a grant could not be taken back yet: {error}");
                    Instant::now() + ROLLBACK_PAUSE
                }
            };
            // An end in order does not wait for a store that is out of reach: the TTL ends the lease then.
            let draining = &self.service.draining;
            let pause = sleep_until(again_at);
            if draining.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
    }
}

/// Answers that end a request, whether it waits or not.
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
            let cause = "the store answered a question that was not asked".to_owned();
            return Err(StoreError::Internal { cause });
        }
    })
}
