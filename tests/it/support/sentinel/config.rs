//! What a set of Redis and Sentinels is started with.

use std::sync::Arc;

use super::SentinelSet;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::tls::TlsFiles;

/// What a set is started with: a builder.
#[derive(Clone)]
pub(crate) struct SentinelConfig {
    pub(super) replicas: usize,
    pub(super) sentinels: usize,
    pub(super) master_name: String,
    pub(super) password: Option<String>,
    pub(super) sentinel_password: Option<String>,
    down_after_ms: u64,
    failover_timeout_ms: u64,
    pub(super) quick: bool,
    pub(super) tls: Option<Arc<TlsFiles>>,
    node_lines: Vec<(String, String)>,
}

impl SentinelConfig {
    /// Two replicas, three Sentinels, `mymaster`, no passwords, no TLS; a dead master is noticed after 700 ms.
    pub(crate) fn new() -> Self {
        Self {
            replicas: 2,
            sentinels: 3,
            master_name: "mymaster".to_owned(),
            password: None,
            sentinel_password: None,
            down_after_ms: 700,
            // A second failover by itself comes at the earliest after twice this time.
            failover_timeout_ms: 3000,
            quick: false,
            tls: None,
            node_lines: Vec::new(),
        }
    }

    /// How many replicas the master has.
    pub(crate) fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// How many Sentinels watch; the quorum is their majority.
    pub(crate) fn sentinels(mut self, count: usize) -> Self {
        self.sentinels = count;
        self
    }

    /// The name of the master set.
    pub(crate) fn master_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.master_name);
        self
    }

    /// The password of the data nodes.
    pub(crate) fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// The password of the Sentinels, which they ask of clients and of each other.
    pub(crate) fn sentinel_password(mut self, password: &str) -> Self {
        self.sentinel_password = Some(password.to_owned());
        self
    }

    /// `down-after-milliseconds`.
    pub(crate) fn down_after_ms(mut self, ms: u64) -> Self {
        self.down_after_ms = ms;
        self
    }

    /// `failover-timeout`.
    pub(crate) fn failover_timeout_ms(mut self, ms: u64) -> Self {
        self.failover_timeout_ms = ms;
        self
    }

    /// Lets a deposed master become a replica within about 4 s, where it takes 10 s in production. A Sentinel that
    /// restarts is slow again.
    pub(crate) fn quick(mut self) -> Self {
        self.quick = true;
        self
    }

    /// TLS on the data nodes and on the Sentinels: Sentinel has one setting for both.
    pub(crate) fn tls(mut self, files: &Arc<TlsFiles>) -> Self {
        self.tls = Some(Arc::clone(files));
        self
    }

    /// Adds a line to the configuration of each data node.
    pub(crate) fn node_line(mut self, name: &str, value: &str) -> Self {
        self.node_lines.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts the set and waits until it could fail over; panics with the logs when it never can.
    pub(crate) fn start(self) -> SentinelSet {
        SentinelSet::start(self)
    }

    /// The configuration of a data node.
    pub(super) fn node(&self) -> RedisConfig {
        let mut node = RedisConfig::new();
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

    /// The configuration of the Sentinel with this index, which knows the others from the start: by themselves they
    /// take seconds to find each other, in every test.
    pub(super) fn sentinel(
        &self,
        index: usize,
        ports: &[u16],
        nodes: &[RedisServer],
    ) -> RedisConfig {
        let name = &self.master_name;
        let quorum = self.sentinels / 2 + 1;
        let mut config = RedisConfig::new()
            .sentinel()
            .line("sentinel myid", &sentinel_id(ports[index]))
            .line(
                "sentinel monitor",
                &format!("{name} 127.0.0.1 {} {quorum}", nodes[0].port()),
            )
            .line(
                "sentinel down-after-milliseconds",
                &format!("{name} {}", self.down_after_ms),
            )
            .line(
                "sentinel failover-timeout",
                &format!("{name} {}", self.failover_timeout_ms),
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
            config = config.line(
                "sentinel known-replica",
                &format!("{name} 127.0.0.1 {}", replica.port()),
            );
        }
        for other in ports.iter().filter(|port| **port != ports[index]) {
            let known = format!("{name} 127.0.0.1 {other} {}", sentinel_id(*other));
            config = config.line("sentinel known-sentinel", &known);
        }
        config
    }
}

/// The run id of the Sentinel on this port: any 40 hexadecimal digits, different on each.
fn sentinel_id(port: u16) -> String {
    format!("{port:040x}")
}
