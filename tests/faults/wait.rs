//! Bounded waiting, and the wish of whoever runs the campaign to end it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Asks `probe` every 25 ms until it gives a value; `None` when `limit` has passed or the run is to end.
pub(crate) fn poll<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline || is_stopped() {
            return None;
        }
        thread::sleep(Duration::from_millis(25));
    }
}

/// Sleeps, but not beyond the end of the run.
pub(crate) fn sleep(duration: Duration) {
    let deadline = Instant::now() + duration;
    while !is_stopped() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(Duration::from_millis(50)));
    }
}

pub(crate) fn hold_ms(ms: u64) {
    sleep(Duration::from_millis(ms));
}

pub(crate) fn is_stopped() -> bool {
    STOPPED.load(Ordering::SeqCst)
}

/// Lets SIGINT and SIGTERM end the run in order, so that it can remove what it made.
pub(crate) fn stop_on_signals() {
    thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("a runtime for signals").block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let mut interrupt = signal(SignalKind::interrupt()).expect("SIGINT can be received");
            let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be received");
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        eprintln!("ending");
        STOPPED.store(true, Ordering::SeqCst);
    });
}
