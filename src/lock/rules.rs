//! Every rule of locking, as pure functions of a lock's state and a moment.
//!
//! The memory store runs these rules; the Lua scripts of the Redis store mirror them, and a model
//! test holds the two together. Nothing here knows who asks, how, or what time it is.
//!
//! A lease is its holder's until its deadline, and no other client's until the deadline plus a *grace*: the clocks of two data
//! nodes may differ by so much. Renewals, releases, breaks and rollbacks work in the grace; a replay does not.
//!
//! A client can ask that the lock is held for some time at least, from the grant on. Until then, plus the grace, no other client
//! gets the lock, however the lease ends; only a break and a rollback end that too.
//!
//! A lock has a list of holders. An exclusive lock is the case where the list has at most one
//! member; every rule reaches it through `Lock::live`, so that shared and counted leases can come
//! without a change of shape.

use std::time::Duration;

pub use crate::lock::answers::{Acquisition, EndOutcome, Lease, LeaseInfo, Loss, Renewal};
pub use crate::lock::grant::RESERVATION;
use crate::lock::grant::{Grant, Repetition, State, same_acquisition};
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Moment, Timestamp, Ttl};
use crate::lock::queue::{Queue, QueueEntry};
use crate::lock::releases::Releases;
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// The state of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    holders: Vec<Grant>,
    queue: Queue,
}

/// What an operation uses besides the lock.
pub struct Context<'a> {
    /// The key of the lock.
    pub key: &'a LockKey,
    /// When the operation runs.
    pub moment: Moment,
    /// The releases of all locks.
    pub releases: &'a mut Releases,
    /// Gives rising numbers, for tokens and tickets.
    pub next_number: &'a mut dyn FnMut() -> FencingToken,
}

impl Lock {
    /// Grants the lock to `request` if it is free and no waiter is ahead, or lets it wait. A waiter asks again with the
    /// same lease id: it learns its position, claims its reservation, and gets back an entry that was lost.
    pub fn acquire(&mut self, request: Acquire, ctx: &mut Context<'_>) -> Acquisition {
        if let Some(settled) = self.settled(&request, ctx) {
            return settled;
        }
        let now = ctx.moment.now;
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
            let entry = match request.wait {
                Some(wait) => QueueEntry::new(request.clone(), now.after(wait.timeout)),
                None => QueueEntry::kept(request.clone(), ctx.moment),
            };
            self.queue.insert(ticket, entry);
        }
        self.reserve(Some(id), ctx);
        match self.live_mut(ctx.moment) {
            None => {
                let grant = Grant::new(request, (ctx.next_number)(), ctx.moment);
                let lease = grant.lease(now);
                self.holders = vec![grant];
                Acquisition::Granted(lease)
            }
            Some(grant) if grant.is_reserved() && grant.waiter_id() == id => {
                grant.claim(request, ctx.moment)
            }
            Some(grant) => {
                let info = grant.lease_info(ctx.moment);
                self.wait_behind(request, known.map(|(ticket, ..)| ticket), info, ctx)
            }
        }
    }

    /// The answers that do not depend on a free lock: the acquisition was granted before, or is already over. In the grace a
    /// lease is over for its holder.
    fn settled(&mut self, request: &Acquire, ctx: &Context<'_>) -> Option<Acquisition> {
        let now = ctx.moment.now;
        if let Some(grant) = self
            .live_mut(ctx.moment)
            .filter(|grant| !grant.is_reserved())
        {
            let counts = now < grant.deadline;
            if grant.lease_id == request.lease_id && counts {
                return Some(Acquisition::Granted(grant.lease(now)));
            }
            match same_acquisition(grant.idempotency, request.idempotency) {
                Repetition::Altered => return Some(Acquisition::KeyReused),
                Repetition::Same if grant.state == State::Released => {
                    return Some(Acquisition::AlreadyReleased);
                }
                Repetition::Same if counts => {
                    grant.attempt = None;
                    grant.state = State::Leased;
                    // The client has come back, so a shortened lease gets its full time again.
                    grant.deadline = grant.deadline.max(grant.acquired_at.after(grant.ttl.get()));
                    return Some(Acquisition::Replayed(grant.lease(now)));
                }
                Repetition::Same | Repetition::Other => {}
            }
        }
        ctx.releases
            .has(ctx.key, request.lease_id, request.idempotency, now)
            .then_some(Acquisition::AlreadyReleased)
    }

    /// A request that does not get the lock now waits, or ends.
    fn wait_behind(
        &mut self,
        request: Acquire,
        known: Option<Ticket>,
        info: LeaseInfo,
        ctx: &mut Context<'_>,
    ) -> Acquisition {
        let now = ctx.moment.now;
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
            None => Ticket((ctx.next_number)().get()),
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
    fn reserve(&mut self, asking: Option<WaiterId>, ctx: &mut Context<'_>) {
        if self.live(ctx.moment).is_some() {
            return;
        }
        if let Some((ticket, entry)) = self.queue.take_first(asking, ctx.moment.now) {
            let grant = Grant::reserved(entry.request, ticket, (ctx.next_number)(), ctx.moment.now);
            self.holders = vec![grant];
        }
    }

    /// Extends a live lease to `ttl` from now, and never shortens it.
    pub fn renew(&mut self, lease_id: LeaseId, ttl: Option<Ttl>, moment: Moment) -> Renewal {
        match self.held_with(lease_id, moment) {
            Ok(grant) => {
                grant.ttl = ttl.unwrap_or(grant.ttl);
                grant.deadline = grant.deadline.max(moment.now.after(grant.ttl.get()));
                grant.grace = grant.grace.max(moment.grace);
                grant.renewals += 1;
                grant.attempt = None;
                grant.state = State::Leased;
                Renewal::Renewed(grant.lease(moment.now))
            }
            Err(loss) => Renewal::Lost(loss),
        }
    }

    /// Ends a live lease and reserves the lock for the first waiter, unless the lock is held for longer. A repetition within
    /// [`RELEASE_MEMORY`], or while the lock is held, is a success too.
    ///
    /// [`RELEASE_MEMORY`]: crate::lock::releases::RELEASE_MEMORY
    pub fn release(&mut self, lease_id: LeaseId, ctx: &mut Context<'_>) -> EndOutcome {
        let now = ctx.moment.now;
        let (idempotency, held_for) = match self.held_with(lease_id, ctx.moment) {
            Ok(grant) => {
                let held_for = grant.held_for(now);
                grant.release(now);
                (grant.idempotency, held_for)
            }
            Err(Loss::Released) => return EndOutcome::Ended { held_for: None },
            Err(_) if ctx.releases.has(ctx.key, lease_id, None, now) => {
                return EndOutcome::Ended { held_for: None };
            }
            Err(loss) => return EndOutcome::Lost(loss),
        };
        self.holders.retain(|grant| grant.outlasts_release(now));
        ctx.releases.remember(ctx.key, lease_id, idempotency, now);
        self.reserve(None, ctx);
        EndOutcome::Ended { held_for }
    }

    /// Ends the live lease with this token for any caller. A success too when that grant is over and the lock is free.
    pub fn break_lease(&mut self, token: FencingToken, ctx: &mut Context<'_>) -> EndOutcome {
        match self.live(ctx.moment) {
            Some(grant) if grant.fencing_token != token => EndOutcome::Lost(Loss::HeldByOther),
            Some(grant) => {
                let held_for = grant.held_for(ctx.moment.now);
                self.holders.clear();
                self.reserve(None, ctx);
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
        ctx: &mut Context<'_>,
    ) -> bool {
        let now = ctx.moment.now;
        if let Some(grant) = self.live_mut(ctx.moment)
            && grant.lease_id == lease_id
        {
            if grant.attempt != Some(attempt) {
                return false;
            }
            match (grant.state, keep) {
                (State::Reserved(ticket), keep) => {
                    let request = grant.request(attempt);
                    self.holders.clear();
                    if keep.is_some() {
                        self.queue
                            .insert(ticket, QueueEntry::kept(request, ctx.moment));
                    }
                }
                (_, Some(keep)) => {
                    grant.state = State::Shortened;
                    grant.deadline = grant.deadline.min(now.after(keep));
                    // The lock is handed over when the shortened lease is over, also if that is now.
                    return true;
                }
                (_, None) => self.holders.clear(),
            }
            self.reserve(None, ctx);
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
                .insert(ticket, QueueEntry::kept(entry.request, ctx.moment));
        }
        true
    }

    /// Takes back the reservation of a waiter whose server knows no such waiter: the rollback of its entry was lost. The
    /// entry of a request that may be repeated is kept. Returns whether there was anything to take back.
    pub fn decline(&mut self, waiter: WaiterId, ctx: &mut Context<'_>) -> bool {
        let reserved = self.live(ctx.moment).filter(|grant| grant.is_reserved());
        let Some(grant) = reserved.filter(|grant| grant.waiter_id() == waiter) else {
            return false;
        };
        let (id, keep) = (grant.lease_id, grant.idempotency.map(|_| Duration::ZERO));
        match grant.attempt {
            Some(attempt) => self.rollback(waiter, id, attempt, keep, ctx),
            None => false,
        }
    }

    /// The waiter that the lock is reserved for, and the token of its grant.
    #[must_use]
    pub fn reservation(&self, moment: Moment) -> Option<(WaiterId, FencingToken)> {
        let reserved = self.live(moment).filter(|grant| grant.is_reserved());
        reserved.map(|grant| (grant.waiter_id(), grant.fencing_token))
    }

    /// The number of waiters, kept entries included.
    #[must_use]
    pub fn waiters(&self, moment: Moment) -> usize {
        self.queue.len(moment.now)
    }

    /// The public part of the live lease or reservation, if there is one.
    #[must_use]
    pub fn lease_info(&self, moment: Moment) -> Option<LeaseInfo> {
        self.live(moment).map(|grant| grant.lease_info(moment))
    }

    /// When the live lease is over for every client, and its token. A reservation is no lease, and neither is a lock that is
    /// held after the release.
    #[must_use]
    pub fn held(&self, moment: Moment) -> Option<(Timestamp, FencingToken)> {
        let is_lease = |grant: &&Grant| matches!(grant.state, State::Leased | State::Shortened);
        let held = self.live(moment).filter(is_lease);
        held.map(|grant| (grant.over_at(moment.grace), grant.fencing_token))
    }

    /// Until when no other client can have the lock, if its lease is not renewed.
    #[must_use]
    pub fn held_until(&self, moment: Moment) -> Option<Timestamp> {
        self.live(moment).map(|grant| grant.over_at(moment.grace))
    }

    /// The moment from which this state has no effect, at this grace.
    #[must_use]
    pub fn disposable_from(&self, grace: Duration) -> Option<Timestamp> {
        let ends = self.holders.iter().map(|grant| grant.over_at(grace));
        ends.chain(self.queue.disposable_from()).max()
    }

    fn live(&self, moment: Moment) -> Option<&Grant> {
        self.holders.iter().find(|grant| grant.is_live(moment))
    }

    fn live_mut(&mut self, moment: Moment) -> Option<&mut Grant> {
        self.holders.iter_mut().find(|grant| grant.is_live(moment))
    }

    fn held_with(&mut self, lease_id: LeaseId, moment: Moment) -> Result<&mut Grant, Loss> {
        match self.live_mut(moment) {
            Some(grant) if grant.lease_id == lease_id && grant.is_leased(moment) => Ok(grant),
            Some(grant) if grant.lease_id == lease_id && grant.state == State::Released => {
                Err(Loss::Released)
            }
            Some(grant) if grant.is_reserved() || grant.is_leased(moment) => Err(Loss::HeldByOther),
            _ => Err(Loss::NotHeld),
        }
    }
}

#[cfg(test)]
mod tests;
