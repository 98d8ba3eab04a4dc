//! The cleanup after an acquisition: the rollback of a grant that its client did not receive, and the bound of the kept
//! queue entries.

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::acquisition::PendingAcquire;
use super::kept::KeptEntry;
use super::request::{Acquired, ServiceError};
use crate::telemetry::Limit;

/// What is left of a lease whose client disconnected before it had its answer, and can ask again with its
/// `Idempotency-Key`.
const SHORTENED_TO: Duration = Duration::from_secs(10);

/// How long to retry the rollback of a disconnected client's grant.
const ROLLBACK_FOR: Duration = Duration::from_secs(10);

/// The pause between two tries of a rollback.
const ROLLBACK_PAUSE: Duration = Duration::from_millis(200);

impl PendingAcquire {
    /// Whether [`PendingAcquire::cleanup`] has anything to do after the client has received the result.
    pub(super) fn needs_cleanup(&self, result: &Result<Acquired, ServiceError>) -> bool {
        self.needs_rollback(result, true) || self.keeps_its_entry(result)
    }

    /// Rolls back what the client did not receive, and bounds the kept queue entries. `delivered` says whether the
    /// client received the result.
    pub(super) async fn cleanup(&self, result: &Result<Acquired, ServiceError>, delivered: bool) {
        if self.needs_rollback(result, delivered) {
            self.roll_back().await;
        }
        if self.keeps_its_entry(result) {
            self.bound_kept_entries().await;
        }
    }

    /// Whether the store may hold a grant or a queue entry that the client does not know of.
    ///
    /// A replay is never rolled back: the client may have received the answer before it. Without an `Idempotency-Key`
    /// a client cannot come back for a grant whose reply is missing.
    fn needs_rollback(&self, result: &Result<Acquired, ServiceError>, delivered: bool) -> bool {
        match result {
            Ok(Acquired::Granted(_)) => !delivered,
            Ok(Acquired::Replayed(_)) => false,
            Ok(_) => self.state.late_until().is_some(),
            Err(_) => {
                let can_come_back = delivered && self.request.idempotency.is_some();
                self.queue.may_have_entry() || self.state.in_doubt() && !can_come_back
            }
        }
    }

    /// Whether the request leaves a queue entry that is kept for its client. While the server drains none is counted:
    /// all of its waiters may come back to another server.
    fn keeps_its_entry(&self, result: &Result<Acquired, ServiceError>) -> bool {
        let ended_without = matches!(result, Err(_) | Ok(Acquired::TimedOut(..)));
        let draining = self.service.draining.is_cancelled();
        self.queue.may_have_entry()
            && self.request.idempotency.is_some()
            && ended_without
            && !draining
    }

    /// Drops the oldest kept entries if there are too many now.
    async fn bound_kept_entries(&self) {
        let entry = KeptEntry {
            key: self.key.clone(),
            waiter: self.waiter_id(),
            lease_id: self.lease_id,
            attempt: self.attempt,
        };
        for oldest in self.service.kept.keep(entry, Instant::now()) {
            let KeptEntry {
                key,
                waiter,
                lease_id,
                attempt,
            } = oldest;
            self.service.metrics.limits.count(Limit::KeptPlaces);
            let store = &self.service.store;
            if let Err(error) = store.rollback(&key, waiter, lease_id, attempt, None).await {
                // The entry expires by itself.
                tracing::debug!(%key, "could not drop a kept queue entry: {error}");
            }
        }
    }

    /// Rolls back what the client did not receive, or shortens it for a client that can come back. Repeats the
    /// rollback after the time in which a command without a reply may still execute.
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
                Ok(_) => match self.state.late_until().filter(|until| begun < *until) {
                    Some(until) => until,
                    None => break,
                },
                Err(error) => {
                    tracing::debug!(key = %self.key, "could not roll back a grant yet: {error}");
                    Instant::now() + ROLLBACK_PAUSE
                }
            };
            // A graceful shutdown does not wait for an unreachable store: the TTL ends the lease.
            let draining = &self.service.draining;
            let pause = sleep_until(again_at);
            if draining.run_until_cancelled(pause).await.is_none() {
                break;
            }
        }
    }
}
