//! The contract of every store: one suite over memory, Redis, and Redis through Sentinel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use leasehold::lock::lease::{Attempt, FencingToken, Holder, LeaseId, Metadata};
use leasehold::lock::request::{Acquire, Ticket, Wait, WaiterId};
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss, Renewal};
use leasehold::random;
use leasehold::store::contract::{ListQuery, StoreError, StoreEvent, Timed};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, ttl, wait};

/// An ended lease; these tests ignore how long it was held.
const ENDED: EndOutcome = EndOutcome::Ended { held_for: None };

/// Runs each test on each store. Memory runs with paused time; the Sentinel tests share one set, each with its own
/// prefix.
macro_rules! on_every_store {
    ($($name:ident)*) => {
        mod memory {
            use super::*;
            $(#[tokio::test] async fn $name() { super::$name(&Subject::memory()).await; })*
        }
        mod redis_direct {
            use super::*;
            $(#[tokio::test] async fn $name() {
                let server = RedisServer::plain();
                let subject = Subject::direct(&server).await;
                super::$name(&subject).await;
                subject.store.close().await;
            })*
        }
        #[tokio::test]
        async fn redis_through_sentinel() {
            let set = SentinelConfig::new().password("data-pw").sentinel_password("sentinel-pw").down_after_ms(5000).start();
            $({
                println!("{}", stringify!($name));
                let subject = Subject::sentinel(&set, concat!(stringify!($name), ":"), "data-pw", "sentinel-pw").await;
                $name(&subject).await;
                subject.store.close().await;
            })*
        }
    };
}

on_every_store! {
    free_lock_is_granted_until_now_plus_ttl
    held_lock_is_refused_and_says_who_holds_it
    lock_is_free_again_on_the_microsecond_of_its_deadline
    renewal_extends_from_now_and_never_shortens
    renewal_can_bring_a_ttl_of_its_own
    expired_lease_cannot_be_renewed
    expired_lease_does_not_revive_after_a_successor
    only_the_holder_can_renew_or_release
    released_lock_is_free_and_the_release_can_be_repeated_for_ten_seconds
    late_release_does_not_free_a_successor
    all_releases_of_the_last_ten_seconds_are_remembered
    releases_in_quick_succession_are_remembered_for_their_time
    release_is_known_by_its_own_id_alone
    break_and_rollback_keep_remembered_releases
    tokens_rise_over_all_keys_and_endings
    replay_is_the_same_lease_with_the_same_deadline
    replay_with_another_request_is_refused
    replay_of_a_released_acquisition_is_refused_even_while_another_holds
    command_of_a_released_acquisition_that_comes_late_grants_nothing
    replay_after_expiry_is_a_new_lease
    break_ends_the_lease_with_that_token_and_no_other
    broken_lease_is_lost_to_its_holder
    ending_says_how_long_the_lease_was_held
    rollback_ends_the_grant_of_its_own_attempt_alone
    shortening_never_extends
    replay_after_a_shortening_restores_the_ttl
    rollback_no_longer_applies_after_a_renewal_or_a_replay
    waiter_is_next_when_the_lock_is_released_broken_or_given_up
    waiter_learns_that_the_lock_is_reserved_for_it
    waiters_are_served_in_the_order_of_their_tickets
    lock_with_an_expired_lease_goes_to_the_first_waiter
    unclaimed_reservation_lapses_after_three_seconds
    waiter_that_gives_up_leaves_nothing_behind
    entry_of_a_repeatable_request_is_kept_for_ten_seconds_and_passed_over
    entry_of_a_timed_out_request_is_kept_and_passed_over
    kept_entry_ends_after_ten_seconds_although_the_lock_stays_held
    repetition_of_a_waiting_request_has_its_queue_entry
    queue_of_a_key_has_a_limit
    kept_entries_do_not_count_as_waiters
    lease_that_is_shortened_to_nothing_is_over_and_reserves_nothing
    holder_and_metadata_come_back_unchanged
    listing_holds_every_held_key_once_the_pages_are_read
    listing_refuses_a_cursor_it_never_gave
    one_of_a_hundred_contenders_wins
}

async fn free_lock_is_granted_until_now_plus_ttl(s: &Subject) {
    let asked = request(1500);
    let lease = s.granted(&key("a"), &asked).await;
    assert_eq!(lease.lease_id, asked.lease_id);
    assert_eq!(lease.info.deadline, lease.info.acquired_at.after(ms(1500)));
    assert_eq!(lease.info.expires_in(), ms(1500));
    assert_eq!(lease.info.held_for(), Duration::ZERO);
    assert_eq!((lease.info.ttl, lease.info.renewals), (ttl(1500), 0));
}

async fn held_lock_is_refused_and_says_who_holds_it(s: &Subject) {
    let holder = Holder::new("first".into());
    let lease = s
        .granted(
            &key("a"),
            &Acquire {
                holder: holder.clone(),
                ..request(1000)
            },
        )
        .await;
    s.advance(ms(300)).await;
    let Acquisition::Held { info, .. } = s.acquire(&key("a"), &request(1000)).await else {
        panic!("not held")
    };
    assert_eq!(
        (info.holder.clone(), info.fencing_token),
        (holder, lease.info.fencing_token)
    );
    assert_eq!((info.held_for(), info.expires_in()), (ms(300), ms(700)));
    assert_eq!(s.inspect(&key("a")).await, Some(info));
    assert_eq!(s.inspect(&key("b")).await, None);
    s.granted(&key("b"), &request(1000)).await;
}

async fn lock_is_free_again_on_the_microsecond_of_its_deadline(s: &Subject) {
    // The store keeps the record beyond the deadline, because it remembers the release.
    let before = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(release(s, "a", before.lease_id).await, ENDED);
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(Duration::from_micros(999_999)).await;
    assert!(matches!(
        s.acquire(&key("a"), &request(1000)).await,
        Acquisition::Held { .. }
    ));
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
    let renewed = s.store.renew(&key("a"), lease.lease_id, None).await;
    let lost = Renewal::Lost(Loss::NotHeld);
    assert_eq!(renewed.expect("an answer").value, lost);
    let released = release(s, "a", lease.lease_id).await;
    assert_eq!(released, EndOutcome::Lost(Loss::NotHeld));
    s.granted(&key("a"), &request(1000)).await;
}

async fn renewal_extends_from_now_and_never_shortens(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(400)).await;
    let longer = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!(longer.deadline, lease.info.deadline.after(ms(400)));
    assert_eq!(
        (longer.renewals, longer.fencing_token),
        (1, lease.info.fencing_token)
    );
    let shorter = renewed(s, "a", lease.lease_id, Some(100)).await;
    assert_eq!(shorter.deadline, longer.deadline);
    assert_eq!((shorter.ttl, shorter.renewals), (ttl(100), 2));
}

async fn renewal_can_bring_a_ttl_of_its_own(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    renewed(s, "a", lease.lease_id, Some(5000)).await;
    s.advance(ms(4000)).await;
    let again = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!(
        again.expires_in(),
        ms(5000),
        "the TTL of the last renewal stays"
    );
}

async fn expired_lease_cannot_be_renewed(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(1000)).await;
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
}

async fn expired_lease_does_not_revive_after_a_successor(s: &Subject) {
    let first = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(1000)).await;
    let second = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(
        renew(s, "a", first.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    s.advance(ms(1000)).await;
    assert_eq!(
        renew(s, "a", first.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        renew(s, "a", second.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
}

async fn only_the_holder_can_renew_or_release(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    let other = s.granted(&key("b"), &request(1000)).await;
    assert_eq!(
        renew(s, "a", other.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        release(s, "a", other.lease_id).await,
        EndOutcome::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        renew(s, "c", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        release(s, "c", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
}

async fn released_lock_is_free_and_the_release_can_be_repeated_for_ten_seconds(s: &Subject) {
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

async fn late_release_does_not_free_a_successor(s: &Subject) {
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

async fn all_releases_of_the_last_ten_seconds_are_remembered(s: &Subject) {
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

async fn releases_in_quick_succession_are_remembered_for_their_time(s: &Subject) {
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

async fn release_is_known_by_its_own_id_alone(s: &Subject) {
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

async fn break_and_rollback_keep_remembered_releases(s: &Subject) {
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

async fn tokens_rise_over_all_keys_and_endings(s: &Subject) {
    let mut last = FencingToken::new(0).expect("zero");
    for round in 0..6 {
        let name = if round % 2 == 0 { "a" } else { "b" };
        let lease = s.granted(&key(name), &request(1000)).await;
        assert!(lease.info.fencing_token > last, "round {round}");
        last = lease.info.fencing_token;
        match round {
            0 | 1 => drop(release(s, name, lease.lease_id).await),
            2 | 3 => drop(s.store.break_lease(&key(name), last).await),
            _ => s.advance(ms(1000)).await,
        }
    }
}

async fn replay_is_the_same_lease_with_the_same_deadline(s: &Subject) {
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

async fn replay_with_another_request_is_refused(s: &Subject) {
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

async fn replay_of_a_released_acquisition_is_refused_even_while_another_holds(s: &Subject) {
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

async fn command_of_a_released_acquisition_that_comes_late_grants_nothing(s: &Subject) {
    let asked = request(1000);
    s.granted(&key("a"), &asked).await;
    release(s, "a", asked.lease_id).await;
    assert_eq!(
        s.acquire(&key("a"), &asked).await,
        Acquisition::AlreadyReleased
    );
    assert_eq!(s.inspect(&key("a")).await, None);
}

async fn replay_after_expiry_is_a_new_lease(s: &Subject) {
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

async fn break_ends_the_lease_with_that_token_and_no_other(s: &Subject) {
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

async fn broken_lease_is_lost_to_its_holder(s: &Subject) {
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

async fn ending_says_how_long_the_lease_was_held(s: &Subject) {
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

async fn rollback_ends_the_grant_of_its_own_attempt_alone(s: &Subject) {
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

async fn shortening_never_extends(s: &Subject) {
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

async fn replay_after_a_shortening_restores_the_ttl(s: &Subject) {
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

async fn rollback_no_longer_applies_after_a_renewal_or_a_replay(s: &Subject) {
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

/// A request with a wait.
fn waiting(ttl_ms: u64, within_ms: u64) -> Acquire {
    Acquire {
        wait: Some(wait(within_ms)),
        ..request(ttl_ms)
    }
}

async fn queued(s: &Subject, asked: &Acquire) -> Ticket {
    match s.acquire(&key("a"), asked).await {
        Acquisition::Queued { ticket, .. } => ticket,
        other => panic!("not queued: {other:?}"),
    }
}

async fn waiter_is_next_when_the_lock_is_released_broken_or_given_up(s: &Subject) {
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

async fn waiter_learns_that_the_lock_is_reserved_for_it(s: &Subject) {
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

/// Redis reports the count with a heartbeat; see the tests of the metrics.
#[tokio::test]
async fn memory_counts_a_lease_until_it_ends_or_runs_out() {
    let s = &Subject::memory();
    let count = || {
        s.store
            .lease_stats()
            .map(|leases| (leases.held, leases.expired_total))
    };
    let first = s.granted(&key("a"), &request(1000)).await;
    s.granted(&key("b"), &request(1000)).await;
    assert_eq!(count(), Some((2, 0)));
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    assert_eq!(count(), Some((1, 0)));
    // A reservation does not count as held.
    let again = s.granted(&key("a"), &request(60_000)).await;
    queued(s, &waiting(1000, 50_000)).await;
    assert_eq!(release(s, "a", again.lease_id).await, ENDED);
    refused(s).await;
    assert_eq!(count(), Some((1, 0)));
    s.advance(ms(1000)).await;
    assert_eq!(count(), Some((0, 1)));
}

async fn waiters_are_served_in_the_order_of_their_tickets(s: &Subject) {
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

/// Rolls back the queue entry or the reservation of a request.
async fn gives_up(s: &Subject, asked: &Acquire, keep: Option<Duration>) -> bool {
    let (waiter, id) = (asked.waiter_id(), asked.lease_id);
    let gone = s
        .store
        .rollback(&key("a"), waiter, id, asked.attempt, keep)
        .await;
    gone.expect("an answer")
}

/// A client that does not wait finds the lock held.
async fn refused(s: &Subject) {
    match s.acquire(&key("a"), &request(1000)).await {
        Acquisition::Held { .. } => {}
        other => panic!("not held: {other:?}"),
    }
}

async fn token_of_a(s: &Subject) -> Option<FencingToken> {
    s.inspect(&key("a")).await.map(|held| held.fencing_token)
}

async fn lock_with_an_expired_lease_goes_to_the_first_waiter(s: &Subject) {
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

async fn unclaimed_reservation_lapses_after_three_seconds(s: &Subject) {
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

async fn waiter_that_gives_up_leaves_nothing_behind(s: &Subject) {
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

async fn entry_of_a_repeatable_request_is_kept_for_ten_seconds_and_passed_over(s: &Subject) {
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

async fn entry_of_a_timed_out_request_is_kept_and_passed_over(s: &Subject) {
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

async fn kept_entry_ends_after_ten_seconds_although_the_lock_stays_held(s: &Subject) {
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

async fn repetition_of_a_waiting_request_has_its_queue_entry(s: &Subject) {
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

async fn queue_of_a_key_has_a_limit(s: &Subject) {
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

async fn holder_and_metadata_come_back_unchanged(s: &Subject) {
    let holder = Holder::new("7 % \"ünïcode\" \\ 🔒 ' L R".into());
    let pairs = [
        ("k %s".to_owned(), "{\"v\": [1]}".to_owned()),
        ("ключ".to_owned(), String::new()),
    ];
    let metadata = Metadata::new(pairs.into()).expect("printable");
    let asked = Acquire {
        holder: holder.clone(),
        metadata: metadata.clone(),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    assert_eq!(
        (&lease.info.holder, &lease.info.metadata),
        (&holder, &metadata)
    );
    let renewed = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!((renewed.holder, renewed.metadata), (holder, metadata));
}

async fn listing_holds_every_held_key_once_the_pages_are_read(s: &Subject) {
    let mut held = BTreeMap::new();
    for number in 0..60 {
        let name = format!("jobs/{number}");
        let lease = s
            .granted(
                &key(&name),
                &request(if number % 4 == 0 { 1000 } else { 9000 }),
            )
            .await;
        held.insert(name, lease);
    }
    for other in ["job", "jobs", "other/1"] {
        s.granted(&key(other), &request(9000)).await;
    }
    s.advance(ms(1000)).await;
    release(s, "jobs/1", held["jobs/1"].lease_id).await;
    held.retain(|name, lease| lease.info.ttl == ttl(9000) && name != "jobs/1");
    for limit in [1, 7, 1000] {
        let mut seen = BTreeMap::new();
        let mut cursor = None;
        for pages in 0.. {
            assert!(pages < 500, "the listing does not end");
            let query = ListQuery {
                prefix: "jobs/".to_owned(),
                limit,
                cursor,
            };
            let page = s.store.list(&query).await.expect("a page");
            assert!(page.locks.len() <= limit);
            seen.extend(
                page.locks
                    .into_iter()
                    .map(|(key, info, _)| (key.as_str().to_owned(), info)),
            );
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert!(
            seen.keys().eq(held.keys()),
            "limit {limit}: {:?}",
            seen.keys()
        );
        assert_eq!(
            seen["jobs/2"].fencing_token,
            held["jobs/2"].info.fencing_token
        );
    }
}

async fn listing_refuses_a_cursor_it_never_gave(s: &Subject) {
    let query = ListQuery {
        prefix: String::new(),
        limit: 10,
        cursor: Some("no cursor".to_owned()),
    };
    assert_eq!(
        s.store.list(&query).await.err(),
        Some(StoreError::InvalidCursor)
    );
}

async fn one_of_a_hundred_contenders_wins(s: &Subject) {
    let mut contenders = JoinSet::new();
    for _ in 0..100 {
        let store = Arc::clone(&s.store);
        contenders.spawn(async move { store.acquire(&key("a"), request(60_000)).await });
    }
    let answers = contenders.join_all().await;
    let won = answers
        .iter()
        .filter(|answer| {
            matches!(
                answer,
                Ok(Timed {
                    value: Acquisition::Granted(_),
                    ..
                })
            )
        })
        .count();
    let refused = answers
        .iter()
        .filter(|answer| {
            matches!(
                answer,
                Ok(Timed {
                    value: Acquisition::Held { .. },
                    ..
                })
            )
        })
        .count();
    assert_eq!((won, refused), (1, 99));
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

#[test]
fn redis_keeps_nothing_of_a_lock_that_is_over() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let api = server.api();
    let released = api.acquire("released", json!({"ttl_ms": 600_000}));
    assert_eq!(api.release("released", &released.lease_id()).status, 204);
    assert_eq!(redis.cli(&["HEXISTS", "leasehold:locks", "released"]), "0");
    assert_eq!(api.acquire("expired", json!({"ttl_ms": 200})).status, 201);
    eventually(Duration::from_secs(5), "the sweep has ended it", || {
        redis.cli(&["HEXISTS", "leasehold:locks", "expired"]) == "0"
            && redis.cli(&["ZCARD", "leasehold:leases"]) == "0"
    });
    // Redis never evicts a key without a TTL under a `volatile` policy.
    assert_eq!(redis.cli(&["TTL", "leasehold:locks"]), "-1");
}

async fn renew(s: &Subject, on: &str, lease_id: LeaseId) -> Renewal {
    s.store
        .renew(&key(on), lease_id, None)
        .await
        .expect("an answer")
        .value
}

async fn renewed(
    s: &Subject,
    on: &str,
    lease_id: LeaseId,
    ttl_ms: Option<u64>,
) -> leasehold::lock::rules::LeaseInfo {
    match s.store.renew(&key(on), lease_id, ttl_ms.map(ttl)).await {
        Ok(Timed {
            value: Renewal::Renewed(lease),
            ..
        }) => lease.info,
        other => panic!("not renewed: {other:?}"),
    }
}

async fn release(s: &Subject, on: &str, lease_id: LeaseId) -> EndOutcome {
    let ending = s.store.release(&key(on), lease_id).await;
    without_time(ending.expect("an answer"))
}

/// The outcome without the time for which the lease was held.
fn without_time(ending: EndOutcome) -> EndOutcome {
    match ending {
        EndOutcome::Ended { .. } => ENDED,
        lost @ EndOutcome::Lost(_) => lost,
    }
}

async fn rollback(
    s: &Subject,
    lease_id: LeaseId,
    attempt: Attempt,
    keep: Option<Duration>,
) -> bool {
    s.store
        .rollback(
            &key("a"),
            WaiterId::of(lease_id, None),
            lease_id,
            attempt,
            keep,
        )
        .await
        .expect("an answer")
}

async fn lease_that_is_shortened_to_nothing_is_over_and_reserves_nothing(s: &Subject) {
    let asked = request(60_000);
    s.granted(&key("a"), &asked).await;
    let next = waiting(60_000, 50_000);
    queued(s, &next).await;
    assert!(rollback(s, asked.lease_id, asked.attempt, Some(Duration::ZERO)).await);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(s.waiters(&key("a")).await, 1);
    s.granted(&key("a"), &next).await;
}

async fn kept_entries_do_not_count_as_waiters(s: &Subject) {
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
