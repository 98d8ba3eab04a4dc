//! Logs and metrics: what an operator sees of a running server.

use std::io::IsTerminal;
use std::time::Duration;

use prometheus::{
    Encoder, HistogramOpts, HistogramVec, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};
use tracing_subscriber::EnvFilter;

use crate::service::Acquired;

/// Bounds of the latency histogram, in seconds; waits reach into the last ones.
const LATENCY_BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// Sends logs to standard error: text on a terminal, JSON otherwise. `RUST_LOG` sets the level.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
}

/// What the server counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: HistogramVec,
    acquires: IntCounterVec,
    waiters: IntGauge,
}

impl Metrics {
    /// All metrics at zero.
    ///
    /// # Panics
    /// Never: the names are valid and each is registered once.
    #[must_use]
    pub fn new() -> Self {
        const VALID: &str = "metric names are valid and registered once";
        let registry = Registry::new();
        let requests = HistogramVec::new(
            HistogramOpts::new(
                "leasehold_http_request_duration_seconds",
                "Time from a request to its answer.",
            )
            .buckets(LATENCY_BUCKETS.to_vec()),
            &["route", "method", "status"],
        )
        .expect(VALID);
        let acquires = IntCounterVec::new(
            Opts::new("leasehold_acquires_total", "Acquisitions by their outcome."),
            &["outcome"],
        )
        .expect(VALID);
        let waiters =
            IntGauge::new("leasehold_waiters", "Requests that wait for a lock.").expect(VALID);
        let build = IntGaugeVec::new(Opts::new("leasehold_build_info", "Always 1."), &["version"])
            .expect(VALID);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(requests.clone())).expect(VALID);
        registry.register(Box::new(acquires.clone())).expect(VALID);
        registry.register(Box::new(waiters.clone())).expect(VALID);
        registry.register(Box::new(build)).expect(VALID);
        Self {
            registry,
            requests,
            acquires,
            waiters,
        }
    }

    /// Counts a request that was answered.
    pub fn answered(&self, route: &str, method: &str, status: u16, took: Duration) {
        self.requests
            .with_label_values(&[route, method, &status.to_string()])
            .observe(took.as_secs_f64());
    }

    /// Counts an acquisition; `None` if there was no answer.
    pub fn acquired(&self, acquired: Option<&Acquired>) {
        let outcome = match acquired {
            Some(Acquired::Granted(_)) => "granted",
            Some(Acquired::Replayed(_)) => "replayed",
            Some(Acquired::Held(_)) => "held",
            Some(Acquired::TimedOut(..)) => "timed_out",
            Some(Acquired::KeyReused) => "key_reused",
            Some(Acquired::AlreadyReleased) => "already_released",
            Some(Acquired::TooManyWaiters) => "too_many_waiters",
            None => "error",
        };
        self.acquires.with_label_values(&[outcome]).inc();
    }

    /// All metrics in the Prometheus text format.
    ///
    /// # Errors
    /// If a metric cannot be written, which would be a defect.
    pub fn render(&self, waiters: usize) -> Result<String, prometheus::Error> {
        self.waiters.set(i64::try_from(waiters).unwrap_or(i64::MAX));
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
