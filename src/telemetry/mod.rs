//! Logs and metrics of a running server, for its operator.
//!
//! The module depends on no lock, store or HTTP module of the server: it defines only the label values of their
//! metrics. Each part of the server holds a handle to its own metrics, and [`Metrics`] renders them all at a scrape. No
//! label holds text from a client (a key, a holder, a path): each new value would add a time series.

mod http;
mod label;
mod locks;
mod log_interval;
mod log_text;
mod logging;
mod metrics;
mod redis;

pub use self::http::{Method, RequestMetrics, Route};
pub use self::label::{Counters, Histograms, Label};
pub use self::locks::{
    AcquireOutcome, BreakOutcome, Ended, Limit, LockMetrics, ReleaseOutcome, RenewOutcome, Waited,
};
pub use self::log_interval::LogInterval;
pub use self::log_text::{MAX_LOGGED_BYTES, beginning, cut_for_log};
pub use self::logging::{
    MAX_UNWRITTEN_BYTES, MAX_UNWRITTEN_LINES, RequestLine, log_request, start_logging,
};
pub use self::metrics::{Leases, Metrics, Snapshot, StoreCondition};
pub use self::redis::{ClockStep, FailureCause, MasterChange, RedisMetrics, Shortfall};
