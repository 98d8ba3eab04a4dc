//! Every rule of locking, as pure functions of a lock's state and a moment.
//!
//! The memory store runs these rules; the Lua scripts of the Redis store mirror them, and a model
//! test holds the two together. Nothing here knows who asks, how, or what time it is.
//!
//! A lock has a list of holders. An exclusive lock is the case where the list has at most one
//! member; every rule reaches it through `Lock::live`, so that shared and counted leases can come
//! without a change of shape.

use std::time::Duration;

use crate::lock::lease::{
    Attempt, FencingToken, Holder, Idempotency, LeaseId, Metadata, Timestamp, Ttl,
};

/// How long a release is remembered, so that its repetition is a success and not a lost lease.
pub const RELEASE_MEMORY: Duration = Duration::from_secs(10);

/// How many releases of one key are remembered.
pub const MAX_REMEMBERED_RELEASES: usize = 16;

/// What an acquisition asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acquire {
    /// The lease id that a grant will have.
    pub lease_id: LeaseId,
    /// This request's own attempt.
    pub attempt: Attempt,
    /// How long the lease lasts.
    pub ttl: Ttl,
    /// Who asks, in the client's words.
    pub holder: Option<Holder>,
    /// What the client attaches.
    pub metadata: Metadata,
    /// Present if the request may be repeated.
    pub idempotency: Option<Idempotency>,
    /// Others wait ahead of this request: a free lock is theirs.
    pub behind_waiters: bool,
}

/// What a store keeps of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    lease_id: LeaseId,
    fencing_token: FencingToken,
    holder: Option<Holder>,
    metadata: Metadata,
    ttl: Ttl,
    acquired_at: Timestamp,
    deadline: Timestamp,
    renewals: u64,
    idempotency: Option<Idempotency>,
    /// The attempt that an undo must name; `None` once the lease was asked for again or renewed, which
    /// shows that somebody may count on it.
    attempt: Option<Attempt>,
}

/// What anyone may know of a live lease, as it was when the store answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// Who holds it, in the client's words.
    pub holder: Option<Holder>,
    /// What the client attached.
    pub metadata: Metadata,
    /// The token of this grant.
    pub fencing_token: FencingToken,
    /// The TTL that a renewal without one of its own applies.
    pub ttl: Ttl,
    /// When it was granted.
    pub acquired_at: Timestamp,
    /// From this moment on the lease is over.
    pub deadline: Timestamp,
    /// How often it was renewed.
    pub renewals: u64,
    /// When the store answered.
    pub read_at: Timestamp,
}

/// A live lease with its secret: for its holder alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Proves that a lease is the caller's.
    pub lease_id: LeaseId,
    /// All else about it.
    pub holding: Holding,
}

/// The answer to an acquisition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acquisition {
    /// A new lease.
    Granted(Lease),
    /// The lease that this acquisition was granted before, still alive.
    Replayed(Lease),
    /// Somebody else's.
    Held(Holding),
    /// The lock is free, and belongs to those who wait for it.
    LeftToWaiters,
    /// The idempotency key was used with another TTL, holder or metadata.
    KeyReused,
    /// This acquisition was granted and released moments ago.
    AlreadyReleased,
}

/// The answer to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// The lease goes on.
    Renewed(Lease),
    /// It does not.
    Lost(Loss),
}

/// The answer to a release or a break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// That lease is over, by this call or by an earlier one like it.
    Ended,
    /// It was not there to be ended.
    Lost(Loss),
}

/// Why a lease is not the caller's any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loss {
    /// Nobody holds the lock.
    NotHeld,
    /// Somebody else holds it.
    HeldByOther,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Release {
    lease_id: LeaseId,
    idempotency: Option<Idempotency>,
    forget_at: Timestamp,
}

/// The state of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lock {
    holders: Vec<Grant>,
    released: Vec<Release>,
}

impl Lock {
    /// Takes the lock for `request` if nobody holds it.
    ///
    /// `next_token` is called once, and only for a grant.
    pub fn acquire(
        &mut self,
        request: Acquire,
        now: Timestamp,
        next_token: impl FnOnce() -> FencingToken,
    ) -> Acquisition {
        if let Some(grant) = self.live_mut(now) {
            match same_acquisition(grant.idempotency, request.idempotency) {
                Repetition::Other => {}
                Repetition::Altered => return Acquisition::KeyReused,
                Repetition::Same => {
                    grant.attempt = None;
                    // A lease that was cut when its client went is whole again: it came back.
                    grant.deadline = grant.deadline.max(grant.acquired_at.after(grant.ttl.get()));
                    return Acquisition::Replayed(grant.lease(now));
                }
            }
        }
        if self.released_moments_ago(request.idempotency, now) {
            return Acquisition::AlreadyReleased;
        }
        if let Some(holding) = self.holding(now) {
            return Acquisition::Held(holding);
        }
        if request.behind_waiters {
            return Acquisition::LeftToWaiters;
        }
        let grant = Grant {
            lease_id: request.lease_id,
            fencing_token: next_token(),
            holder: request.holder,
            metadata: request.metadata,
            ttl: request.ttl,
            acquired_at: now,
            deadline: now.after(request.ttl.get()),
            renewals: 0,
            idempotency: request.idempotency,
            attempt: Some(request.attempt),
        };
        let lease = grant.lease(now);
        self.holders = vec![grant];
        Acquisition::Granted(lease)
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

    /// Ends a live lease; a repetition within [`RELEASE_MEMORY`] is a success too.
    pub fn release(&mut self, lease_id: LeaseId, now: Timestamp) -> Ending {
        let repeated = self
            .released
            .iter()
            .any(|r| r.lease_id == lease_id && now < r.forget_at);
        if repeated {
            return Ending::Ended;
        }
        let idempotency = match self.held_with(lease_id, now) {
            Ok(grant) => grant.idempotency,
            Err(loss) => return Ending::Lost(loss),
        };
        self.holders.clear();
        self.released.retain(|r| now < r.forget_at);
        self.released.push(Release {
            lease_id,
            idempotency,
            forget_at: now.after(RELEASE_MEMORY),
        });
        let excess = self.released.len().saturating_sub(MAX_REMEMBERED_RELEASES);
        self.released.drain(..excess);
        Ending::Ended
    }

    /// Ends the live lease with this token, whoever holds it; a success too when that grant is
    /// over and nobody holds the lock.
    pub fn break_lease(&mut self, token: FencingToken, now: Timestamp) -> Ending {
        match self.live(now) {
            Some(grant) if grant.fencing_token != token => Ending::Lost(Loss::HeldByOther),
            Some(_) => {
                self.holders.clear();
                Ending::Ended
            }
            None => Ending::Ended,
        }
    }

    /// Takes back a grant whose client is gone, if `attempt` was the last to touch it: whole, or
    /// down to `keep` from now for a client that can come back. Says whether it did.
    pub fn abandon(
        &mut self,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
        now: Timestamp,
    ) -> bool {
        match self.held_with(lease_id, now) {
            Ok(grant) if grant.attempt == Some(attempt) => {
                match keep {
                    Some(keep) => grant.deadline = grant.deadline.min(now.after(keep)),
                    None => self.holders.clear(),
                }
                true
            }
            _ => false,
        }
    }

    /// The live lease, if there is one, as anyone may see it.
    #[must_use]
    pub fn holding(&self, now: Timestamp) -> Option<Holding> {
        self.live(now).map(|grant| grant.holding(now))
    }

    /// The moment from which nothing of this state matters any more.
    #[must_use]
    pub fn disposable_from(&self) -> Option<Timestamp> {
        let deadlines = self.holders.iter().map(|grant| grant.deadline);
        deadlines
            .chain(self.released.iter().map(|release| release.forget_at))
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
            Some(grant) if grant.lease_id == lease_id => Ok(grant),
            Some(_) => Err(Loss::HeldByOther),
            None => Err(Loss::NotHeld),
        }
    }

    fn released_moments_ago(&self, asked: Option<Idempotency>, now: Timestamp) -> bool {
        let Some(asked) = asked else { return false };
        self.released
            .iter()
            .filter(|release| now < release.forget_at)
            .filter_map(|release| release.idempotency)
            .any(|known| known.key == asked.key)
    }
}

impl Grant {
    fn holding(&self, now: Timestamp) -> Holding {
        Holding {
            holder: self.holder.clone(),
            metadata: self.metadata.clone(),
            fencing_token: self.fencing_token,
            ttl: self.ttl,
            acquired_at: self.acquired_at,
            deadline: self.deadline,
            renewals: self.renewals,
            read_at: now,
        }
    }

    fn lease(&self, now: Timestamp) -> Lease {
        Lease {
            lease_id: self.lease_id,
            holding: self.holding(now),
        }
    }
}

impl Holding {
    /// What was left of the lease when the store answered.
    #[must_use]
    pub fn expires_in(&self) -> Duration {
        self.deadline.since(self.read_at)
    }

    /// How long it had been held when the store answered.
    #[must_use]
    pub fn held_for(&self) -> Duration {
        self.read_at.since(self.acquired_at)
    }
}

enum Repetition {
    Same,
    Altered,
    Other,
}

fn same_acquisition(known: Option<Idempotency>, asked: Option<Idempotency>) -> Repetition {
    match (known, asked) {
        (Some(known), Some(asked)) if known == asked => Repetition::Same,
        (Some(known), Some(asked)) if known.key == asked.key => Repetition::Altered,
        _ => Repetition::Other,
    }
}
