//! The queue of a key: its order, reservations and its limit.

use std::time::Duration;

use leasehold::lock::lease::Attempt;
use leasehold::lock::request::{Acquire, Wait};
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss};
use leasehold::store::contract::{StoreError, StoreEvent};

use super::{
    ENDED, gives_up, queued, refused, release, rollback, token_of_a, waiting, without_time,
};
use crate::support::redis::RedisServer;
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, wait};

pub(super) async fn waiter_is_next_when_the_lock_is_released_broken_or_given_up(s: &Subject) {
    let mut asked = request(60_000);
    let mut held = s.granted(&key("a"), &asked).await;
    for ending in ["release", "break", "abandon"] {
        let next = waiting(60_000, 50_000);
        queued(s, &next).await;
        assert_eq!(s.waiters(&key("a")).await, 1, "{ending}");
        match ending {
            "release" => assert_eq!(release(s, "a", held.lease_id).await, ENDED),
            "break" => {
                let broken = s
                    .store
                    .break_lease(&key("a"), held.info.fencing_token)
                    .await;
                assert_eq!(without_time(broken.expect("an answer")), ENDED);
            }
            _ => {
                assert!(
                    s.store
                        .rollback(
                            &key("a"),
                            asked.waiter_id(),
                            held.lease_id,
                            asked.attempt,
                            None
                        )
                        .await
                        .expect("an answer")
                );
            }
        }
        // The lock is reserved at once: other clients do not get it, and the unpublished lease id cannot release it.
        assert_eq!(s.waiters(&key("a")).await, 0, "{ending}");
        assert!(matches!(
            s.acquire(&key("a"), &request(1000)).await,
            Acquisition::Held {
                waiters: 0,
                position: None,
                ..
            }
        ));
        let reserved = s.inspect(&key("a")).await.expect("a reservation");
        assert_eq!(reserved.expires_in(), ms(3_000));
        assert_eq!(
            release(s, "a", next.lease_id).await,
            EndOutcome::Lost(Loss::HeldByOther)
        );
        s.advance(ms(2_999)).await;
        held = s.granted(&key("a"), &next).await;
        assert_eq!(held.lease_id, next.lease_id);
        assert_eq!(held.info.expires_in(), ms(60_000));
        assert_eq!(held.info.fencing_token, reserved.fencing_token);
        asked = next;
    }
}

pub(super) async fn waiter_learns_that_the_lock_is_reserved_for_it(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let next = waiting(60_000, 50_000);
    queued(s, &next).await;
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let told = async {
        loop {
            if let StoreEvent::Reserved(on, waiter) = s.store.next_event().await {
                return (on, waiter);
            }
        }
    };
    let told = tokio::time::timeout(Duration::from_secs(10), told).await;
    assert_eq!(told.expect("told"), (key("a"), next.waiter_id()));
}

pub(super) async fn waiters_are_served_in_the_order_of_their_tickets(s: &Subject) {
    let mut held = s.granted(&key("a"), &request(1000)).await;
    let mut line = Vec::new();
    for _ in 0..5 {
        let next = waiting(1000, 50_000);
        line.push((queued(s, &next).await, next));
    }
    assert!(line.is_sorted_by_key(|(ticket, _)| *ticket));
    for (_, next) in &line {
        assert_eq!(release(s, "a", held.lease_id).await, ENDED);
        for (_, other) in line.iter().filter(|(_, other)| other != next) {
            if other.lease_id != held.lease_id {
                assert!(matches!(
                    s.acquire(
                        &key("a"),
                        &Acquire {
                            wait: None,
                            ..request(1000)
                        }
                    )
                    .await,
                    Acquisition::Held { .. }
                ));
            }
        }
        held = s.granted(&key("a"), next).await;
    }
}

pub(super) async fn lock_with_an_expired_lease_goes_to_the_first_waiter(s: &Subject) {
    let held = s.granted(&key("a"), &request(1000)).await;
    let (first, second) = (waiting(60_000, 50_000), waiting(60_000, 50_000));
    queued(s, &first).await;
    let ticket = queued(s, &second).await;
    s.advance(ms(1000)).await;
    refused(s).await;
    assert_eq!(
        s.waiters(&key("a")).await,
        1,
        "reserved for the first waiter"
    );
    assert_eq!(queued(s, &second).await, ticket);
    s.advance(Duration::from_micros(2_999_999)).await;
    let next = s.granted(&key("a"), &first).await;
    assert_eq!(next.info.expires_in(), ms(60_000));
    assert!(next.info.fencing_token > held.info.fencing_token);
}

pub(super) async fn unclaimed_reservation_lapses_after_three_seconds(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let line = [(); 3].map(|()| waiting(60_000, 50_000));
    let mut tickets = Vec::new();
    for next in &line {
        tickets.push(queued(s, next).await);
    }
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let reserved = token_of_a(s).await;
    assert!(reserved > Some(held.info.fencing_token));
    s.advance(Duration::from_micros(2_999_999)).await;
    refused(s).await;
    assert_eq!(token_of_a(s).await, reserved);
    s.advance(Duration::from_micros(1)).await;
    refused(s).await;
    assert!(
        token_of_a(s).await > reserved,
        "reserved for the next waiter"
    );
    // The first waiter has lost its entry. It gets the entry back although new waiters are refused.
    let wait = Wait {
        ticket: Some(tickets[0]),
        max_waiters: 0,
        ..wait(50_000)
    };
    let first = Acquire {
        wait: Some(wait),
        ..line[0].clone()
    };
    assert_eq!(queued(s, &first).await, tickets[0]);
    for next in [&line[1], &line[0], &line[2]] {
        let held = s.granted(&key("a"), next).await;
        assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    }
}

pub(super) async fn waiter_that_gives_up_leaves_nothing_behind(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let repeatable = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 50_000)
    };
    let line = [
        waiting(60_000, 50_000),
        waiting(60_000, 50_000),
        waiting(60_000, 50_000),
        repeatable.clone(),
        waiting(60_000, 50_000),
    ];
    for next in &line {
        queued(s, next).await;
    }
    // The wait of the second waiter is over.
    let last = Acquire {
        wait: None,
        ..line[1].clone()
    };
    match s.acquire(&key("a"), &last).await {
        Acquisition::Held {
            waiters, position, ..
        } => assert_eq!((waiters, position), (4, Some(2))),
        other => panic!("not held: {other:?}"),
    }
    // The first client has disconnected. The rollback of another attempt has no effect.
    let other_attempt = Acquire {
        attempt: Attempt(line[0].attempt.0 ^ 1),
        ..line[0].clone()
    };
    assert!(!gives_up(s, &other_attempt, None).await);
    assert!(gives_up(s, &line[0], None).await);
    assert!(!gives_up(s, &line[0], None).await);
    assert_eq!(s.waiters(&key("a")).await, 3);
    // The third client disconnected unnoticed before the lock was reserved for it.
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let reserved = token_of_a(s).await;
    assert!(gives_up(s, &line[2], None).await);
    assert!(!gives_up(s, &line[2], None).await);
    assert!(
        token_of_a(s).await > reserved,
        "reserved for the next waiter"
    );
    // The same for a client that can come back for its queue entry.
    assert!(gives_up(s, &repeatable, Some(ms(10_000))).await);
    let held = s.granted(&key("a"), &line[4]).await;
    queued(s, &waiting(60_000, 50_000)).await;
    queued(s, &repeated(&repeatable)).await;
    assert_eq!(s.waiters(&key("a")).await, 2);
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    s.granted(&key("a"), &repeated(&repeatable)).await;
}

pub(super) async fn queue_of_a_key_has_a_limit(s: &Subject) {
    s.granted(&key("a"), &request(60_000)).await;
    let with_limit_of_two = || Acquire {
        wait: Some(Wait {
            max_waiters: 2,
            ..wait(50_000)
        }),
        ..request(1000)
    };
    let line = [with_limit_of_two(), with_limit_of_two()];
    for next in &line {
        queued(s, next).await;
    }
    let refused = s.acquire(&key("a"), &with_limit_of_two()).await;
    assert_eq!(refused, Acquisition::TooManyWaiters);
    assert_eq!(s.waiters(&key("a")).await, 2);
    // A waiter in the queue asks again.
    queued(s, &line[0]).await;
}

#[tokio::test]
async fn requests_during_a_recovery_are_served_in_the_order_of_arrival() {
    let server = RedisServer::plain();
    let s = Subject::direct(&server).await;
    let now: u64 = server
        .cli(&["GET", "leasehold:test:clock"])
        .parse()
        .expect("microseconds");
    let pause = (now + 5_000_000).to_string();
    server.cli(&[
        "HSET",
        "leasehold:locks",
        "#recover",
        &pause,
        "#granting_from",
        &pause,
    ]);
    let line = [waiting(60_000, 50_000), waiting(60_000, 50_000)];
    for next in &line {
        let refused = s.store.acquire(&key("a"), next.clone()).await;
        let retry_after = ms(5_000);
        assert_eq!(refused, Err(StoreError::Recovering { retry_after }));
    }
    s.advance(ms(5_000)).await;
    // The first client to ask after the pause is not the first in the queue.
    refused(&s).await;
    queued(&s, &line[1]).await;
    s.granted(&key("a"), &line[0]).await;
    s.store.close().await;
}

pub(super) async fn lease_that_is_shortened_to_nothing_is_over_and_reserves_nothing(s: &Subject) {
    let asked = request(60_000);
    s.granted(&key("a"), &asked).await;
    let next = waiting(60_000, 50_000);
    queued(s, &next).await;
    assert!(rollback(s, asked.lease_id, asked.attempt, Some(Duration::ZERO)).await);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(s.waiters(&key("a")).await, 1);
    s.granted(&key("a"), &next).await;
}

pub(super) async fn declined_reservation_goes_to_the_next_waiter(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let (first, second) = (waiting(60_000, 50_000), waiting(60_000, 50_000));
    queued(s, &first).await;
    queued(s, &second).await;
    let decline = async |asked: &Acquire| {
        let declined = s.store.decline(&key("a"), asked.waiter_id()).await;
        declined.expect("an answer")
    };
    assert!(!decline(&first).await, "it only waits");
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    assert!(!decline(&second).await, "another waiter's reservation");
    assert!(decline(&first).await);
    s.granted(&key("a"), &second).await;
    assert!(!decline(&second).await, "a lease");
    assert!(s.inspect(&key("a")).await.is_some());
    assert_eq!(s.waiters(&key("a")).await, 0);
}

pub(super) async fn declined_reservation_of_a_repeatable_request_is_kept(s: &Subject) {
    let held = s.granted(&key("a"), &request(60_000)).await;
    let first = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..waiting(60_000, 50_000)
    };
    let ticket = queued(s, &first).await;
    let second = waiting(60_000, 50_000);
    queued(s, &second).await;
    assert_eq!(release(s, "a", held.lease_id).await, ENDED);
    let declined = s.store.decline(&key("a"), first.waiter_id()).await;
    assert_eq!(declined, Ok(true));
    s.granted(&key("a"), &second).await;
    assert_eq!(queued(s, &repeated(&first)).await, ticket);
}
