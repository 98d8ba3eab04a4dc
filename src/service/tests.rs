//! The service over a store with faults, while time is paused: each moment is exact.

mod faulty_store;
mod rollbacks;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::faulty_store::{Fault, FaultyStore, unavailable};
use super::*;
use crate::lock::lease::{Digest, Idempotency, Metadata};
use crate::lock::rules::{Lease, Loss};
use crate::store::contract::{Condition, Outcome};
use crate::telemetry::{Metrics, Now, StoreCondition};

/// A service, its store and its metrics.
struct Scene {
    service: LockService,
    store: Arc<FaultyStore>,
    metrics: Metrics,
}

type Answer = JoinHandle<Result<Acquired, ServiceError>>;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn key(text: &str) -> LockKey {
    LockKey::parse(text).expect("a key")
}

/// For a lease of a second, without waiting.
fn request() -> AcquireRequest {
    AcquireRequest {
        ttl: Ttl::new(ms(1000), ms(10_000)).expect("a TTL"),
        wait_until: None,
        holder: None,
        metadata: Metadata::default(),
        idempotency: None,
    }
}

fn waiting(milliseconds: u64) -> AcquireRequest {
    AcquireRequest {
        wait_until: Some(Instant::now() + ms(milliseconds)),
        ..request()
    }
}

/// With an idempotency key.
fn repeatable(number: u8, request: AcquireRequest) -> AcquireRequest {
    let idempotency = Some(Idempotency {
        key: Digest::from_bytes([number; 16]),
        request: Digest::from_bytes([0; 16]),
    });
    AcquireRequest {
        idempotency,
        ..request
    }
}

/// Lets all tasks run as far as they come without time.
async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

impl Scene {
    fn new() -> Self {
        Self::with_limits(100, 100)
    }

    fn with_limits(max_waiters: usize, max_waiters_per_key: usize) -> Self {
        let store = Arc::new(FaultyStore::new());
        let metrics = Metrics::new();
        let limits = WaitLimits {
            max_waiters,
            max_waiters_per_key,
        };
        let service = LockService::new(Arc::clone(&store) as _, limits, metrics.locks.clone());
        Self {
            service,
            store,
            metrics,
        }
    }

    /// What becomes of the next acquisitions.
    fn faults(&self, faults: impl IntoIterator<Item = Fault>) {
        let mut acquisitions = self.store.acquisitions.lock().expect("the faults");
        acquisitions.extend(faults);
    }

    async fn ask(&self, text: &str, request: AcquireRequest) -> Result<Acquired, ServiceError> {
        self.service.acquire(key(text), request).await
    }

    /// Asks in a task, and returns once that can do no more without time.
    async fn spawn(&self, text: &str, request: AcquireRequest) -> Answer {
        let (service, key) = (self.service.clone(), key(text));
        let answer = tokio::spawn(async move { service.acquire(key, request).await });
        settle().await;
        answer
    }

    async fn granted(&self, text: &str) -> Lease {
        granted(self.ask(text, request()).await)
    }

    async fn held(&self, text: &str) -> bool {
        let (holding, _) = self.service.inspect(&key(text)).await.expect("an answer");
        holding.is_some()
    }

    fn metric(&self, series: &str) -> String {
        let now = Now {
            ready: true,
            draining: false,
            store: StoreCondition::Ready,
            waiters: 0,
            max_waiters: 0,
            leases: None,
        };
        let text = self.metrics.render(&now).expect("metrics");
        let line = text.lines().find_map(|line| line.strip_prefix(series));
        line.unwrap_or_else(|| panic!("{series} in {text}"))
            .trim()
            .to_owned()
    }

    fn acquires(&self, outcome: &str) -> String {
        self.metric(&format!(
            "leasehold_acquires_total{{outcome=\"{outcome}\"}}"
        ))
    }

    fn waits(&self, what: &str, result: &str) -> String {
        self.metric(&format!(
            "leasehold_acquire_wait_seconds_{what}{{result=\"{result}\"}}"
        ))
    }

    fn limit(&self, limit: &str) -> String {
        self.metric(&format!("leasehold_limits_hit_total{{limit=\"{limit}\"}}"))
    }
}

fn granted(answer: Result<Acquired, ServiceError>) -> Lease {
    match answer {
        Ok(Acquired::Granted(lease)) => lease.value,
        other => panic!("not granted: {other:?}"),
    }
}

async fn end(answer: Answer) -> Result<Acquired, ServiceError> {
    answer.await.expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn free_lock_is_granted_and_a_held_one_is_refused() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let waiter = scene.spawn("a", waiting(500)).await;
    match scene.ask("a", request()).await {
        Ok(Acquired::Held(standing)) => {
            assert_eq!(standing.waiters, 1);
            let token = standing.holding.fencing_token;
            assert_eq!(token, lease.holding.fencing_token);
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
            .inspect(&key("a"))
            .await
            .map(|(_, waiters)| waiters),
        Ok(0)
    );
}

#[tokio::test(start_paused = true)]
async fn operations_are_counted_by_how_they_end() {
    let scene = Scene::new();
    let lease = scene.granted("a").await;
    let (id, token) = (lease.lease_id, lease.holding.fencing_token);
    let renewed = scene.service.renew(key("a"), id, None).await;
    assert!(matches!(
        renewed,
        Ok(Timed {
            value: Renewal::Renewed(_),
            ..
        })
    ));
    sleep(ms(500)).await;
    let released = scene.service.release(key("a"), id).await;
    assert_eq!(
        released,
        Ok(Ending::Ended {
            held_for: Some(ms(500))
        })
    );
    let repeated = scene.service.release(key("a"), id).await;
    assert_eq!(repeated, Ok(Ending::Ended { held_for: None }));
    let over = scene.service.break_lease(key("a"), token).await;
    assert_eq!(over, Ok(Ending::Ended { held_for: None }));
    let other = scene.granted("a").await;
    let lost = scene.service.renew(key("a"), id, None).await;
    assert!(matches!(
        lost,
        Ok(Timed {
            value: Renewal::Lost(Loss::HeldByOther),
            ..
        })
    ));
    let lost = scene.service.break_lease(key("a"), token).await;
    assert_eq!(lost, Ok(Ending::Lost(Loss::HeldByOther)));
    let broken = scene
        .service
        .break_lease(key("a"), other.holding.fencing_token)
        .await;
    assert_eq!(
        broken,
        Ok(Ending::Ended {
            held_for: Some(Duration::ZERO)
        })
    );
    for (series, count) in [
        ("leasehold_renewals_total{outcome=\"renewed\"}", "1"),
        ("leasehold_renewals_total{outcome=\"held_by_other\"}", "1"),
        ("leasehold_releases_total{outcome=\"released\"}", "1"),
        ("leasehold_releases_total{outcome=\"repeated\"}", "1"),
        ("leasehold_breaks_total{outcome=\"already_over\"}", "1"),
        ("leasehold_breaks_total{outcome=\"held_by_other\"}", "1"),
        ("leasehold_breaks_total{outcome=\"broken\"}", "1"),
        (
            "leasehold_lease_hold_seconds_sum{ended_by=\"release\"}",
            "0.5",
        ),
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
    let release = async move { service.release(key("a"), lease.lease_id).await };
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
        under_way.push(tokio::spawn(async move { service.list(&query).await }));
    }
    settle().await;
    assert!(matches!(
        scene.service.list(&query).await,
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
        scene.service.list(&query).await,
        Ok(Listing::Page(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn state_of_the_store_is_passed_on() {
    let scene = Scene::new();
    scene.granted("a").await;
    scene.granted("b").await;
    assert_eq!(scene.service.health().condition, Condition::Ready);
    let leases = scene.service.census().expect("known");
    assert_eq!((leases.held, leases.expired_total), (2, 0));
    sleep(ms(1000)).await;
    let leases = scene.service.census().expect("known");
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
    // The waiter's entry is taken back; leases can still be ended.
    assert_eq!(
        scene.store.calls(),
        ["0 acquire a", "0 queue a", "200 rollback a"]
    );
    let released = scene.service.release(key("a"), lease.lease_id).await;
    assert!(matches!(released, Ok(Ending::Ended { .. })));
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_what_is_under_way_and_closes_the_store() {
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
