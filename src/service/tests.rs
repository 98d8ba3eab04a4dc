//! The service over a store with faults, while time is paused: each moment is exact.

mod faulty_store;
mod operations;
mod rollbacks;
mod waiters;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use self::faulty_store::{Fault, FaultyStore, unavailable};
use super::*;
use crate::auth::{Grant, Operation, Principal, Verb};
use crate::lock::key::LockKey;
use crate::lock::lease::{Digest, Idempotency, Metadata};
use crate::lock::rules::{Lease, Loss};
use crate::store::contract::{Condition, Outcome};
use crate::telemetry::{Metrics, Snapshot, StoreCondition};

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

/// A principal that may do everything.
fn anyone() -> Principal {
    let verbs = [Verb::Acquire, Verb::Read, Verb::Break];
    Principal::anonymous(vec![Grant::of_all_keys(&verbs)])
}

fn permit<O: Operation>(text: &str) -> Permit<O> {
    anyone().permit(key(text)).expect("a permit")
}

fn list_permit() -> ListPermit {
    anyone().permit_list("").expect("a permit")
}

/// For a lease of a second, without waiting.
fn request() -> AcquireRequest {
    AcquireRequest {
        ttl: Ttl::new(ms(1000), ms(10_000)).expect("a TTL"),
        wait_until: None,
        holder: None,
        hold_at_least: Duration::ZERO,
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
        fingerprint: Digest::from_bytes([0; 16]),
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
        self.service.acquire(permit(text), request).await
    }

    /// Asks in a task, and returns once that can do no more without time.
    async fn spawn(&self, text: &str, request: AcquireRequest) -> Answer {
        let (service, permit) = (self.service.clone(), permit(text));
        let answer = tokio::spawn(async move { service.acquire(permit, request).await });
        settle().await;
        answer
    }

    async fn granted(&self, text: &str) -> Lease {
        granted(self.ask(text, request()).await)
    }

    async fn held(&self, text: &str) -> bool {
        let (info, _) = self.service.inspect(permit(text)).await.expect("an answer");
        info.is_some()
    }

    fn metric(&self, series: &str) -> String {
        let now = Snapshot {
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
