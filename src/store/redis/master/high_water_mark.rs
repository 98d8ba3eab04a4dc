//! What this server knows of the leases that it confirmed.
//!
//! A master that lost something does not know it. The servers do: they saw how many writes were confirmed, the highest token,
//! and until when the latest lease counts. Durations run on the monotonic clock of this machine, so that no clock of a data
//! node must be trusted.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

/// See the module.
#[derive(Default)]
pub(crate) struct HighWaterMark(Mutex<State>);

#[derive(Default)]
struct State {
    /// The activation that this server reported to last.
    activation: String,
    writes: u64,
    token: u64,
    counts_until: Option<Instant>,
}

/// What a server reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Snapshot {
    pub(crate) activation: String,
    pub(crate) writes: u64,
    pub(crate) token: u64,
    /// For how long the latest confirmed lease counts.
    pub(crate) counts_on: Duration,
}

impl HighWaterMark {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while it holds the mark")
    }

    /// A grant or renewal was confirmed, as write number `writes` or before, and counts until then. Another server may have
    /// confirmed it: that server can end and take its knowledge with it.
    pub(crate) fn confirmed(&self, activation: &str, writes: u64, counts_until: Instant) {
        let mut state = self.state();
        if state.activation == activation {
            state.writes = state.writes.max(writes);
        }
        state.counts_until = state.counts_until.max(Some(counts_until));
    }

    /// A token was granted.
    pub(crate) fn saw_token(&self, token: u64) {
        let mut state = self.state();
        state.token = state.token.max(token);
    }

    /// The highest token.
    pub(crate) fn token(&self) -> u64 {
        self.state().token
    }

    /// When the latest confirmed lease is over.
    pub(crate) fn counts_until(&self) -> Option<Instant> {
        self.state().counts_until
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        let state = self.state();
        let now = Instant::now();
        Snapshot {
            activation: state.activation.clone(),
            writes: state.writes,
            token: state.token,
            counts_on: state
                .counts_until
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        }
    }

    /// An activation has the report: from now on its count of writes applies.
    pub(crate) fn reported_to(&self, activation: &str) {
        let mut state = self.state();
        if state.activation != activation {
            activation.clone_into(&mut state.activation);
            state.writes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_writes_of_the_activation_reported_to_are_counted() {
        let mark = HighWaterMark::default();
        mark.reported_to("one");
        let in_seconds = |seconds| Instant::now() + Duration::from_secs(seconds);
        mark.confirmed("one", 7, in_seconds(5));
        mark.confirmed("two", 9, in_seconds(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        let snapshot = mark.snapshot();
        assert_eq!(
            (
                snapshot.activation.as_str(),
                snapshot.writes,
                snapshot.counts_on
            ),
            ("one", 7, Duration::from_secs(4))
        );
        mark.reported_to("two");
        assert_eq!(mark.snapshot().writes, 0);
    }
}
