//! What the integration tests stand on: real servers that start on free loopback ports and stop themselves, and small
//! blocking clients that show a test the very bytes.
//!
//! It is synchronous on purpose: a plain `#[test]` uses it as it is, and a handle dropped in the middle of a panic
//! still kills its process. In a `#[tokio::test]` the calls block their thread, so give it the multi-thread flavour
//! when the test's own tasks must run meanwhile. Every wait has a bound, and a bound that is passed panics with the
//! logs.

// Each test uses a part of it, and the compiler sees one crate.
#![allow(dead_code)]

pub(crate) mod api;
pub(crate) mod documents;
pub(crate) mod http;
pub(crate) mod leasehold;
pub(crate) mod net;
pub(crate) mod process;
pub(crate) mod redis;
pub(crate) mod resp_double;
pub(crate) mod sentinel;
pub(crate) mod stores;
pub(crate) mod tls;

use std::time::{Duration, Instant};

/// Asks `probe` every 10 ms until it gives a value; `None` when `limit` has passed without one.
pub(crate) fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until `condition` holds; panics with `what` after `limit`.
pub(crate) fn eventually(limit: Duration, what: &str, mut condition: impl FnMut() -> bool) {
    let held = poll(limit, || condition().then_some(()));
    assert!(held.is_some(), "not within {limit:?}: {what}");
}
