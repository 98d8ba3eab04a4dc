//! The clocks of the masters, as this server has seen them.
//!
//! A deadline is a moment of the master's clock, and that clock may step, or belong to another node after a failover. Each
//! answer of a master gives its *offset*: its time less this machine's monotonic time. The lowest and the highest offset over
//! the life of every lease that still counts tell how far leases may be off:
//! - leases count as over only once the clock with the lowest offset, plus the skew, has reached their end;
//! - offsets that are further apart than the skew are a loss, and new grants pause.
//!
//! Offsets are kept for as long as a lease counts that was granted when they were seen. Slow drift over a longer time is no
//! step.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::time::Instant;

use crate::lock::lease::{Timestamp, micros};

/// Two clocks that run at their own pace drift apart by less than this part of the time that passes.
const DRIFT_DIVISOR: i64 = 2000;

/// A change of the offset by more than this, beyond the uncertainty, is reported as a step.
const MIN_JUMP: Duration = Duration::from_millis(20);

/// How many ranges of offsets are kept: older ones are forgotten one by one as their leases end.
const MAX_RANGES: u32 = 16;

/// The shortest time of a range.
const MIN_RANGE: Duration = Duration::from_secs(2);

/// See the module.
pub(crate) struct MasterClock {
    /// No estimate where a test moves the clock.
    is_trusted: bool,
    skew: Duration,
    origin: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The latest reading.
    current: Option<Reading>,
    /// When the clock stepped last.
    stepped_at: Option<Instant>,
    /// The oldest first. The last one grows.
    ranges: VecDeque<Range>,
}

/// The offset of the clock in microseconds, at least `low` and at most `high` at this moment.
#[derive(Clone, Copy, Debug)]
struct Reading {
    low: i64,
    high: i64,
    at: Instant,
}

/// Offsets over some time.
#[derive(Clone, Copy, Debug)]
struct Range {
    begun: Instant,
    /// No offset was below.
    floor: i64,
    /// The clock has not stepped in this time.
    is_steady: bool,
    /// The lowest and highest offset that were certainly reached.
    lowest: i64,
    highest: i64,
    /// When the leases have ended that were granted in this time.
    counts_until: Instant,
}

/// The master's time as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Estimate {
    pub(crate) micros: u64,
    /// How far it may be off: the skew, and the uncertainty of the estimate.
    pub(crate) tolerance: Duration,
    /// No lease is over whose end is after this moment.
    pub(crate) expiry_limit: u64,
}

/// A step of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClockJump {
    /// All offsets lie within the skew.
    WithinSkew,
    /// They do not: leases may have ended too early.
    BeyondSkew,
}

/// How far the clock certainly was from its present offset, and for how long that still counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Distance {
    pub(crate) by: Duration,
    pub(crate) counts_for: Duration,
}

/// The lowest and the highest offset, as servers tell each other: the clock has been so far behind and ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Spread {
    pub(crate) behind: Distance,
    pub(crate) ahead: Distance,
}

impl MasterClock {
    pub(crate) fn new(skew: Duration, is_trusted: bool) -> Self {
        Self {
            is_trusted,
            skew,
            origin: Instant::now(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("nothing panics while it holds the clock")
    }

    fn micros_since_origin(&self, at: Instant) -> i64 {
        signed(at.saturating_duration_since(self.origin))
    }

    /// The master's time at `at`; `None` before the first reading.
    pub(crate) fn estimate(&self, at: Instant) -> Option<Estimate> {
        if !self.is_trusted {
            return None;
        }
        let state = self.state();
        let reading = state.current?.at(at);
        let since_origin = self.micros_since_origin(at);
        let floor = state.ranges.iter().map(|range| range.floor).min();
        let time = |offset: i64| u64::try_from(since_origin.saturating_add(offset)).unwrap_or(0);
        let uncertainty = Duration::from_micros(reading.high.abs_diff(reading.low) / 2);
        Some(Estimate {
            micros: time(reading.middle()),
            tolerance: self.skew + uncertainty,
            expiry_limit: time(floor?.saturating_add(signed(self.skew))),
        })
    }

    /// Notes a time that the master read between `sent` and `received`. `counts_until`: when the latest known lease ends.
    pub(crate) fn saw(
        &self,
        read: Timestamp,
        sent: Instant,
        received: Instant,
        counts_until: Option<Instant>,
    ) -> Option<ClockJump> {
        if !self.is_trusted {
            return None;
        }
        let read = i64::try_from(read.as_micros()).unwrap_or(i64::MAX);
        let seen = Reading {
            low: read - self.micros_since_origin(received),
            high: read - self.micros_since_origin(sent),
            at: received,
        };
        let mut state = self.state();
        let (reading, jump) = match state.current.map(|known| known.at(received)) {
            None => (seen, Duration::ZERO),
            Some(known) => known.refined_by(seen),
        };
        if !jump.is_zero() {
            state.stepped_at = Some(received);
        }
        state.current = Some(reading);
        state.note(reading, !jump.is_zero(), counts_until);
        if !jump.is_zero() && self.is_beyond_skew(&state) {
            Some(ClockJump::BeyondSkew)
        } else {
            (jump > MIN_JUMP).then_some(ClockJump::WithinSkew)
        }
    }

    fn is_beyond_skew(&self, state: &State) -> bool {
        let extremes = state.extremes();
        extremes.is_some_and(|(lowest, highest)| highest - lowest > signed(self.skew))
    }

    /// The loss has been handled: from now on distances count from the present offset. The floor stays, because holders still
    /// count on the leases of before the step.
    pub(crate) fn forget_earlier_offsets(&self) {
        let mut state = self.state();
        let Some(reading) = state.current else { return };
        for range in &mut state.ranges {
            (range.lowest, range.highest) = (reading.high, reading.low);
        }
    }

    /// For how long the clock has run without a step, as far as this server knows.
    pub(crate) fn steady_for(&self) -> Duration {
        let stepped_at = self.state().stepped_at;
        stepped_at.map_or(Duration::MAX, |at| at.elapsed())
    }

    /// What this server tells the others. The distances are never more than the true ones: otherwise the uncertainty would
    /// add up as servers adopt them from each other.
    pub(crate) fn spread(&self) -> Spread {
        let state = self.state();
        let Some(reading) = state.current else {
            return Spread::default();
        };
        let distance = |(by, until): (i64, Instant)| Distance {
            by: Duration::from_micros(u64::try_from(by).unwrap_or(0)),
            counts_for: until.saturating_duration_since(Instant::now()),
        };
        let ranges = || state.ranges.iter();
        let behind = ranges().map(|range| (reading.low - range.lowest, range.counts_until));
        let ahead = ranges().map(|range| (range.highest - reading.high, range.counts_until));
        Spread {
            behind: behind.max().map(distance).unwrap_or_default(),
            ahead: ahead.max().map(distance).unwrap_or_default(),
        }
    }

    /// Another server has seen offsets so far from the present one. Nothing changes if this server knows of them.
    pub(crate) fn adopt(&self, spread: Spread) {
        let mut state = self.state();
        let (Some(reading), Some(own)) = (state.current, state.extremes()) else {
            return;
        };
        let (now, margin) = (Instant::now(), signed(MIN_JUMP));
        let (behind, ahead) = (signed(spread.behind.by), signed(spread.ahead.by));
        let mut add = |lowest: i64, highest: i64, counts_for: Duration| {
            state.ranges.push_front(Range {
                begun: now,
                floor: lowest,
                is_steady: false,
                lowest,
                highest,
                counts_until: now + counts_for,
            });
        };
        let (lowest, highest) = (reading.low - behind, reading.high + ahead);
        if lowest < own.0 - margin {
            add(lowest, lowest, spread.behind.counts_for);
        }
        if highest > own.1 + margin {
            add(highest, highest, spread.ahead.counts_for);
        }
    }
}

impl State {
    /// The lowest and the highest offset that were certainly reached.
    fn extremes(&self) -> Option<(i64, i64)> {
        let lowest = self.ranges.iter().map(|range| range.lowest).min()?;
        let highest = self.ranges.iter().map(|range| range.highest).max()?;
        Some((lowest, highest))
    }

    /// Adds a reading to the latest range, and forgets the ranges whose leases have ended.
    fn note(&mut self, reading: Reading, has_stepped: bool, counts_until: Option<Instant>) {
        let now = reading.at;
        let counts_until = counts_until.map_or(now, |until| until.max(now));
        // Another server may have granted a longer lease at the end of the previous range: its report comes later.
        for range in self.ranges.iter_mut().rev().take(2) {
            range.counts_until = range.counts_until.max(counts_until);
        }
        let left = counts_until.saturating_duration_since(now) / MAX_RANGES;
        let is_full =
            |range: &Range| now.saturating_duration_since(range.begun) >= left.max(MIN_RANGE);
        match self.ranges.back_mut().filter(|range| !is_full(range)) {
            Some(range) => {
                range.is_steady &= !has_stepped;
                range.floor = range.floor.min(reading.low);
                if range.is_steady {
                    // A first reading may have been slow: this one says more about the whole time.
                    let drift = signed(now.saturating_duration_since(range.begun)) / DRIFT_DIVISOR;
                    range.floor = range.floor.max(reading.low - drift);
                }
                range.lowest = range.lowest.min(reading.high);
                range.highest = range.highest.max(reading.low);
            }
            None => self.ranges.push_back(Range {
                begun: now,
                floor: reading.low,
                is_steady: true,
                lowest: reading.high,
                highest: reading.low,
                counts_until,
            }),
        }
        // The latest ranges may still get a longer life.
        let recent = self.ranges.len().saturating_sub(2);
        let mut at = 0;
        self.ranges.retain(|range| {
            at += 1;
            at > recent || range.counts_until > now
        });
    }
}

impl Reading {
    fn middle(self) -> i64 {
        i64::midpoint(self.low, self.high)
    }

    /// The same reading later: the clocks may have drifted.
    fn at(self, at: Instant) -> Self {
        let drift = signed(at.saturating_duration_since(self.at)) / DRIFT_DIVISOR;
        Self {
            low: self.low - drift,
            high: self.high + drift,
            at: at.max(self.at),
        }
    }

    /// What both readings allow, or the second one if the clock has stepped in between. Returns by how much it has at least.
    fn refined_by(self, seen: Self) -> (Self, Duration) {
        let (low, high) = (self.low.max(seen.low), self.high.min(seen.high));
        if low <= high {
            return (Self { low, high, ..seen }, Duration::ZERO);
        }
        (seen, Duration::from_micros(low.abs_diff(high)))
    }
}

fn signed(duration: Duration) -> i64 {
    i64::try_from(micros(duration)).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SKEW: Duration = Duration::from_millis(500);

    struct Seen {
        clock: MasterClock,
        start: Instant,
    }

    impl Seen {
        fn new() -> Self {
            Self {
                clock: MasterClock::new(SKEW, true),
                start: Instant::now(),
            }
        }

        fn time(ms: u64) -> Timestamp {
            Timestamp::from_micros(1_790_000_000_000_000 + ms * 1000)
        }

        /// A reading of an exact round trip of no time.
        fn at(&self, ms: u64, read_ms: u64, counts_for_ms: u64) -> Option<ClockJump> {
            let at = self.start + Duration::from_millis(ms);
            let until = at + Duration::from_millis(counts_for_ms);
            self.clock.saw(Self::time(read_ms), at, at, Some(until))
        }

        fn limit(&self, ms: u64) -> u64 {
            let at = self.start + Duration::from_millis(ms);
            self.clock.estimate(at).expect("readings").expiry_limit
        }
    }

    #[tokio::test(start_paused = true)]
    async fn time_is_estimated_from_the_latest_reading() {
        let seen = Seen::new();
        assert_eq!(seen.clock.estimate(seen.start), None);
        assert_eq!(seen.at(0, 0, 0), None);
        let later = seen.start + Duration::from_secs(2);
        let estimate = seen.clock.estimate(later).expect("a reading");
        assert_eq!(estimate.micros, Seen::time(2000).as_micros());
        assert_eq!(estimate.tolerance, SKEW + Duration::from_millis(1));
        let late = later + Duration::from_secs(3);
        assert_eq!(
            seen.clock.saw(Seen::time(4000), later, late, None),
            None,
            "slow is no step"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn steps_add_up_over_the_life_of_a_lease() {
        let seen = Seen::new();
        assert_eq!(seen.at(0, 0, 10_000), None);
        assert_eq!(seen.at(1000, 1240, 9000), Some(ClockJump::WithinSkew));
        assert_eq!(seen.at(4000, 4480, 6000), Some(ClockJump::WithinSkew));
        assert_eq!(seen.at(7000, 7720, 3000), Some(ClockJump::BeyondSkew));
        assert_eq!(seen.limit(7000), Seen::time(7500).as_micros());
    }

    #[tokio::test(start_paused = true)]
    async fn offsets_are_forgotten_with_the_leases_of_their_time() {
        let seen = Seen::new();
        assert_eq!(seen.at(0, 0, 1000), None);
        assert_eq!(seen.at(3000, 3240, 1000), Some(ClockJump::WithinSkew));
        for at in [6000, 9000, 12_000] {
            assert_eq!(seen.at(at, at + 240, 1000), None);
        }
        assert_eq!(seen.at(15_000, 15_480, 1000), Some(ClockJump::WithinSkew));
        for at in [18_000, 21_000, 24_000] {
            assert_eq!(seen.at(at, at + 480, 1000), None);
        }
        assert_eq!(
            seen.at(27_000, 27_720, 1000),
            Some(ClockJump::WithinSkew),
            "not 720 ms in one life"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_first_reading_delays_no_expiry() {
        let seen = Seen::new();
        let received = seen.start + Duration::from_secs(1);
        assert_eq!(
            seen.clock.saw(Seen::time(0), seen.start, received, None),
            None
        );
        assert_eq!(seen.limit(1000), Seen::time(500).as_micros());
        assert_eq!(seen.at(1000, 1000, 0), None);
        assert_eq!(seen.limit(1000), Seen::time(1500).as_micros());
    }

    #[tokio::test(start_paused = true)]
    async fn slow_drift_is_no_step() {
        let seen = Seen::new();
        for second in 0..7200 {
            let read = second * 1000 + second / 10;
            assert_eq!(seen.at(second * 1000, read, 60_000), None, "{second}");
        }
    }

    fn behind(ms: u64, counts_for_ms: u64) -> Spread {
        let behind = Distance {
            by: Duration::from_millis(ms),
            counts_for: Duration::from_millis(counts_for_ms),
        };
        Spread {
            behind,
            ..Spread::default()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn server_adopts_what_others_have_seen() {
        let seen = Seen::new();
        seen.at(0, 0, 10_000);
        seen.clock.adopt(behind(400, 10_000));
        assert_eq!(seen.limit(0), Seen::time(100).as_micros());
        assert_eq!(seen.clock.spread().behind.by, Duration::from_millis(400));
        assert_eq!(seen.at(1000, 1150, 9000), Some(ClockJump::BeyondSkew));
        seen.clock.forget_earlier_offsets();
        assert_eq!(seen.clock.spread().behind.by, Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn handled_loss_ends_the_distances_and_keeps_the_floor() {
        let seen = Seen::new();
        seen.at(0, 0, 10_000);
        assert_eq!(seen.at(1000, 1720, 9000), Some(ClockJump::BeyondSkew));
        seen.clock.forget_earlier_offsets();
        assert_eq!(seen.clock.spread().behind.by, Duration::ZERO);
        assert_eq!(seen.limit(1000), Seen::time(1500).as_micros());
        assert_eq!(seen.at(2000, 2960, 8000), Some(ClockJump::WithinSkew));
    }

    #[tokio::test(start_paused = true)]
    async fn servers_that_adopt_from_each_other_forget_in_time() {
        let [one, other] = [Seen::new(), Seen::new()];
        for seen in [&one, &other] {
            seen.at(0, 0, 1000);
        }
        one.clock.adopt(behind(300, 5_000));
        for second in 1..20 {
            tokio::time::advance(Duration::from_secs(1)).await;
            for (from, to) in [(&one, &other), (&other, &one)] {
                from.at(second * 1000, second * 1000, 1000);
                to.at(second * 1000, second * 1000, 1000);
                to.clock.adopt(from.clock.spread());
            }
            if second == 3 {
                assert!(other.clock.spread().behind.by > Duration::from_millis(290));
            }
        }
        for seen in [&one, &other] {
            assert!(
                seen.clock.spread().behind.by < MIN_JUMP,
                "{:?}",
                seen.clock.spread()
            );
        }
    }
}
