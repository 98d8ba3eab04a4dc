//! The repetition of an acquisition.

use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, Renewal};

use super::{release, renew};
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request};

pub(super) async fn replay_is_the_same_lease_with_the_same_deadline(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let first = s.granted(&key("a"), &asked).await;
    s.advance(ms(600)).await;
    let again = repeated(&asked);
    let Acquisition::Replayed(replay) = s.acquire(&key("a"), &again).await else {
        panic!("not replayed")
    };
    assert_eq!(replay.lease_id, first.lease_id);
    assert_eq!(replay.info.fencing_token, first.info.fencing_token);
    assert_eq!(replay.info.deadline, first.info.deadline);
    assert_eq!(replay.info.expires_in(), ms(400));
    let elsewhere = s.granted(&key("b"), &repeated(&asked)).await;
    assert!(
        elsewhere.info.fencing_token > first.info.fencing_token,
        "the scope is one key"
    );
}

pub(super) async fn replay_with_another_request_is_refused(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    let altered = Acquire {
        idempotency: Some(idempotency(1, 2)),
        ..request(1000)
    };
    assert_eq!(s.acquire(&key("a"), &altered).await, Acquisition::KeyReused);
    let other = Acquire {
        idempotency: Some(idempotency(2, 1)),
        ..request(1000)
    };
    assert!(matches!(
        s.acquire(&key("a"), &other).await,
        Acquisition::Held { .. }
    ));
    assert!(matches!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Renewed(_)
    ));
}

pub(super) async fn replay_of_a_released_acquisition_is_refused_even_while_another_holds(
    s: &Subject,
) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    release(s, "a", lease.lease_id).await;
    assert_eq!(
        s.acquire(&key("a"), &repeated(&asked)).await,
        Acquisition::AlreadyReleased
    );
    s.granted(&key("a"), &request(20_000)).await;
    assert_eq!(
        s.acquire(&key("a"), &repeated(&asked)).await,
        Acquisition::AlreadyReleased
    );
    s.advance(ms(10_000)).await;
    assert!(
        matches!(
            s.acquire(&key("a"), &repeated(&asked)).await,
            Acquisition::Held { .. }
        ),
        "forgotten"
    );
}

pub(super) async fn command_of_a_released_acquisition_that_comes_late_grants_nothing(s: &Subject) {
    let asked = request(1000);
    s.granted(&key("a"), &asked).await;
    release(s, "a", asked.lease_id).await;
    assert_eq!(
        s.acquire(&key("a"), &asked).await,
        Acquisition::AlreadyReleased
    );
    assert_eq!(s.inspect(&key("a")).await, None);
}

pub(super) async fn replay_after_expiry_is_a_new_lease(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let first = s.granted(&key("a"), &asked).await;
    s.advance(ms(1000)).await;
    let again = repeated(&asked);
    let second = s.granted(&key("a"), &again).await;
    assert_eq!(second.lease_id, again.lease_id);
    assert!(second.info.fencing_token > first.info.fencing_token);
}
