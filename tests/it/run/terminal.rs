//! `run` at a real terminal, under an interactive shell with job control.

use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::{BINARY, LIMIT, last_beat, until_it_beats};
use crate::support::leasehold::Leasehold;
use crate::support::poll;
use crate::support::process::Process;

/// An interactive bash at a pseudo-terminal.
struct Terminal {
    shell: Process,
    output: Arc<Mutex<String>>,
}

impl Terminal {
    fn open(server: &Leasehold) -> Self {
        // The tests may run in the background of a shell, where some signals are ignored.
        let mut command = Command::new("env");
        command
            .args([
                "--default-signal",
                "script",
                "--quiet",
                "--return",
                "--command",
                "bash --norc --noprofile -i",
                "/dev/null",
            ])
            .env("LEASEHOLD_SERVER", server.base_url())
            .env("PS1", "$ ")
            .env("TERM", "dumb")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let shell = Process::spawn(&mut command, "bsdutils");
        let output = Arc::new(Mutex::new(String::new()));
        let (mut stdout, _stderr) = shell.take_pipes();
        let shared = Arc::clone(&output);
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = stdout.read(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..read]).into_owned();
                shared.lock().expect("the output").push_str(&text);
            }
        });
        let terminal = Self { shell, output };
        terminal.line("echo shell-$((1+1))");
        terminal.sees("shell-2");
        terminal
    }

    /// Presses keys a moment later: dash loses an interrupt that comes while it starts a process.
    fn keys_to_a_command(&self, keys: &str) {
        thread::sleep(Duration::from_millis(500));
        self.keys(keys);
    }

    fn keys(&self, keys: &str) {
        let mut child = self.shell.child();
        let stdin = child.as_mut().and_then(|child| child.stdin.as_mut());
        stdin
            .expect("a pipe")
            .write_all(keys.as_bytes())
            .expect("it runs");
    }

    fn line(&self, line: &str) {
        self.keys(&format!("{line}\n"));
    }

    /// Waits for a text that was not there before, and forgets all up to it.
    fn sees(&self, text: &str) {
        let found = poll(LIMIT, || {
            let mut output = self.output.lock().expect("the output");
            let at = output.find(text)?;
            output.drain(..at + text.len());
            Some(())
        });
        let output = self.output.lock().expect("the output");
        found.unwrap_or_else(|| panic!("no {text:?} in {output:?}"));
    }
}

#[test]
fn keys_of_the_terminal_reach_the_command() {
    let server = Leasehold::in_memory();
    let terminal = Terminal::open(&server);
    // It reads from the terminal, and the shell has the terminal again after it.
    terminal.line(&format!(
        "{BINARY} run a -- sh -c 'read word; echo got-$word-$((2+3))'"
    ));
    let held = || (server.api().inspect("a").json()["held"] == true).then_some(());
    poll(LIMIT, held).expect("it runs");
    terminal.line("hello");
    terminal.sees("got-hello-5");
    // Ctrl-C.
    terminal.line(&format!(
        "{BINARY} run a -- sh -c 'echo it-$((3+4)); sleep 30'; echo code-$?"
    ));
    terminal.sees("it-7");
    terminal.keys_to_a_command("\x03");
    terminal.sees("code-130");
    assert_eq!(server.api().inspect("a").json()["held"], false);
    terminal.line("echo still-$((4+4))");
    terminal.sees("still-8");
}

/// Ctrl-C ends a loop around the command too, as without `run`.
#[test]
fn interrupt_ends_the_whole_job() {
    let server = Leasehold::in_memory();
    let terminal = Terminal::open(&server);
    let script = format!(
        "for i in 1 2 3; do {BINARY} run a -- sh -c 'echo it-$((3+4)); sleep 30'; done; echo end-$((5+5))"
    );
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("script");
    std::fs::write(&file, script).expect("a file");
    terminal.line(&format!("sh {}", file.display()));
    terminal.sees("it-7");
    terminal.keys_to_a_command("\x03");
    terminal.line("echo shell-$((9+9))");
    terminal.sees("shell-18");
    assert_eq!(server.api().inspect("a").json()["held"], false);
}

/// Another process of the pipeline reads the terminal.
#[test]
fn terminal_is_left_to_a_pipeline_until_the_command_asks() {
    let server = Leasehold::in_memory();
    let terminal = Terminal::open(&server);
    terminal.line(&format!(
        "{BINARY} run a -- sh -c 'echo it-$((3+4)); sleep 2' | sh -c 'read word </dev/tty; echo got-$word; cat'"
    ));
    let held = || (server.api().inspect("a").json()["held"] == true).then_some(());
    poll(LIMIT, held).expect("it runs");
    terminal.line("hello");
    terminal.sees("got-hello");
    terminal.sees("it-7");
    // The command reads it, and only its output goes elsewhere.
    terminal.line(&format!(
        "{BINARY} run a -- sh -c 'read word; echo own-$word' | cat"
    ));
    poll(LIMIT, held).expect("it runs");
    terminal.line("again");
    terminal.sees("own-again");
}

#[test]
fn command_is_stopped_and_resumed_with_its_job() {
    let server = Leasehold::in_memory();
    let terminal = Terminal::open(&server);
    terminal.line(&format!(
        "{BINARY} run --ttl 20s a -- sh -c 'echo it-$((3+4)); read word; echo got-$word-$((2+3))'"
    ));
    terminal.sees("it-7");
    // Ctrl-Z.
    terminal.keys_to_a_command("\x1a");
    terminal.sees("Stopped");
    terminal.line("echo shell-$((5+5))");
    terminal.sees("shell-10");
    terminal.line("fg");
    terminal.sees("leasehold run");
    // The shell gives the terminal to the job before it resumes it.
    thread::sleep(Duration::from_millis(300));
    terminal.line("again");
    terminal.sees("got-again-5");
    terminal.line("echo code-$?-$((6+6))");
    terminal.sees("code-0-12");
}

/// The shell resumes only a job that was stopped.
#[test]
fn job_from_the_background_is_stopped_as_a_whole() {
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("beat");
    let terminal = Terminal::open(&server);
    terminal.line(&format!(
        "{BINARY} run --ttl 20s a -- sh -c 'while :; do date +%s%N >{}; sleep 0.02; done' &",
        file.display()
    ));
    until_it_beats(&file);
    terminal.line("fg");
    terminal.sees("leasehold run");
    terminal.keys_to_a_command("\x1a");
    terminal.sees("Stopped");
    thread::sleep(Duration::from_millis(200));
    let stopped = last_beat(&file);
    thread::sleep(Duration::from_millis(300));
    assert_eq!(last_beat(&file), stopped);
    terminal.line("bg");
    poll(LIMIT, || (last_beat(&file) > stopped).then_some(())).expect("it runs on");
    terminal.line("kill %1; wait %1; echo code-$?");
    terminal.sees("code-143");
}

/// Nothing renews the lease of a job that is stopped, so the guardian ends it.
#[test]
fn stopped_job_does_not_outlive_its_lease() {
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("pid");
    let terminal = Terminal::open(&server);
    terminal.line(&format!(
        "{BINARY} run --ttl 2s a -- sh -c 'echo $$ >{}; echo it-$((3+4)); sleep 30'",
        file.display()
    ));
    terminal.sees("it-7");
    terminal.keys_to_a_command("\x1a");
    terminal.sees("Stopped");
    let next = server.api().acquire("a", json!({"wait_ms": 10_000}));
    assert_eq!(next.status, 201, "{next:?}");
    let pid = std::fs::read_to_string(&file).expect("a process id");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    assert!(
        stat.is_err() || stat.is_ok_and(|stat| stat.contains(" Z ")),
        "it lives"
    );
    terminal.line("fg; echo code-$?");
    terminal.sees("code-76");
}

#[test]
fn wait_is_one_line_that_goes_away() {
    let server = Leasehold::in_memory();
    let held = server
        .api()
        .acquire("a", json!({"ttl_ms": 60_000, "holder": "somebody"}));
    let terminal = Terminal::open(&server);
    terminal.line(&format!("{BINARY} run a -- echo mine-$((7+7))"));
    terminal.sees("waiting: a is held by somebody for 0 s (position 1 in the queue)");
    assert_eq!(server.api().release("a", &held.lease_id()).status, 204);
    terminal.sees("\r\u{1b}[K");
    terminal.sees("mine-14");
}
