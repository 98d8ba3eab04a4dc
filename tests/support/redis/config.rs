//! The configuration of a `redis-server` for tests.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};

use super::RedisServer;
use crate::support::host::Host;
use crate::support::tls::TlsFiles;

/// Whether this Redis waits for its replicas before it ends. Redis 6.2 does not, and knows no setting for it.
static WAITS_AT_SHUTDOWN: LazyLock<bool> = LazyLock::new(|| {
    let version = Command::new("redis-server").arg("--version").output();
    version.is_ok_and(|version| !String::from_utf8_lossy(&version.stdout).contains("v=6."))
});

/// A builder for the configuration of a Redis server.
#[derive(Clone, Default)]
pub(crate) struct RedisConfig {
    pub(super) password: Option<String>,
    lines: Vec<(String, String)>,
    replica_of: Option<(String, u16)>,
    pub(super) tls: Option<Arc<TlsFiles>>,
    pub(in super::super) port: Option<u16>,
    pub(super) sentinel: bool,
    /// The host that the server runs on.
    pub(crate) host: Host,
    /// The server's working directory; `None` means a temporary directory that is removed with the server.
    pub(crate) dir: Option<PathBuf>,
    /// Environment variables of the process.
    pub(crate) env: Vec<(&'static str, PathBuf)>,
}

impl RedisConfig {
    /// A master without persistence, password or TLS, on a free port.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Requires this password from clients; a replica also sends it to its master.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Appends a line to the configuration file; it overrides all earlier lines.
    pub(crate) fn line(mut self, name: &str, value: &str) -> Self {
        self.lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts as a replica of this master.
    pub(crate) fn replica_of(mut self, host: &str, port: u16) -> Self {
        self.replica_of = Some((host.to_owned(), port));
        self
    }

    /// Accepts TLS only, requires client certificates, and uses TLS towards its master.
    pub(crate) fn tls(mut self, files: &Arc<TlsFiles>) -> Self {
        self.tls = Some(Arc::clone(files));
        self
    }

    /// Listens on this port and no other.
    pub(crate) fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Runs as a Sentinel: the same program with other commands.
    pub(in super::super) fn sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Starts the server and waits until it answers; panics with its log when it does not.
    pub(crate) fn start(self) -> RedisServer {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// As `start`, with an error that holds the log.
    pub(crate) fn try_start(&self) -> Result<RedisServer, String> {
        RedisServer::start(self)
    }

    /// The text of the configuration file.
    pub(super) fn render(&self, dir: &Path, port: u16) -> String {
        let mut lines = vec![
            format!("bind {}", self.host.address),
            "protected-mode no".to_owned(),
            format!("unixsocket {}", dir.join("redis.sock").display()),
            format!("dir {}", dir.display()),
            "logfile server.log".to_owned(),
            "loglevel notice".to_owned(),
        ];
        if let Some(tls) = &self.tls {
            lines.extend(["port 0".to_owned(), format!("tls-port {port}")]);
            lines.extend(["tls-auth-clients yes", "tls-replication yes"].map(str::to_owned));
            lines.push(format!("tls-ca-cert-file {}", tls.ca.display()));
            lines.push(format!("tls-cert-file {}", tls.server_cert.display()));
            lines.push(format!("tls-key-file {}", tls.server_key.display()));
            // The certificate that the server shows when it is the client: towards its master, or as a Sentinel.
            lines.push(format!(
                "tls-client-cert-file {}",
                tls.client_cert.display()
            ));
            lines.push(format!("tls-client-key-file {}", tls.client_key.display()));
        } else {
            lines.push(format!("port {port}"));
        }
        lines.extend(
            self.password
                .iter()
                .map(|password| format!("requirepass {password}")),
        );
        if !self.sentinel {
            lines.extend(["save \"\"", "appendonly no"].map(str::to_owned));
            lines.extend(WAITS_AT_SHUTDOWN.then(|| "shutdown-timeout 0".to_owned()));
            // Without this, a full sync waits 5 s (the default) in every test with a replica.
            lines.push("repl-diskless-sync-delay 0".to_owned());
            lines.extend(
                self.password
                    .iter()
                    .map(|password| format!("masterauth {password}")),
            );
            let replica_of = self.replica_of.iter();
            lines.extend(replica_of.map(|(host, port)| format!("replicaof {host} {port}")));
        }
        lines.extend(
            self.lines
                .iter()
                .map(|(name, value)| format!("{name} {value}")),
        );
        lines.join("\n") + "\n"
    }
}
