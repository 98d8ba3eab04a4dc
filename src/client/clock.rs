//! Moments for deadlines of leases: on a clock that also counts while the machine is suspended.

use std::ops::Add;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// A moment of this machine since its start, suspensions included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(Duration);

/// A file with seconds to add to the clock, so that a test can suspend a machine. A release build does not know the
/// variable.
#[cfg(debug_assertions)]
const AHEAD_UNDER_TEST: &str = "CLOCK_AHEAD_UNDER_TEST";

impl Moment {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        let now = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("Linux has this clock");
        Self(Duration::from(now) + ahead())
    }

    /// The moment so long after the start of the machine.
    #[must_use]
    pub const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long after the start of the machine it is.
    #[must_use]
    pub const fn since_start(self) -> Duration {
        self.0
    }

    /// How long it is until this moment; zero when it is over.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_sub(Self::now().0)
    }

    /// This moment, so much earlier.
    #[must_use]
    pub const fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }
}

#[cfg(debug_assertions)]
fn ahead() -> Duration {
    let file = std::env::var_os(AHEAD_UNDER_TEST);
    let text = file.and_then(|file| std::fs::read_to_string(file).ok());
    let seconds = text.and_then(|text| text.trim().parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

#[cfg(not(debug_assertions))]
const fn ahead() -> Duration {
    Duration::ZERO
}
