//! The wall clock of this machine, for what has to be comparable across restarts. No lease depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::lock::lease::{Timestamp, micros};

/// The time now; 1970 if the clock stands before that.
pub(crate) fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_micros(micros(since_epoch.unwrap_or_default()))
}
