//! Queue entries of requests that may come back.

use std::time::Duration;

use leasehold::lock::request::{Acquire, Wait};
use leasehold::lock::rules::Acquisition;

use super::{ENDED, gives_up, queued, release, waiting};
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, wait};

pub(super) async fn entry_of_a_repeatable_request_is_kept_for_ten_seconds_and_passed_over(
    s: &Subject,
) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 5_000)
    };
    let (second, third) = (waiting(60_000, 50_000), waiting(60_000, 50_000));
    let ticket = queued(s, &first).await;
    queued(s, &second).await;
    let last = queued(s, &third).await;
    assert!(gives_up(s, &first, Some(ms(10_000))).await);
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    assert_eq!(s.waiters(&key("a")).await, 2, "passed over, and kept");
    let held = s.granted(&key("a"), &second).await;
    s.advance(Duration::from_micros(9_999_999)).await;
    assert_eq!(queued(s, &repeated(&first)).await, ticket);
    // The client is gone again: its wait ends without a rollback.
    s.advance(Duration::from_micros(5_000_000 + 9_999_999))
        .await;
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    assert_eq!(s.waiters(&key("a")).await, 1, "passed over, and kept");
    let held = s.granted(&key("a"), &third).await;
    let fourth = waiting(60_000, 50_000);
    queued(s, &fourth).await;
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    assert_eq!(s.waiters(&key("a")).await, 0, "no entry counts any more");
    s.granted(&key("a"), &fourth).await;
    assert!(queued(s, &repeated(&first)).await > last);
}

pub(super) async fn entry_of_a_timed_out_request_is_kept_and_passed_over(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 50_000)
    };
    let (second, third) = (waiting(60_000, 50_000), waiting(60_000, 50_000));
    let ticket = queued(s, &first).await;
    queued(s, &second).await;
    queued(s, &third).await;
    let last_of = |asked: &Acquire| Acquire {
        wait: None,
        ..asked.clone()
    };
    // A repetition without a wait removes nothing: the first attempt still waits.
    let queue_position = async |asked: &Acquire| match s.acquire(&key("a"), asked).await {
        Acquisition::Held {
            waiters, position, ..
        } => (waiters, position),
        other => panic!("not held: {other:?}"),
    };
    assert_eq!(
        queue_position(&last_of(&repeated(&first))).await,
        (3, Some(1))
    );
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let held = s.granted(&key("a"), &first).await;
    assert_eq!(held.lease_id, first.lease_id);
    // The first attempt itself no longer waits.
    assert!(queued(s, &waiting(60_000, 50_000)).await > ticket);
    let fourth = Acquire {
        idempotency: Some(idempotency(4, 1)),
        ..waiting(60_000, 50_000)
    };
    let ticket = queued(s, &fourth).await;
    assert_eq!(queue_position(&last_of(&fourth)).await, (4, Some(4)));
    assert!(gives_up(s, &second, None).await);
    assert!(gives_up(s, &third, None).await);
    let fifth = waiting(60_000, 50_000);
    queued(s, &fifth).await;
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let reserved = s.inspect(&key("a")).await.expect("a reservation");
    assert_eq!(reserved.expires_in(), ms(3_000));
    s.advance(ms(3_000)).await;
    // The waiter without an idempotency key has lost its reservation; the hand-over skips the fourth.
    let held = s.granted(&key("a"), &fifth).await;
    assert_eq!(s.waiters(&key("a")).await, 1);
    assert_eq!(queued(s, &repeated(&fourth)).await, ticket);
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
}

pub(super) async fn kept_entry_ends_after_ten_seconds_although_the_lock_stays_held(s: &Subject) {
    s.granted(&key("a"), &request(60_000)).await;
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 5_000)
    };
    let ticket = queued(s, &first).await;
    s.advance(Duration::from_micros(14_999_999)).await;
    let second = waiting(60_000, 50_000);
    let behind = queued(s, &second).await;
    assert!(behind > ticket);
    s.advance(Duration::from_micros(1)).await;
    assert!(queued(s, &repeated(&first)).await > behind);
}

pub(super) async fn repetition_of_a_waiting_request_has_its_queue_entry(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 50_000)
    };
    let altered = Acquire {
        idempotency: Some(idempotency(1, 2)),
        ..waiting(60_000, 50_000)
    };
    let ticket = queued(s, &first).await;
    queued(s, &waiting(60_000, 50_000)).await;
    assert_eq!(s.acquire(&key("a"), &altered).await, Acquisition::KeyReused);
    let again = repeated(&first);
    assert_eq!(queued(s, &again).await, ticket);
    assert!(
        !gives_up(s, &first, None).await,
        "the entry belongs to the repetition"
    );
    assert_eq!(s.waiters(&key("a")).await, 2);
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    assert_eq!(s.acquire(&key("a"), &altered).await, Acquisition::KeyReused);
    let lease = s.granted(&key("a"), &again).await;
    assert_eq!(lease.lease_id, again.lease_id);
    let Acquisition::Replayed(replay) = s.acquire(&key("a"), &first).await else {
        panic!("not replayed")
    };
    assert_eq!(replay.lease_id, lease.lease_id);
}

pub(super) async fn kept_entries_do_not_count_as_waiters(s: &Subject) {
    s.granted(&key("a"), &request(60_000)).await;
    let with_limit_of_two = |number| Acquire {
        wait: Some(Wait {
            max_waiters: 2,
            ..wait(1_000)
        }),
        idempotency: Some(idempotency(number, 1)),
        ..request(1000)
    };
    for number in 1..3 {
        queued(s, &with_limit_of_two(number)).await;
    }
    s.advance(ms(11_000)).await;
    assert_eq!(s.waiters(&key("a")).await, 0, "no entry is left");
    queued(s, &with_limit_of_two(3)).await;
}
