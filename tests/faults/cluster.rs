//! What is tested: a master, two replicas, three Sentinels and the servers, each on its own host.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::net::{Network, enter};
use crate::process::{Process, log_file};
use crate::redis_node::{RedisNode, SENTINEL_PORT, field};
use crate::shim;
use crate::wait::poll;

pub(crate) const DATA_NODES: usize = 3;
pub(crate) const SENTINELS: usize = 3;
pub(crate) const SERVER_PORT: u16 = 8080;
/// How long the set may take until it is whole again: Sentinel takes 10 s alone to demote a master that came back.
const WHOLE_LIMIT: Duration = Duration::from_secs(90);
/// A second failover by itself comes at the earliest after twice the time-out.
const SENTINEL_OPTIONS: &str = "sentinel down-after-milliseconds mymaster 1000\n\
    sentinel failover-timeout mymaster 3000\nsentinel parallel-syncs mymaster 2\n";

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<RedisNode>,
    pub(crate) sentinels: Vec<RedisNode>,
    pub(crate) servers: Vec<Server>,
    pub(crate) net: Network,
}

pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) address: String,
    binary: PathBuf,
    sentinels: String,
    log: PathBuf,
    pub(crate) process: Process,
}

/// The names of the hosts of a cluster, besides those of clients.
pub(crate) fn hosts(servers: usize) -> Vec<String> {
    let data = (0..DATA_NODES).map(|index| format!("redis{index}"));
    let sentinels = (0..SENTINELS).map(|index| format!("sentinel{index}"));
    let servers = (0..servers).map(|index| format!("server{index}"));
    data.chain(sentinels).chain(servers).collect()
}

impl Cluster {
    /// Starts everything in `net`; returns once the servers listen.
    pub(crate) fn start(
        net: Network,
        servers: usize,
        binary: &Path,
        dir: &Path,
    ) -> Result<Self, String> {
        let shim = shim::build(dir)?;
        let mut cluster = Self {
            nodes: Vec::new(),
            sentinels: Vec::new(),
            servers: Vec::new(),
            net,
        };
        let master = cluster.net.address("redis0");
        for index in 0..DATA_NODES {
            let host = format!("redis{index}");
            let address = cluster.net.address(&host);
            let node = RedisNode::data(&host, address, dir, &shim, &master)?;
            node.start()?;
            cluster.nodes.push(node);
        }
        for index in 0..SENTINELS {
            let host = format!("sentinel{index}");
            let address = cluster.net.address(&host);
            let sentinel = RedisNode::sentinel(&host, address, dir, &master, SENTINEL_OPTIONS)?;
            sentinel.start()?;
            cluster.sentinels.push(sentinel);
        }
        cluster.wait_until_whole()?;
        for index in 0..servers {
            let host = format!("server{index}");
            let sentinels: Vec<String> = cluster
                .sentinels
                .iter()
                .map(|sentinel| format!("{}:{SENTINEL_PORT}", sentinel.address))
                .collect();
            let server = Server {
                address: cluster.net.address(&host),
                log: dir.join(format!("{host}.log")),
                binary: binary.to_owned(),
                sentinels: sentinels.join(","),
                process: Process::default(),
                host,
            };
            server.start()?;
            cluster.servers.push(server);
        }
        Ok(cluster)
    }

    /// The index of the data node that most of the running Sentinels name.
    pub(crate) fn named_master(&self) -> Option<usize> {
        let mut votes = [0; DATA_NODES];
        for named in self.sentinels.iter().filter_map(|s| self.master_by(s)) {
            votes[named] += 1;
        }
        (0..DATA_NODES)
            .filter(|index| votes[*index] > 0)
            .max_by_key(|index| votes[*index])
    }

    /// The index of the data node that this Sentinel names.
    pub(crate) fn master_by(&self, sentinel: &RedisNode) -> Option<usize> {
        let running = sentinel.process.is_running() && !sentinel.process.is_stopped();
        let reply =
            running.then(|| sentinel.cli(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "mymaster"]));
        let reply = reply?.ok()?;
        let address = reply.lines().next()?;
        self.nodes.iter().position(|node| node.address == address)
    }

    /// The index of the master, as it is known by all.
    pub(crate) fn master(&self) -> Result<usize, String> {
        poll(Duration::from_secs(10), || self.named_master())
            .ok_or_else(|| "no Sentinel names a master".to_owned())
    }

    /// Why the set could not lose a node and go on; `None` when it could.
    fn lacks(&self) -> Option<String> {
        let named: Vec<_> = self.sentinels.iter().map(|s| self.master_by(s)).collect();
        let Some(master) = named.first().copied().flatten() else {
            return Some("a Sentinel names no master".to_owned());
        };
        if named.iter().any(|other| *other != Some(master)) {
            return Some(format!("the Sentinels disagree: {named:?}"));
        }
        let info = self.nodes[master].replication().unwrap_or_default();
        if field(&info, "role").as_deref() != Some("master") {
            return Some(format!("redis{master} is no master"));
        }
        if info.matches("state=online").count() != DATA_NODES - 1 {
            return Some(format!("redis{master} lacks a replica"));
        }
        for sentinel in &self.sentinels {
            for (command, flags, count) in [
                ("MASTER", "master", 1),
                ("REPLICAS", "slave", DATA_NODES - 1),
                ("SENTINELS", "sentinel", SENTINELS - 1),
            ] {
                let reply = sentinel.cli(&["SENTINEL", command, "mymaster"]);
                let reply = reply.unwrap_or_default();
                let lines: Vec<&str> = reply.lines().collect();
                let healthy = lines.windows(2).filter(|pair| *pair == ["flags", flags]);
                if healthy.count() != count {
                    return Some(format!("{} sees not all {command} well", sentinel.host));
                }
            }
        }
        None
    }

    /// Waits until the set could lose any node.
    pub(crate) fn wait_until_whole(&self) -> Result<(), String> {
        let mut lack = None;
        let whole = poll(WHOLE_LIMIT, || {
            lack = self.lacks();
            lack.is_none().then_some(())
        });
        whole.ok_or_else(|| {
            let logs: Vec<String> = self
                .nodes
                .iter()
                .chain(&self.sentinels)
                .map(RedisNode::log_tail)
                .collect();
            format!(
                "not whole: {}\n{}",
                lack.unwrap_or_default(),
                logs.join("\n")
            )
        })
    }

    /// Undoes whatever a fault may have left: clocks, cuts, stopped and dead processes.
    pub(crate) fn repair(&self) -> Result<(), String> {
        self.net.mend_all()?;
        for node in self.nodes.iter().chain(&self.sentinels) {
            node.set_clock_ms(0)?;
            node.process.resume();
            if !node.process.is_running() {
                node.start()?;
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
    pub(crate) fn start(&self) -> Result<(), String> {
        let mut command = enter(&self.host, &self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("LEASEHOLD_") {
                command.env_remove(name);
            }
        }
        command
            .args(["--listen", &format!("0.0.0.0:{SERVER_PORT}")])
            .env("LEASEHOLD_SENTINELS", &self.sentinels)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log_file(&self.log)?);
        self.process.start(&mut command)
    }

    pub(crate) fn url(&self) -> String {
        format!("{}:{SERVER_PORT}", self.address)
    }
}
