//! Logs and metrics: what an operator sees of a running server.
//!
//! It knows nothing of locks, stores or HTTP but the words for what is counted. Whoever counts has a handle and
//! counts where it happens; [`Metrics`] has them all, and writes them down when they are asked for. No label
//! ever holds what a client makes up: no key, no holder, no path.

mod http;
mod label;
mod locks;
mod logging;
mod metrics;
mod redis;

pub use self::http::{Method, RequestMetrics, Route};
pub use self::label::{Counters, Histograms, Label};
pub use self::locks::{
    AcquireOutcome, BreakOutcome, Ended, Limit, LockMetrics, ReleaseOutcome, RenewOutcome, Waited,
};
pub use self::logging::{
    LogInterval, MAX_LOGGED_BYTES, MAX_UNWRITTEN_BYTES, MAX_UNWRITTEN_LINES, RequestLine,
    beginning, cut_for_log, log_request, start_logging,
};
pub use self::metrics::{Leases, Metrics, Snapshot, StoreCondition};
pub use self::redis::{ClockStep, Fault, MasterChange, RedisMetrics, Shortfall};
