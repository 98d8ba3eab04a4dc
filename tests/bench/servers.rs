//! The measured servers and their competitors.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::process::cpu_seconds;
use crate::support::eventually;
use crate::support::host::Host;
use crate::support::http::{Reply, http};
use crate::support::leasehold::{command_on, listening_addr};
use crate::support::net::free_port;
use crate::support::process::Process;
use crate::support::redis::{RedisConfig, RedisServer};

/// How long a server may take to listen or to become ready.
pub(crate) const START_LIMIT: Duration = Duration::from_secs(15);

/// Loopback. Its processes end with the bench, however the bench ends.
fn host() -> Host {
    Host::with_prefix(&["setpriv", "--pdeathsig", "KILL"])
}

/// A `redis-server` without persistence.
pub(crate) fn redis() -> RedisServer {
    start_redis(RedisConfig::new())
}

/// A replica of `master`.
pub(crate) fn replica_of(master: &RedisServer) -> RedisServer {
    start_redis(RedisConfig::new().replica_of("127.0.0.1", master.port()))
}

fn start_redis(mut config: RedisConfig) -> RedisServer {
    config.host = host();
    config.start()
}

/// A connection of the `redis` crate.
pub(crate) fn connect(redis: &RedisServer) -> redis::Connection {
    let connection = redis.client().and_then(|client| client.get_connection());
    connection.expect("Redis answers")
}

/// The memory that Redis uses, in bytes.
pub(crate) fn used_memory(redis: &RedisServer) -> f64 {
    let number = redis.info_field("memory", "used_memory");
    number
        .and_then(|number| number.parse().ok())
        .expect("INFO has this number")
}

/// What Redis says of a command.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spent {
    pub(crate) calls: f64,
    pub(crate) micros: f64,
}

/// How often Redis has run a command, and its time for that.
pub(crate) fn spent(redis: &RedisServer, command: &str) -> Spent {
    let told = redis.info_field("commandstats", &format!("cmdstat_{command}"));
    let told = told.unwrap_or_default();
    let number = |name: &str| {
        let field = told.split(',').find_map(|field| field.strip_prefix(name));
        field
            .and_then(|number| number.parse().ok())
            .unwrap_or_default()
    };
    Spent {
        calls: number("calls="),
        micros: number("usec="),
    }
}

/// All commands from clients within a time, as MONITOR shows them, without the commands inside scripts.
pub(crate) fn commands_within(redis: &RedisServer, time: Duration) -> Vec<Vec<String>> {
    let mut stream = TcpStream::connect(redis.addr()).expect("Redis listens");
    stream.write_all(b"MONITOR\r\n").expect("Redis reads");
    let short = Some(Duration::from_millis(50));
    stream
        .set_read_timeout(short)
        .expect("a time-out can be set");
    let (mut reader, mut line, mut commands) = (BufReader::new(stream), String::new(), Vec::new());
    let end = Instant::now() + time;
    while Instant::now() < end {
        // After a timeout the buffer keeps the part of the line read so far.
        match reader.read_line(&mut line) {
            Ok(0) => break,
            Ok(_) => {
                if line.contains('"') && !line.contains(" lua]") {
                    // No argument of these commands contains a quotation mark.
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

/// A temporary directory whose files stay in memory, as the data of Redis does: the benches do not measure disks.
pub(crate) fn in_memory_directory() -> TempDir {
    let shared_memory = Path::new("/dev/shm");
    let directory = if shared_memory.is_dir() {
        TempDir::new_in(shared_memory)
    } else {
        TempDir::new()
    };
    directory.expect("a temporary directory")
}

/// A server that speaks HTTP.
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
        let listen = ["--listen", "127.0.0.1:0"];
        let server = Self::start(command_on(
            &host(),
            program,
            &listen,
            variables.iter().copied(),
        ));
        eventually(START_LIMIT, "leasehold is ready", || {
            server.get("/readyz").status == 200
        });
        server
    }

    pub(crate) fn in_memory(variables: &[(&str, &str)]) -> Self {
        Self::leasehold(&[&[("LEASEHOLD_STORE", "memory")], variables].concat())
    }

    pub(crate) fn on(redis: &RedisServer, variables: &[(&str, &str)]) -> Self {
        let url = redis.url();
        Self::leasehold(&[&[("LEASEHOLD_REDIS_URL", url.as_str())], variables].concat())
    }

    /// A server of this program: see `stand_ins`.
    pub(crate) fn stand_in(arguments: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        Self::start(command_on(&host(), program, arguments, [("", ""); 0]))
    }

    /// Starts a program that prints its own address.
    fn start(mut command: Command) -> Self {
        let process = Process::spawn(
            command
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::null()),
            "util-linux",
        );
        let stdout = process
            .child()
            .as_mut()
            .and_then(|child| child.stdout.take());
        let mut lines = BufReader::new(stdout.expect("stdout is piped"))
            .lines()
            .map_while(Result::ok);
        let address = lines.find_map(|line| listening_addr(&line));
        let address = address.unwrap_or_else(|| panic!("it did not start: {command:?}"));
        Self {
            process,
            address: address.parse().expect("an address"),
        }
    }

    pub(crate) fn webdis(redis: &RedisServer, directory: &Path) -> Self {
        let port = free_port();
        let configuration = serde_json::json!({
            "redis_host": "127.0.0.1", "redis_port": redis.port(), "redis_auth": null,
            "http_host": "127.0.0.1", "http_port": port, "threads": 2, "pool_size": 20,
            "daemonize": false, "websockets": false, "database": 0, "verbosity": 0,
            "logfile": directory.join("webdis.log"),
        });
        let file = directory.join("webdis.json");
        fs::write(&file, configuration.to_string()).expect("a writable directory");
        Self::start_on(port, "webdis", &[&file])
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
            &data.display().to_string(),
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
        let server = Self::start_on(port, "etcd", &arguments);
        eventually(START_LIMIT, "etcd is ready", || {
            server.get("/health").status == 200
        });
        server
    }

    /// Starts a program on a given port.
    fn start_on(port: u16, program: &str, arguments: &[impl AsRef<OsStr>]) -> Self {
        let mut command = host().command(program);
        let command = command.args(arguments).stdin(Stdio::null());
        let process = Process::spawn(command.stdout(Stdio::null()).stderr(Stdio::null()), program);
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        eventually(START_LIMIT, "the server listens", || {
            TcpStream::connect(address).is_ok()
        });
        Self { process, address }
    }

    /// The server's answer.
    pub(crate) fn get(&self, path: &str) -> Reply {
        http(&self.address.to_string(), "GET", path, &[], None)
    }

    pub(crate) fn cpu_seconds(&self) -> f64 {
        cpu_seconds(self.process.id())
    }
}
