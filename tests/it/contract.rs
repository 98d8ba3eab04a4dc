//! What every store must do: one suite, run over memory, over Redis and over Redis through Sentinel.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use leasehold::lock::lease::{Attempt, FencingToken, Holder, LeaseId, Metadata};
use leasehold::lock::rules::{Acquire, Acquisition, Ending, Loss, Renewal};
use leasehold::random;
use leasehold::store::contract::{ListQuery, StoreError, Timed};
use serde_json::json;
use tokio::task::JoinSet;

use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;
use crate::support::sentinel::SentinelConfig;
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, ttl};

/// Runs each test on each store. Memory has a runtime whose time stands still; on Sentinel the tests
/// share one set, each with a prefix of its own.
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
    only_the_owner_can_renew_or_release
    released_lock_is_free_and_the_release_can_be_repeated_for_ten_seconds
    late_release_does_not_free_a_successor
    only_the_last_sixteen_releases_are_remembered
    break_and_undo_keep_the_memory_of_releases
    tokens_rise_over_all_keys_and_endings
    replay_is_the_same_lease_with_the_same_deadline
    replay_with_another_request_is_refused
    replay_of_a_released_acquisition_is_refused_even_while_another_holds
    replay_after_expiry_is_a_new_lease
    break_ends_the_lease_with_that_token_and_no_other
    broken_lease_is_lost_to_its_owner
    undo_takes_back_its_own_attempt_alone
    cut_shortens_but_never_extends
    replay_after_a_cut_makes_the_lease_whole
    renewal_and_replay_void_an_undo
    free_lock_is_left_to_those_who_wait
    words_of_the_client_come_back_as_they_were
    listing_holds_every_held_key_once_the_pages_are_read
    listing_refuses_a_cursor_it_never_gave
    one_of_a_hundred_contenders_wins
}

async fn free_lock_is_granted_until_now_plus_ttl(s: &Subject) {
    let asked = request(1500);
    let lease = s.granted(&key("a"), &asked).await;
    assert_eq!(lease.lease_id, asked.lease_id);
    assert_eq!(
        lease.holding.deadline,
        lease.holding.acquired_at.after(ms(1500))
    );
    assert_eq!(lease.holding.expires_in(), ms(1500));
    assert_eq!(lease.holding.held_for(), Duration::ZERO);
    assert_eq!((lease.holding.ttl, lease.holding.renewals), (ttl(1500), 0));
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
    let Acquisition::Held(holding) = s.acquire(&key("a"), &request(1000)).await else {
        panic!("not held")
    };
    assert_eq!(
        (holding.holder.clone(), holding.fencing_token),
        (holder, lease.holding.fencing_token)
    );
    assert_eq!(
        (holding.held_for(), holding.expires_in()),
        (ms(300), ms(700))
    );
    assert_eq!(s.inspect(&key("a")).await, Some(holding));
    assert_eq!(s.inspect(&key("b")).await, None);
    s.granted(&key("b"), &request(1000)).await;
}

async fn lock_is_free_again_on_the_microsecond_of_its_deadline(s: &Subject) {
    s.granted(&key("a"), &request(1000)).await;
    s.advance(Duration::from_micros(999_999)).await;
    assert!(matches!(
        s.acquire(&key("a"), &request(1000)).await,
        Acquisition::Held(_)
    ));
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
    s.granted(&key("a"), &request(1000)).await;
}

async fn renewal_extends_from_now_and_never_shortens(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(400)).await;
    let longer = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!(longer.deadline, lease.holding.deadline.after(ms(400)));
    assert_eq!(
        (longer.renewals, longer.fencing_token),
        (1, lease.holding.fencing_token)
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
        Ending::Lost(Loss::NotHeld)
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

async fn only_the_owner_can_renew_or_release(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    let other = s.granted(&key("b"), &request(1000)).await;
    assert_eq!(
        renew(s, "a", other.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        release(s, "a", other.lease_id).await,
        Ending::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        renew(s, "c", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        release(s, "c", lease.lease_id).await,
        Ending::Lost(Loss::NotHeld)
    );
    assert_eq!(release(s, "a", lease.lease_id).await, Ending::Ended);
}

async fn released_lock_is_free_and_the_release_can_be_repeated_for_ten_seconds(s: &Subject) {
    let lease = s.granted(&key("a"), &request(60_000)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, Ending::Ended);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    s.advance(Duration::from_micros(9_999_999)).await;
    assert_eq!(release(s, "a", lease.lease_id).await, Ending::Ended);
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        Ending::Lost(Loss::NotHeld)
    );
}

async fn late_release_does_not_free_a_successor(s: &Subject) {
    let first = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(release(s, "a", first.lease_id).await, Ending::Ended);
    let second = s.granted(&key("a"), &request(30_000)).await;
    assert_eq!(
        release(s, "a", first.lease_id).await,
        Ending::Ended,
        "remembered"
    );
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(ms(10_000)).await;
    assert_eq!(
        release(s, "a", first.lease_id).await,
        Ending::Lost(Loss::HeldByOther),
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

async fn only_the_last_sixteen_releases_are_remembered(s: &Subject) {
    let mut ids = Vec::new();
    for _ in 0..17 {
        let lease = s.granted(&key("a"), &request(1000)).await;
        assert_eq!(release(s, "a", lease.lease_id).await, Ending::Ended);
        ids.push(lease.lease_id);
    }
    assert_eq!(release(s, "a", ids[0]).await, Ending::Lost(Loss::NotHeld));
    for id in &ids[1..] {
        assert_eq!(release(s, "a", *id).await, Ending::Ended);
    }
}

async fn break_and_undo_keep_the_memory_of_releases(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let first = s.granted(&key("a"), &asked).await;
    assert_eq!(release(s, "a", first.lease_id).await, Ending::Ended);
    let second = s.granted(&key("a"), &request(1000)).await;
    let broken = s
        .store
        .break_lease(&key("a"), second.holding.fencing_token)
        .await;
    assert_eq!(broken, Ok(Ending::Ended));
    assert_eq!(release(s, "a", first.lease_id).await, Ending::Ended);
    let third = request(1000);
    s.granted(&key("a"), &third).await;
    assert!(abandon(s, third.lease_id, third.attempt, None).await);
    assert_eq!(release(s, "a", first.lease_id).await, Ending::Ended);
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
        assert!(lease.holding.fencing_token > last, "round {round}");
        last = lease.holding.fencing_token;
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
    assert_eq!(replay.holding.fencing_token, first.holding.fencing_token);
    assert_eq!(replay.holding.deadline, first.holding.deadline);
    assert_eq!(replay.holding.expires_in(), ms(400));
    let elsewhere = s.granted(&key("b"), &repeated(&asked)).await;
    assert!(
        elsewhere.holding.fencing_token > first.holding.fencing_token,
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
        Acquisition::Held(_)
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
            Acquisition::Held(_)
        ),
        "forgotten"
    );
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
    assert!(second.holding.fencing_token > first.holding.fencing_token);
}

async fn break_ends_the_lease_with_that_token_and_no_other(s: &Subject) {
    let first = s
        .granted(&key("a"), &request(1000))
        .await
        .holding
        .fencing_token;
    let higher = FencingToken::new(first.get() + 1).expect("small");
    let breaking = async |token| {
        s.store
            .break_lease(&key("a"), token)
            .await
            .expect("an answer")
    };
    assert_eq!(breaking(higher).await, Ending::Lost(Loss::HeldByOther));
    assert!(s.inspect(&key("a")).await.is_some());
    assert_eq!(breaking(first).await, Ending::Ended);
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        breaking(first).await,
        Ending::Ended,
        "that grant is over and the key is free"
    );
    s.granted(&key("a"), &request(1000)).await;
    assert_eq!(
        breaking(first).await,
        Ending::Lost(Loss::HeldByOther),
        "a late repetition spares the successor"
    );
    s.advance(ms(1000)).await;
    assert_eq!(breaking(first).await, Ending::Ended);
}

async fn broken_lease_is_lost_to_its_owner(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.store
        .break_lease(&key("a"), lease.holding.fencing_token)
        .await
        .expect("an answer");
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        Ending::Lost(Loss::NotHeld)
    );
}

async fn undo_takes_back_its_own_attempt_alone(s: &Subject) {
    let asked = request(1000);
    let lease = s.granted(&key("a"), &asked).await;
    assert!(!abandon(s, lease.lease_id, Attempt(asked.attempt.0 ^ 1), None).await);
    assert!(!abandon(s, LeaseId::from_bytes(random::bytes()), asked.attempt, None).await);
    assert!(s.inspect(&key("a")).await.is_some());
    assert!(abandon(s, lease.lease_id, asked.attempt, None).await);
    assert_eq!(s.inspect(&key("a")).await, None);
    let next = s.granted(&key("a"), &request(1000)).await;
    assert!(!abandon(s, lease.lease_id, asked.attempt, None).await);
    assert_eq!(
        s.inspect(&key("a")).await.map(|h| h.fencing_token),
        Some(next.holding.fencing_token)
    );
}

async fn cut_shortens_but_never_extends(s: &Subject) {
    let asked = request(30_000);
    let lease = s.granted(&key("a"), &asked).await;
    assert!(abandon(s, lease.lease_id, asked.attempt, Some(ms(10_000))).await);
    assert_eq!(
        s.inspect(&key("a")).await.map(|h| h.expires_in()),
        Some(ms(10_000))
    );
    assert!(abandon(s, lease.lease_id, asked.attempt, Some(ms(20_000))).await);
    s.advance(ms(9_999)).await;
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(ms(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
}

async fn replay_after_a_cut_makes_the_lease_whole(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(30_000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    abandon(s, lease.lease_id, asked.attempt, Some(ms(10_000))).await;
    s.advance(ms(5_000)).await;
    let Acquisition::Replayed(replay) = s.acquire(&key("a"), &repeated(&asked)).await else {
        panic!("not replayed")
    };
    assert_eq!(replay.holding.deadline, lease.holding.deadline);
}

async fn renewal_and_replay_void_an_undo(s: &Subject) {
    let asked = Acquire {
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    s.acquire(&key("a"), &repeated(&asked)).await;
    assert!(!abandon(s, lease.lease_id, asked.attempt, None).await);
    let other = request(1000);
    let renewed = s.granted(&key("b"), &other).await;
    renew(s, "b", renewed.lease_id).await;
    let undone = s
        .store
        .abandon(&key("b"), renewed.lease_id, other.attempt, None)
        .await;
    assert_eq!(undone, Ok(false));
}

async fn free_lock_is_left_to_those_who_wait(s: &Subject) {
    let behind = Acquire {
        behind_waiters: true,
        idempotency: Some(idempotency(1, 1)),
        ..request(1000)
    };
    assert_eq!(
        s.acquire(&key("a"), &behind).await,
        Acquisition::LeftToWaiters
    );
    assert_eq!(s.inspect(&key("a")).await, None);
    s.granted(
        &key("a"),
        &Acquire {
            behind_waiters: false,
            ..behind.clone()
        },
    )
    .await;
    assert!(matches!(
        s.acquire(&key("a"), &repeated(&behind)).await,
        Acquisition::Replayed(_)
    ));
    let other = Acquire {
        behind_waiters: true,
        ..request(1000)
    };
    assert!(matches!(
        s.acquire(&key("a"), &other).await,
        Acquisition::Held(_)
    ));
}

async fn words_of_the_client_come_back_as_they_were(s: &Subject) {
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
        (&lease.holding.holder, &lease.holding.metadata),
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
    held.retain(|name, lease| lease.holding.ttl == ttl(9000) && name != "jobs/1");
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
                    .map(|(key, holding)| (key.as_str().to_owned(), holding)),
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
            held["jobs/2"].holding.fencing_token
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
                    value: Acquisition::Held(_),
                    ..
                })
            )
        })
        .count();
    assert_eq!((won, refused), (1, 99));
}

#[test]
fn redis_collects_a_key_long_after_its_lease() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let lease = server.api().acquire("a", json!({"ttl_ms": 1000}));
    let left = || -> u64 {
        let left = redis.cli(&["PTTL", "leasehold:lock:a"]);
        left.parse().expect("milliseconds")
    };
    // Each node's own clock counts it, and may be wrong by as much.
    assert!((25_000..=31_500).contains(&left()), "{}", left());
    let lease_id = lease.json()["lease_id"].as_str().expect("an id").to_owned();
    assert_eq!(server.api().release("a", &lease_id).status, 204);
    assert!((35_000..=40_500).contains(&left()), "{}", left());
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
) -> leasehold::lock::rules::Holding {
    match s.store.renew(&key(on), lease_id, ttl_ms.map(ttl)).await {
        Ok(Timed {
            value: Renewal::Renewed(lease),
            ..
        }) => lease.holding,
        other => panic!("not renewed: {other:?}"),
    }
}

async fn release(s: &Subject, on: &str, lease_id: LeaseId) -> Ending {
    s.store
        .release(&key(on), lease_id)
        .await
        .expect("an answer")
}

async fn abandon(s: &Subject, lease_id: LeaseId, attempt: Attempt, keep: Option<Duration>) -> bool {
    s.store
        .abandon(&key("a"), lease_id, attempt, keep)
        .await
        .expect("an answer")
}
