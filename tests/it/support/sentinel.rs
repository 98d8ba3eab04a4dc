//! A master, its replicas and the Sentinels that watch them, all real and on loopback.

mod config;

use std::collections::HashMap;
use std::time::Duration;

pub(crate) use config::SentinelConfig;

use super::leasehold::Leasehold;
use super::net::free_port;
use super::poll;
use super::redis::{RedisServer, field};

/// How long the set may take until everybody knows everybody.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a failover may take: on a busy machine an election can fail and be repeated.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// How a quick set's Sentinels look and talk, in milliseconds. A Sentinel that was not told of a promotion for four
/// publish periods reverts it, and a promotion is noticed after up to 1 s: a shorter publish period loses failovers.
const QUICK_PERIODS: [&str; 4] = ["INFO-PERIOD", "250", "PUBLISH-PERIOD", "750"];

/// A running set; everything in it is killed on drop.
pub(crate) struct SentinelSet {
    config: SentinelConfig,
    /// The data nodes; the first was the master at the start.
    nodes: Vec<RedisServer>,
    sentinels: Vec<RedisServer>,
}

impl SentinelSet {
    fn start(config: SentinelConfig) -> Self {
        let mut nodes = vec![config.node().start()];
        for _ in 0..config.replicas {
            nodes.push(
                config
                    .node()
                    .replica_of("127.0.0.1", nodes[0].port())
                    .start(),
            );
        }
        let mut set = Self {
            config,
            nodes,
            sentinels: Vec::new(),
        };
        set.wait_for_replicas(set.config.replicas);
        let ports: Vec<u16> = (0..set.config.sentinels).map(|_| free_port()).collect();
        for index in 0..ports.len() {
            let sentinel = set.config.sentinel(index, &ports, &set.nodes);
            let sentinel = sentinel.port(ports[index]).start();
            if set.config.quick {
                let reply = sentinel.cli(&[&["SENTINEL", "DEBUG"], &QUICK_PERIODS[..]].concat());
                assert_eq!(reply, "OK", "Sentinel's periods cannot be set");
            }
            set.sentinels.push(sentinel);
        }
        set.wait_until_known();
        set
    }

    /// Waits until every Sentinel knows all nodes and all other Sentinels.
    pub(crate) fn wait_until_known(&self) {
        let known = poll(START_LIMIT, || {
            let mut sentinels = self.sentinels.iter();
            sentinels
                .all(|sentinel| self.knows_all(sentinel))
                .then_some(())
        });
        assert!(
            known.is_some(),
            "the Sentinels do not know each other\n{}",
            self.logs()
        );
    }

    /// Whether this Sentinel sees every other one and every replica in good health.
    fn knows_all(&self, sentinel: &RedisServer) -> bool {
        let healthy = |command: &str, flags: &str| {
            let reply = sentinel
                .try_cli(&["SENTINEL", command, &self.config.master_name])
                .unwrap_or_default();
            let lines: Vec<&str> = reply.lines().collect();
            lines
                .windows(2)
                .filter(|pair| pair[0] == "flags" && pair[1] == flags)
                .count()
        };
        let links = sentinel
            .try_cli(&["SENTINEL", "REPLICAS", &self.config.master_name])
            .unwrap_or_default();
        let links: Vec<&str> = links.lines().collect();
        let linked = links
            .windows(2)
            .filter(|pair| pair == &["master-link-status", "ok"])
            .count();
        healthy("SENTINELS", "sentinel") == self.config.sentinels - 1
            && healthy("REPLICAS", "slave") == self.config.replicas
            && linked == self.config.replicas
            && healthy("MASTER", "master") == 1
    }

    /// The Sentinels as `127.0.0.1:p1,127.0.0.1:p2,…`.
    pub(crate) fn sentinels(&self) -> String {
        self.sentinels
            .iter()
            .map(RedisServer::addr)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The variables that point a Leasehold at this set, passwords and certificates included.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            ("LEASEHOLD_SENTINELS", self.sentinels()),
            ("LEASEHOLD_SENTINEL_MASTER", self.config.master_name.clone()),
        ];
        if let Some(password) = &self.config.password {
            env.push(("LEASEHOLD_REDIS_PASSWORD", password.clone()));
        }
        if let Some(password) = &self.config.sentinel_password {
            env.push(("LEASEHOLD_SENTINEL_PASSWORD", password.clone()));
        }
        if let Some(tls) = &self.config.tls {
            env.push(("LEASEHOLD_REDIS_TLS", "true".to_owned()));
            env.push(("LEASEHOLD_SENTINEL_TLS", "true".to_owned()));
            env.push(("LEASEHOLD_TLS_CA_FILE", tls.ca.display().to_string()));
            env.push((
                "LEASEHOLD_TLS_CERT_FILE",
                tls.client_cert.display().to_string(),
            ));
            env.push((
                "LEASEHOLD_TLS_KEY_FILE",
                tls.client_key.display().to_string(),
            ));
        }
        env.into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect()
    }

    /// A server on this set that is ready.
    pub(crate) fn serve(&self) -> Leasehold {
        let server = Leasehold::start(self.env());
        server.wait_ready();
        server
    }

    /// Every data node; the first was the master at the start.
    pub(crate) fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// A Sentinel by its place in `sentinels()`, to kill, pause or ask it.
    pub(crate) fn sentinel(&self, index: usize) -> &RedisServer {
        &self.sentinels[index]
    }

    /// The data node with this port.
    pub(crate) fn node(&self, port: u16) -> &RedisServer {
        self.nodes
            .iter()
            .find(|node| node.port() == port)
            .expect("a port of this set")
    }

    /// The data node that most of the Sentinels now name as the master.
    pub(crate) fn master(&self) -> &RedisServer {
        let mut votes: HashMap<u16, usize> = HashMap::new();
        for port in self.named_masters().into_iter().flatten() {
            *votes.entry(port).or_default() += 1;
        }
        let (port, _) = votes
            .into_iter()
            .max_by_key(|(_, count)| *count)
            .expect("a Sentinel that knows a master");
        self.node(port)
    }

    /// The data nodes other than the master.
    pub(crate) fn replicas(&self) -> Vec<&RedisServer> {
        let master = self.master().port();
        self.nodes
            .iter()
            .filter(|node| node.port() != master)
            .collect()
    }

    /// What each Sentinel that is up names as the master's port.
    fn named_masters(&self) -> Vec<Option<u16>> {
        let ask = |sentinel: &RedisServer| {
            let args = [
                "SENTINEL",
                "GET-MASTER-ADDR-BY-NAME",
                &self.config.master_name,
            ];
            sentinel.try_cli(&args).ok()?.lines().nth(1)?.parse().ok()
        };
        self.sentinels
            .iter()
            .filter(|sentinel| sentinel.is_up())
            .map(ask)
            .collect()
    }

    /// Kills the master and returns its port, for `wait_for_new_master`.
    pub(crate) fn kill_master(&self) -> u16 {
        let master = self.master();
        master.kill();
        master.port()
    }

    /// Makes a Sentinel fail over from a healthy master (`SENTINEL FAILOVER`) and returns the port of the deposed
    /// one. It returns once the failover has begun: see `wait_for_new_master`.
    pub(crate) fn failover(&self) -> u16 {
        let old = self.master().port();
        let sentinel = self
            .sentinels
            .iter()
            .find(|sentinel| sentinel.is_up())
            .expect("a Sentinel that is up");
        let args = ["SENTINEL", "FAILOVER", &self.config.master_name];
        // Refused while an earlier failover ends.
        let begun = poll(FAILOVER_LIMIT, || {
            (sentinel.cli(&args) == "OK").then_some(())
        });
        assert!(begun.is_some(), "{}\n{}", sentinel.cli(&args), self.logs());
        old
    }

    /// Waits until every Sentinel that is up names another master than the one with the port `old`, and until that
    /// node says so too.
    pub(crate) fn wait_for_new_master(&self, old: u16) -> &RedisServer {
        let found = poll(FAILOVER_LIMIT, || {
            let named = self.named_masters();
            let port = (*named.first()?)?;
            let agreed = port != old && named.iter().all(|other| *other == Some(port));
            let role = |node: &RedisServer| field(&node.try_info("replication").ok()?, "role");
            (agreed && role(self.node(port)).as_deref() == Some("master")).then(|| self.node(port))
        });
        found.unwrap_or_else(|| panic!("no new master in place of {old}\n{}", self.logs()))
    }

    /// Waits until the master has this many replicas online.
    pub(crate) fn wait_for_replicas(&self, count: usize) {
        let online = poll(FAILOVER_LIMIT, || {
            let master = if self.sentinels.is_empty() {
                &self.nodes[0]
            } else {
                self.master()
            };
            let info = master.try_info("replication").ok()?;
            (info.matches("state=online").count() == count).then_some(())
        });
        assert!(
            online.is_some(),
            "not {count} replicas online\n{}",
            self.logs()
        );
    }

    /// The ends of all logs, for messages.
    pub(crate) fn logs(&self) -> String {
        self.nodes
            .iter()
            .chain(&self.sentinels)
            .map(|server| server.log_tail() + "\n")
            .collect()
    }
}
