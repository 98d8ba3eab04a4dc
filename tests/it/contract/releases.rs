//! Releases, and how long they are remembered.

use std::time::Duration;

use leasehold::lock::lease::LeaseId;
use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss, Renewal};

use super::{ENDED, release, renew, rollback, without_time};
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request};

pub(super) async fn released_lock_is_free_and_the_release_can_be_repeated_for_ten_seconds(
    s: &Subject,
) {
    let lease = s.granted(&key("a"), &request(60_000)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    s.advance(Duration::from_micros(9_999_999)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
}

pub(super) async fn late_release_does_not_free_a_successor(s: &Subject) {
    let first = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    let second = s.granted(&key("a"), &request(30_000)).await;
    assert_eq!(release(s, "a", first.lease_id).await, ENDED, "remembered");
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(ms(10_000)).await;
    assert_eq!(
        release(s, "a", first.lease_id).await,
        EndOutcome::Lost(Loss::HeldByOther),
        "forgotten"
    );
    assert_eq!(
        renew(s, "a", first.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    assert!(matches!(
        renew(s, "a", second.lease_id).await,
        Renewal::Renewed(_)
    ));
}

pub(super) async fn all_releases_of_the_last_ten_seconds_are_remembered(s: &Subject) {
    let mut requests = Vec::new();
    for number in 0..50 {
        let request = Acquire {
            idempotency: (number % 2 == 0).then(|| idempotency(number, 1)),
            ..request(1000)
        };
        let lease = s.granted(&key("a"), &request).await;
        assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
        requests.push(request);
    }
    s.advance(ms(9_999)).await;
    for request in &requests {
        assert_eq!(release(s, "a", request.lease_id).await, ENDED);
        let late = s.acquire(&key("a"), request).await;
        assert_eq!(late, Acquisition::AlreadyReleased);
        // Another lock does not know them.
        let elsewhere = release(s, "b", request.lease_id).await;
        assert_eq!(elsewhere, EndOutcome::Lost(Loss::NotHeld));
    }
    s.advance(ms(1)).await;
    for request in &requests {
        let forgotten = release(s, "a", request.lease_id).await;
        assert_eq!(forgotten, EndOutcome::Lost(Loss::NotHeld));
    }
}

pub(super) async fn releases_in_quick_succession_are_remembered_for_their_time(s: &Subject) {
    let released = async |name: &str| {
        let lease = s.granted(&key(name), &request(60_000)).await;
        assert_eq!(release(s, name, lease.lease_id).await, ENDED);
        lease.lease_id
    };
    let first = released("a").await;
    s.advance(ms(9_900)).await;
    let second = released("b").await;
    s.advance(ms(200)).await;
    released("c").await;
    assert_eq!(
        release(s, "a", first).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
    s.advance(ms(9_000)).await;
    assert_eq!(release(s, "b", second).await, ENDED);
}

pub(super) async fn release_is_known_by_its_own_id_alone(s: &Subject) {
    // The lease id of one request equals the idempotency key of the other.
    let id = |number| LeaseId::from_bytes([number; 16]);
    let of = |lease_id: u8, key: u8| Acquire {
        lease_id: id(lease_id),
        idempotency: Some(idempotency(key, 1)),
        ..request(1000)
    };
    let (first, second) = (of(1, 2), of(2, 1));
    s.granted(&key("a"), &first).await;
    assert_eq!(release(s, "a", id(1)).await, ENDED);
    assert_eq!(
        release(s, "a", id(2)).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
    s.granted(&key("a"), &second).await;
    assert_eq!(release(s, "a", id(2)).await, ENDED);
    // The store finds each release although the other request has the same id in the other role.
    for known in [id(1), id(2)] {
        assert_eq!(release(s, "a", known).await, ENDED);
    }
    for known in [&first, &second] {
        assert_eq!(
            s.acquire(&key("a"), &repeated(known)).await,
            Acquisition::AlreadyReleased
        );
    }
}

pub(super) async fn break_and_rollback_keep_remembered_releases(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let first = s.granted(&key("a"), &asked).await;
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    let second = s.granted(&key("a"), &request(1000)).await;
    let broken = s
        .store
        .break_lease(&key("a"), second.info.fencing_token)
        .await;
    assert_eq!(without_time(broken.expect("an answer")), ENDED);
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    let third = request(1000);
    s.granted(&key("a"), &third).await;
    assert!(rollback(s, third.lease_id, third.attempt, None).await);
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    assert_eq!(
        s.acquire(&key("a"), &repeated(&asked)).await,
        Acquisition::AlreadyReleased
    );
}

/// An idempotency key can be used anew when its release is forgotten; the store may still have the forgotten one.
pub(super) async fn acquisition_that_was_released_several_times_is_known_by_its_last_release(
    s: &Subject,
) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    for _ in 0..4 {
        let again = repeated(&asked);
        let lease = s.granted(&key("a"), &again).await;
        assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
        assert_eq!(
            s.acquire(&key("a"), &repeated(&asked)).await,
            Acquisition::AlreadyReleased
        );
        s.advance(ms(10_000)).await;
    }
}
