//! The metrics of HTTP requests.

use std::time::Duration;

use axum::http::StatusCode;
use prometheus::{HistogramOpts, HistogramVec, Registry};

use super::label::{Counters, Label, VALID, label, register};
use super::locks::Limit;

/// In seconds. The last buckets are for acquisitions that wait.
const BUCKETS: [f64; 12] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

label! {
    /// A route template. An unknown path has the last value, so that clients cannot create time series.
    Route {
        /// The front page.
        Index = "/",
        /// The liveness check.
        Livez = "/livez",
        /// The readiness check.
        Readyz = "/readyz",
        /// The metrics.
        Metrics = "/metrics",
        /// The OpenAPI document.
        OpenApi = "/openapi.json",
        /// The pages that display the OpenAPI document.
        Docs = "/docs",
        /// The list of locks.
        Locks = "/locks",
        /// A lock.
        Lock = "/locks/{key}",
        /// A lease.
        Lease = "/locks/{key}/lease",
        /// The recovery after a loss.
        Recovery = "/recovery",
        /// No route of this server.
        None = "none",
    }
}

label! {
    /// An HTTP method. An unknown method has the last value, so that clients cannot create time series.
    Method {
        /// `GET`.
        Get = "GET",
        /// `HEAD`.
        Head = "HEAD",
        /// `POST`.
        Post = "POST",
        /// `PUT`.
        Put = "PUT",
        /// `DELETE`.
        Delete = "DELETE",
        /// Any other.
        Other = "other",
    }
}

/// The histograms of requests. Clones share them.
///
/// Most combinations of route, method and status never occur, so each gets its histogram at its first request. The
/// look-up of the three labels takes less than 1 % of a request's time.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    family: HistogramVec,
    limits: Counters<Limit>,
}

impl RequestMetrics {
    pub(super) fn new(registry: &Registry, limits: Counters<Limit>) -> Self {
        let options = HistogramOpts::new(
            "leasehold_http_request_duration_seconds",
            "Time from a request to its answer, in seconds. An acquisition that waits includes its wait.",
        );
        let labels = ["route", "method", "status"];
        let family = HistogramVec::new(options.buckets(BUCKETS.to_vec()), &labels).expect(VALID);
        register(registry, family.clone());
        Self { family, limits }
    }

    /// Records an answered request, and the limit if the status is that of a limit.
    pub fn answered(&self, route: Route, method: Method, status: StatusCode, took: Duration) {
        match status.as_u16() {
            408 => self.limits.count(Limit::BodyTime),
            413 => self.limits.count(Limit::BodyBytes),
            431 => self.limits.count(Limit::HeadBytes),
            _ => {}
        }
        let values = [route.text(), method.text(), status.as_str()];
        let histogram = self.family.with_label_values(&values);
        histogram.observe(took.as_secs_f64());
    }
}
