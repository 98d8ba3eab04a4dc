//! What ends a lease but its release: a break, a rollback, a shortening.

use std::time::Duration;

use leasehold::lock::lease::{Attempt, FencingToken, LeaseId};
use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss, Renewal};
use leasehold::random;

use super::{ENDED, release, renew, renewed, rollback, without_time};
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, wait};

pub(super) async fn break_ends_the_lease_with_that_token_and_no_other(s: &Subject) {
    let first = s
        .granted(&key("a"), &request(1000))
        .await
        .info
        .fencing_token;
    let higher = FencingToken::new(first.get() + 1).expect("small");
    let breaking = async |token| {
        let ending = s.store.break_lease(&key("a"), token).await;
        without_time(ending.expect("an answer"))
    };
    assert_eq!(breaking(higher).await, EndOutcome::Lost(Loss::HeldByOther));
    assert!(s.inspect(&key("a")).await.is_some());
    assert_eq!(breaking(first).await, ENDED);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        breaking(first).await,
        ENDED,
        "that grant is over and the key is free"
    );
    s.granted(&key("a"), &request(1000)).await;
    assert_eq!(
        breaking(first).await,
        EndOutcome::Lost(Loss::HeldByOther),
        "a late repetition spares the successor"
    );
    s.advance(ms(1000)).await;
    assert_eq!(breaking(first).await, ENDED);
}

pub(super) async fn broken_lease_is_lost_to_its_holder(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.store
        .break_lease(&key("a"), lease.info.fencing_token)
        .await
        .expect("an answer");
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
}

pub(super) async fn ending_says_how_long_the_lease_was_held(s: &Subject) {
    let ended = |held: Option<Duration>| EndOutcome::Ended { held_for: held };
    let release = async |lease_id| {
        s.store
            .release(&key("a"), lease_id)
            .await
            .expect("an answer")
    };
    let breaking = async |token| {
        s.store
            .break_lease(&key("a"), token)
            .await
            .expect("an answer")
    };

    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(400)).await;
    renewed(s, "a", lease.lease_id, Some(5000)).await;
    s.advance(ms(800)).await;
    assert_eq!(release(lease.lease_id).await, ended(Some(ms(1200))));
    assert_eq!(release(lease.lease_id).await, ended(None), "repeated");

    let first = s.granted(&key("a"), &request(1000)).await;
    let second = Acquire {
        wait: Some(wait(10_000)),
        ..request(1000)
    };
    s.acquire(&key("a"), &second).await;
    s.advance(ms(10)).await;
    let token = first.info.fencing_token;
    assert_eq!(breaking(token).await, ended(Some(ms(10))));
    s.advance(ms(500)).await;
    let reserved = s.inspect(&key("a")).await.expect("reserved for the second");
    let token = reserved.fencing_token;
    assert_eq!(
        breaking(token).await,
        ended(None),
        "no client has held it yet"
    );
    assert_eq!(breaking(token).await, ended(None), "it is over");
}

pub(super) async fn rollback_ends_the_grant_of_its_own_attempt_alone(s: &Subject) {
    let asked = request(1000);
    let lease = s.granted(&key("a"), &asked).await;
    assert!(!rollback(s, lease.lease_id, Attempt(asked.attempt.0 ^ 1), None).await);
    assert!(!rollback(s, LeaseId::from_bytes(random::bytes()), asked.attempt, None).await);
    assert!(s.inspect(&key("a")).await.is_some());
    assert!(rollback(s, lease.lease_id, asked.attempt, None).await);
    assert_eq!(s.inspect(&key("a")).await, None);
    let next = s.granted(&key("a"), &request(1000)).await;
    assert!(!rollback(s, lease.lease_id, asked.attempt, None).await);
    assert_eq!(
        s.inspect(&key("a")).await.map(|h| h.fencing_token),
        Some(next.info.fencing_token)
    );
}

pub(super) async fn shortening_never_extends(s: &Subject) {
    let asked = request(30_000);
    let lease = s.granted(&key("a"), &asked).await;
    assert!(rollback(s, lease.lease_id, asked.attempt, Some(ms(10_000))).await);
    assert_eq!(
        s.inspect(&key("a")).await.map(|h| h.expires_in()),
        Some(ms(10_000))
    );
    assert!(rollback(s, lease.lease_id, asked.attempt, Some(ms(20_000))).await);
    s.advance(ms(9_999)).await;
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(ms(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
}

pub(super) async fn replay_after_a_shortening_restores_the_ttl(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(30_000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    rollback(s, lease.lease_id, asked.attempt, Some(ms(10_000))).await;
    s.advance(ms(5_000)).await;
    let Acquisition::Replayed(replay) = s.acquire(&key("a"), &repeated(&asked)).await else {
        panic!("not replayed")
    };
    assert_eq!(replay.info.deadline, lease.info.deadline);
}

pub(super) async fn rollback_no_longer_applies_after_a_renewal_or_a_replay(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    s.acquire(&key("a"), &repeated(&asked)).await;
    assert!(!rollback(s, lease.lease_id, asked.attempt, None).await);
    let other = request(1000);
    let renewed = s.granted(&key("b"), &other).await;
    renew(s, "b", renewed.lease_id).await;
    let undone = s
        .store
        .rollback(
            &key("b"),
            other.waiter_id(),
            renewed.lease_id,
            other.attempt,
            None,
        )
        .await;
    assert_eq!(undone, Ok(false));
}
