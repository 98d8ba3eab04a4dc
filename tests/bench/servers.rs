//! What is measured, and what it is measured against.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::generator::Connections;
use crate::process::{Process, free_port, until};

/// A `redis-server` without persistence.
pub(crate) struct Redis {
    pub(crate) process: Process,
    pub(crate) port: u16,
    _directory: TempDir,
}

impl Redis {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// A replica of `master`.
    pub(crate) fn replica_of(master: &Self) -> Self {
        let port = master.port.to_string();
        Self::start_with(&["--replicaof", "127.0.0.1", &port])
    }

    fn start_with(more: &[&str]) -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let (port, path) = (free_port(), directory.path().display().to_string());
        let text = port.to_string();
        let mut arguments = vec![
            "--port",
            &text,
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
            "--dir",
            &path,
            "--logfile",
            "server.log",
            "--repl-diskless-sync-delay",
            "0",
        ];
        arguments.extend(more);
        let redis = Self {
            process: Process::start("redis-server", &arguments, &[]),
            port,
            _directory: directory,
        };
        until("redis-server", || redis.try_connect().is_some());
        redis
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(crate) fn connect(&self) -> redis::Connection {
        self.try_connect().expect("Redis answers")
    }

    fn try_connect(&self) -> Option<redis::Connection> {
        redis::Client::open(self.url()).ok()?.get_connection().ok()
    }

    /// A number of `INFO`.
    pub(crate) fn info(&self, name: &str) -> f64 {
        let info = self.info_text();
        let line = info
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|value| value.trim().parse().ok())
            .expect("INFO has this number")
    }

    /// How many script calls it was sent.
    pub(crate) fn script_calls(&self) -> f64 {
        let info = self.info_text();
        let calls = info.lines().filter_map(|line| {
            let rest = line.strip_prefix("cmdstat_evalsha:calls=")?;
            rest.split(',').next()?.parse::<f64>().ok()
        });
        calls.sum()
    }

    pub(crate) fn info_text(&self) -> String {
        redis::cmd("INFO")
            .arg("everything")
            .query(&mut self.connect())
            .expect("INFO answers")
    }

    /// All commands that clients send within a time, as MONITOR shows them; what scripts call is left out.
    pub(crate) fn commands_within(&self, time: Duration) -> Vec<Vec<String>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("Redis listens");
        stream.write_all(b"MONITOR\r\n").expect("Redis reads");
        let short = Some(Duration::from_millis(50));
        stream
            .set_read_timeout(short)
            .expect("a time-out can be set");
        let (mut reader, mut line, mut commands) =
            (BufReader::new(stream), String::new(), Vec::new());
        let end = Instant::now() + time;
        while Instant::now() < end {
            // After a time-out, what was read of a line stays in it.
            match reader.read_line(&mut line) {
                Ok(0) => break,
                Ok(_) => {
                    if line.contains('"') && !line.contains(" lua]") {
                        // No argument of ours holds a quotation mark.
                        let quoted = line.split('"').skip(1).step_by(2);
                        commands.push(quoted.map(str::to_owned).collect());
                    }
                    line.clear();
                }
                Err(_) => {}
            }
        }
        commands
    }
}

/// Something that speaks HTTP.
pub(crate) struct Server {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
}

impl Server {
    /// The real `leasehold`, once it is ready.
    pub(crate) fn leasehold(variables: &[(&str, &str)]) -> Self {
        Self::build_of_leasehold(env!("CARGO_BIN_EXE_leasehold"), variables)
    }

    /// Another build of it.
    pub(crate) fn build_of_leasehold(program: &str, variables: &[(&str, &str)]) -> Self {
        let (process, address) =
            Process::start_listening(program, &["--listen", "127.0.0.1:0"], variables);
        let server = Self {
            process,
            address: address.parse().expect("an address"),
        };
        until("leasehold to be ready", || server.get("/readyz").0 == 200);
        server
    }

    pub(crate) fn in_memory(variables: &[(&str, &str)]) -> Self {
        let mut all = vec![("LEASEHOLD_STORE", "memory")];
        all.extend(variables);
        Self::leasehold(&all)
    }

    pub(crate) fn on(redis: &Redis, variables: &[(&str, &str)]) -> Self {
        let url = redis.url();
        let mut all = vec![("LEASEHOLD_REDIS_URL", url.as_str())];
        all.extend(variables);
        Self::leasehold(&all)
    }

    /// A server of this program's own: see `stand_ins`.
    pub(crate) fn stand_in(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let program = program.to_str().expect("the path is UTF-8");
        let (process, address) = Process::start_listening(program, arguments, &[]);
        Self {
            process,
            address: address.parse().expect("an address"),
        }
    }

    pub(crate) fn webdis(redis: &Redis, directory: &Path) -> Self {
        let port = free_port();
        let configuration = serde_json::json!({
            "redis_host": "127.0.0.1", "redis_port": redis.port, "redis_auth": null,
            "http_host": "127.0.0.1", "http_port": port, "threads": 2, "pool_size": 20,
            "daemonize": false, "websockets": false, "database": 0, "verbosity": 0,
            "logfile": directory.join("webdis.log"),
        });
        let file = directory.join("webdis.json");
        fs::write(&file, configuration.to_string()).expect("a writable directory");
        let process = Process::start("webdis", &[file.to_str().expect("UTF-8")], &[]);
        Self::listening(process, port)
    }

    pub(crate) fn etcd(directory: &Path) -> Self {
        let port = free_port();
        let client = format!("http://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{}", free_port());
        let cluster = format!("bench={peer}");
        let data = directory.join("etcd");
        let arguments = [
            "--name",
            "bench",
            "--data-dir",
            data.to_str().expect("UTF-8"),
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
            "--listen-peer-urls",
            &peer,
            "--initial-advertise-peer-urls",
            &peer,
            "--initial-cluster",
            &cluster,
            "--log-level",
            "error",
        ];
        let process = Process::start("etcd", &arguments, &[]);
        let server = Self::listening(process, port);
        until("etcd to be ready", || server.get("/health").0 == 200);
        server
    }

    fn listening(process: Process, port: u16) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        until("the server to listen", || {
            TcpStream::connect(address).is_ok()
        });
        Self { process, address }
    }

    /// Status and body.
    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        match Connections::open(&[self.address], 1) {
            Ok(mut connections) => connections.ask(0, request.as_bytes()),
            Err(_) => (0, String::new()),
        }
    }
}
