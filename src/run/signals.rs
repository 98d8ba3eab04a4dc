//! The signals that this process receives.

use std::io;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::{SelectAll, Stream, select_all};
use nix::sys::signal::Signal;
use rustix_libc_wrappers::process::SignalExt;
use tokio::signal::unix::{SignalKind, signal};

/// The number of a signal. [`Signal`] does not know the real-time signals.
pub(super) type Number = i32;

/// The signals that are the command's too, besides the real-time signals. Those that stop a job go to its terminal; the others, which this process cannot
/// handle, end or stop it alone.
const FORWARDED: [Signal; 17] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGABRT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGTERM,
    Signal::SIGCONT,
    Signal::SIGURG,
    Signal::SIGXCPU,
    Signal::SIGXFSZ,
    Signal::SIGVTALRM,
    Signal::SIGPROF,
    Signal::SIGWINCH,
    Signal::SIGIO,
    Signal::SIGPWR,
];

/// Signals that end a process which waits.
const FATAL: [Signal; 4] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
];

/// The signals for the command, and the news of children.
pub(super) struct Signals(SelectAll<Pin<Box<dyn Stream<Item = Number> + Send>>>);

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        let ignored = ignored();
        let real_time = (0..).map_while(rustix::process::Signal::rt);
        let wanted = FORWARDED
            .into_iter()
            .map(|signal| signal as Number)
            .chain(real_time.map(rustix::process::Signal::as_raw))
            // A signal that is ignored, as by nohup, stays so for the command.
            .filter(|number| ignored & (1 << (number - 1)) == 0)
            .chain([Signal::SIGCHLD as Number]);
        let streams: io::Result<Vec<_>> = wanted
            .map(|number| {
                let received = signal(SignalKind::from_raw(number))?;
                let stream =
                    futures_util::stream::unfold(received, move |mut received| async move {
                        received.recv().await.map(|()| (number, received))
                    });
                Ok(stream.boxed())
            })
            .collect();
        Ok(Self(select_all(streams?)))
    }

    /// The next signal. Dropping the future loses none.
    pub(super) async fn next(&mut self) -> Number {
        match self.0.next().await {
            Some(signal) => signal,
            // The streams never end.
            None => std::future::pending().await,
        }
    }

    /// The next signal that ends a process.
    pub(super) async fn fatal(&mut self) -> Number {
        loop {
            let number = self.next().await;
            if FATAL.iter().any(|signal| *signal as Number == number) {
                return number;
            }
        }
    }
}

/// The signals that this process ignores since its start, one bit each.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(0)
}
