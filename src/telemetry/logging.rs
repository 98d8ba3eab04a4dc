//! Logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// Sends logs to standard error: text on a terminal, JSON otherwise. `RUST_LOG` sets the level.
pub fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
}
