//! Logs.

use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;

use serde::Serialize;
use tracing::Level;
use tracing_subscriber::EnvFilter;

/// Whether logs are JSON; unset before they are started.
static JSON: OnceLock<bool> = OnceLock::new();

/// Sends logs to standard error: text on a terminal, JSON otherwise. `RUST_LOG` sets the level.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr);
    if *JSON.get_or_init(|| !io::stderr().is_terminal()) {
        logs.json().flatten_event(true).init();
    } else {
        logs.init();
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
    if JSON.get() == Some(&true) {
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
            // Nobody has to read it.
            let _written = io::stderr().lock().write_all(&text);
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
