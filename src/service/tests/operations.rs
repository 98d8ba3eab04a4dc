//! What each operation answers, how it is counted, and what a drain and a close do.

use super::*;

#[tokio::test(start_paused = true)]
async fn free_lock_is_granted_and_a_held_one_is_refused() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let waiter = scene.spawn("a", waiting(500)).await;
    match scene.ask("a", request()).await {
        Ok(Acquired::Held(held_by)) => {
            assert_eq!(held_by.waiters, 1);
            let token = held_by.info.fencing_token;
            assert_eq!(token, lease.info.fencing_token);
        }
        other => panic!("not held: {other:?}"),
    }
    assert_eq!(scene.service.waiters(), (1, 100));
    waiter.abort();
    settle().await;
    assert_eq!(scene.service.waiters(), (0, 100));
    assert_eq!(
        (scene.acquires("granted"), scene.acquires("held")),
        ("1".into(), "1".into())
    );
    let calls = scene.store.calls();
    assert_eq!(
        calls,
        ["0 acquire a", "0 queue a", "0 acquire a", "0 rollback a"]
    );
    assert_eq!(
        scene
            .service
            .inspect(permit("a"))
            .await
            .map(|(_, waiters)| waiters),
        Ok(0)
    );
}

#[tokio::test(start_paused = true)]
async fn renewals_and_releases_are_counted_by_how_they_end() {
    let scene = Scene::new();
    let id = scene.granted("a").await.lease_id;
    let renewed = scene.service.renew(permit("a"), id, None).await;
    assert!(matches!(
        renewed,
        Ok(Timed {
            value: Renewal::Renewed(_),
            ..
        })
    ));
    sleep(ms(500)).await;
    let released = scene.service.release(permit("a"), id).await;
    assert_eq!(
        released,
        Ok(EndOutcome::Ended {
            held_for: Some(ms(500))
        })
    );
    let repeated = scene.service.release(permit("a"), id).await;
    assert_eq!(repeated, Ok(EndOutcome::Ended { held_for: None }));
    scene.granted("a").await;
    let lost = scene.service.renew(permit("a"), id, None).await;
    assert!(matches!(
        lost,
        Ok(Timed {
            value: Renewal::Lost(Loss::HeldByOther),
            ..
        })
    ));
    for (series, count) in [
        ("leasehold_renewals_total{outcome=\"renewed\"}", "1"),
        ("leasehold_renewals_total{outcome=\"held_by_other\"}", "1"),
        ("leasehold_releases_total{outcome=\"released\"}", "1"),
        ("leasehold_releases_total{outcome=\"repeated\"}", "1"),
        (
            "leasehold_lease_hold_seconds_sum{ended_by=\"release\"}",
            "0.5",
        ),
    ] {
        assert_eq!(scene.metric(series), count, "{series}");
    }
}

#[tokio::test(start_paused = true)]
async fn renewal_of_which_less_than_a_tenth_is_left_is_no_success() {
    for (late, is_over) in [(900, false), (901, true), (2000, true)] {
        let scene = Scene::new();
        let id = scene.granted("a").await.lease_id;
        *scene.store.delay.lock().expect("the delay") = ms(late);
        match scene.service.renew(permit("a"), id, None).await {
            Ok(_) => assert!(!is_over, "{late}"),
            Err(ServiceError::Store(StoreError::ReplicationUnconfirmed { outcome })) => {
                assert_eq!((is_over, outcome), (true, Outcome::Unknown), "{late}");
            }
            other => panic!("{late}: {other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn breaks_are_counted_by_how_they_end() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let token = lease.info.fencing_token;
    let released = scene.service.release(permit("a"), lease.lease_id).await;
    assert!(released.is_ok());
    let over = scene.service.break_lease(permit("a"), token).await;
    assert_eq!(over, Ok(EndOutcome::Ended { held_for: None }));
    let other = scene.granted("a").await;
    let lost = scene.service.break_lease(permit("a"), token).await;
    assert_eq!(lost, Ok(EndOutcome::Lost(Loss::HeldByOther)));
    let broken = scene
        .service
        .break_lease(permit("a"), other.info.fencing_token)
        .await;
    assert_eq!(
        broken,
        Ok(EndOutcome::Ended {
            held_for: Some(Duration::ZERO)
        })
    );
    for (series, count) in [
        ("leasehold_breaks_total{outcome=\"already_over\"}", "1"),
        ("leasehold_breaks_total{outcome=\"held_by_other\"}", "1"),
        ("leasehold_breaks_total{outcome=\"broken\"}", "1"),
        (
            "leasehold_lease_hold_seconds_count{ended_by=\"break\"}",
            "1",
        ),
    ] {
        assert_eq!(scene.metric(series), count, "{series}");
    }
}

/// An operation runs to its end although its caller is gone.
#[tokio::test(start_paused = true)]
async fn operation_is_not_dropped_with_its_caller() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    *scene.store.delay.lock().expect("the delay") = ms(100);
    let service = scene.service.clone();
    let release = async move { service.release(permit("a"), lease.lease_id).await };
    let caller = tokio::spawn(release);
    settle().await;
    caller.abort();
    settle().await;
    assert!(scene.held("a").await);
    sleep(ms(100)).await;
    settle().await;
    assert!(!scene.held("a").await);
    assert_eq!(
        scene.metric("leasehold_releases_total{outcome=\"released\"}"),
        "1"
    );
}

#[tokio::test(start_paused = true)]
async fn listings_beyond_the_limit_are_refused() {
    let scene = Scene::new();
    scene.granted("a").await;
    *scene.store.delay.lock().expect("the delay") = ms(100);
    let query = ListQuery {
        prefix: String::new(),
        limit: 10,
        cursor: None,
    };
    let mut under_way = Vec::new();
    for _ in 0..MAX_LISTINGS {
        let (service, query) = (scene.service.clone(), query.clone());
        under_way.push(tokio::spawn(async move {
            service.list(list_permit(), &query).await
        }));
    }
    settle().await;
    assert!(matches!(
        scene.service.list(list_permit(), &query).await,
        Ok(Listing::TooMany)
    ));
    assert_eq!(scene.limit("listings"), "1");
    for listing in under_way {
        match listing.await.expect("no panic") {
            Ok(Listing::Page(page)) => assert_eq!(page.locks.len(), 1),
            other => panic!("no page: {other:?}"),
        }
    }
    assert!(matches!(
        scene.service.list(list_permit(), &query).await,
        Ok(Listing::Page(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn state_of_the_store_is_passed_on() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.granted("b").await;
    assert_eq!(scene.service.health().condition, Condition::Ready);
    let leases = scene.service.lease_stats().expect("known");
    assert_eq!((leases.held, leases.expired_total), (2, 0));
    sleep(ms(1000)).await;
    let leases = scene.service.lease_stats().expect("known");
    assert_eq!((leases.held, leases.expired_total), (0, 2));
}

#[tokio::test(start_paused = true)]
async fn drain_ends_all_waits_and_refuses_acquisitions() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let waiter = scene.spawn("a", waiting(5000)).await;
    assert!(!scene.service.is_draining());
    let service = scene.service.clone();
    let drained = tokio::spawn(async move {
        service.drained_for(ms(300)).await;
        Instant::now()
    });
    sleep(ms(200)).await;
    assert!(!drained.is_finished());
    let begun = Instant::now();
    scene.service.drain();
    assert!(scene.service.is_draining());
    assert!(matches!(end(waiter).await, Err(ServiceError::ShuttingDown)));
    let refused = scene.ask("b", request()).await;
    assert!(matches!(refused, Err(ServiceError::ShuttingDown)));
    assert_eq!(Instant::now(), begun);
    assert_eq!(scene.acquires("shutting_down"), "2");
    assert_eq!(drained.await.expect("no panic"), begun + ms(300));
    // The server removes the waiter's entry; leases can still be released.
    assert_eq!(
        scene.store.calls(),
        ["0 acquire a", "0 queue a", "200 rollback a"]
    );
    let released = scene.service.release(permit("a"), lease.lease_id).await;
    assert!(matches!(released, Ok(EndOutcome::Ended { .. })));
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_running_operations_and_closes_the_store() {
    let scene = Scene::new();
    scene.faults([Fault::LateAnswer(ms(700))]);
    let caller = scene.spawn("a", request()).await;
    caller.abort();
    settle().await;
    let begun = Instant::now();
    scene.service.close().await;
    assert_eq!(begun.elapsed(), ms(700));
    assert!(scene.store.closed.load(Ordering::Relaxed));
    assert!(scene.service.is_draining());
    assert_eq!(scene.store.calls(), ["0 acquire a", "700 rollback a"]);
}

#[test]
fn each_result_has_its_outcome() {
    use crate::telemetry::Waited;
    let store = |error: StoreError| counting::outcome(&Err(error.into()));
    let retry_after = ms(1);
    let unconfirmed = StoreError::ReplicationUnconfirmed {
        outcome: Outcome::Unknown,
    };
    for (outcome, expected, waited) in [
        (
            counting::outcome(&Ok(Acquired::KeyReused)),
            "key_reused",
            "failed",
        ),
        (
            counting::outcome(&Ok(Acquired::AlreadyReleased)),
            "already_released",
            "failed",
        ),
        (
            counting::outcome(&Ok(Acquired::TooManyWaiters)),
            "too_many_waiters",
            "failed",
        ),
        (
            counting::outcome(&Err(ServiceError::ShuttingDown)),
            "shutting_down",
            "failed",
        ),
        (
            store(StoreError::Recovering { retry_after }),
            "recovering",
            "failed",
        ),
        (store(unconfirmed), "replication_unconfirmed", "failed"),
        (store(unavailable(Outcome::None)), "unavailable", "failed"),
        (store(StoreError::OutOfMemory), "unavailable", "failed"),
        (store(StoreError::NotPersisting), "unavailable", "failed"),
        (store(StoreError::InvalidCursor), "internal", "failed"),
        (AcquireOutcome::Granted, "granted", "granted"),
        (AcquireOutcome::Replayed, "replayed", "granted"),
        (AcquireOutcome::TimedOut, "timed_out", "timed_out"),
        (AcquireOutcome::Abandoned, "abandoned", "abandoned"),
    ] {
        let text = |debug: String| debug.to_lowercase().replace('_', "");
        assert_eq!(text(format!("{outcome:?}")), text(expected.into()));
        let counted: Waited = counting::waited(outcome);
        assert_eq!(
            text(format!("{counted:?}")),
            text(waited.into()),
            "{expected}"
        );
    }
}
