//! A real `redis-server` for one test.

mod config;

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use ::redis::{Client, RedisResult, Value};
use tempfile::TempDir;

pub(crate) use config::RedisConfig;

use super::host::Host;
use super::net::free_port;
use super::poll;
use super::process::Process;

/// How long a server may take to answer after its start.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long one command may take.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// How many ports to try when another program takes the chosen port first.
const PORT_ATTEMPTS: usize = 5;

/// A running Redis (or Sentinel) with its own directory, killed on drop.
///
/// The methods take `&self`, so that a test can stop a node that a [`SentinelSet`](super::sentinel::SentinelSet)
/// owns.
pub(crate) struct RedisServer {
    config: RedisConfig,
    port: u16,
    /// Declared before the directory because fields drop in this order: a live server could write into a directory
    /// while it is removed.
    pub(crate) process: Process,
    pub(crate) dir: PathBuf,
    /// The offset in the log file at which the last start begins.
    log_from: AtomicUsize,
    _temporary: Option<TempDir>,
}

impl RedisServer {
    /// A plain master on a free port.
    pub(crate) fn plain() -> Self {
        RedisConfig::new().start()
    }

    fn start(config: &RedisConfig) -> Result<Self, String> {
        for _ in 0..PORT_ATTEMPTS {
            let port = config.port.unwrap_or_else(free_port);
            let (temporary, dir) = if let Some(dir) = &config.dir {
                (None, dir.clone())
            } else {
                let temporary = TempDir::new().expect("a temporary directory");
                let dir = temporary.path().to_owned();
                (Some(temporary), dir)
            };
            let written = fs::create_dir_all(&dir)
                .and_then(|()| fs::write(dir.join("redis.conf"), config.render(&dir, port)));
            written.map_err(|error| format!("{}: {error}", dir.display()))?;
            let server = Self {
                config: config.clone(),
                port,
                process: Process::default(),
                dir,
                log_from: AtomicUsize::new(0),
                _temporary: temporary,
            };
            if server.launch()? {
                return Ok(server);
            }
        }
        Err(format!("no port was free in {PORT_ATTEMPTS} attempts"))
    }

    /// Starts the process: true once this process answers, false when another program holds its port.
    fn launch(&self) -> Result<bool, String> {
        self.log_from
            .store(self.read("server.log").len(), Ordering::SeqCst);
        let output = File::create(self.dir.join("output.txt"))
            .and_then(|output| Ok((output.try_clone()?, output)));
        let (errors, output) =
            output.map_err(|error| format!("{}: {error}", self.dir.display()))?;
        let mut command = self.config.host.command("redis-server");
        command
            .arg(self.dir.join("redis.conf"))
            .args(self.config.sentinel.then_some("--sentinel"))
            .envs(self.config.env.iter().map(|(name, value)| (name, value)));
        self.process
            .start(command.stdin(Stdio::null()).stdout(output).stderr(errors))
            .map_err(|error| format!("{error}: install redis-server to run these tests"))?;
        let up = poll(START_LIMIT, || {
            if !self.process.is_running() {
                return Some(false);
            }
            // Another server may hold the port and answer the PING, so the check compares process ids.
            let id = self.try_info_field("server", "process_id");
            (id == Some(self.process.id().to_string())).then_some(true)
        });
        match up {
            Some(true) => Ok(true),
            Some(false) if self.log().contains("Address already in use") => Ok(false),
            _ => Err(format!(
                "redis-server on {} did not start\n{}",
                self.addr(),
                self.log_tail()
            )),
        }
    }

    /// The server's host.
    pub(crate) fn host(&self) -> &Host {
        &self.config.host
    }

    /// The server's port, which `restart` keeps.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `127.0.0.1:PORT`, or the address of the server's host.
    pub(crate) fn addr(&self) -> String {
        format!("{}:{}", self.config.host.address, self.port)
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

    /// Runs one command on its own connection and returns the reply as text: one line per element, an empty line for
    /// nil, an error with its code. Panics when the server does not answer.
    pub(crate) fn cli(&self, args: &[&str]) -> String {
        self.try_cli(args).unwrap_or_else(|error| {
            panic!("{args:?} to {}: {error}\n{}", self.addr(), self.log_tail())
        })
    }

    /// As `cli`, with an error when the server is unreachable or rejects the connection.
    pub(crate) fn try_cli(&self, args: &[&str]) -> RedisResult<String> {
        // The Unix socket works from every network namespace and despite every network fault.
        let mut url = format!("redis+unix://{}", self.dir.join("redis.sock").display());
        if let Some(password) = &self.config.password {
            url.extend(["?pass=", password]);
        }
        let mut connection = Client::open(url)?.get_connection_with_timeout(CALL_LIMIT)?;
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

    /// A client of the `redis` crate, with the password, for a server without TLS.
    pub(crate) fn client(&self) -> RedisResult<Client> {
        Client::open(self.url())
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

    /// As `info`, with an error when the server is unreachable.
    pub(crate) fn try_info(&self, section: &str) -> RedisResult<String> {
        self.try_cli(&["INFO", section])
    }

    /// As `info_field`; `None` also when the server is unreachable.
    pub(crate) fn try_info_field(&self, section: &str, name: &str) -> Option<String> {
        field(&self.try_info(section).ok()?, name)
    }

    /// How many replicas the master has online; 0 if the master is unreachable.
    pub(crate) fn replicas_online(&self) -> usize {
        let info = self.try_info("replication").unwrap_or_default();
        info.matches("state=online").count()
    }

    /// Kills the server with SIGKILL; it loses all data unless its configuration turns persistence on.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// Kills a running server and starts it again on the same port. The configuration file stays as it is, because
    /// Sentinel may have rewritten it.
    pub(crate) fn restart(&self) {
        self.try_restart().unwrap_or_else(|error| panic!("{error}"));
    }

    /// As `restart`, with an error when the server does not start.
    pub(crate) fn try_restart(&self) -> Result<(), String> {
        let up = poll(START_LIMIT, || match self.launch() {
            Ok(true) => Some(Ok(())),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        });
        up.unwrap_or_else(|| Err(format!("port {} was not given back", self.port)))
    }

    /// Stops the server with SIGSTOP: it keeps its connections and memory but does not answer.
    pub(crate) fn pause(&self) {
        self.process.pause();
    }

    /// Resumes the server after `pause`; it then runs the commands that it received meanwhile.
    pub(crate) fn resume(&self) {
        self.process.resume();
    }

    /// Whether the server can answer: neither killed nor paused.
    pub(crate) fn is_up(&self) -> bool {
        self.process.is_running() && !self.process.is_paused()
    }

    /// The server's log since its last start.
    pub(crate) fn log(&self) -> String {
        // Redis reports errors in the configuration file before it opens the log.
        let log = self.read("server.log");
        let from = self.log_from.load(Ordering::SeqCst);
        self.read("output.txt") + log.get(from..).unwrap_or(&log)
    }

    fn read(&self, name: &str) -> String {
        let bytes = fs::read(self.dir.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of the log, for messages.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        format!(
            "--- log of {} at {}\n{}",
            self.config.host.name,
            self.addr(),
            lines[lines.len().saturating_sub(40)..].join("\n")
        )
    }
}

/// The value of `name` in an `INFO` text.
fn field(info: &str, name: &str) -> Option<String> {
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
