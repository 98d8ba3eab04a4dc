//! Logs.
//!
//! Lines go to a thread of their own, which writes some at a time: a request does without a system call, and whoever
//! reads the log cannot stop the service by not reading it.

use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;
use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// How many lines may wait to be written. Those beyond are lost, and counted.
pub const MAX_UNWRITTEN_LINES: usize = 4096;

/// For how long lines are gathered before the next write.
const GATHERING: Duration = Duration::from_millis(2);

/// Unset before logs are started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: NonBlocking,
    /// Whether they are JSON.
    json: bool,
}

/// Standard error, written to in large pieces.
struct Gathered(BufWriter<Stderr>);

/// Writes what is left when it is dropped, unless nobody reads it within a second.
#[must_use]
pub struct Logging {
    _worker: WorkerGuard,
}

/// Sends logs to standard error: text on a terminal, JSON otherwise. `RUST_LOG` sets the level.
///
/// # Panics
/// If logs are started already.
pub fn start_logging() -> Logging {
    let (lines, worker) = NonBlockingBuilder::default()
        .buffered_lines_limit(MAX_UNWRITTEN_LINES)
        .thread_name("log")
        .finish(Gathered(BufWriter::with_capacity(1 << 16, io::stderr())));
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

/// How many lines were lost because they were not read in time.
pub(super) fn lost_lines() -> u64 {
    let lost = LOG
        .get()
        .map_or(0, |log| log.lines.error_counter().dropped_lines());
    u64::try_from(lost).unwrap_or(u64::MAX)
}

impl Write for Gathered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    /// Comes when no line is left. Whoever sends the next need not wake this thread as long as it does not wait for one.
    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()?;
        sleep(GATHERING);
        Ok(())
    }
}

/// What is logged of a request.
#[derive(Serialize)]
pub struct RequestLine<'a> {
    /// The id that the client was told.
    pub request_id: &'a str,
    /// The method.
    pub method: &'a str,
    /// The route, without what clients make up.
    pub route: &'a str,
    /// The lock, if the route is one of a lock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<&'a str>,
    /// The path, if it is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<&'a str>,
    /// The status of the answer.
    pub status: u16,
    /// From the request to its answer.
    pub duration_ms: u64,
}

/// A line as all others are written, with fields of its own.
#[derive(Serialize)]
struct Line<'a> {
    timestamp: String,
    level: &'static str,
    message: &'static str,
    #[serde(flatten)]
    fields: &'a RequestLine<'a>,
    target: &'static str,
}

/// Writes the line of a request. As JSON it passes by the machinery for any event, which took a fifth of the time of a
/// request in memory.
pub fn log_request(line: &RequestLine<'_>) {
    if let Some(Log { lines, json: true }) = LOG.get() {
        if tracing::enabled!(Level::INFO) {
            let line = Line {
                timestamp: format!("{:.6}", jiff::Timestamp::now()),
                level: "INFO",
                message: "request",
                fields: line,
                target: module_path!(),
            };
            let mut text = serde_json::to_vec(&line).expect("texts and numbers are JSON");
            text.push(b'\n');
            // One that is lost is counted.
            let _sent = lines.clone().write_all(&text);
        }
        return;
    }
    tracing::info!(
        request_id = line.request_id,
        method = line.method,
        route = line.route,
        key = line.key,
        path = line.path,
        status = line.status,
        duration_ms = line.duration_ms,
        "request"
    );
}
