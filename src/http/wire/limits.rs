//! The bounds that the operator sets.

use std::time::Duration;

use crate::http::problem::Problem;
use crate::lock::lease::{Ttl, millis};

/// Bounds that the operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest TTL.
    pub max_ttl: Duration,
    /// The longest wait.
    pub max_wait: Duration,
}

impl Limits {
    /// The TTL of a request in milliseconds.
    pub(super) fn ttl(&self, ms: u64) -> Result<Ttl, Problem> {
        Ttl::new(Duration::from_millis(ms), self.max_ttl).ok_or_else(|| {
            Problem::invalid(format!(
                "ttl_ms must be from {} to {} (LEASEHOLD_MAX_TTL_MS)",
                millis(Ttl::MIN),
                millis(self.max_ttl)
            ))
        })
    }
}
