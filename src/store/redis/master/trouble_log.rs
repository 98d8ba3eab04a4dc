//! Says in the log what is wrong with the store: each cause at once and then once a minute, and once how long it lasted.
//!
//! Causes may alternate, as with two dead Sentinels that answer in turn. Each is known by its text.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

/// The time between two log lines of the same cause.
const REPEAT_AFTER: Duration = Duration::from_secs(60);

/// See the module.
#[derive(Default)]
pub(super) struct TroubleLog {
    since: Option<Instant>,
    /// When each cause was logged last since then.
    logged: HashMap<String, Instant>,
}

impl TroubleLog {
    /// Whether to log this cause now.
    pub(super) fn is_due(&mut self, cause: &str) -> bool {
        let now = Instant::now();
        self.since.get_or_insert(now);
        self.logged
            .retain(|_, logged| now.duration_since(*logged) < REPEAT_AFTER);
        if self.logged.contains_key(cause) {
            return false;
        }
        self.logged.insert(cause.to_owned(), now);
        true
    }

    /// The store is healthy. Returns for how long it was not.
    pub(super) fn end(&mut self) -> Option<Duration> {
        self.logged.clear();
        self.since.take().map(|since| since.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_later(seconds: u64) {
        tokio::time::advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn alternating_causes_are_repeated_once_a_minute() {
        let mut log = TroubleLog::default();
        let mut said = Vec::new();
        for second in 0..130 {
            let cause = ["a", "b"][second % 2];
            if log.is_due(cause) {
                said.push((second, cause));
            }
            seconds_later(1).await;
        }
        let expected = [
            (0, "a"),
            (1, "b"),
            (60, "a"),
            (61, "b"),
            (120, "a"),
            (121, "b"),
        ];
        assert_eq!(said, expected);
        assert_eq!(log.end(), Some(Duration::from_secs(130)));
        assert_eq!(log.end(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn cause_that_comes_again_is_logged_again() {
        let mut log = TroubleLog::default();
        assert!(log.is_due("a"));
        seconds_later(5).await;
        assert!(!log.is_due("a"));
        assert_eq!(log.end(), Some(Duration::from_secs(5)));
        assert!(log.is_due("a"));
    }
}
