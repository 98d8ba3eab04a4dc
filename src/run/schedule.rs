//! The times of a lease at its holder.

use std::time::Duration;

use crate::client::{Grant, Moment};

/// The longest time between the kill and the moment at which the lease may be another client's.
const MAX_MARGIN: Duration = Duration::from_secs(1);

/// When to renew, and when to end the command.
pub(super) struct Schedule {
    pub(super) ttl: Duration,
    pub(super) kill_after: Duration,
    pub(super) renew_at: Moment,
    pub(super) term_at: Moment,
    pub(super) kill_at: Moment,
}

impl Schedule {
    pub(super) fn new(grant: &Grant, kill_after: Duration) -> Self {
        let ttl = Duration::from_millis(grant.ttl_ms);
        let kill_after = kill_after.min(ttl / 3);
        let kill_at = grant.deadline.before((ttl / 10).min(MAX_MARGIN));
        Self {
            ttl,
            kill_after,
            renew_at: grant.sent + ttl / 3,
            term_at: kill_at.before(kill_after),
            kill_at,
        }
    }

    /// How long a renewal may take at one of so many servers.
    pub(super) fn renewal_timeout(&self, servers: u32) -> Duration {
        let share = self.ttl / 6 / servers.max(1);
        share.clamp(Duration::from_millis(100), Duration::from_secs(5))
    }

    /// How long to wait after a failed renewal.
    pub(super) fn pause(&self) -> Duration {
        (self.ttl / 20).min(Duration::from_secs(1))
    }
}
