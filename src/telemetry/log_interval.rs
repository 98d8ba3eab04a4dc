//! Repeating warnings.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The shortest time between two log lines of the same repeating warning.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Limits how often a repeating warning is logged, and counts the suppressed ones.
#[derive(Debug, Default)]
pub struct LogInterval(Mutex<Option<(Instant, u64)>>);

impl LogInterval {
    /// Returns the number of warnings suppressed since the last logged one, or `None` if this one is suppressed too.
    pub fn due(&self) -> Option<u64> {
        let mut last = self
            .0
            .lock()
            .expect("nothing panics while it holds the interval");
        let now = Instant::now();
        match last.as_mut() {
            Some((logged, others)) if now.duration_since(*logged) < WARNING_INTERVAL => {
                *others += 1;
                None
            }
            _ => {
                let others = last.map_or(0, |(_, others)| others);
                *last = Some((now, 0));
                Some(others)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warning_is_logged_once_an_interval() {
        let interval = LogInterval::default();
        assert_eq!(interval.due(), Some(0));
        assert_eq!((interval.due(), interval.due()), (None, None));
    }
}
