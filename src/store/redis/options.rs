//! The options of the Redis store, validated: addresses, credentials, TLS, limits.

use std::fmt;
use std::time::Duration;

use crate::secret::Secret;

pub use super::tls::{Tls, TlsError};

/// The options of the store.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// How the server finds the master.
    pub discovery: Discovery,
    /// How to reach data nodes.
    pub data: Endpoint,
    /// Database number.
    pub db: i64,
    /// The connections for batches, and so the most batches in flight.
    pub pool_size: usize,
    /// How long opening a connection may take.
    pub connect_timeout: Duration,
    /// How long a reply of Redis may take.
    pub response_timeout: Duration,
    /// How many replicas must confirm a grant or renewal.
    pub replica_acks: ReplicaAcks,
    /// The prefix of every key and channel.
    pub key_prefix: String,
    /// The largest difference between the clocks of data nodes.
    pub max_clock_skew: Duration,
    /// The longest pause of new grants after a loss.
    pub max_recovery: Duration,
    /// Where scripts read the time.
    pub clock: Clock,
}

/// How the server finds the master.
#[derive(Clone, Debug)]
pub enum Discovery {
    /// The master has this address.
    Direct(Address),
    /// The master has the address that a majority of the Sentinels names.
    Sentinel {
        /// The configured Sentinels; they name the others.
        sentinels: Vec<Address>,
        /// The name of the master set.
        master: String,
        /// How to reach Sentinels.
        endpoint: Endpoint,
    },
}

/// Credentials and TLS for data nodes or for Sentinels.
#[derive(Clone, Debug, Default)]
pub struct Endpoint {
    /// The ACL user; `default` if absent.
    pub username: Option<String>,
    /// The password of the ACL user.
    pub password: Option<Secret>,
    /// The TLS settings; plain TCP if absent.
    pub tls: Option<Tls>,
}

/// How many replicas must confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaAcks {
    /// All online replicas; with Sentinels at least one.
    Auto,
    /// This number.
    Fixed(usize),
}

/// Where scripts read the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// `TIME` of Redis.
    Server,
    /// The microseconds in the key `<prefix>test:clock`, for tests only.
    Set,
}

/// Host and port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl Address {
    /// Parses `host:port`, `host`, `[v6]:port` or `[v6]`; `None` if it is none of these.
    #[must_use]
    pub fn parse(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = if let Some(rest) = text.strip_prefix('[') {
            let (host, after) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                if after.is_empty() {
                    None
                } else {
                    Some(after.strip_prefix(':')?)
                },
            )
        } else {
            match text.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (text, None),
            }
        };
        let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if host.is_empty() || !host.chars().all(plausible) {
            return None;
        }
        let port = port
            .map_or(Ok(default_port), str::parse)
            .ok()
            .filter(|port| *port != 0)?;
        Some(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl RedisOptions {
    /// How long an operation may take, retries included.
    pub(super) fn operation_timeout(&self) -> Duration {
        self.connect_timeout + self.response_timeout
    }

    /// The hash that holds the activation record and a field for each lock.
    pub(super) fn locks_key(&self) -> String {
        format!("{}locks", self.key_prefix)
    }

    /// The index: the locks by the moment at which a lease or a reservation of them ends.
    pub(super) fn leases_key(&self) -> String {
        format!("{}leases", self.key_prefix)
    }

    /// The heartbeats of the servers.
    pub(super) fn servers_key(&self) -> String {
        format!("{}servers", self.key_prefix)
    }

    /// The outstanding reservations.
    pub(super) fn reservations_key(&self) -> String {
        format!("{}reservations", self.key_prefix)
    }

    /// The remembered releases.
    pub(super) fn releases_keys(&self) -> [String; 2] {
        [1, 2].map(|number| format!("{}released:{number}", self.key_prefix))
    }

    /// The record of data format 1. It shows that an older version of Leasehold uses this Redis.
    pub(super) fn older_record_key(&self) -> String {
        format!("{}meta", self.key_prefix)
    }

    /// Each kind of key: hashes, and behind them sorted sets. No lock has the empty name.
    pub(super) fn kinds_of_keys(&self) -> ([String; 6], [String; 3]) {
        let [released, also_released] = self.releases_keys();
        let queue = |part: &str| format!("{}{part}:", self.key_prefix);
        let hashes = [
            self.locks_key(),
            self.servers_key(),
            self.reservations_key(),
            released,
            also_released,
            queue("entries"),
        ];
        (hashes, [self.leases_key(), queue("queue"), queue("kept")])
    }

    /// The channel that tells all servers for how long a contended lock is held.
    pub(super) fn common_channel(&self) -> String {
        format!("{}wake:all", self.key_prefix)
    }

    /// The channel that tells a server of reservations for its waiters.
    pub(super) fn wake_channel(&self, server_id: &str) -> String {
        format!("{}wake:{server_id}", self.key_prefix)
    }

    /// The least number of replicas that must confirm, also while fewer are online.
    pub(super) fn least_replicas(&self) -> usize {
        match (self.replica_acks, &self.discovery) {
            (ReplicaAcks::Fixed(number), _) => number,
            (ReplicaAcks::Auto, Discovery::Sentinel { .. }) => 1,
            (ReplicaAcks::Auto, Discovery::Direct(_)) => 0,
        }
    }

    /// The risk that the operator accepts with a fixed number of confirmations.
    pub(super) fn accepted_risk(&self) -> Option<String> {
        match self.replica_acks {
            ReplicaAcks::Auto => None,
            ReplicaAcks::Fixed(0) => Some(
                "LEASEHOLD_REPLICA_ACKS=0: no replica confirms a lease, so a failover may lose granted leases; new grants \
                 then pause until the leases that a server remembers have ended"
                    .to_owned(),
            ),
            ReplicaAcks::Fixed(number) => Some(format!(
                "LEASEHOLD_REPLICA_ACKS={number}: a failover to a replica that did not confirm may lose granted leases; new \
                 grants then pause until the leases that a server remembers have ended"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_parse_with_and_without_port() {
        let parse = |text| Address::parse(text, 26379).map(|a| (a.host, a.port));
        assert_eq!(parse("redis"), Some(("redis".into(), 26379)));
        assert_eq!(parse("redis.ns.svc:1"), Some(("redis.ns.svc".into(), 1)));
        assert_eq!(parse("[::1]:7"), Some(("::1".into(), 7)));
        assert_eq!(parse("[::1]"), Some(("::1".into(), 26379)));
        for bad in [
            "",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:b:1",
            "[::1",
            "[x]:1",
            "a b",
            "redis://a",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        assert!(!format!("{:?}", Secret::new("hunter2".into())).contains("hunter2"));
    }
}
