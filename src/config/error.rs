//! The error of invalid settings.

use std::ops::RangeInclusive;
use std::time::Duration;

/// One line that names an invalid setting and says what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub(super) String);

pub(super) fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

/// Converts milliseconds to a duration, and refuses a value out of bounds.
pub(super) fn bounded_ms(
    name: &str,
    ms: u64,
    bounds: RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    if bounds.contains(&ms) {
        Ok(Duration::from_millis(ms))
    } else {
        wrong(format!(
            "{name} is {ms}, but must be from {} to {} (milliseconds)",
            bounds.start(),
            bounds.end()
        ))
    }
}
