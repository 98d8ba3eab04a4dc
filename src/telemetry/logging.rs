//! Logs.
//!
//! Lines go to a thread of their own, which writes some at a time: a request does without a system call, and whoever
//! reads the log cannot stop the service by not reading it. What clients make up is cut short before it is formatted,
//! and no character of it can hide or forge a part of the log.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stderr, Write};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde::Serialize;
use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// How many lines may wait to be written. Those beyond are lost, and counted.
pub const MAX_UNWRITTEN_LINES: usize = 4096;

/// How many bytes they may have in all.
pub const MAX_UNWRITTEN_BYTES: usize = 8 * 1024 * 1024;

/// How much of a text that a client made up is logged, in bytes.
pub const MAX_LOGGED_BYTES: usize = 256;

/// For how long lines are gathered before the next write.
const GATHERING: Duration = Duration::from_millis(2);

/// How often a warning is logged whose cause comes again and again.
const WARNING_INTERVAL: Duration = Duration::from_secs(60);

/// Unset before logs are started.
static LOG: OnceLock<Log> = OnceLock::new();

struct Log {
    lines: Lines,
    /// Whether they are JSON.
    json: bool,
}

/// Where lines are sent: to the thread that writes them, unless too many wait there.
#[derive(Clone)]
struct Lines {
    to_writer: NonBlocking,
    unwritten: Arc<Unwritten>,
}

/// The lines that wait to be written.
#[derive(Default)]
struct Unwritten {
    lines: AtomicUsize,
    bytes: AtomicUsize,
    lost: AtomicU64,
}

/// Standard error, written to in large pieces.
struct BufferedStderr {
    to: BufWriter<Stderr>,
    unwritten: Arc<Unwritten>,
}

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

/// How many lines were lost because they were not read in time.
pub(super) fn lost_lines() -> u64 {
    LOG.get()
        .map_or(0, |log| log.lines.unwritten.lost.load(Ordering::Relaxed))
}

impl Write for Lines {
    /// Takes a whole line. One that is lost is counted, and no error.
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
    /// Counts a line in, if there is room for it; else as lost.
    fn reserve(&self, bytes: usize) -> bool {
        let lines_before = self.lines.fetch_add(1, Ordering::Relaxed);
        let bytes_before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let has_room =
            lines_before < MAX_UNWRITTEN_LINES && bytes_before + bytes <= MAX_UNWRITTEN_BYTES;
        if !has_room {
            self.free(bytes);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        has_room
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

    /// Comes once for each line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let written = self.to.write_all(line);
        self.unwritten.free(line.len());
        written
    }

    /// Comes when no line is left. Whoever sends the next need not wake this thread as long as it does not wait for one.
    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()?;
        sleep(GATHERING);
        Ok(())
    }
}

/// Lets a warning through once in a while, and counts the others.
#[derive(Debug, Default)]
pub struct LogInterval(Mutex<Option<(Instant, u64)>>);

impl LogInterval {
    /// Whether to log now, and how often it was not logged since the last time.
    pub fn due(&self) -> Option<u64> {
        let mut last = self
            .0
            .lock()
            .expect("nothing panics while it holds the interval");
        let now = Instant::now();
        match last.as_mut() {
            Some((logged, others)) if now.duration_since(*logged) < WARNING_INTERVAL => {
                *others += 1;
                None
            }
            _ => {
                let others = last.map_or(0, |(_, others)| others);
                *last = Some((now, 0));
                Some(others)
            }
        }
    }
}

/// What is logged of a text that a client made up: its beginning.
#[must_use]
pub fn cut_for_log(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LOGGED_BYTES {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", beginning(text, MAX_LOGGED_BYTES)))
}

/// As much of a text as has at most so many bytes.
#[must_use]
pub fn beginning(text: &str, max_bytes: usize) -> &str {
    let at_most = text.len().min(max_bytes);
    let mut ends = (0..=at_most).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Writes characters as JSON escapes that a terminal would obey or hide, and JSON lets pass.
fn escape_invisible(line: &[u8]) -> Cow<'_, [u8]> {
    if line.is_ascii() && !line.contains(&0x7F) {
        return Cow::Borrowed(line);
    }
    let line = String::from_utf8_lossy(line);
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if is_invisible(c) {
            // Writing into a string cannot fail. All of these have four hex digits.
            let _written = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

/// DEL and C1 controls, line and paragraph separators, and marks that change the direction of writing.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{7F}'..='\u{9F}'
            | '\u{61C}'
            | '\u{200E}'
            | '\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
    )
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
            // Sent or counted as lost.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_between_characters() {
        assert_eq!(cut_for_log("short"), "short");
        let long = format!("{}ééé", "a".repeat(MAX_LOGGED_BYTES - 3));
        assert_eq!(
            cut_for_log(&long),
            format!("{}é…", "a".repeat(MAX_LOGGED_BYTES - 3))
        );
    }

    #[test]
    fn what_a_terminal_obeys_or_hides_is_escaped() {
        let line =
            "a\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{2028}\u{202e}\u{2066}\u{2069}é\u{200b}\u{1f600}";
        let escaped = escape_invisible(line.as_bytes());
        let expected =
            "a\\u007f\\u0085\\u009b\\u061c\\u200e\\u2028\\u202e\\u2066\\u2069é\u{200b}\u{1f600}";
        assert_eq!(String::from_utf8_lossy(&escaped), expected);
    }

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

    #[test]
    fn warning_is_logged_once_an_interval() {
        let interval = LogInterval::default();
        assert_eq!(interval.due(), Some(0));
        assert_eq!((interval.due(), interval.due()), (None, None));
    }
}
