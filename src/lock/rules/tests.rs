//! The rules with a grace. The memory store has none, so its contract tests cannot tell.

use super::*;
use crate::lock::lease::{Digest, Idempotency, Metadata};
use crate::lock::request::Wait;

const GRACE: Duration = Duration::from_millis(500);
const TTL: Duration = Duration::from_secs(1);

/// A lock at a moment.
struct At {
    lock: Lock,
    key: LockKey,
    releases: Releases,
    moment: Moment,
    last_number: u64,
}

impl At {
    /// A lock whose lease has reached its deadline, and the request that it was granted to.
    fn the_deadline() -> (Self, Acquire) {
        let mut at = Self {
            lock: Lock::default(),
            key: LockKey::parse("a").expect("a key"),
            releases: Releases::default(),
            moment: Moment {
                now: Timestamp::from_micros(1_000_000),
                grace: GRACE,
            },
            last_number: 0,
        };
        let request = request(1);
        assert!(matches!(at.acquire(&request), Acquisition::Granted(_)));
        at.advance(TTL);
        (at, request)
    }

    fn advance(&mut self, by: Duration) {
        self.moment.now = self.moment.now.after(by);
    }

    /// A microsecond less.
    fn advance_until_just_before(&mut self, by: Duration) {
        self.moment.now = Timestamp::from_micros(self.moment.now.after(by).as_micros() - 1);
    }

    fn with<T>(&mut self, operation: impl FnOnce(&mut Lock, &mut Context<'_>) -> T) -> T {
        let last = &mut self.last_number;
        let mut ctx = Context {
            key: &self.key,
            moment: self.moment,
            releases: &mut self.releases,
            next_number: &mut || {
                *last += 1;
                FencingToken::new(*last).expect("small")
            },
        };
        operation(&mut self.lock, &mut ctx)
    }

    fn acquire(&mut self, request: &Acquire) -> Acquisition {
        self.with(|lock, ctx| lock.acquire(request.clone(), ctx))
    }
}

fn request(number: u8) -> Acquire {
    Acquire {
        lease_id: LeaseId::from_bytes([number; 16]),
        attempt: Attempt(number.into()),
        ttl: Ttl::new(TTL, TTL).expect("a TTL"),
        holder: None,
        hold_at_least: Duration::ZERO,
        metadata: Metadata::default(),
        idempotency: Some(Idempotency {
            key: Digest::from_bytes([number; 16]),
            fingerprint: Digest::from_bytes([number; 16]),
        }),
        wait: None,
    }
}

/// An acquisition that waits for a lock that is held.
fn waiting(number: u8) -> Acquire {
    Acquire {
        wait: Some(Wait {
            timeout: TTL,
            ticket: None,
            max_waiters: 9,
        }),
        ..request(number)
    }
}

/// The same acquisition, asked for anew with the same idempotency key.
fn repeated(request: &Acquire) -> Acquire {
    Acquire {
        lease_id: LeaseId::from_bytes([99; 16]),
        ..request.clone()
    }
}

#[test]
fn lease_is_its_holders_until_the_deadline() {
    let (mut at, request) = At::the_deadline();
    at.moment.now = Timestamp::from_micros(at.moment.now.as_micros() - 1);
    assert!(matches!(at.acquire(&request), Acquisition::Granted(_)));
    let replay = at.acquire(&repeated(&request));
    assert!(matches!(replay, Acquisition::Replayed(_)), "{replay:?}");
}

#[test]
fn repetition_in_the_grace_is_no_success() {
    let (mut at, request) = At::the_deadline();
    for again in [request.clone(), repeated(&request)] {
        let answer = at.acquire(&again);
        assert!(matches!(answer, Acquisition::Held { .. }), "{answer:?}");
    }
}

#[test]
fn others_have_the_lock_after_the_grace() {
    let (mut at, _) = At::the_deadline();
    let other = request(2);
    at.advance_until_just_before(GRACE);
    let Acquisition::Held { info, .. } = at.acquire(&other) else {
        panic!("it is held");
    };
    assert_eq!(info.deadline.since(info.read_at), Duration::from_micros(1));
    at.advance(Duration::from_micros(1));
    assert!(matches!(at.acquire(&other), Acquisition::Granted(_)));
}

#[test]
fn holder_renews_in_the_grace() {
    let (mut at, request) = At::the_deadline();
    at.advance_until_just_before(GRACE);
    let moment = at.moment;
    let renewed = at.lock.renew(request.lease_id, None, moment);
    assert!(matches!(renewed, Renewal::Renewed(_)), "{renewed:?}");
}

#[test]
fn longer_one_of_two_graces_counts() {
    for (own, until) in [(GRACE / 2, GRACE), (GRACE * 2, GRACE * 2)] {
        let (mut at, _) = At::the_deadline();
        at.moment.grace = own;
        at.advance_until_just_before(until);
        let answer = at.acquire(&request(2));
        assert!(matches!(answer, Acquisition::Held { .. }), "{answer:?}");
        at.advance(Duration::from_micros(1));
        let answer = at.acquire(&request(2));
        assert!(matches!(answer, Acquisition::Granted(_)), "{answer:?}");
    }
}

#[test]
fn renewal_takes_the_longer_grace_along() {
    let (mut at, request) = At::the_deadline();
    at.moment.grace = GRACE * 2;
    at.lock.renew(request.lease_id, None, at.moment);
    at.moment.grace = GRACE;
    at.advance_until_just_before(TTL + GRACE * 2);
    assert!(at.lock.held(at.moment).is_some());
    at.advance(Duration::from_micros(1));
    assert!(at.lock.held(at.moment).is_none());
}

#[test]
fn lock_is_held_as_long_as_asked_and_a_grace() {
    let (mut at, first) = At::the_deadline();
    at.with(|lock, ctx| lock.release(first.lease_id, ctx));
    let holding = Acquire {
        hold_at_least: TTL * 3,
        ..request(2)
    };
    assert!(matches!(at.acquire(&holding), Acquisition::Granted(_)));
    at.with(|lock, ctx| lock.release(holding.lease_id, ctx));
    // A step back of the clock.
    at.moment.now = at.moment.now.before(GRACE);
    at.advance_until_just_before(TTL * 3 + GRACE * 2);
    let answer = at.acquire(&request(3));
    assert!(matches!(answer, Acquisition::Held { .. }), "{answer:?}");
    at.advance(Duration::from_micros(1));
    let answer = at.acquire(&request(3));
    assert!(matches!(answer, Acquisition::Granted(_)), "{answer:?}");
}

#[test]
fn reservation_has_no_grace() {
    let (mut at, holder) = At::the_deadline();
    at.acquire(&waiting(2));
    at.with(|lock, ctx| lock.release(holder.lease_id, ctx));
    at.advance_until_just_before(RESERVATION);
    assert!(at.lock.reservation(at.moment).is_some());
    at.advance(Duration::from_micros(1));
    assert!(at.lock.reservation(at.moment).is_none());
}

#[test]
fn step_back_brings_back_no_request_that_timed_out() {
    let (mut at, holder) = At::the_deadline();
    at.lock.renew(holder.lease_id, None, at.moment);
    at.acquire(&waiting(2));
    let over = Acquire {
        wait: None,
        ..waiting(2)
    };
    at.advance(TTL);
    assert!(matches!(at.acquire(&over), Acquisition::Held { .. }));
    at.moment.now = at.moment.now.before(GRACE);
    at.with(|lock, ctx| lock.release(holder.lease_id, ctx));
    assert!(at.lock.reservation(at.moment).is_none());
}
