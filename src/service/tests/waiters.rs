//! When those who wait ask the store, and what they are told.

use super::*;
use crate::lock::lease::{Attempt, LeaseId};
use crate::lock::request::{Acquire, Wait};
use crate::lock::rules::Acquisition;

#[tokio::test(start_paused = true)]
async fn waiter_asks_when_the_lock_is_released_for_it() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let waiter = scene.spawn("a", waiting(5000)).await;
    sleep(ms(400)).await;
    let released = scene.service.release(permit("a"), lease.lease_id).await;
    assert!(released.is_ok());
    granted(end(waiter).await);
    assert_eq!(
        scene.store.calls(),
        ["0 acquire a", "0 queue a", "400 queue a"]
    );
    assert_eq!(scene.acquires("granted"), "2");
    assert_eq!(scene.waits("sum", "granted"), "0.4");
    assert_eq!(scene.waits("count", "granted"), "1");
}

/// The first who waits asks at the end of the lease; the next one at the end of the lease that the first was granted.
#[tokio::test(start_paused = true)]
async fn first_waiter_asks_at_the_end_of_each_lease() {
    let scene = Scene::new();
    scene.granted("a").await;
    let first = scene.spawn("a", waiting(5000)).await;
    let second = scene.spawn("a", waiting(5000)).await;
    granted(end(first).await);
    granted(end(second).await);
    let calls = scene.store.calls();
    let expected = [
        "0 acquire a",
        "0 queue a",
        "0 queue a",
        "1000 queue a",
        "2000 queue a",
    ];
    assert_eq!(calls, expected);
}

/// Its ticket decides who is first, not when it came to this server.
#[tokio::test(start_paused = true)]
async fn waiter_with_the_lowest_ticket_asks_first() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.faults([Fault::Slow(ms(100))]);
    let second = scene.spawn("a", waiting(1500)).await;
    let first = scene.spawn("a", waiting(5000)).await;
    granted(end(first).await);
    let calls = scene.store.calls();
    assert_eq!(
        calls,
        ["0 acquire a", "0 queue a", "0 queue a", "1000 queue a"]
    );
    assert!(matches!(end(second).await, Ok(Acquired::TimedOut(_, 0))));
    assert_eq!(scene.store.calls(), ["1500 acquire a"]);
}

#[tokio::test(start_paused = true)]
async fn waiter_with_a_past_deadline_asks_five_milliseconds_later() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.faults([Fault::Overdue]);
    let waiter = scene.spawn("a", waiting(5000)).await;
    granted(end(waiter).await);
    let calls = scene.store.calls();
    assert_eq!(
        calls,
        ["0 acquire a", "0 queue a", "5 queue a", "1000 queue a"]
    );
}

#[tokio::test(start_paused = true)]
async fn waiters_act_on_events() {
    let scene = Scene::new();
    scene.granted("a").await;
    let _first = scene.spawn("a", waiting(5000)).await;
    let _second = scene.spawn("a", waiting(5000)).await;
    scene.store.calls();
    let until = Instant::now() + ms(300);
    let events = &scene.store.events;
    assert!(events.send(StoreEvent::HeldUntil(key("a"), until)).is_ok());
    sleep(ms(400)).await;
    assert_eq!(scene.store.calls(), ["300 queue a"]);
    assert!(events.send(StoreEvent::QueuesLost).is_ok());
    settle().await;
    assert_eq!(scene.store.calls(), ["400 queue a", "400 queue a"]);
    // Events of another key do not wake them.
    assert!(events.send(StoreEvent::HeldUntil(key("b"), until)).is_ok());
    sleep(ms(500)).await;
    assert!(scene.store.calls().is_empty());
}

#[tokio::test(start_paused = true)]
async fn timed_out_wait_names_the_holder_and_the_position() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let _first = scene.spawn("a", waiting(5000)).await;
    let second = scene.spawn("a", waiting(500)).await;
    match end(second).await {
        Ok(Acquired::TimedOut(held_by, ahead)) => {
            let token = held_by.info.fencing_token;
            assert_eq!(token, lease.info.fencing_token);
            assert_eq!((held_by.waiters, ahead), (1, 1));
        }
        other => panic!("not timed out: {other:?}"),
    }
    let calls = scene.store.calls();
    assert_eq!(
        calls,
        ["0 acquire a", "0 queue a", "0 queue a", "500 acquire a"]
    );
    assert_eq!(scene.acquires("timed_out"), "1");
    assert_eq!(scene.waits("sum", "timed_out"), "0.5");
    // All who wait are ahead of one whose entry is lost.
    let third = scene.spawn("a", waiting(200)).await;
    scene.faults([Fault::EntryLost]);
    assert!(matches!(end(third).await, Ok(Acquired::TimedOut(_, 1))));
}

#[tokio::test(start_paused = true)]
async fn waiters_have_limits() {
    let scene = Scene::with_limits(2, 1);
    scene.granted("a").await;
    let _first = scene.spawn("a", waiting(5000)).await;
    let beyond = scene.ask("a", waiting(5000)).await;
    assert!(matches!(beyond, Ok(Acquired::TooManyWaiters)));
    assert_eq!(
        (scene.limit("key_waiters"), scene.limit("server_waiters")),
        ("1".into(), "0".into())
    );
    scene.granted("b").await;
    let _second = scene.spawn("b", waiting(5000)).await;
    assert_eq!(scene.service.waiters(), (2, 2));
    let beyond = scene.ask("a", waiting(5000)).await;
    assert!(matches!(beyond, Ok(Acquired::TooManyWaiters)));
    assert_eq!(
        (scene.limit("key_waiters"), scene.limit("server_waiters")),
        ("1".into(), "1".into())
    );
    // A lock that is free needs no waiter.
    granted(scene.ask("c", waiting(5000)).await);
    assert_eq!(scene.acquires("too_many_waiters"), "2");
}

/// Trouble with the store is no reason to send a waiter away; until it asks again nothing makes it ask sooner.
#[tokio::test(start_paused = true)]
async fn waiter_asks_four_times_a_second_while_the_store_has_no_answer() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.faults([
        Fault::Refused(unavailable(Outcome::None)),
        Fault::Refused(StoreError::OutOfMemory),
    ]);
    let waiter = scene.spawn("a", waiting(5000)).await;
    sleep(ms(100)).await;
    assert!(scene.store.events.send(StoreEvent::QueuesLost).is_ok());
    granted(end(waiter).await);
    let calls = scene.store.calls();
    let expected = [
        "0 acquire a",
        "0 queue a",
        "250 queue a",
        "500 queue a",
        "1000 queue a",
    ];
    assert_eq!(calls, expected);
}

#[tokio::test(start_paused = true)]
async fn defect_of_the_store_ends_a_wait() {
    let scene = Scene::new();
    scene.granted("a").await;
    let internal = StoreError::Internal {
        cause: "test".to_owned(),
    };
    scene.faults([Fault::Refused(internal.clone())]);
    let answer = scene.ask("a", waiting(5000)).await;
    assert_eq!(answer.expect_err("an error"), ServiceError::Store(internal));
}

/// The requests share one queue entry: the one that ends may have removed it from under the other.
#[tokio::test(start_paused = true)]
async fn repetition_asks_again_after_the_first_request_ended() {
    let scene = Scene::new();
    scene.granted("a").await;
    let first = scene.spawn("a", repeatable(1, waiting(5000))).await;
    let second = scene.spawn("a", repeatable(1, waiting(5000))).await;
    scene.store.calls();
    sleep(ms(100)).await;
    first.abort();
    settle().await;
    let mut calls = scene.store.calls();
    calls.sort();
    assert_eq!(calls, ["100 queue a", "100 shorten to 10 s a"]);
    granted(end(second).await);
}

/// A failover can lose the rollback of a queue entry.
#[tokio::test(start_paused = true)]
async fn lock_that_is_reserved_for_nobody_goes_to_the_next_waiter() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let id = LeaseId::from_bytes([1; 16]);
    let wait = Wait {
        timeout: ms(60_000),
        ticket: None,
        max_waiters: 10,
    };
    let ended = Acquire {
        lease_id: id,
        attempt: Attempt(1),
        ttl: request().ttl,
        holder: None,
        hold_at_least: Duration::ZERO,
        metadata: Metadata::default(),
        idempotency: None,
        wait: Some(wait),
    };
    let queued = scene.store.acquire(&key("a"), ended).await;
    assert!(matches!(
        queued.map(|queued| queued.value),
        Ok(Acquisition::Queued { .. })
    ));
    let waiter = scene.spawn("a", waiting(5000)).await;
    let released = scene.service.release(permit("a"), lease.lease_id).await;
    assert!(released.is_ok());
    settle().await;
    assert!(waiter.is_finished(), "the lock is granted at once");
    granted(end(waiter).await);
}
