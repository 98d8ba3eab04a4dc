//! A master, its replicas and their Sentinels: real processes on loopback.

mod config;

use std::time::Duration;

pub(crate) use config::SentinelConfig;

use config::MASTER_NAME;

use super::leasehold::Leasehold;
use super::poll;
use super::redis::RedisServer;

/// How long the set may take until all its nodes know each other.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long a failover may take; on a busy machine an election can fail and repeat.
const FAILOVER_LIMIT: Duration = Duration::from_secs(30);
/// The poll and publish periods of a fast set's Sentinels, in milliseconds. Sentinels detect a promotion after up to 1
/// s, and a Sentinel without that information reverts it after four publish periods. A shorter publish period therefore
/// loses failovers.
const QUICK_PERIODS: [&str; 4] = ["INFO-PERIOD", "250", "PUBLISH-PERIOD", "750"];

/// A running set; everything in it is killed on drop.
pub(crate) struct SentinelSet {
    config: SentinelConfig,
    /// The data nodes; the first is the initial master.
    nodes: Vec<RedisServer>,
    pub(crate) sentinels: Vec<RedisServer>,
}

impl SentinelSet {
    fn start(config: SentinelConfig) -> Result<Self, String> {
        let mut nodes = vec![config.node(0).try_start()?];
        for index in 1..=config.replicas {
            let master = nodes[0].host().address.clone();
            let replica = config.node(index).replica_of(&master, nodes[0].port());
            nodes.push(replica.try_start()?);
        }
        let mut set = Self {
            config,
            nodes,
            sentinels: Vec::new(),
        };
        poll(START_LIMIT, || {
            (set.nodes[0].replicas_online() == set.config.replicas).then_some(())
        })
        .ok_or_else(|| format!("not all replicas online\n{}", set.logs()))?;
        let addresses = set.config.sentinel_addresses();
        for index in 0..addresses.len() {
            let sentinel = set
                .config
                .sentinel(index, &addresses, &set.nodes)
                .try_start()?;
            if set.config.quick {
                let reply = sentinel.cli(&[&["SENTINEL", "DEBUG"], &QUICK_PERIODS[..]].concat());
                assert_eq!(reply, "OK", "Sentinel's periods cannot be set");
            }
            set.sentinels.push(sentinel);
        }
        set.try_wait_until_known()?;
        Ok(set)
    }

    /// Waits until every Sentinel knows all data nodes and all other Sentinels.
    pub(crate) fn wait_until_known(&self) {
        self.try_wait_until_known()
            .unwrap_or_else(|error| panic!("{error}"));
    }

    fn try_wait_until_known(&self) -> Result<(), String> {
        let linked = |sentinel: &RedisServer| {
            count(sentinel, "REPLICAS", ["master-link-status", "ok"]) == self.config.replicas
        };
        let mut lack = None;
        let known = poll(START_LIMIT, || {
            lack = self.lack();
            (lack.is_none() && self.sentinels.iter().all(linked)).then_some(())
        });
        known.ok_or_else(|| format!("the set is not whole: {lack:?}\n{}", self.logs()))
    }

    /// The reason why the set cannot survive the loss of a node; `None` if it can.
    pub(crate) fn lack(&self) -> Option<String> {
        let named: Vec<_> = self.sentinels.iter().map(|s| self.named_by(s)).collect();
        let master = match named.first() {
            Some(Some(master)) if named.iter().all(|other| *other == Some(*master)) => {
                &self.nodes[*master]
            }
            Some(_) => return Some(format!("the Sentinels name {named:?} as the master")),
            None => &self.nodes[0],
        };
        if !is_master(master) || master.replicas_online() != self.config.replicas {
            return Some(format!(
                "{} is no master with all replicas online",
                master.addr()
            ));
        }
        for sentinel in &self.sentinels {
            for (command, flags, expected) in [
                ("MASTER", "master", 1),
                ("REPLICAS", "slave", self.config.replicas),
                ("SENTINELS", "sentinel", self.config.sentinels - 1),
            ] {
                if count(sentinel, command, ["flags", flags]) != expected {
                    return Some(format!(
                        "{} sees not all {command} in good health",
                        sentinel.addr()
                    ));
                }
            }
        }
        None
    }

    /// The Sentinels as `127.0.0.1:p1,127.0.0.1:p2,…`.
    pub(crate) fn sentinels(&self) -> String {
        self.sentinels
            .iter()
            .map(RedisServer::addr)
            .collect::<Vec<_>>()
            .join(",")
    }

    /// The environment variables that point a Leasehold server at this set, with passwords and certificates.
    pub(crate) fn env(&self) -> Vec<(String, String)> {
        let mut env = vec![
            ("LEASEHOLD_SENTINELS", self.sentinels()),
            ("LEASEHOLD_SENTINEL_MASTER", MASTER_NAME.to_owned()),
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

    /// A ready server on this set.
    pub(crate) fn serve(&self) -> Leasehold {
        let server = Leasehold::start(self.env());
        server.wait_ready();
        server
    }

    /// All data nodes; the first is the initial master.
    pub(crate) fn nodes(&self) -> &[RedisServer] {
        &self.nodes
    }

    /// A Sentinel by its index in `sentinels()`.
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

    /// The data node that most Sentinels currently name as the master.
    pub(crate) fn master(&self) -> &RedisServer {
        let index = self.named_master().expect("a Sentinel that knows a master");
        &self.nodes[index]
    }

    /// The index of the data node that most Sentinels currently name as the master; `None` if no Sentinel names one.
    pub(crate) fn named_master(&self) -> Option<usize> {
        let mut votes = vec![0; self.nodes.len()];
        for index in self.sentinels.iter().filter_map(|s| self.named_by(s)) {
            votes[index] += 1;
        }
        let named = (0..votes.len()).filter(|index| votes[*index] > 0);
        named.max_by_key(|index| votes[*index])
    }

    /// The data nodes other than the master.
    pub(crate) fn replicas(&self) -> Vec<&RedisServer> {
        let master = self.master().port();
        self.nodes
            .iter()
            .filter(|node| node.port() != master)
            .collect()
    }

    /// The index of the data node that a Sentinel names as the master; `None` if it does not answer.
    pub(crate) fn named_by(&self, sentinel: &RedisServer) -> Option<usize> {
        let reply = sentinel
            .is_up()
            .then(|| ask(sentinel, "GET-MASTER-ADDR-BY-NAME"))??;
        let addr = reply.replace('\n', ":");
        self.nodes.iter().position(|node| node.addr() == addr)
    }

    /// Kills the master and returns its port, for `wait_for_new_master`.
    pub(crate) fn kill_master(&self) -> u16 {
        let master = self.master();
        master.kill();
        master.port()
    }

    /// Forces a failover from a healthy master (`SENTINEL FAILOVER`) and returns the port of the deposed master. It
    /// returns once the failover has begun: see `wait_for_new_master`.
    pub(crate) fn failover(&self) -> u16 {
        let old = self.master().port();
        let sentinel = self
            .sentinels
            .iter()
            .find(|sentinel| sentinel.is_up())
            .expect("a Sentinel that is up");
        // Sentinel refuses this until an earlier failover has ended.
        let mut reply = None;
        let begun = poll(FAILOVER_LIMIT, || {
            reply = ask(sentinel, "FAILOVER");
            (reply.as_deref() == Some("OK")).then_some(())
        });
        assert!(begun.is_some(), "{reply:?}\n{}", self.logs());
        old
    }

    /// Waits until every running Sentinel names a master with another port than `old`, and until that node reports the
    /// master role itself.
    pub(crate) fn wait_for_new_master(&self, old: u16) -> &RedisServer {
        let found = poll(FAILOVER_LIMIT, || {
            let mut named = self.sentinels.iter().filter(|sentinel| sentinel.is_up());
            let master = &self.nodes[self.named_by(named.next()?)?];
            let agreed = named.all(|s| {
                self.named_by(s)
                    .is_some_and(|i| self.nodes[i].port() == master.port())
            });
            (agreed && master.port() != old && is_master(master)).then_some(master)
        });
        found.unwrap_or_else(|| panic!("no new master in place of {old}\n{}", self.logs()))
    }

    /// Waits until the master has this many replicas online.
    pub(crate) fn wait_for_replicas(&self, count: usize) {
        let online = poll(FAILOVER_LIMIT, || {
            let master = self.named_master().unwrap_or_default();
            (self.nodes[master].replicas_online() == count).then_some(())
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

/// How many entries of a Sentinel's answer about the set have this value in a field.
fn count(sentinel: &RedisServer, command: &str, field: [&str; 2]) -> usize {
    let reply = ask(sentinel, command).unwrap_or_default();
    let lines: Vec<&str> = reply.lines().collect();
    lines.windows(2).filter(|pair| *pair == field).count()
}

/// A Sentinel's answer to a command about the set.
pub(crate) fn ask(sentinel: &RedisServer, command: &str) -> Option<String> {
    sentinel.try_cli(&["SENTINEL", command, MASTER_NAME]).ok()
}

/// Whether the node itself reports the master role.
fn is_master(node: &RedisServer) -> bool {
    node.try_info_field("replication", "role").as_deref() == Some("master")
}
