//! Every rule of locking, as pure functions of a lock's state and a moment.
//!
//! The memory store runs these rules; the Lua scripts of the Redis store mirror them, and a model
//! test holds the two together. Nothing here knows who asks, how, or what time it is.
//!
//! A lock has a list of holders. An exclusive lock is the case where the list has at most one
//! member; every rule reaches it through `Lock::live`, so that shared and counted leases can come
//! without a change of shape.

use std::time::Duration;

pub use crate::lock::answers::{Acquisition, EndOutcome, Lease, LeaseInfo, Loss, Renewal};
use crate::lock::grant::{Grant, Repetition, same_acquisition};
use crate::lock::lease::{Attempt, FencingToken, Idempotency, LeaseId, Timestamp, Ttl};
use crate::lock::queue::{Queue, QueueEntry};
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// How long a release is remembered, so that its repetition is a success and not a lost lease.
pub const RELEASE_MEMORY: Duration = Duration::from_secs(10);

/// How long a lock stays reserved for the first waiter.
pub const RESERVATION: Duration = Duration::from_secs(3);

/// How many releases of one key are remembered.
pub const MAX_REMEMBERED_RELEASES: usize = 16;

/// The state of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    holders: Vec<Grant>,
    released: Vec<Release>,
    queue: Queue,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    lease_id: LeaseId,
    idempotency: Option<Idempotency>,
    forget_at: Timestamp,
}

impl Lock {
    /// Grants the lock to `request` if it is free and no waiter is ahead, or lets it wait. A waiter asks again with the
    /// same lease id: it learns its position, claims its reservation, and gets back an entry that was lost.
    ///
    /// `next_number` gives numbers that rise, for tokens and tickets.
    pub fn acquire(
        &mut self,
        request: Acquire,
        now: Timestamp,
        mut next_number: impl FnMut() -> FencingToken,
    ) -> Acquisition {
        if let Some(settled) = self.settled(&request, now) {
            return settled;
        }
        self.queue.prune(now);
        let id = request.waiter_id();
        let known = self
            .queue
            .find(id)
            .map(|(ticket, entry)| (ticket, entry.request.idempotency, entry.request.attempt));
        if let Some((_, idempotency, _)) = known
            && let Repetition::Altered = same_acquisition(idempotency, request.idempotency)
        {
            return Acquisition::KeyReused;
        }
        // The latest waiting request owns the entry. A request that no longer waits ends only its own entry.
        if let Some((ticket, _, attempt)) = known
            && (request.wait.is_some() || attempt == request.attempt)
        {
            let present_until = now.after(request.wait.map_or(Duration::ZERO, |wait| wait.timeout));
            self.queue
                .insert(ticket, QueueEntry::new(request.clone(), present_until));
        }
        self.reserve(Some(id), now, &mut next_number);
        match self.live_mut(now) {
            None => {
                let grant = Grant::new(request, next_number(), now);
                let lease = grant.lease(now);
                self.holders = vec![grant];
                Acquisition::Granted(lease)
            }
            Some(grant) if grant.reserved.is_some() && grant.waiter_id() == id => {
                grant.claim(&request, now)
            }
            Some(grant) => {
                let info = grant.lease_info(now);
                self.wait_behind(
                    request,
                    known.map(|(ticket, ..)| ticket),
                    info,
                    now,
                    next_number,
                )
            }
        }
    }

    /// The answers that do not depend on a free lock: the acquisition was granted before, or is already over.
    fn settled(&mut self, request: &Acquire, now: Timestamp) -> Option<Acquisition> {
        if let Some(grant) = self.live_mut(now).filter(|grant| grant.reserved.is_none()) {
            if grant.lease_id == request.lease_id {
                return Some(Acquisition::Granted(grant.lease(now)));
            }
            match same_acquisition(grant.idempotency, request.idempotency) {
                Repetition::Other => {}
                Repetition::Altered => return Some(Acquisition::KeyReused),
                Repetition::Same => {
                    grant.attempt = None;
                    // The client has come back, so a shortened lease gets its full time again.
                    grant.deadline = grant.deadline.max(grant.acquired_at.after(grant.ttl.get()));
                    return Some(Acquisition::Replayed(grant.lease(now)));
                }
            }
        }
        self.released_moments_ago(request, now)
            .then_some(Acquisition::AlreadyReleased)
    }

    /// A request that does not get the lock now waits, or ends.
    fn wait_behind(
        &mut self,
        request: Acquire,
        known: Option<Ticket>,
        info: LeaseInfo,
        now: Timestamp,
        mut next_number: impl FnMut() -> FencingToken,
    ) -> Acquisition {
        let Some(wait) = request.wait else {
            let position = known.map(|ticket| self.queue.ahead_of(ticket) + 1);
            if let (Some(ticket), None) = (known, request.idempotency) {
                self.queue.remove(ticket);
            }
            let waiters = self.queue.len(now);
            return Acquisition::Held {
                info,
                waiters,
                position,
            };
        };
        let ticket = match known.or(wait.ticket) {
            Some(ticket) => ticket,
            None if self.queue.len(now) >= wait.max_waiters => return Acquisition::TooManyWaiters,
            None => Ticket(next_number().get()),
        };
        let present_until = now.after(wait.timeout);
        self.queue
            .insert(ticket, QueueEntry::new(request, present_until));
        Acquisition::Queued {
            info,
            waiters: self.queue.len(now),
            ticket,
        }
    }

    /// Reserves a free lock for the first waiter that is present; `asking` counts as present. See
    /// [`Lock::reservation`].
    fn reserve(
        &mut self,
        asking: Option<WaiterId>,
        now: Timestamp,
        mut next_number: impl FnMut() -> FencingToken,
    ) {
        if self.live(now).is_some() {
            return;
        }
        if let Some((ticket, entry)) = self.queue.take_first(asking, now) {
            let mut grant = Grant::new(entry.request, next_number(), now);
            grant.deadline = now.after(RESERVATION);
            grant.reserved = Some(ticket);
            self.holders = vec![grant];
        }
    }

    /// Extends a live lease to `ttl` from now, and never shortens it.
    pub fn renew(&mut self, lease_id: LeaseId, ttl: Option<Ttl>, now: Timestamp) -> Renewal {
        match self.held_with(lease_id, now) {
            Ok(grant) => {
                grant.ttl = ttl.unwrap_or(grant.ttl);
                grant.deadline = grant.deadline.max(now.after(grant.ttl.get()));
                grant.renewals += 1;
                grant.attempt = None;
                Renewal::Renewed(grant.lease(now))
            }
            Err(loss) => Renewal::Lost(loss),
        }
    }

    /// Ends a live lease and reserves the lock for the first waiter. A repetition within [`RELEASE_MEMORY`] is a success
    /// too.
    pub fn release(
        &mut self,
        lease_id: LeaseId,
        now: Timestamp,
        next_number: impl FnMut() -> FencingToken,
    ) -> EndOutcome {
        let repeated = self
            .released
            .iter()
            .any(|release| release.lease_id == lease_id && release.is_remembered(now));
        if repeated {
            return EndOutcome::Ended { held_for: None };
        }
        let (idempotency, held_for) = match self.held_with(lease_id, now) {
            Ok(grant) => (grant.idempotency, grant.held_for(now)),
            Err(loss) => return EndOutcome::Lost(loss),
        };
        self.holders.clear();
        self.released.retain(|release| release.is_remembered(now));
        self.released.push(Release {
            lease_id,
            idempotency,
            forget_at: now.after(RELEASE_MEMORY),
        });
        let excess = self.released.len().saturating_sub(MAX_REMEMBERED_RELEASES);
        self.released.drain(..excess);
        self.reserve(None, now, next_number);
        EndOutcome::Ended { held_for }
    }

    /// Ends the live lease with this token for any caller. A success too when that grant is over and the lock is free.
    pub fn break_lease(
        &mut self,
        token: FencingToken,
        now: Timestamp,
        next_number: impl FnMut() -> FencingToken,
    ) -> EndOutcome {
        match self.live(now) {
            Some(grant) if grant.fencing_token != token => EndOutcome::Lost(Loss::HeldByOther),
            Some(grant) => {
                let held_for = grant.held_for(now);
                self.holders.clear();
                self.reserve(None, now, next_number);
                EndOutcome::Ended { held_for }
            }
            None => EndOutcome::Ended { held_for: None },
        }
    }

    /// Takes back the grant, the reservation or the queue entry of a request whose client is gone. `attempt` must be the
    /// last one to touch it. For a client that can come back, `keep` shortens a lease to that time from now, and a
    /// reservation or an entry is kept for [`ENTRY_KEPT`]. Returns whether there was anything to take back.
    ///
    /// [`ENTRY_KEPT`]: crate::lock::queue::ENTRY_KEPT
    pub fn rollback(
        &mut self,
        waiter: WaiterId,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
        now: Timestamp,
        next_number: impl FnMut() -> FencingToken,
    ) -> bool {
        if let Some(grant) = self.live_mut(now)
            && grant.lease_id == lease_id
        {
            if grant.attempt != Some(attempt) {
                return false;
            }
            match (grant.reserved, keep) {
                (None, Some(keep)) => grant.deadline = grant.deadline.min(now.after(keep)),
                (None, None) => self.holders.clear(),
                (Some(ticket), keep) => {
                    let request = grant.request(attempt);
                    self.holders.clear();
                    if keep.is_some() {
                        self.queue.insert(ticket, QueueEntry::new(request, now));
                    }
                }
            }
            self.reserve(None, now, next_number);
            return true;
        }
        let own = |entry: &QueueEntry| {
            entry.request.lease_id == lease_id && entry.request.attempt == attempt
        };
        let found = self.queue.find(waiter).filter(|(_, entry)| own(entry));
        let Some((ticket, _)) = found else {
            return false;
        };
        if let (Some(entry), Some(_)) = (self.queue.remove(ticket), keep) {
            self.queue
                .insert(ticket, QueueEntry::new(entry.request, now));
        }
        true
    }

    /// The waiter that the lock is reserved for, and the token of its grant.
    #[must_use]
    pub fn reservation(&self, now: Timestamp) -> Option<(WaiterId, FencingToken)> {
        let reserved = self.live(now).filter(|grant| grant.reserved.is_some());
        reserved.map(|grant| (grant.waiter_id(), grant.fencing_token))
    }

    /// The number of waiters, kept entries included.
    #[must_use]
    pub fn waiters(&self, now: Timestamp) -> usize {
        self.queue.len(now)
    }

    /// The public part of the live lease or reservation, if there is one.
    #[must_use]
    pub fn lease_info(&self, now: Timestamp) -> Option<LeaseInfo> {
        self.live(now).map(|grant| grant.lease_info(now))
    }

    /// The deadline and the token of the live lease. A reservation is no lease.
    #[must_use]
    pub fn held(&self, now: Timestamp) -> Option<(Timestamp, FencingToken)> {
        let held = self.live(now).filter(|grant| grant.reserved.is_none());
        held.map(|grant| (grant.deadline, grant.fencing_token))
    }

    /// The moment from which this state has no effect.
    #[must_use]
    pub fn disposable_from(&self) -> Option<Timestamp> {
        let deadlines = self.holders.iter().map(|grant| grant.deadline);
        deadlines
            .chain(self.released.iter().map(|release| release.forget_at))
            .chain(self.queue.disposable_from())
            .max()
    }

    fn live(&self, now: Timestamp) -> Option<&Grant> {
        self.holders.iter().find(|grant| now < grant.deadline)
    }

    fn live_mut(&mut self, now: Timestamp) -> Option<&mut Grant> {
        self.holders.iter_mut().find(|grant| now < grant.deadline)
    }

    fn held_with(&mut self, lease_id: LeaseId, now: Timestamp) -> Result<&mut Grant, Loss> {
        match self.live_mut(now) {
            Some(grant) if grant.lease_id == lease_id && grant.reserved.is_none() => Ok(grant),
            Some(_) => Err(Loss::HeldByOther),
            None => Err(Loss::NotHeld),
        }
    }

    /// Whether this acquisition was released moments ago: the request is a repetition, or a late command.
    fn released_moments_ago(&self, asked: &Acquire, now: Timestamp) -> bool {
        let key_of = |idempotency: Option<Idempotency>| idempotency.map(|known| known.key);
        let asked_key = key_of(asked.idempotency);
        self.released
            .iter()
            .filter(|release| release.is_remembered(now))
            .any(|release| {
                release.lease_id == asked.lease_id
                    || asked_key.is_some() && key_of(release.idempotency) == asked_key
            })
    }
}

impl Release {
    fn is_remembered(&self, now: Timestamp) -> bool {
        now < self.forget_at
    }
}
