//! The grace: a lease is its holder's until its deadline, and no other client's until the deadline plus the clock skew.

use std::time::Duration;

use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, EndOutcome, Renewal};

use crate::support::redis::RedisServer;
use crate::support::stores::{Subject, idempotency, key, ms, repeated, request, wait};

const GRACE: Duration = Duration::from_millis(500);

const JUST_BEFORE_ITS_END: Duration = Duration::from_micros(499_999);

/// A store, a lease of one second, and a clock at its deadline.
struct Expired {
    _redis: RedisServer,
    s: Subject,
    asked: Acquire,
}

impl Expired {
    async fn new() -> Self {
        let redis = RedisServer::plain();
        let s = Subject::with_grace(&redis, GRACE).await;
        let asked = Acquire {
            idempotency: Some(idempotency(1, 1)),
            ..request(1000)
        };
        s.granted(&key("a"), &asked).await;
        s.advance(ms(1000)).await;
        Self {
            _redis: redis,
            s,
            asked,
        }
    }

    async fn is_held_from_others(&self) -> bool {
        let answer = self.s.acquire(&key("a"), &request(1000)).await;
        matches!(answer, Acquisition::Held { .. })
    }
}

#[tokio::test]
async fn others_wait_until_the_end_of_the_grace() {
    let test = Expired::new().await;
    let info = test.s.inspect(&key("a")).await.expect("held");
    assert_eq!(info.deadline.since(info.read_at), GRACE);
    test.s.advance(JUST_BEFORE_ITS_END).await;
    assert!(test.is_held_from_others().await);
    test.s.advance(Duration::from_micros(1)).await;
    test.s.granted(&key("a"), &request(1000)).await;
}

#[tokio::test]
async fn holder_renews_and_releases_in_the_grace() {
    let test = Expired::new().await;
    test.s.advance(JUST_BEFORE_ITS_END).await;
    let (on, id) = (key("a"), test.asked.lease_id);
    let renewed = test.s.store.renew(&on, id, None).await.expect("an answer");
    assert!(matches!(renewed.value, Renewal::Renewed(_)));
    test.s.advance(ms(1400)).await;
    let released = test.s.store.release(&on, id).await.expect("an answer");
    assert!(matches!(released, EndOutcome::Ended { held_for: Some(_) }));
    test.s.granted(&on, &request(1000)).await;
}

#[tokio::test]
async fn replay_in_the_grace_is_no_success() {
    let test = Expired::new().await;
    for again in [repeated(&test.asked), test.asked.clone()] {
        let answer = test.s.acquire(&key("a"), &again).await;
        assert!(matches!(answer, Acquisition::Held { .. }), "{answer:?}");
    }
    let waiting = Acquire {
        wait: Some(wait(5_000)),
        ..repeated(&test.asked)
    };
    let answer = test.s.acquire(&key("a"), &waiting).await;
    assert!(matches!(answer, Acquisition::Queued { .. }), "{answer:?}");
    test.s.advance(GRACE).await;
    let lease = test.s.granted(&key("a"), &waiting).await;
    assert_eq!(lease.lease_id, waiting.lease_id);
}

#[tokio::test]
async fn reservation_has_no_grace() {
    let test = Expired::new().await;
    let waiting = Acquire {
        wait: Some(wait(60_000)),
        ..request(1000)
    };
    test.s.acquire(&key("a"), &waiting).await;
    let released = test.s.store.release(&key("a"), test.asked.lease_id).await;
    assert!(matches!(released, Ok(EndOutcome::Ended { .. })));
    test.s.advance(ms(2_999)).await;
    assert!(test.is_held_from_others().await);
    test.s.advance(ms(1)).await;
    // The waiter is still in no queue, so the lock is free.
    test.s.granted(&key("a"), &request(1000)).await;
}

#[tokio::test]
async fn longer_grace_of_the_lease_or_of_the_store_counts() {
    let redis = RedisServer::plain();
    let [short, long] = [ms(200), ms(800)];
    let one = Subject::with_grace(&redis, long).await;
    one.granted(&key("with-a-long-one"), &request(1000)).await;
    one.store.close().await;
    let other = Subject::with_grace(&redis, short).await;
    // The second store has set the clock anew.
    let info = other.inspect(&key("with-a-long-one")).await.expect("held");
    assert_eq!(info.deadline.since(info.acquired_at), ms(1000) + long);
    other
        .granted(&key("with-a-short-one"), &request(1000))
        .await;
    other.store.close().await;
    let third = Subject::with_grace(&redis, long).await;
    let info = third.inspect(&key("with-a-short-one")).await.expect("held");
    assert_eq!(info.deadline.since(info.acquired_at), ms(1000) + long);
    third.store.close().await;
}

#[tokio::test]
async fn step_back_brings_back_no_request_that_timed_out() {
    const STEP_US: &str = "400000";
    let redis = RedisServer::plain();
    let s = Subject::with_grace(&redis, GRACE).await;
    let holder = s.granted(&key("a"), &request(60_000)).await;
    let waiting = Acquire {
        idempotency: Some(idempotency(1, 1)),
        wait: Some(wait(1000)),
        ..request(60_000)
    };
    let queued = s.acquire(&key("a"), &waiting).await;
    assert!(matches!(queued, Acquisition::Queued { .. }), "{queued:?}");
    s.advance(ms(1000)).await;
    let over = Acquire {
        wait: None,
        ..waiting
    };
    let held = s.acquire(&key("a"), &over).await;
    assert!(matches!(held, Acquisition::Held { .. }), "{held:?}");
    redis.cli(&["DECRBY", "leasehold:test:clock", STEP_US]);
    let released = s.store.release(&key("a"), holder.lease_id).await;
    assert!(matches!(released, Ok(EndOutcome::Ended { .. })));
    s.granted(&key("a"), &request(1000)).await;
}
