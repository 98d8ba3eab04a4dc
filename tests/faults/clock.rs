//! One monotonic clock for all processes of a run, in microseconds.
//!
//! The standard library shows its monotonic clock only in the debug form. Each process reads that form once, and each
//! client compares its clock with the campaign's at its start. A direct system call would need unsafe code.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

static ANCHOR: OnceLock<(Instant, u64)> = OnceLock::new();

/// Microseconds on the machine's monotonic clock.
pub(crate) fn now_us() -> u64 {
    let (instant, reading) = ANCHOR.get_or_init(|| {
        let now = Instant::now();
        let reading = parse(&format!("{now:?}"));
        (
            now,
            reading.expect("the debug form of an instant holds seconds and nanoseconds"),
        )
    });
    reading + micros(instant.elapsed())
}

/// A duration in whole microseconds.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn parse(debug: &str) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        let rest = debug.split_once(name)?.1;
        let digits = rest.trim_start_matches([':', ' ']);
        let end = digits
            .find(|c: char| !c.is_ascii_digit())
            .unwrap_or(digits.len());
        digits[..end].parse().ok()
    };
    Some(number("tv_sec")? * 1_000_000 + number("tv_nsec")? / 1000)
}
