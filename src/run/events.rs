//! What `run` tells its user, on stderr: nothing while all is well, one line while it waits at a terminal, problems, and with
//! `--json` each event as a line.

use std::io::{IsTerminal, Write, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};

use crate::client::{Grant, LockStatus, held};

/// See the module.
pub(super) struct Events {
    key: String,
    json: bool,
    is_terminal: bool,
    /// Whether the line of the wait is on the terminal.
    has_line: AtomicBool,
}

/// What happened.
pub(super) enum Event<'a> {
    /// Who holds the lock; `None` while no server can tell.
    Waiting(Option<&'a LockStatus>),
    Acquired(&'a Grant),
    Renewed(&'a Grant),
    Lost(&'a str),
    Killed,
    Released,
}

impl Events {
    pub(super) fn new(key: &str, json: bool) -> Self {
        Self {
            key: key.to_owned(),
            json,
            is_terminal: stderr().is_terminal(),
            has_line: AtomicBool::new(false),
        }
    }

    pub(super) fn tell(&self, event: &Event<'_>) {
        if self.json {
            return print(&self.in_json(event).to_string());
        }
        match event {
            Event::Waiting(status) if self.is_terminal => {
                let who = match status {
                    Some(status) => held(&self.key, status),
                    None => "no server can serve".to_owned(),
                };
                // Clears the line, and leaves the cursor on it.
                let _ = write!(stderr(), "\r\x1b[Kwaiting: {who}");
                self.has_line.store(true, Ordering::Relaxed);
            }
            Event::Lost(why) => print(&format!(
                "leasehold: the lease of {} is lost: {why}",
                self.key
            )),
            _ => {}
        }
    }

    /// Clears the line of the wait.
    pub(super) fn end_of_waiting(&self) {
        if self.has_line.swap(false, Ordering::Relaxed) {
            let _ = write!(stderr(), "\r\x1b[K");
        }
    }

    pub(super) fn problem(&self, text: &str) {
        if self.json {
            print(&json!({"event": "problem", "key": self.key, "detail": text}).to_string());
        } else {
            print(&format!("leasehold: {text}"));
        }
    }

    fn in_json(&self, event: &Event<'_>) -> Value {
        let of = |event: &str, more: Value| {
            let mut value = json!({"event": event, "key": self.key});
            if let (Some(all), Value::Object(more)) = (value.as_object_mut(), more) {
                all.extend(more);
            }
            value
        };
        let lease = |grant: &Grant| json!({"fencing_token": grant.fencing_token, "expires_at": grant.expires_at});
        match event {
            Event::Waiting(None) => of("waiting", json!({})),
            Event::Waiting(Some(status)) => of(
                "waiting",
                json!({
                    "holder": status.holder,
                    "held_for_ms": status.held_for_ms,
                    "position": status.position,
                    "released": status.released,
                }),
            ),
            Event::Acquired(grant) => of("acquired", lease(grant)),
            Event::Renewed(grant) => of("renewed", lease(grant)),
            Event::Lost(why) => of("lost", json!({"detail": why})),
            Event::Killed => of("killed", json!({})),
            Event::Released => of("released", json!({})),
        }
    }
}

/// A closed stderr is no failure of the command.
fn print(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}
