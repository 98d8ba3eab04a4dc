//! Logs.
//!
//! A separate thread writes the lines in batches. A request therefore makes no system call to log, and a slow reader
//! of the log cannot block the service. Text from clients is truncated before it is formatted, and its control
//! characters are escaped, so that it cannot hide or forge a part of the log.

use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use super::log_text::escape_invisible;

/// The most lines that wait to be written. The log drops and counts the lines beyond this limit.
pub const MAX_UNWRITTEN_LINES: usize = 4096;

/// The most bytes of all lines that wait to be written.
pub const MAX_UNWRITTEN_BYTES: usize = 8 * 1024 * 1024;

/// The pause of the writing thread after a write. Lines accumulate meanwhile, so that one system call writes many.
const GATHERING: Duration = Duration::from_millis(2);

/// Unset until [`start_logging`] runs.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: Lines,
    /// Whether lines are JSON rather than text.
    json: bool,
}

/// Sends lines to the writing thread, and drops a line when too many are unwritten.
#[derive(Clone)]
struct Lines {
    to_writer: NonBlocking,
    unwritten: Arc<Unwritten>,
}

/// The number and size of the lines that wait to be written, and the number of lines that were dropped.
#[derive(Default)]
struct Unwritten {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicU64,
}

/// Standard error behind a buffer: one system call writes many lines.
struct BufferedStderr {
    to: BufWriter<Stderr>,
    unwritten: Arc<Unwritten>,
}

/// Keeps the writing thread alive. Its drop waits at most a second for the remaining lines to be written.
#[must_use]
pub struct Logging {
    _worker: WorkerGuard,
}

/// Sends logs to standard error: text on a terminal, JSON otherwise. `RUST_LOG` sets the level.
///
/// # Panics
/// If logging has already started.
pub fn start_logging() -> Logging {
    let unwritten = Arc::new(Unwritten::default());
    let (to_writer, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_UNWRITTEN_LINES)
        .thread_name("log")
        .finish(BufferedStderr {
            to: BufWriter::with_capacity(1 << 16, io::stderr()),
            unwritten: Arc::clone(&unwritten),
        });
    let lines = Lines {
        to_writer,
        unwritten,
    };
    let json = !io::stderr().is_terminal();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(!json)
        .with_writer(lines.clone());
    if json {
        logs.json().flatten_event(true).init();
    } else {
        logs.init();
    }
    let started = LOG.set(Log { lines, json });
    assert!(started.is_ok(), "logs are started once");
    Logging { _worker: worker }
}

/// The number of lines that were dropped because standard error was read too slowly.
pub(super) fn lost_lines() -> u64 {
    LOG.get()
        .map_or(0, |log| log.lines.unwritten.lost.load(Ordering::Relaxed))
}

impl Write for Lines {
    /// Accepts one whole line. A dropped line is counted and is not an error: logging must not fail a request.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = escape_invisible(line);
        if self.unwritten.reserve(escaped.len()) {
            self.to_writer.write_all(&escaped)?;
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Unwritten {
    /// Reserves space for a line of this size. Returns false and counts a dropped line if a limit would be exceeded.
    fn reserve(&self, bytes: usize) -> bool {
        let lines_before = self.lines.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits =
            lines_before < MAX_UNWRITTEN_LINES && bytes_before + bytes <= MAX_UNWRITTEN_BYTES;
        if !fits {
            self.free(bytes);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        fits
    }

    fn free(&self, bytes: usize) {
        self.lines.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Write for BufferedStderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.to.write(bytes)
    }

    /// The writing thread calls this once for each line, so the space of exactly one line becomes free.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.to.write_all(line);
        self.unwritten.free(line.len());
        written
    }

    /// The writing thread calls this when its channel is empty. While it sleeps here, a request that logs does not pay
    /// for waking a thread that waits on the channel.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()?;
        sleep(GATHERING);
        Ok(())
    }
}

/// The fields of a request's log line.
#[derive(Serialize)]
pub struct RequestLine<'a> {
    /// The request id that the answer carries.
    pub request_id: &'a str,
    /// The HTTP method.
    pub method: &'a str,
    /// The route template, without any text from the client.
    pub route: &'a str,
    /// The lock's key, if the route names a lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The path, if the route names no lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The HTTP status of the answer.
    pub status: u16,
    /// The time from the request to its answer, in milliseconds.
    pub duration_ms: u64,
    /// Whether a monitoring system asks this every few seconds, so that only the level debug has the line.
    #[serde(skip)]
    pub is_routine: bool,
}

/// A JSON line of the same form as `tracing` writes, with the fields of a request.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: &'a RequestLine<'a>,
    target: &'static str,
}

/// Writes the line of a request. The JSON form bypasses `tracing`, which took a fifth of the time of a request to the
/// memory store.
pub fn log_request(line: &RequestLine<'_>) {
    if let Some(Log { lines, json: true }) = LOG.get() {
        let is_enabled = if line.is_routine {
            tracing::enabled!(Level::DEBUG)
        } else {
            tracing::enabled!(Level::INFO)
        };
        if is_enabled {
            let line = Line {
                timestamp: format!("{:.6}", jiff::Timestamp::now()),
                level: if line.is_routine { "DEBUG" } else { "INFO" },
                message: "request",
                fields: line,
                target: module_path!(),
            };
            let mut text = serde_json::to_vec(&line).expect("texts and numbers are JSON");
            text.push(b'\n');
            // The write never fails: `Lines` counts a dropped line instead.
            let _sent = lines.clone().write_all(&text);
        }
        return;
    }
    macro_rules! log {
        ($level:expr) => {
            tracing::event!(
                $level,
                request_id = line.request_id,
                method = line.method,
                route = line.route,
                key = line.key,
                path = line.path,
                status = line.status,
                duration_ms = line.duration_ms,
                "request"
            )
        };
    }
    if line.is_routine {
        log!(Level::DEBUG);
    } else {
        log!(Level::INFO);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_bounded_in_number_and_in_bytes() {
        let unwritten = Unwritten::default();
        for _ in 0..MAX_UNWRITTEN_LINES {
            assert!(unwritten.reserve(1));
        }
        assert!(!unwritten.reserve(1));
        unwritten.free(1);
        assert!(!unwritten.reserve(MAX_UNWRITTEN_BYTES));
        assert!(unwritten.reserve(MAX_UNWRITTEN_BYTES - (MAX_UNWRITTEN_LINES - 1)));
        assert_eq!(unwritten.lost.load(Ordering::Relaxed), 2);
    }
}
