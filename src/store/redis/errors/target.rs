//! A node as a diagnosis names it: its kind, and the settings that lead to it.

use crate::store::redis::options::{Address, Discovery, Endpoint, RedisOptions, Tls};

/// The commands that the ACL user needs on data nodes, besides its keys and channels.
const DATA_COMMANDS: &str = "+@hash +@sortedset +exists +unlink +publish +subscribe +ping +select +unwatch +info +time +wait +eval \
                             +evalsha";

/// The rules that the ACL user needs on Sentinels.
const SENTINEL_RULES: &str = "resetchannels &+switch-master -@all +ping +subscribe +sentinel|myid \
                              +sentinel|get-master-addr-by-name +sentinel|sentinels +sentinel|master";

/// A kind of node, and the settings that lead to it.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) node: Node,
    /// The setting with the address.
    pub(crate) address_setting: &'static str,
    /// The settings with the credentials.
    pub(crate) credentials: &'static str,
    /// The setting that turns TLS on.
    pub(crate) tls_setting: &'static str,
    /// Whether TLS is on.
    pub(crate) tls: bool,
    /// Whether a client certificate is set.
    pub(crate) client_certificate: bool,
    /// The ACL user.
    pub(crate) username: String,
}

/// A kind of node.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// A data node, with what the store uses there.
    Data {
        /// The prefix of the keys, for the rules of the ACL user.
        key_prefix: String,
        db: i64,
    },
    Sentinel,
}

/// A refusal of one node.
pub(crate) struct Refused<'a> {
    pub(crate) target: &'a Target,
    pub(crate) at: &'a Address,
    /// What the node said, in one line.
    pub(crate) said: String,
}

impl Target {
    /// A data node.
    pub(crate) fn data(options: &RedisOptions) -> Self {
        let address_setting = match options.discovery {
            Discovery::Direct(_) => "the address in LEASEHOLD_REDIS_URL",
            Discovery::Sentinel { .. } => {
                "the address that the Sentinels name (LEASEHOLD_SENTINELS)"
            }
        };
        let node = Node::Data {
            key_prefix: options.key_prefix.clone(),
            db: options.db,
        };
        Self::new(
            node,
            address_setting,
            "LEASEHOLD_REDIS_USERNAME and LEASEHOLD_REDIS_PASSWORD",
            "LEASEHOLD_REDIS_TLS",
            &options.data,
        )
    }

    /// A Sentinel.
    pub(crate) fn sentinel(endpoint: &Endpoint) -> Self {
        Self::new(
            Node::Sentinel,
            "the addresses in LEASEHOLD_SENTINELS",
            "LEASEHOLD_SENTINEL_USERNAME and LEASEHOLD_SENTINEL_PASSWORD",
            "LEASEHOLD_SENTINEL_TLS",
            endpoint,
        )
    }

    fn new(
        node: Node,
        address_setting: &'static str,
        credentials: &'static str,
        tls_setting: &'static str,
        endpoint: &Endpoint,
    ) -> Self {
        let username = endpoint.username.as_deref().unwrap_or("default");
        Self {
            node,
            address_setting,
            credentials,
            tls_setting,
            tls: endpoint.tls.is_some(),
            client_certificate: endpoint
                .tls
                .as_ref()
                .is_some_and(Tls::has_client_certificate),
            username: username.to_owned(),
        }
    }

    /// How to give the ACL user exactly what the server needs. The user `default` stays as it is: replicas, Sentinels and
    /// administrators may use it too.
    pub(crate) fn acl_advice(&self) -> String {
        let rules = match &self.node {
            Node::Data { key_prefix, .. } => format!(
                "resetkeys ~{key_prefix}* resetchannels &{key_prefix}* -@all {DATA_COMMANDS}"
            ),
            Node::Sentinel => SENTINEL_RULES.to_owned(),
        };
        match self.username.as_str() {
            "default" => format!(
                "give this server a user of its own, set {}, and run on each of these nodes: ACL SETUSER leasehold on \
                 >PASSWORD {rules}",
                self.credentials
            ),
            username => format!("run on each of these nodes: ACL SETUSER {username} {rules}"),
        }
    }

    pub(crate) const fn db(&self) -> i64 {
        match self.node {
            Node::Data { db, .. } => db,
            Node::Sentinel => 0,
        }
    }
}
