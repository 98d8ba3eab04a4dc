//! The wall clock of this machine, for values that must be comparable across restarts. No lease depends on it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::lock::lease::{Timestamp, micros};

/// The present time; the epoch if the clock is set before 1970.
pub(crate) fn wall_clock() -> Timestamp {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH);
    Timestamp::from_micros(micros(since_epoch.unwrap_or_default()))
}
