//! A real `redis-server` for one test.

mod config;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::redis::{Client, ClientTlsConfig, RedisResult, TlsCertificates, Value};
use tempfile::TempDir;

pub(crate) use config::RedisConfig;

use super::net::free_port;
use super::poll;
use super::process::Process;

/// How long a server may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long one command may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How many ports are tried when somebody else takes the chosen one first.
const PORT_ATTEMPTS: usize = 5;

/// A running Redis (or Sentinel) in a directory of its own, killed on drop.
///
/// The methods take `&self`, so that a test can stop a node that a [`SentinelSet`](super::sentinel::SentinelSet)
/// owns.
pub(crate) struct RedisServer {
    config: RedisConfig,
    port: u16,
    /// The running process; a dead one stays here until `restart`. Before `dir`, as fields are dropped in their order:
    /// a server that still runs may write into a directory while it is removed.
    process: Mutex<Process>,
    dir: TempDir,
    /// Stopped by `pause`: it exists, but would not answer.
    paused: AtomicBool,
}

impl RedisServer {
    /// A plain master on a free port.
    pub(crate) fn plain() -> Self {
        RedisConfig::new().start()
    }

    fn start(config: &RedisConfig) -> Self {
        for _ in 0..PORT_ATTEMPTS {
            let port = config.port.unwrap_or_else(free_port);
            let dir = TempDir::new().expect("a temporary directory");
            fs::write(conf_path(dir.path()), config.render(dir.path(), port))
                .expect("a writable temporary directory");
            let process = Mutex::new(spawn(dir.path(), config.sentinel));
            let server = Self {
                config: config.clone(),
                port,
                dir,
                process,
                paused: AtomicBool::new(false),
            };
            if server.wait_until_up() {
                return server;
            }
        }
        panic!("no port was free in {PORT_ATTEMPTS} attempts");
    }

    /// True once this very process answers, false when its port is taken; panics with the log otherwise.
    fn wait_until_up(&self) -> bool {
        let up = poll(START_LIMIT, || {
            if !self.process().is_running() {
                return Some(false);
            }
            // Whoever holds the port might answer a PING, so ask for the process id.
            let id = self
                .try_info("server")
                .ok()
                .and_then(|info| field(&info, "process_id"));
            (id == Some(self.process().id().to_string())).then_some(true)
        });
        match up {
            Some(true) => true,
            Some(false) if self.log().contains("Address already in use") => false,
            _ => panic!(
                "redis-server on port {} did not start\n{}",
                self.port,
                self.log_tail()
            ),
        }
    }

    /// The port it listens on, the same after `restart`.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`.
    pub(crate) fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `redis://` or `rediss://`, with the password.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() {
            "rediss"
        } else {
            "redis"
        };
        let login = self
            .config
            .password
            .as_ref()
            .map_or_else(String::new, |password| format!(":{password}@"));
        format!("{scheme}://{login}{}", self.addr())
    }

    /// Runs one command on a connection of its own and returns the reply as text: one element a line, nil as an empty
    /// line, an error with its code. Panics when nobody answers.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|error| {
            panic!("{args:?} to {}: {error}\n{}", self.addr(), self.log_tail())
        })
    }

    /// As `cli`, with an error when the server cannot be reached or does not let us in.
    pub(crate) fn try_cli(&self, args: &[&str]) -> RedisResult<String> {
        let mut connection = self.client()?.get_connection_with_timeout(CALL_LIMIT)?;
        connection.set_read_timeout(Some(CALL_LIMIT))?;
        let (name, args) = args.split_first().expect("a command");
        match ::redis::cmd(name).arg(args).query(&mut connection) {
            Ok(reply) => Ok(text(&reply)),
            Err(error) => match (error.code(), error.detail()) {
                (Some(code), detail) => Ok(format!("{code} {}", detail.unwrap_or_default())),
                (None, _) => Err(error),
            },
        }
    }

    /// A client of the `redis` crate, with password and certificates.
    pub(crate) fn client(&self) -> RedisResult<Client> {
        let Some(tls) = &self.config.tls else {
            return Client::open(self.url());
        };
        let client_tls = ClientTlsConfig {
            client_cert: fs::read(&tls.client_cert)?,
            client_key: fs::read(&tls.client_key)?,
        };
        let root_cert = Some(fs::read(&tls.ca)?);
        let certificates = TlsCertificates {
            client_tls: Some(client_tls),
            root_cert,
        };
        Client::build_with_tls(self.url(), certificates)
    }

    /// All keys of database 0, sorted.
    pub(crate) fn keys(&self) -> Vec<String> {
        let mut keys: Vec<String> = self
            .cli(&["KEYS", "*"])
            .lines()
            .map(str::to_owned)
            .collect();
        keys.sort();
        keys
    }

    /// One section of `INFO`.
    pub(crate) fn info(&self, section: &str) -> String {
        self.cli(&["INFO", section])
    }

    /// One field of a section of `INFO`, such as `("replication", "role")`.
    pub(crate) fn info_field(&self, section: &str, name: &str) -> Option<String> {
        field(&self.info(section), name)
    }

    /// As `info`, with an error when the server cannot be reached.
    pub(crate) fn try_info(&self, section: &str) -> RedisResult<String> {
        self.try_cli(&["INFO", section])
    }

    /// Kills it with SIGKILL: what it held is gone, unless a line of the configuration turned persistence on.
    pub(crate) fn kill(&self) {
        self.process().kill();
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Kills it if it runs and starts it again on the same port, with the configuration file as it is now: Sentinel
    /// may have rewritten it.
    pub(crate) fn restart(&self) {
        self.kill();
        let up = poll(START_LIMIT, || {
            fs::remove_file(self.dir.path().join("server.log")).ok();
            *self.process() = spawn(self.dir.path(), self.config.sentinel);
            self.wait_until_up().then_some(())
        });
        assert!(up.is_some(), "port {} was not given back", self.port);
    }

    /// Stops it with SIGSTOP: it keeps its connections and its memory, and answers nothing.
    pub(crate) fn pause(&self) {
        self.process().signal("STOP");
        self.paused.store(true, Ordering::SeqCst);
    }

    /// Lets it go on after `pause`; it then runs what was sent to it meanwhile.
    pub(crate) fn resume(&self) {
        self.process().signal("CONT");
        self.paused.store(false, Ordering::SeqCst);
    }

    /// Whether it can answer: neither killed nor paused.
    pub(crate) fn is_up(&self) -> bool {
        !self.paused.load(Ordering::SeqCst) && self.process().is_running()
    }

    /// Its log since the last start.
    pub(crate) fn log(&self) -> String {
        // Errors in the configuration file come before there is a log.
        let read = |name| fs::read_to_string(self.dir.path().join(name)).unwrap_or_default();
        read("output.txt") + &read("server.log")
    }

    /// The end of its log, for messages.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "--- log of {}\n{}",
            self.addr(),
            lines[lines.len().saturating_sub(40)..].join("\n")
        )
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The value of `name` in an `INFO` text.
pub(super) fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| {
        line.trim()
            .strip_prefix(name)?
            .strip_prefix(':')
            .map(str::to_owned)
    })
}

/// A reply as text.
fn text(reply: &Value) -> String {
    match reply {
        Value::Nil => String::new(),
        Value::Int(number) => number.to_string(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Okay => "OK".to_owned(),
        Value::Array(replies) => replies.iter().map(text).collect::<Vec<_>>().join("\n"),
        other => format!("{other:?}"),
    }
}

/// Where the configuration file of a server lies.
fn conf_path(dir: &Path) -> PathBuf {
    dir.join("redis.conf")
}

/// Starts `redis-server` on the configuration in `dir`.
fn spawn(dir: &Path, sentinel: bool) -> Process {
    let output = File::create(dir.join("output.txt")).expect("a writable temporary directory");
    let errors = output.try_clone().expect("a file handle can be cloned");
    let mut command = Command::new("redis-server");
    command
        .arg(conf_path(dir))
        .args(sentinel.then_some("--sentinel"));
    Process::spawn(
        command.stdin(Stdio::null()).stdout(output).stderr(errors),
        "redis-server",
    )
}
