//! `leasehold run` and the commands for scripts, with real processes.

mod codes;
mod elect;
mod guide;
mod lost;
mod signals;
mod terminal;
mod verbs;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::leasehold::command_on;
use crate::support::process::{self, Process};
use crate::support::{host::Host, poll};

const BINARY: &str = env!("CARGO_BIN_EXE_leasehold");

/// How long a command of these tests may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A client command against this server.
fn client(server: &str, args: &[&str]) -> Command {
    client_on(&Host::default(), server, args)
}

fn client_on(host: &Host, server: &str, args: &[&str]) -> Command {
    command_on(host, BINARY, args, [("LEASEHOLD_SERVER", server)])
}

/// Runs a client command to its end: exit code, stdout, stderr.
fn exits(server: &str, args: &[&str]) -> (i32, String, String) {
    let (status, stdout, stderr) = process::run(&mut client(server, args), "leasehold", LIMIT);
    let code = status
        .code()
        .unwrap_or_else(|| panic!("{status}: {stderr}"));
    (code, stdout, stderr)
}

/// A client command that goes on. Its events, in JSON, are on stderr if it has `--json`. It ignores no signal, although the
/// tests may run in the background of a shell, where some are ignored.
fn begins(server: &str, args: &[&str]) -> Process {
    let host = Host::with_prefix(&["env", "--default-signal"]);
    let mut command = client_on(&host, server, args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Process::spawn(&mut command, "leasehold")
}

/// A shell that ignores SIGTERM, and a process that it has started, which writes the time to a file all the while. Both end
/// with the folder of the file.
fn beats(file: &Path) -> String {
    let folder = file.parent().expect("a folder").display();
    let file = file.display();
    format!(
        "trap '' TERM; (while [ -d {folder} ]; do date +%s%N >{file}.new.$$ && mv {file}.new.$$ {file}; sleep 0.02; done) & \
         while [ -d {folder} ]; do sleep 0.05; done"
    )
}

/// When a command last wrote the time, in milliseconds since the epoch.
fn last_beat(file: &Path) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim().parse::<u64>().ok()? / 1_000_000)
}

/// Waits for the first beat.
fn until_it_beats(file: &Path) {
    poll(LIMIT, || last_beat(file)).expect("the command runs");
}

/// When a lease was granted, in milliseconds since the epoch.
fn acquired_at(lease: &Value) -> u64 {
    let text = lease["acquired_at"].as_str().expect("a moment");
    let moment: jiff::Timestamp = text.parse().expect("RFC 3339");
    u64::try_from(moment.as_millisecond()).expect("after 1970")
}
