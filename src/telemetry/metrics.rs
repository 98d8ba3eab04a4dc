//! All metrics of the server, and their rendering in the Prometheus text format.

use std::sync::{Arc, Mutex};

use prometheus::{
    Encoder, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::http::RequestMetrics;
use super::label::{Counters, Label, VALID, label, register};
use super::locks::{Limit, LockMetrics};
use super::logging::lost_lines;
use super::redis::RedisMetrics;

label! {
    /// The condition of the store.
    StoreCondition {
        /// The server has not reached the store yet.
        Starting = "starting",
        /// The store is healthy.
        Ready = "ready",
        /// The store fails, or it works with weaker guarantees than configured.
        Degraded = "degraded",
    }
}

/// The values of the gauges at the moment of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct Snapshot {
    /// Whether `/readyz` reports the server as ready.
    pub ready: bool,
    /// Whether the server is draining.
    pub draining: bool,
    /// The condition of the store.
    pub store: StoreCondition,
    /// Requests that wait on this server.
    pub waiters: usize,
    /// The limit of requests that wait on this server.
    pub max_waiters: usize,
    /// Leases in the store, or `None` until the server has counted them.
    pub leases: Option<Leases>,
}

/// The leases of a whole store.
#[derive(Clone, Copy, Debug)]
pub struct Leases {
    /// Leases that are held now.
    pub held: u64,
    /// Expired leases that this server has counted since its start.
    pub expired_total: u64,
    /// Releases that this server has seen forgotten early since its start.
    pub releases_forgotten_total: u64,
}

/// All metrics of one server. Clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Metrics of HTTP requests.
    pub requests: RequestMetrics,
    /// Metrics of locks.
    pub locks: LockMetrics,
    limits: Counters<Limit>,
    registry: Registry,
    gauges: Arc<Mutex<Gauges>>,
}

/// The metrics whose values [`Metrics::render`] sets before each scrape.
#[derive(Debug)]
struct Gauges {
    ready: IntGauge,
    draining: IntGauge,
    store: IntGaugeVec,
    waiters: IntGauge,
    max_waiters: IntGauge,
    lost_lines: IntCounter,
    /// A vector without labels: unlike a plain gauge, it is absent from the scrape until its value is known.
    leases_held: IntGaugeVec,
    leases_expired: IntCounterVec,
    releases_forgotten: IntCounterVec,
}

impl Metrics {
    /// Creates and registers the metrics, all at zero.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let limits = Counters::new(
            &registry,
            "leasehold_limits_hit_total",
            "How often a limit of the server was reached, by limit.",
            "limit",
        );
        let build = IntGaugeVec::new(
            Opts::new(
                "leasehold_build_info",
                "Always 1. The label names the version of the server.",
            ),
            &["version"],
        )
        .expect(VALID);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        register(&registry, build);
        Self {
            requests: RequestMetrics::new(&registry, limits.clone()),
            locks: LockMetrics::new(&registry, limits.clone()),
            limits,
            gauges: Arc::new(Mutex::new(Gauges::new(&registry))),
            registry,
        }
    }

    /// Creates the metrics of the Redis store. A second call panics, because each name is registered once.
    #[must_use]
    pub fn redis(&self) -> RedisMetrics {
        RedisMetrics::new(&self.registry, self.limits.clone())
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// If a metric cannot be encoded, which would be a defect.
    pub fn render(&self, now: &Snapshot) -> Result<String, prometheus::Error> {
        // The lock is held until the text is encoded, so that concurrent scrapes do not mix their values.
        let gauges = self
            .gauges
            .lock()
            .expect("nothing panics while it holds the gauges");
        gauges.set(now);
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Metrics with a registry of their own that no scrape reads, for stores in tests.
impl Default for RedisMetrics {
    fn default() -> Self {
        Metrics::new().redis()
    }
}

impl Gauges {
    fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect(VALID);
            register(registry, gauge.clone());
            gauge
        };
        let store = IntGaugeVec::new(
            Opts::new(
                "leasehold_store_condition",
                "1 for the current condition of the store, 0 for the others.",
            ),
            &["condition"],
        )
        .expect(VALID);
        register(registry, store.clone());
        let held = Opts::new(
            "leasehold_leases_held",
            "Leases held in the whole store. Each server reports the whole number: take the maximum, not the sum.",
        );
        let leases_held = IntGaugeVec::new(held, &[]).expect(VALID);
        register(registry, leases_held.clone());
        let expired = Opts::new(
            "leasehold_leases_expired_total",
            "Leases that expired without a release, counted by this server. One of the servers counts each lease: take the sum.",
        );
        let leases_expired = IntCounterVec::new(expired, &[]).expect(VALID);
        register(registry, leases_expired.clone());
        let forgotten = Opts::new(
            "leasehold_releases_forgotten_total",
            "Releases that the store forgot within 10 s, because more than 500000 were remembered. Their repetitions fail.",
        );
        let releases_forgotten = IntCounterVec::new(forgotten, &[]).expect(VALID);
        register(registry, releases_forgotten.clone());
        let lost_lines = IntCounter::new(
            "leasehold_log_lines_lost_total",
            "Log lines that were dropped because standard error was read too slowly.",
        )
        .expect(VALID);
        register(registry, lost_lines.clone());
        Self {
            ready: gauge("leasehold_ready", "1 while /readyz answers 200, else 0."),
            draining: gauge(
                "leasehold_draining",
                "1 while this server shuts down, else 0.",
            ),
            store,
            waiters: gauge(
                "leasehold_waiters",
                "Requests that wait for a lock on this server.",
            ),
            max_waiters: gauge(
                "leasehold_waiters_limit",
                "Limit of requests that wait on this server (LEASEHOLD_MAX_WAITERS).",
            ),
            lost_lines,
            leases_held,
            leases_expired,
            releases_forgotten,
        }
    }

    fn set(&self, now: &Snapshot) {
        let size = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.ready.set(now.ready.into());
        self.draining.set(now.draining.into());
        for condition in StoreCondition::ALL {
            let is_so = *condition == now.store;
            self.store
                .with_label_values(&[condition.text()])
                .set(is_so.into());
        }
        self.waiters.set(size(now.waiters));
        self.max_waiters.set(size(now.max_waiters));
        raise(&self.lost_lines, lost_lines());
        let none: [&str; 0] = [];
        if let Some(leases) = now.leases {
            let held = i64::try_from(leases.held).unwrap_or(i64::MAX);
            self.leases_held.with_label_values(&none).set(held);
            raise(
                &self.leases_expired.with_label_values(&none),
                leases.expired_total,
            );
            raise(
                &self.releases_forgotten.with_label_values(&none),
                leases.releases_forgotten_total,
            );
        }
    }
}

/// Raises a counter to a total that is counted elsewhere.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}
