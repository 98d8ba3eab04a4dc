//! What happened to the master, in the operator's words: one line for the log and for `/readyz`.

use std::fmt;
use std::time::Duration;

use super::activation::{Heard, REPORTING_TIME};
use super::options::Address;
use crate::lock::lease::millis;
use crate::telemetry::{MasterChange, RedisMetrics};

/// The master is another, or begins anew.
#[derive(Clone, Debug)]
pub(super) struct Change {
    /// The same as `to` if it restarted or was reset.
    from: Address,
    to: Address,
    /// Of the Sentinels' configuration; absent without Sentinels.
    epoch: Option<u64>,
    /// Since when there was no master that was known to be in order.
    away: Duration,
    /// How many confirmed writes this server misses.
    missing: u64,
    pause: Duration,
}

impl Change {
    pub(super) fn new(
        from: Address,
        to: Address,
        epoch: Option<u64>,
        away: Duration,
        heard: &Heard,
    ) -> Self {
        Self {
            from,
            to,
            epoch,
            away,
            missing: heard.missing,
            pause: heard.pause,
        }
    }

    /// Whether leases may be gone that clients count on.
    pub(super) fn lost_leases(&self) -> bool {
        self.pause > REPORTING_TIME
    }

    /// Counts it.
    pub(super) fn count(&self, metrics: &RedisMetrics) {
        let kind = if self.from == self.to {
            MasterChange::Restart
        } else {
            MasterChange::Failover
        };
        metrics.master_changed(kind, self.away);
        metrics.lost(self.lost_leases(), self.missing);
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { from, to, .. } = self;
        if from == to {
            write!(
                f,
                "the master {to} restarted or was reset, or its clock stepped"
            )?;
        } else {
            write!(f, "the master changed from {from} to {to}")?;
        }
        if let Some(epoch) = self.epoch {
            write!(f, " (configuration epoch {epoch})")?;
        }
        write!(f, "; no healthy master for {} ms; ", millis(self.away))?;
        let missing = self.missing;
        match (missing, self.lost_leases()) {
            (0, false) => f.write_str("no confirmed write that this server knows is missing"),
            (_, false) => write!(
                f,
                "{missing} confirmed writes are missing, but their leases end within 1 s"
            ),
            (_, true) => {
                let what = match missing {
                    0 => "another server reported missing writes, or the clock stepped".to_owned(),
                    _ => format!("{missing} confirmed writes are missing"),
                };
                write!(
                    f,
                    "{what}: no new grants for {} ms, until the leases that may be lost have ended; renewals and releases \
                     continue",
                    millis(self.pause)
                )
            }
        }
    }
}
