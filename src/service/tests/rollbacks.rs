//! Rollbacks: which grants end, when, and which queue entries stay.

use super::*;

const UNKNOWN: Outcome = Outcome::Unknown;

fn outcome(answer: Result<Acquired, ServiceError>) -> Outcome {
    match answer {
        Err(ServiceError::Store(error)) => error.outcome(),
        other => panic!("no error of the store: {other:?}"),
    }
}

/// At once, and once more when the command cannot be executed any more that had no answer.
#[tokio::test(start_paused = true)]
async fn grant_of_unknown_outcome_is_rolled_back_twice() {
    let scene = Scene::new();
    scene.faults([Fault::Unanswered(ms(0))]);
    assert_eq!(outcome(scene.ask("a", request()).await), UNKNOWN);
    sleep(ms(20_000)).await;
    let calls = scene.store.calls();
    assert_eq!(calls, ["0 acquire a", "0 rollback a", "1000 rollback a"]);
    assert_eq!(scene.acquires("unavailable"), "1");
}

#[tokio::test(start_paused = true)]
async fn grant_of_unknown_outcome_stays_for_a_client_that_can_come_back() {
    let scene = Scene::new();
    scene.faults([Fault::Unanswered(ms(0))]);
    let answer = scene.ask("a", repeatable(1, request())).await;
    assert_eq!(outcome(answer), UNKNOWN);
    sleep(ms(100)).await;
    assert_eq!(scene.store.calls(), ["0 acquire a"]);
    let again = scene.ask("a", repeatable(1, request())).await;
    assert!(matches!(again, Ok(Acquired::Replayed(_))));
    // Unless it is gone.
    scene.faults([Fault::Unanswered(ms(100))]);
    let gone = scene.spawn("b", repeatable(2, request())).await;
    gone.abort();
    sleep(ms(200)).await;
    let calls = scene.store.calls();
    assert_eq!(
        calls,
        ["100 acquire a", "100 acquire b", "200 shorten to 10 s b"]
    );
}

#[tokio::test(start_paused = true)]
async fn grant_of_which_less_than_a_tenth_is_left_is_rolled_back() {
    for (late, enough_is_left) in [(890, true), (910, false), (1000, false), (5000, false)] {
        let scene = Scene::new();
        scene.faults([Fault::LateAnswer(ms(late))]);
        let answer = scene.ask("a", repeatable(1, request())).await;
        let calls = scene.store.calls();
        if enough_is_left {
            assert!(
                matches!(answer, Ok(Acquired::Granted(_))),
                "{late} {answer:?}"
            );
            assert_eq!(calls, ["0 acquire a"]);
        } else {
            let Err(ServiceError::Store(error)) = answer else {
                panic!("{late}: {answer:?}");
            };
            let unconfirmed = StoreError::ReplicationUnconfirmed { outcome: UNKNOWN };
            assert_eq!(error, unconfirmed, "{late}");
            assert_eq!(
                calls,
                ["0 acquire a".to_owned(), format!("{late} rollback a")]
            );
            assert!(!scene.held("a").await);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn definite_refusal_leaves_nothing_to_roll_back() {
    let scene = Scene::new();
    scene.faults([Fault::Refused(unavailable(Outcome::None))]);
    assert_eq!(outcome(scene.ask("a", request()).await), Outcome::None);
    sleep(ms(5000)).await;
    assert_eq!(scene.store.calls(), ["0 acquire a"]);
}

#[tokio::test(start_paused = true)]
async fn grant_of_a_disconnected_client_is_rolled_back() {
    let scene = Scene::new();
    scene.faults([Fault::LateAnswer(ms(100)), Fault::LateAnswer(ms(100))]);
    let gone = scene.spawn("a", request()).await;
    let can_come_back = scene.spawn("b", repeatable(1, request())).await;
    gone.abort();
    can_come_back.abort();
    sleep(ms(200)).await;
    let mut calls = scene.store.calls();
    calls.sort();
    assert_eq!(
        calls,
        [
            "0 acquire a",
            "0 acquire b",
            "100 rollback a",
            "100 shorten to 10 s b"
        ]
    );
    assert!(!scene.held("a").await);
    assert!(scene.held("b").await);
    assert_eq!(scene.acquires("abandoned"), "2");
    // A replay is not: the answer before it may have arrived.
    scene.faults([Fault::LateAnswer(ms(100))]);
    let replay = scene.spawn("b", repeatable(1, request())).await;
    replay.abort();
    sleep(ms(200)).await;
    assert_eq!(scene.store.calls(), ["200 acquire b"]);
}

#[tokio::test(start_paused = true)]
async fn waiter_of_a_disconnected_client_leaves_the_queue() {
    let scene = Scene::new();
    scene.granted("a").await;
    let gone = scene.spawn("a", waiting(5000)).await;
    sleep(ms(100)).await;
    gone.abort();
    settle().await;
    let calls = scene.store.calls();
    assert_eq!(calls, ["0 acquire a", "0 queue a", "100 rollback a"]);
    assert_eq!(scene.waits("sum", "abandoned"), "0.1");
    assert_eq!(scene.service.waiters(), (0, 100));
}

/// A request for `a` whose outcome is unknown, while each rollback fails.
async fn unknown_grant_with_failing_rollbacks() -> Scene {
    let scene = Scene::new();
    let failing = (0..100).map(|_| unavailable(UNKNOWN));
    scene
        .store
        .rollbacks
        .lock()
        .expect("the faults")
        .extend(failing);
    scene.faults([Fault::Unanswered(ms(0))]);
    assert_eq!(outcome(scene.ask("a", request()).await), UNKNOWN);
    scene
}

#[tokio::test(start_paused = true)]
async fn rollback_is_retried_for_ten_seconds() {
    let scene = unknown_grant_with_failing_rollbacks().await;
    sleep(ms(60_000)).await;
    let calls = scene.store.calls();
    assert_eq!(
        calls[..3],
        ["0 acquire a", "0 rollback a", "200 rollback a"]
    );
    assert_eq!(calls[calls.len() - 1], "9800 rollback a");
    assert_eq!(calls.len(), 51);
}

/// The TTL ends the lease then.
#[tokio::test(start_paused = true)]
async fn drain_ends_the_retries_of_a_rollback() {
    let scene = unknown_grant_with_failing_rollbacks().await;
    sleep(ms(300)).await;
    let begun = Instant::now();
    scene.service.close().await;
    assert_eq!(Instant::now(), begun);
    assert_eq!(scene.store.calls().len(), 3);
}

/// An earlier command may still have been executed.
#[tokio::test(start_paused = true)]
async fn outcome_stays_unknown_until_the_store_answers() {
    let scene = Scene::new();
    scene.granted("a").await;
    let definite = || Fault::Refused(unavailable(Outcome::None));
    let unknown = || Fault::Refused(unavailable(UNKNOWN));
    scene.faults([unknown(), definite(), definite()]);
    assert_eq!(outcome(scene.ask("a", waiting(400)).await), UNKNOWN);
    scene.faults([unknown(), Fault::Sound, definite()]);
    assert_eq!(outcome(scene.ask("a", waiting(400)).await), Outcome::None);
    scene.faults([definite(), definite(), definite()]);
    assert_eq!(outcome(scene.ask("a", waiting(400)).await), Outcome::None);
    // The cause of an error that says so itself is told as it is.
    let unconfirmed = StoreError::ReplicationUnconfirmed { outcome: UNKNOWN };
    scene.faults([
        unknown(),
        Fault::Refused(unconfirmed.clone()),
        Fault::Refused(unconfirmed.clone()),
    ]);
    let answer = scene.ask("b", waiting(400)).await;
    assert_eq!(
        answer.expect_err("an error"),
        ServiceError::Store(unconfirmed)
    );
}

/// A late command may still bring back the entry of a waiter that was refused.
#[tokio::test(start_paused = true)]
async fn refused_waiter_rolls_back_a_late_command() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.faults([Fault::Unanswered(ms(0))]);
    let answer = scene.ask("a", waiting(500)).await;
    assert!(matches!(answer, Ok(Acquired::TimedOut(..))));
    sleep(ms(5000)).await;
    let calls = scene.store.calls();
    let expected = [
        "0 acquire a",
        "0 queue a",
        "250 queue a",
        "500 acquire a",
        "500 rollback a",
        "1000 rollback a",
    ];
    assert_eq!(calls, expected);
}

/// One entry in ten may be kept without a request: the oldest goes first.
#[tokio::test(start_paused = true)]
async fn kept_entries_beyond_their_share_are_removed() {
    let scene = Scene::with_limits(100, 10);
    let holder = AcquireRequest {
        ttl: Ttl::new(ms(9000), ms(10_000)).expect("a TTL"),
        ..request()
    };
    granted(scene.ask("a", holder).await);
    let timed_out = |number| scene.ask("a", repeatable(number, waiting(100)));
    assert!(matches!(timed_out(1).await, Ok(Acquired::TimedOut(..))));
    settle().await;
    scene.store.calls();
    // None of these keeps an entry: without an idempotency key, without a wait, with a result.
    assert!(matches!(
        scene.ask("a", waiting(100)).await,
        Ok(Acquired::TimedOut(..))
    ));
    scene.faults([Fault::Refused(unavailable(Outcome::None))]);
    assert_eq!(
        outcome(scene.ask("a", repeatable(2, request())).await),
        Outcome::None
    );
    let altered = AcquireRequest {
        idempotency: Some(Idempotency {
            key: Digest::from_bytes([1; 16]),
            fingerprint: Digest::from_bytes([1; 16]),
        }),
        ..waiting(100)
    };
    assert!(matches!(
        scene.ask("a", altered).await,
        Ok(Acquired::KeyReused)
    ));
    settle().await;
    assert_eq!(scene.limit("kept_places"), "0");
    scene.store.calls();
    assert!(matches!(timed_out(3).await, Ok(Acquired::TimedOut(..))));
    settle().await;
    assert_eq!(scene.limit("kept_places"), "1");
    let calls = scene.store.calls();
    assert_eq!(calls, ["200 queue a", "300 acquire a", "300 rollback a"]);
    let waiters = scene
        .service
        .inspect(permit("a"))
        .await
        .map(|(_, waiters)| waiters);
    assert_eq!(waiters, Ok(1));
}

/// All waiters of a server that ends may come back to another one.
#[tokio::test(start_paused = true)]
async fn drain_keeps_kept_entries() {
    let scene = Scene::with_limits(100, 10);
    scene.granted("a").await;
    let first = scene.spawn("a", repeatable(1, waiting(5000))).await;
    let second = scene.spawn("a", repeatable(2, waiting(5000))).await;
    scene.service.drain();
    assert!(matches!(end(first).await, Err(ServiceError::ShuttingDown)));
    assert!(matches!(end(second).await, Err(ServiceError::ShuttingDown)));
    settle().await;
    assert_eq!(scene.limit("kept_places"), "0");
    let waiters = scene
        .service
        .inspect(permit("a"))
        .await
        .map(|(_, waiters)| waiters);
    assert_eq!(waiters, Ok(2));
}
