//! The cluster under test: a master, two replicas, three Sentinels and the servers, each on its own host.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::data;
use crate::net::Network;
use crate::support::host::Host;
use crate::support::leasehold::command_on;
use crate::support::process::Process;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::{SentinelConfig, SentinelSet};
use crate::wait::poll;

pub(crate) const DATA_NODES: usize = 3;
pub(crate) const SENTINELS: usize = 3;
const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const SERVER_PORT: u16 = 8080;
/// How long the set may take to become whole again; Sentinel alone takes 10 s to demote a returned master.
const WHOLE_LIMIT: Duration = Duration::from_secs(90);

pub(crate) struct Cluster {
    pub(crate) set: SentinelSet,
    pub(crate) servers: Vec<Server>,
    pub(crate) net: Network,
}

pub(crate) struct Server {
    pub(crate) host: Host,
    binary: PathBuf,
    sentinels: String,
    log: PathBuf,
    pub(crate) process: Process,
}

/// The host names of a cluster, without those of clients.
pub(crate) fn hosts(servers: usize) -> Vec<String> {
    let parts = [
        ("redis", DATA_NODES),
        ("sentinel", SENTINELS),
        ("server", servers),
    ];
    let names = |(part, count)| (0..count).map(move |index| format!("{part}{index}"));
    parts.into_iter().flat_map(names).collect()
}

impl Cluster {
    /// Starts all nodes in `net` but does not wait for the servers.
    pub(crate) fn start(
        net: Network,
        servers: usize,
        binary: &Path,
        dir: &Path,
    ) -> Result<Self, String> {
        let shim = data::build_shim(dir)?;
        let on_host = |name: &str, port, config: RedisConfig| {
            let mut config = config.port(port);
            config.host = net.host(name);
            config.dir = Some(dir.join(name));
            config
        };
        let node = |index| {
            let name = format!("redis{index}");
            let config =
                data::config(&dir.join(&name), &shim).map_err(|error| error.to_string())?;
            Ok(on_host(&name, REDIS_PORT, config))
        };
        let nodes = (0..DATA_NODES).map(node).collect::<Result<_, String>>()?;
        let sentinel = |index| {
            on_host(
                &format!("sentinel{index}"),
                SENTINEL_PORT,
                RedisConfig::new(),
            )
        };
        let mut config = SentinelConfig::new()
            .replicas(DATA_NODES - 1)
            .sentinels(SENTINELS)
            .down_after_ms(1000);
        config.bases = Some([nodes, (0..SENTINELS).map(sentinel).collect()]);
        let mut cluster = Self {
            set: config.try_start()?,
            servers: Vec::new(),
            net,
        };
        for index in 0..servers {
            let name = format!("server{index}");
            let server = Server {
                log: dir.join(format!("{name}.log")),
                host: cluster.net.host(&name),
                binary: binary.to_owned(),
                sentinels: cluster.set.sentinels(),
                process: Process::default(),
            };
            server.start()?;
            cluster.servers.push(server);
        }
        Ok(cluster)
    }

    /// A data node.
    pub(crate) fn node(&self, index: usize) -> &RedisServer {
        &self.set.nodes()[index]
    }

    /// The index of the master that most Sentinels name.
    pub(crate) fn master(&self) -> Result<usize, String> {
        poll(Duration::from_secs(10), || self.set.named_master())
            .ok_or_else(|| "no Sentinel names a master".to_owned())
    }

    /// Waits until the set can survive the loss of any node.
    pub(crate) fn wait_until_whole(&self) -> Result<(), String> {
        let mut lack = None;
        let whole = poll(WHOLE_LIMIT, || {
            lack = self.set.lack();
            lack.is_none().then_some(())
        });
        whole.ok_or_else(|| format!("not whole: {lack:?}\n{}", self.set.logs()))
    }

    /// Repairs the remains of any fault: clocks, network cuts, stopped and dead processes.
    pub(crate) fn repair(&self) -> Result<(), String> {
        self.net.mend_all()?;
        for node in self.set.nodes() {
            data::set_clock_ms(node, 0).map_err(|error| error.to_string())?;
        }
        for node in self.set.nodes().iter().chain(&self.set.sentinels) {
            node.resume();
            if !node.is_up() {
                node.try_restart()?;
            }
        }
        for server in &self.servers {
            server.process.resume();
            if !server.process.is_running() {
                server.start()?;
            }
        }
        Ok(())
    }
}

impl Server {
    /// Starts the server without waiting; its log file keeps the lines of earlier starts.
    pub(crate) fn start(&self) -> Result<(), String> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.map_err(|error| format!("{}: {error}", self.log.display()))?;
        let listen = ["--listen", &format!("0.0.0.0:{SERVER_PORT}")];
        let env = [
            ("LEASEHOLD_SENTINELS", &*self.sentinels),
            // The hosts of the campaign reach nothing else.
            ("LEASEHOLD_INSECURE_OPEN", "true"),
        ];
        let mut command = command_on(&self.host, &self.binary, &listen, env);
        let command = command.stdin(Stdio::null()).stdout(Stdio::null());
        self.process.start(command.stderr(log))
    }

    pub(crate) fn url(&self) -> String {
        format!("{}:{SERVER_PORT}", self.host.address)
    }
}
