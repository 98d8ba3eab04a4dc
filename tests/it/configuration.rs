//! A misspelt, contradictory or out-of-bounds setting stops the start with one line that names it.

mod bounds;
mod commands;
mod contradictions;
mod secrets;
mod variables;

use std::net::TcpListener;

use crate::support::leasehold::run_to_exit;

/// The exit code for wrong settings or arguments.
const USAGE: i32 = 2;

/// The variables of one start.
type Env<'a> = &'a [(&'a str, &'a str)];

/// Starts the server with settings that it must refuse in one line with all of `words`; returns a description of any
/// deviation.
fn refused(env: Env, words: &[&str]) -> Result<(), String> {
    // The port is in use, so that a server that accepts the settings by mistake exits, with another exit code.
    let (_listener, addr) = port_in_use();
    let port = [("LEASEHOLD_LISTEN", &*addr)];
    let (status, stdout, stderr) = run_to_exit(&[], port.iter().chain(env).copied());
    refused_line(status.code(), &stdout, &stderr, words)
        .map_err(|problem| format!("{env:?}: {problem}\n  stdout {stdout:?}\n  stderr {stderr:?}"))
}

/// Whether a process ended as it should with wrong settings.
fn refused_line(
    code: Option<i32>,
    stdout: &str,
    stderr: &str,
    words: &[&str],
) -> Result<(), String> {
    if code != Some(USAGE) {
        return Err(format!("exit code {code:?}"));
    }
    if !stdout.is_empty() {
        return Err("it wrote to standard output".to_owned());
    }
    if stderr.lines().count() != 1 {
        return Err("not one line on standard error".to_owned());
    }
    match words.iter().find(|word| !mentions(stderr, word)) {
        Some(word) => Err(format!("no {word}")),
        None => Ok(()),
    }
}

/// Whether a line contains a word; the flag of a variable counts as well as its name.
fn mentions(line: &str, word: &str) -> bool {
    let flag = word
        .strip_prefix("LEASEHOLD_")
        .map(|name| format!("--{} ", name.to_ascii_lowercase().replace('_', "-")));
    line.contains(word) || flag.is_some_and(|flag| line.contains(&flag))
}

/// Starts the server with correct settings on a port in use: the server must get as far as that error.
fn accepted(env: Env) -> Result<(), String> {
    let (_listener, addr) = port_in_use();
    let (status, stdout, stderr) = run_to_exit(&["--listen", &addr], env.iter().copied());
    let reached = status.code() == Some(1) && stderr.contains("another program listens");
    if reached && stdout.is_empty() && stderr.lines().count() == 1 {
        Ok(())
    } else {
        Err(format!("{env:?}: {status}, {stdout:?}, {stderr:?}"))
    }
}

/// A port that is in use as long as the listener lives.
fn port_in_use() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let addr = listener.local_addr().expect("a listener has an address");
    (listener, addr.to_string())
}

/// Panics with all deviations instead of the first one.
fn all(results: impl IntoIterator<Item = Result<(), String>>) {
    let wrong: Vec<String> = results.into_iter().filter_map(Result::err).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
