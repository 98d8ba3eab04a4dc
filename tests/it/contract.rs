//! The contract of every store: one suite over memory, Redis, and Redis through Sentinel.

mod endings;
mod holds;
mod kept_entries;
mod leases;
mod listings;
mod releases;
mod replays;
mod waiters;

use std::time::Duration;

use leasehold::lock::lease::{Attempt, FencingToken, LeaseId};
use leasehold::lock::request::{Acquire, Ticket, WaiterId};
use leasehold::lock::rules::{Acquisition, EndOutcome, Renewal};
use leasehold::store::contract::Timed;
use serde_json::json;

use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::stores::{Subject, key, request, ttl, wait};
use endings::*;
use holds::*;
use kept_entries::*;
use leases::*;
use listings::*;
use releases::*;
use replays::*;
use waiters::*;

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
    acquisition_that_was_released_several_times_is_known_by_its_last_release
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
    released_lock_is_held_as_long_as_asked
    lock_is_free_at_once_if_it_was_held_long_enough
    expired_lock_is_held_as_long_as_asked
    released_lease_answers_so_while_its_lock_is_held
    break_and_rollback_end_the_hold
    shortened_lease_holds_no_longer_until_its_client_comes_back
    waiter_keeps_its_place_until_the_hold_is_over
    hold_of_a_waiter_begins_with_its_grant
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
    declined_reservation_goes_to_the_next_waiter
    declined_reservation_of_a_repeatable_request_is_kept
    holder_and_metadata_come_back_unchanged
    listing_holds_every_held_key_once_the_pages_are_read
    listing_refuses_a_cursor_it_never_gave
    one_of_a_hundred_contenders_wins
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
