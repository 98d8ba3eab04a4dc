//! The bounds that the operator sets.

use std::time::Duration;

use super::fields::Milliseconds;
use crate::http::problem::Problem;
use crate::lock::lease::Ttl;

/// The TTL of an acquisition without `ttl_ms`.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// Bounds that the operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest TTL.
    pub max_ttl: Duration,
    /// The longest wait.
    pub max_wait: Duration,
}

impl Limits {
    /// The TTL that a request asks for.
    pub(super) fn ttl(&self, asked: Option<&Milliseconds>) -> Result<Option<Ttl>, Problem> {
        let bounds = Ttl::MIN..=self.max_ttl;
        let within = |asked: &Milliseconds| asked.within(bounds, "ttl_ms", "LEASEHOLD_MAX_TTL_MS");
        let ttl = asked.map(within).transpose()?;
        Ok(ttl.and_then(|ttl| Ttl::new(ttl, self.max_ttl)))
    }

    /// The TTL of a request that asks for none.
    pub(super) fn default_ttl(&self) -> Ttl {
        Ttl::new(DEFAULT_TTL.min(self.max_ttl), self.max_ttl)
            .expect("the longest TTL is at least a second")
    }

    /// How long a request asks that the lock is held at least.
    pub(super) fn hold(&self, asked: Option<&Milliseconds>) -> Result<Duration, Problem> {
        let bounds = Duration::ZERO..=self.max_ttl;
        asked.map_or(Ok(Duration::ZERO), |asked| {
            asked.within(bounds, "hold_at_least_ms", "LEASEHOLD_MAX_TTL_MS")
        })
    }

    /// The wait that a request asks for.
    pub(super) fn wait(&self, asked: Option<&Milliseconds>) -> Result<Duration, Problem> {
        let bounds = Duration::ZERO..=self.max_wait;
        asked.map_or(Ok(Duration::ZERO), |asked| {
            asked.within(bounds, "wait_ms", "LEASEHOLD_MAX_WAIT_MS")
        })
    }
}
