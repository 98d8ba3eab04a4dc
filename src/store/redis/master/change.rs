//! A change of the master, explained to the operator in one line for the log and for `/readyz`.

use std::fmt;
use std::time::Duration;

use super::activation::ReportReply;
use crate::lock::lease::millis;
use crate::store::redis::options::Address;
use crate::store::redis::scripts::REPORTING_TIME;
use crate::telemetry::{MasterChange, RedisMetrics};

/// Another node became the master, or the master needed another activation.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// Equal to `to` if the master restarted or was reset, or if its clock stepped.
    from: Address,
    to: Address,
    /// The epoch of the Sentinels' configuration; absent without Sentinels.
    epoch: Option<u64>,
    /// For how long this server knew of no healthy master.
    away: Duration,
    /// How many writes the master lacks although this server saw them confirmed.
    missing: u64,
    /// For how long the master grants nothing new.
    pause: Duration,
}

impl Change {
    pub(crate) fn new(
        from: Address,
        to: Address,
        epoch: Option<u64>,
        away: Duration,
        report: &ReportReply,
    ) -> Self {
        Self {
            from,
            to,
            epoch,
            away,
            missing: report.missing,
            pause: report.pause,
        }
    }

    /// Whether the master may have lost leases that clients still count on. A shorter pause only waits for reports.
    pub(crate) fn lost_leases(&self) -> bool {
        self.pause > REPORTING_TIME
    }

    /// Counts the change in the metrics.
    pub(crate) fn count(&self, metrics: &RedisMetrics) {
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
