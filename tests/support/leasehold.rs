//! The real `leasehold` binary, started for one test.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::api::Api;
use super::host::Host;
use super::http::{Reply, http, try_http};
use super::process::{self, Process};
use super::redis::RedisServer;
use super::{eventually, poll};

/// How long the server may take to listen, and then to become ready.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long a call of the binary may take when it does not serve.
const RUN_LIMIT: Duration = Duration::from_secs(10);
/// Longer than the interval at which the server flushes its log.
const LOG_DELAY: Duration = Duration::from_millis(20);
/// The text before the address in the server's line on standard output.
const LISTENING: &str = " listening on http://";

/// A running server on a free port, killed on drop.
pub(crate) struct Leasehold {
    process: Process,
    addr: String,
    stdout: Output,
    stderr: Output,
    /// A message on this channel, or its drop, starts the reader of the log.
    read_log: Sender<()>,
}

impl Leasehold {
    /// Starts a server on the embedded store.
    pub(crate) fn in_memory() -> Self {
        Self::start([("LEASEHOLD_STORE", "memory")])
    }

    /// A ready server on this one Redis.
    pub(crate) fn on(redis: &RedisServer) -> Self {
        let server = Self::start([("LEASEHOLD_REDIS_URL", redis.url())]);
        server.wait_ready();
        server
    }

    /// Starts a server with these variables and no other `LEASEHOLD_*`; returns once it listens, which is before it is
    /// ready: see `wait_ready`.
    pub(crate) fn start<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self::start_at("127.0.0.1:0", env)
    }

    /// As `start`, on this address.
    pub(crate) fn start_at<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        listen: &str,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let server = Self::start_unread(listen, env);
        server.read_log();
        server
    }

    /// Reads the server's log from now on.
    pub(crate) fn read_log(&self) {
        // The reader thread lives as long as the pipe.
        let _reads = self.read_log.send(());
    }

    /// As `start_at`, with an unread log until `read_log`.
    pub(crate) fn start_unread<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        listen: &str,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        Self::spawn(command(&["--listen", listen], env), |_| true)
    }

    /// A server on a free port. The reader consumes the whole log and keeps only lines with one of these texts.
    pub(crate) fn start_with_large_log<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        kept: &'static [&'static str],
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let keeps = |line: &str| kept.iter().any(|text| line.contains(text));
        let server = Self::spawn(command(&["--listen", "127.0.0.1:0"], env), keeps);
        server.read_log();
        server
    }

    /// A server with this limit of open files.
    pub(crate) fn start_with_descriptors<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        descriptors: u32,
        env: impl IntoIterator<Item = (K, V)>,
    ) -> Self {
        let limit = format!("--nofile={descriptors}");
        let host = Host::with_prefix(&["prlimit", &limit]);
        let limited = command_on(&host, binary(), &["--listen", "127.0.0.1:0"], env);
        let server = Self::spawn(limited, |_| true);
        server.read_log();
        server
    }

    fn spawn(mut command: Command, keeps: impl Fn(&str) -> bool + Send + 'static) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let process = Process::spawn(&mut command, "leasehold");
        let (stdout, stderr) = process.take_pipes();
        let (read_log, log_is_read) = mpsc::channel();
        let stdout = Output::collect(stdout, || {}, |_| true);
        // A dropped sender starts the reader as well, so that it keeps the last lines.
        let begin = move || {
            let _begun = log_is_read.recv();
        };
        let stderr = Output::collect(stderr, begin, keeps);
        let addr = poll(START_LIMIT, || {
            let ended = !process.is_running();
            let addr = stdout.text().lines().find_map(listening_addr);
            (addr.is_some() || ended).then_some(addr)
        });
        let Some(Some(addr)) = addr else {
            process.kill();
            drop(read_log);
            stdout.settle();
            stderr.settle();
            panic!(
                "leasehold did not start\n{}{}",
                stdout.text(),
                stderr.text()
            );
        };
        Self {
            process,
            addr,
            stdout,
            stderr,
            read_log,
        }
    }

    /// The server's process, for its system statistics.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// The current answer of `/readyz`.
    pub(crate) fn readiness(&self) -> Reply {
        http(&self.addr, "GET", "/readyz", &[], None)
    }

    /// The current value of a metric without labels.
    pub(crate) fn metric(&self, name: &str) -> Option<u64> {
        let metrics = http(&self.addr, "GET", "/metrics", &[], None).body;
        let mut lines = metrics.lines().filter_map(|line| line.split_once(' '));
        lines.find(|(shown, _)| *shown == name)?.1.parse().ok()
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// `http://127.0.0.1:PORT`.
    pub(crate) fn base_url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Its API, without credentials.
    pub(crate) fn api(&self) -> Api {
        Api::new(&self.addr)
    }

    /// Waits until `/readyz` answers 200.
    pub(crate) fn wait_ready(&self) {
        let ready = poll(START_LIMIT, || {
            let reply = try_http(&self.addr, "GET", "/readyz", &[], None).ok()?;
            (reply.status == 200).then_some(())
        });
        assert!(
            ready.is_some(),
            "not ready\n{}{}",
            self.stdout(),
            self.stderr()
        );
    }

    /// The standard output so far.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// The standard error so far. The server buffers its log, so this waits for one flush.
    pub(crate) fn stderr(&self) -> String {
        thread::sleep(LOG_DELAY);
        self.stderr.text()
    }

    /// Kills the server with SIGKILL: no drain, no cleanup in Redis.
    pub(crate) fn kill(&self) {
        self.process.kill();
        self.stdout.settle();
        self.stderr.settle();
    }

    /// Asks the server to stop (SIGTERM): see `wait_exit`.
    pub(crate) fn terminate(&self) {
        self.process.terminate();
    }

    /// Stops the server with SIGSTOP to simulate a hung machine.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// Resumes the server after `pause`.
    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    /// Waits for the server to exit, after which `stdout` and `stderr` are complete; panics with the output after
    /// `limit`.
    pub(crate) fn wait_exit(&self, limit: Duration) -> ExitStatus {
        let Some(status) = self.process.wait(limit) else {
            panic!(
                "still runs after {limit:?}\n{}{}",
                self.stdout(),
                self.stderr()
            );
        };
        self.stdout.settle();
        self.stderr.settle();
        status
    }
}

/// Runs the binary until it exits, for refusals and printed output: its status, standard output and standard error.
pub(crate) fn run_to_exit<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    args: &[&str],
    env: impl IntoIterator<Item = (K, V)>,
) -> (ExitStatus, String, String) {
    process::run(&mut command(args, env), "leasehold", RUN_LIMIT)
}

/// The binary under test, with only the given `LEASEHOLD_*` variables.
fn command<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    args: &[&str],
    env: impl IntoIterator<Item = (K, V)>,
) -> Command {
    command_on(&Host::default(), binary(), args, env)
}

/// A build of the server on a host, with only the given `LEASEHOLD_*` variables and `RUST_LOG`.
pub(crate) fn command_on<K: AsRef<OsStr>, V: AsRef<OsStr>>(
    host: &Host,
    binary: impl AsRef<OsStr>,
    args: &[&str],
    env: impl IntoIterator<Item = (K, V)>,
) -> Command {
    let mut command = host.command(binary);
    for (name, _) in env::vars_os() {
        if name == "RUST_LOG" || name.to_string_lossy().starts_with("LEASEHOLD_") {
            command.env_remove(name);
        }
    }
    command.args(args).envs(env);
    command
}

/// The binary under test: the release build if the whole run is a release build.
fn binary() -> OsString {
    let binary = env::var_os("LEASEHOLD_TEST_BINARY");
    binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_leasehold").into())
}

/// The address in the line that announces the listener.
pub(crate) fn listening_addr(line: &str) -> Option<String> {
    let (program, addr) = line.split_once(LISTENING)?;
    program
        .starts_with("Leasehold ")
        .then(|| addr.trim().to_owned())
}

/// The output of a process on a pipe; a thread reads it all the time, so the process never blocks on a full pipe.
struct Output {
    text: Arc<Mutex<String>>,
    reader: JoinHandle<()>,
}

impl Output {
    /// Reads `pipe` in its own thread after `begin`, keeps the selected lines, and ends with the pipe.
    fn collect(
        pipe: impl Read + Send + 'static,
        begin: impl FnOnce() + Send + 'static,
        keeps: impl Fn(&str) -> bool + Send + 'static,
    ) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&text);
        let reader = thread::spawn(move || {
            begin();
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
                let read = String::from_utf8_lossy(&line);
                if keeps(&read) {
                    let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                    text.push_str(&read);
                }
                line.clear();
            }
        });
        Self { text, reader }
    }

    /// Waits for the last lines of an ended process: the reader can lag behind the exit.
    fn settle(&self) {
        eventually(START_LIMIT, "the end of the output", || {
            self.reader.is_finished()
        });
    }

    /// The complete lines so far.
    fn text(&self) -> String {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}
