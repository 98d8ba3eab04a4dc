//! Locks that are held at least as long as asked, however their leases end.

use std::time::Duration;

use leasehold::lock::lease::LeaseId;
use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss, Renewal};
use leasehold::random;

use super::{
    ENDED, queued, refused, release, renew, renewed, rollback, token_of_a, waiting, without_time,
};
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request};

/// A request for a lock that is held for at least so long.
fn holding(ttl_ms: u64, hold_ms: u64) -> Acquire {
    Acquire {
        hold_at_least: ms(hold_ms),
        ..request(ttl_ms)
    }
}

/// Whether the lock is held although no client has its lease.
async fn is_held_after_its_lease(s: &Subject) -> bool {
    let info = s.inspect(&key("a")).await;
    info.is_some_and(|info| info.released && info.holder.is_none())
}

pub(super) async fn released_lock_is_held_as_long_as_asked(s: &Subject) {
    let lease = s.granted(&key("a"), &holding(60_000, 5000)).await;
    s.advance(ms(1000)).await;
    assert!(!is_held_after_its_lease(s).await);
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    let info = s.inspect(&key("a")).await.expect("a held lock");
    assert_eq!(info.fencing_token, lease.info.fencing_token);
    assert_eq!(info.expires_in(), ms(4000));
    s.advance(Duration::from_micros(3_999_999)).await;
    assert!(is_held_after_its_lease(s).await);
    refused(s).await;
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
    let next = s.granted(&key("a"), &request(1000)).await;
    assert!(next.info.fencing_token > lease.info.fencing_token);
}

pub(super) async fn lock_is_free_at_once_if_it_was_held_long_enough(s: &Subject) {
    let lease = s.granted(&key("a"), &holding(60_000, 1000)).await;
    s.advance(ms(1000)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    s.granted(&key("a"), &request(1000)).await;
}

pub(super) async fn expired_lock_is_held_as_long_as_asked(s: &Subject) {
    let lease = s.granted(&key("a"), &holding(1000, 5000)).await;
    let info = s.inspect(&key("a")).await.expect("a held lock");
    assert_eq!((info.released, info.expires_in()), (false, ms(5000)));
    s.advance(ms(1000)).await;
    assert!(is_held_after_its_lease(s).await);
    let lost = Renewal::Lost(Loss::NotHeld);
    assert_eq!(renew(s, "a", lease.lease_id).await, lost);
    let late = release(s, "a", lease.lease_id).await;
    assert_eq!(late, EndOutcome::Lost(Loss::NotHeld));
    let stranger = LeaseId::from_bytes(random::bytes());
    assert_eq!(renew(s, "a", stranger).await, lost);
    s.advance(ms(3999)).await;
    refused(s).await;
    s.advance(ms(1)).await;
    s.granted(&key("a"), &request(1000)).await;
}

pub(super) async fn released_lease_answers_so_while_its_lock_is_held(s: &Subject) {
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..holding(1000, 60_000)
    };
    let lease = s.granted(&key("a"), &first).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    // Longer than releases are remembered otherwise.
    for _ in 0..2 {
        let renewal = renew(s, "a", lease.lease_id).await;
        assert_eq!(renewal, Renewal::Lost(Loss::Released));
        assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
        let replay = s.acquire(&key("a"), &repeated(&first)).await;
        assert_eq!(replay, Acquisition::AlreadyReleased);
        let other = Acquire {
            idempotency: Some(idempotency(1, 2)),
            ..first.clone()
        };
        let reused = s.acquire(&key("a"), &repeated(&other)).await;
        assert_eq!(reused, Acquisition::KeyReused);
        s.advance(ms(59_000)).await;
    }
    let over = release(s, "a", lease.lease_id).await;
    assert_eq!(over, EndOutcome::Lost(Loss::NotHeld));
}

pub(super) async fn break_and_rollback_end_the_hold(s: &Subject) {
    let lease = s.granted(&key("a"), &holding(1000, 60_000)).await;
    let token = lease.info.fencing_token;
    for released in [false, true] {
        if released {
            let lease = s.granted(&key("a"), &holding(1000, 60_000)).await;
            assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
        }
        let token = token_of_a(s).await.unwrap_or(token);
        let broken = s.store.break_lease(&key("a"), token).await;
        assert_eq!(without_time(broken.expect("an answer")), ENDED);
        assert_eq!(s.inspect(&key("a")).await, None);
    }
    let request = holding(1000, 60_000);
    s.granted(&key("a"), &request).await;
    assert!(rollback(s, request.lease_id, request.attempt, None).await);
    assert_eq!(s.inspect(&key("a")).await, None);
    // Its client knows of the lease.
    let lease = s.granted(&key("a"), &request).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    assert!(!rollback(s, request.lease_id, request.attempt, None).await);
    assert!(is_held_after_its_lease(s).await);
}

pub(super) async fn shortened_lease_holds_no_longer_until_its_client_comes_back(s: &Subject) {
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..holding(20_000, 60_000)
    };
    let (id, attempt) = (first.lease_id, first.attempt);
    let shorten = async || {
        s.granted(&key("a"), &first).await;
        let waiter = first.waiter_id();
        let kept = Some(ms(10_000));
        let done = s.store.rollback(&key("a"), waiter, id, attempt, kept).await;
        assert_eq!(done, Ok(true));
        let info = s.inspect(&key("a")).await.expect("a held lock");
        assert_eq!((info.released, info.expires_in()), (false, ms(10_000)));
    };
    shorten().await;
    s.advance(ms(10_000)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
    shorten().await;
    let replay = s.acquire(&key("a"), &repeated(&first)).await;
    assert!(matches!(replay, Acquisition::Replayed(_)), "{replay:?}");
    let info = s.inspect(&key("a")).await.expect("a held lock");
    assert_eq!(info.expires_in(), ms(60_000));
    s.advance(ms(20_000)).await;
    assert!(is_held_after_its_lease(s).await);
    s.advance(ms(40_000)).await;
    shorten().await;
    renewed(s, "a", id, None).await;
    assert_eq!(release(s, "a", id).await, ENDED);
    assert!(is_held_after_its_lease(s).await);
}

pub(super) async fn waiter_keeps_its_place_until_the_hold_is_over(s: &Subject) {
    let lease = s.granted(&key("a"), &holding(60_000, 5000)).await;
    let (first, second) = (waiting(1000, 50_000), waiting(1000, 50_000));
    queued(s, &first).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    queued(s, &second).await;
    match s.acquire(&key("a"), &first).await {
        Acquisition::Queued { info, waiters, .. } => {
            assert_eq!((info.released, waiters), (true, 2));
            assert_eq!(info.expires_in(), ms(5000));
        }
        other => panic!("not queued: {other:?}"),
    }
    s.advance(ms(5000)).await;
    queued(s, &second).await;
    s.granted(&key("a"), &first).await;
}

/// The time in the queue does not count.
pub(super) async fn hold_of_a_waiter_begins_with_its_grant(s: &Subject) {
    let lease = s.granted(&key("a"), &request(60_000)).await;
    let waiter = Acquire {
        hold_at_least: ms(5000),
        ..waiting(1000, 50_000)
    };
    queued(s, &waiter).await;
    s.advance(ms(20_000)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    s.advance(ms(1000)).await;
    let granted = s.granted(&key("a"), &waiter).await;
    assert_eq!(release(s, "a", granted.lease_id).await, ENDED);
    let info = s.inspect(&key("a")).await.expect("a held lock");
    assert_eq!((info.released, info.expires_in()), (true, ms(5000)));
}
