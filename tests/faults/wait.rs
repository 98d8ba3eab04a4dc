//! Waits that end early when the run ends.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::support;

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Calls `probe` until it returns a value; `None` after `limit` or when the run ends.
pub(crate) fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let ended = || is_stopped().then_some(None);
    support::poll(limit, || probe().map(Some).or_else(ended)).flatten()
}

/// Sleeps, but not beyond the end of the run.
pub(crate) fn sleep(duration: Duration) {
    poll(duration, || None::<()>);
}

pub(crate) fn hold_ms(ms: u64) {
    sleep(Duration::from_millis(ms));
}

pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Ends the run gracefully when standard input closes, so that the run cleans up after itself.
pub(crate) fn stop_with_stdin() {
    thread::spawn(|| {
        let _closed = io::copy(&mut io::stdin(), &mut io::sink());
        eprintln!("ending");
        STOPPED.store(true, Ordering::SeqCst);
    });
}
