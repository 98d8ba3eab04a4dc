//! The metrics of HTTP requests.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, Registry};

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

/// The statuses that this server answers with. The last entry stands for all others.
const STATUSES: [&str; 22] = [
    "200", "201", "204", "303", "304", "400", "401", "403", "404", "405", "408", "409", "413",
    "415", "421", "422", "423", "429", "431", "500", "503", "other",
];

/// The histograms of requests. Clones share them.
///
/// Most combinations of route, method and status never occur, so each gets its histogram at its first request.
#[derive(Clone, Debug)]
pub struct RequestMetrics {
    family: HistogramVec,
    children: Arc<[OnceLock<Histogram>]>,
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
        let combinations = Route::ALL.len() * Method::ALL.len() * STATUSES.len();
        Self {
            family,
            children: (0..combinations).map(|_| OnceLock::new()).collect(),
            limits,
        }
    }

    /// Records an answered request, and the limit if the status is that of a limit.
    pub fn answered(&self, route: Route, method: Method, status: u16, took: Duration) {
        match status {
            408 => self.limits.count(Limit::BodyTime),
            413 => self.limits.count(Limit::BodyBytes),
            431 => self.limits.count(Limit::HeadBytes),
            _ => {}
        }
        let status = status_index(status);
        let at = (route.index() * Method::ALL.len() + method.index()) * STATUSES.len() + status;
        let child = self.children[at].get_or_init(|| {
            let values = [route.text(), method.text(), STATUSES[status]];
            self.family.with_label_values(&values)
        });
        child.observe(took.as_secs_f64());
    }
}

/// The position of a status in [`STATUSES`].
const fn status_index(status: u16) -> usize {
    match status {
        200 => 0,
        201 => 1,
        204 => 2,
        303 => 3,
        304 => 4,
        400 => 5,
        401 => 6,
        403 => 7,
        404 => 8,
        405 => 9,
        408 => 10,
        409 => 11,
        413 => 12,
        415 => 13,
        421 => 14,
        422 => 15,
        423 => 16,
        429 => 17,
        431 => 18,
        500 => 19,
        503 => 20,
        _ => 21,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_status_stands_where_it_is_looked_for() {
        for (at, text) in STATUSES.iter().enumerate() {
            assert_eq!(status_index(text.parse().unwrap_or(599)), at, "{text}");
        }
    }
}
