//! Shared by the integration tests, the fault campaign and the benches: real servers on free loopback ports or on their
//! own hosts, which stop on drop, and small blocking clients that show the exact bytes of an answer.
//!
//! This module is synchronous on purpose: a plain `#[test]` can use it, and a handle that drops during a panic still
//! kills its process. In a `#[tokio::test]` the calls block their thread; use the multi-thread flavour when the test's
//! own tasks must run meanwhile. Every wait has a limit; the panic after the limit shows the logs.

pub(crate) mod api;
pub(crate) mod documents;
pub(crate) mod host;
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

/// Calls `probe` every 10 ms until it returns a value; `None` after `limit`.
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
