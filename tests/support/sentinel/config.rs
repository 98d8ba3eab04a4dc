//! The configuration of a set of Redis servers and Sentinels for tests.

use std::sync::Arc;

use super::SentinelSet;
use crate::support::net::free_port;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::tls::TlsFiles;

/// The name of the set in the Sentinels' configuration.
pub(super) const MASTER_NAME: &str = "mymaster";
/// The failover timeout. Sentinel starts a second automatic failover only after twice this time.
const FAILOVER_TIMEOUT_MS: u64 = 3000;

/// A builder for a set.
#[derive(Clone)]
pub(crate) struct SentinelConfig {
    pub(super) replicas: usize,
    pub(super) sentinels: usize,
    pub(super) password: Option<String>,
    pub(super) sentinel_password: Option<String>,
    down_after_ms: u64,
    pub(super) quick: bool,
    pub(super) tls: Option<Arc<TlsFiles>>,
    node_lines: Vec<(String, String)>,
    sentinel_lines: Vec<(String, String)>,
    /// The base configurations of the data nodes and Sentinels, for example with their hosts; the set appends its
    /// lines.
    pub(crate) bases: Option<[Vec<RedisConfig>; 2]>,
}

impl SentinelConfig {
    /// Two replicas, three Sentinels, name `mymaster`, no passwords, no TLS; Sentinels detect a dead master after 700
    /// ms.
    pub(crate) fn new() -> Self {
        Self {
            replicas: 2,
            sentinels: 3,
            password: None,
            sentinel_password: None,
            down_after_ms: 700,
            quick: false,
            tls: None,
            node_lines: Vec::new(),
            sentinel_lines: Vec::new(),
            bases: None,
        }
    }

    /// The number of replicas.
    pub(crate) fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// The number of Sentinels; the quorum is their majority.
    pub(crate) fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// The password of the data nodes.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The password that the Sentinels require from clients and from each other.
    pub(crate) fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// `down-after-milliseconds`.
    pub(crate) fn down_after_ms(mut self, ms: u64) -> Self {
        self.down_after_ms = ms;
        self
    }

    /// Lets a deposed master become a replica within about 4 s instead of the 10 s of production. A Sentinel that
    /// restarts loses this setting.
    pub(crate) fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    /// TLS on the data nodes and on the Sentinels; Sentinel has one setting for both.
    pub(crate) fn tls(mut self, files: &Arc<TlsFiles>) -> Self {
        self.tls = Some(Arc::clone(files));
        self
    }

    /// Adds a line to the configuration of each data node.
    pub(crate) fn node_line(mut self, name: &str, value: &str) -> Self {
        self.node_lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a line to the configuration of each Sentinel.
    pub(crate) fn sentinel_line(mut self, name: &str, value: &str) -> Self {
        self.sentinel_lines
            .push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the set and waits until it can fail over; panics with the logs on a timeout.
    pub(crate) fn start(self) -> SentinelSet {
        self.try_start().unwrap_or_else(|error| panic!("{error}"))
    }

    /// As `start`, with an error that holds the logs.
    pub(crate) fn try_start(self) -> Result<SentinelSet, String> {
        SentinelSet::start(self)
    }

    /// The configuration of a data node.
    pub(super) fn node(&self, index: usize) -> RedisConfig {
        let bases = self.bases.as_ref();
        let mut node = bases.map_or_else(RedisConfig::new, |[nodes, _]| nodes[index].clone());
        if let Some(password) = &self.password {
            node = node.password(password);
        }
        if let Some(tls) = &self.tls {
            node = node.tls(tls);
        }
        self.node_lines
            .iter()
            .fold(node, |node, (name, value)| node.line(name, value))
    }

    /// The addresses that the Sentinels will listen on.
    pub(super) fn sentinel_addresses(&self) -> Vec<(String, u16)> {
        let address = |base: &RedisConfig| {
            let port = base.port.unwrap_or_else(free_port);
            (base.host.address.clone(), port)
        };
        (0..self.sentinels)
            .map(|index| address(&self.sentinel_base(index)))
            .collect()
    }

    fn sentinel_base(&self, index: usize) -> RedisConfig {
        let bases = self.bases.as_ref();
        let base = bases.map_or_else(RedisConfig::new, |[_, sentinels]| sentinels[index].clone());
        self.sentinel_lines
            .iter()
            .fold(base, |base, (name, value)| base.line(name, value))
    }

    /// The configuration of the Sentinel with this index. It lists the other Sentinels from the start, because
    /// discovery would cost seconds in every test.
    pub(super) fn sentinel(
        &self,
        index: usize,
        addresses: &[(String, u16)],
        nodes: &[RedisServer],
    ) -> RedisConfig {
        let name = MASTER_NAME;
        let quorum = self.sentinels / 2 + 1;
        let port = addresses[index].1;
        let node = |node: &RedisServer| format!("{name} {} {}", node.host().address, node.port());
        let mut config = self
            .sentinel_base(index)
            .port(port)
            .sentinel()
            .line("sentinel myid", &sentinel_id(index, port))
            .line("sentinel monitor", &format!("{} {quorum}", node(&nodes[0])))
            .line(
                "sentinel down-after-milliseconds",
                &format!("{name} {}", self.down_after_ms),
            )
            .line(
                "sentinel failover-timeout",
                &format!("{name} {FAILOVER_TIMEOUT_MS}"),
            )
            .line(
                "sentinel parallel-syncs",
                &format!("{name} {}", self.replicas.max(1)),
            );
        if let Some(password) = &self.password {
            config = config.line("sentinel auth-pass", &format!("{name} {password}"));
        }
        if let Some(password) = &self.sentinel_password {
            config = config
                .password(password)
                .line("sentinel sentinel-pass", password);
        }
        if let Some(tls) = &self.tls {
            config = config.tls(tls);
        }
        for replica in &nodes[1..] {
            config = config.line("sentinel known-replica", &node(replica));
        }
        for (other, (address, port)) in addresses.iter().enumerate() {
            if other != index {
                let known = format!("{name} {address} {port} {}", sentinel_id(other, *port));
                config = config.line("sentinel known-sentinel", &known);
            }
        }
        config
    }
}

/// The run id of a Sentinel: 40 hexadecimal digits that differ between the Sentinels of a set and between ports.
fn sentinel_id(index: usize, port: u16) -> String {
    format!("{index:08x}{port:032x}")
}
