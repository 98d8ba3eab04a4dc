//! What this server remembers of the locks that it confirmed, and of the master's clock.
//!
//! A master that lost something does not know it. The servers do: they saw how many writes were
//! confirmed, the highest token, until when the latest lease may be counted on, and what time it was.
//! All durations are kept on the monotonic clock of this machine, so that no clock of a data node has
//! to be believed.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lease::{Timestamp, micros};

/// Two clocks that run at their own pace drift apart by less than this part of the time that passes.
const DRIFT_DIVISOR: u32 = 2000;

/// See the module.
pub(super) struct Witness {
    skew: Duration,
    unnoticed: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    clock: Option<Reading>,
    /// The activation that this server reported to last.
    activation: String,
    writes: u64,
    token: u64,
    counts_on: Option<Instant>,
}

/// The master's clock as it was read once.
#[derive(Clone, Copy, Debug)]
struct Reading {
    micros: u64,
    at: Instant,
    /// Half of the round trip in which it was read.
    uncertainty: Duration,
}

/// The master's time as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Estimate {
    pub(super) micros: u64,
    /// The skew and the uncertainty of the estimate.
    pub(super) tolerance: Duration,
    /// How far ahead of it the clock may be, for all that is known, without having stepped.
    pub(super) ahead: Duration,
}

/// The master's clock shows what it cannot show had it run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// By less than the skew that clocks are allowed.
    Small,
    /// By more.
    Large,
}

/// What a server tells a newly activated master.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    pub(super) activation: String,
    pub(super) writes: u64,
    pub(super) token: u64,
    pub(super) counts_on: Duration,
}

impl Witness {
    pub(super) fn new(skew: Duration, unnoticed: Duration) -> Self {
        Self {
            skew,
            unnoticed,
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the memory")
    }

    /// The master's time at `at`; `None` before it was first read.
    pub(super) fn estimate(&self, at: Instant) -> Option<Estimate> {
        let reading = self.state().clock?;
        Some(Estimate {
            micros: reading
                .micros
                .saturating_add(micros(at.saturating_duration_since(reading.at))),
            tolerance: self.skew + reading.uncertainty_at(at),
            ahead: self.unnoticed + reading.uncertainty_at(at),
        })
    }

    /// The step of the clock that a time read between `sent` and `received` shows.
    pub(super) fn step(&self, read: Timestamp, sent: Instant, received: Instant) -> Option<Step> {
        let (first, last) = (self.estimate(sent)?, self.estimate(received)?);
        let beyond = |tolerance: Duration| {
            let tolerance = micros(tolerance);
            read.as_micros() < first.micros.saturating_sub(tolerance)
                || read.as_micros() > last.micros.saturating_add(tolerance)
        };
        if beyond(last.tolerance) {
            Some(Step::Large)
        } else if beyond(last.ahead) {
            Some(Step::Small)
        } else {
            None
        }
    }

    /// Keeps a reading if it is more certain than the one before.
    pub(super) fn saw_time(&self, read: Timestamp, sent: Instant, received: Instant) {
        let uncertainty = received.duration_since(sent) / 2;
        let reading = Reading {
            micros: read.as_micros(),
            at: sent + uncertainty,
            uncertainty,
        };
        let mut state = self.state();
        if state
            .clock
            .is_none_or(|known| uncertainty <= known.uncertainty_at(received))
        {
            state.clock = Some(reading);
        }
    }

    /// Begins anew with this reading, after a step or on another node.
    pub(super) fn set_clock(&self, read: Timestamp, sent: Instant, received: Instant) {
        self.state().clock = None;
        self.saw_time(read, sent, received);
    }

    /// A grant or renewal was confirmed, as write number `writes` or before, and may be counted on until
    /// then. Here or at another server, which may end and take its own memory with it.
    pub(super) fn confirmed(&self, activation: &str, writes: u64, counts_on_until: Instant) {
        let mut state = self.state();
        if state.activation == activation {
            state.writes = state.writes.max(writes);
        }
        state.counts_on = state.counts_on.max(Some(counts_on_until));
    }

    /// A token was granted.
    pub(super) fn saw_token(&self, token: u64) {
        let mut state = self.state();
        state.token = state.token.max(token);
    }

    /// The highest token of all.
    pub(super) fn token(&self) -> u64 {
        self.state().token
    }

    /// All that is to be reported.
    pub(super) fn memory(&self) -> Memory {
        let state = self.state();
        let now = Instant::now();
        Memory {
            activation: state.activation.clone(),
            writes: state.writes,
            token: state.token,
            counts_on: state
                .counts_on
                .map_or(Duration::ZERO, |until| until.saturating_duration_since(now)),
        }
    }

    /// An activation has heard the report: from now on its count is the one that counts.
    pub(super) fn reported_to(&self, activation: &str) {
        let mut state = self.state();
        if state.activation != activation {
            activation.clone_into(&mut state.activation);
            state.writes = 0;
        }
    }
}

impl Reading {
    fn uncertainty_at(&self, at: Instant) -> Duration {
        self.uncertainty + at.saturating_duration_since(self.at) / DRIFT_DIVISOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_millis(500);
    const UNNOTICED_STEP: Duration = Duration::from_millis(20);

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_micros(1_790_000_000_000_000 + ms * 1000)
    }

    #[tokio::test(start_paused = true)]
    async fn clock_is_estimated_and_a_step_beyond_the_skew_is_noticed() {
        let witness = Witness::new(SKEW, UNNOTICED_STEP);
        let start = Instant::now();
        assert_eq!(witness.estimate(start), None);
        assert_eq!(
            witness.step(at(99_999_999), start, start),
            None,
            "nothing to compare with yet"
        );
        witness.saw_time(at(0), start, start);
        let later = start + Duration::from_secs(2);
        assert_eq!(
            witness.estimate(later).map(|e| e.micros),
            Some(at(2000).as_micros())
        );
        for (read, step) in [
            (2020, None),
            (1980, None),
            (2030, Some(Step::Small)),
            (1970, Some(Step::Small)),
            (2500, Some(Step::Small)),
            (1500, Some(Step::Small)),
            (2510, Some(Step::Large)),
            (1490, Some(Step::Large)),
        ] {
            assert_eq!(witness.step(at(read), later, later), step, "{read}");
        }
        let slow = later + Duration::from_secs(3);
        assert_eq!(witness.step(at(4000), later, slow), None, "late is no step");
    }

    #[tokio::test(start_paused = true)]
    async fn uncertain_reading_does_not_replace_a_better_one() {
        let witness = Witness::new(SKEW, UNNOTICED_STEP);
        let start = Instant::now();
        witness.saw_time(at(0), start, start);
        let received = start + Duration::from_millis(400);
        witness.saw_time(at(50), start, received);
        assert_eq!(
            witness.estimate(start).map(|e| e.micros),
            Some(at(0).as_micros())
        );
        witness.set_clock(at(50), start, received);
        assert_eq!(
            witness
                .estimate(start + Duration::from_millis(200))
                .map(|e| e.micros),
            Some(at(50).as_micros())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_writes_of_the_activation_reported_to_are_counted() {
        let witness = Witness::new(SKEW, UNNOTICED_STEP);
        witness.reported_to("one");
        let in_seconds = |seconds| Instant::now() + Duration::from_secs(seconds);
        witness.confirmed("one", 7, in_seconds(5));
        witness.confirmed("two", 9, in_seconds(2));
        tokio::time::advance(Duration::from_secs(1)).await;
        let memory = witness.memory();
        assert_eq!(
            (memory.activation.as_str(), memory.writes, memory.counts_on),
            ("one", 7, Duration::from_secs(4))
        );
        witness.reported_to("two");
        assert_eq!(witness.memory().writes, 0);
    }
}
