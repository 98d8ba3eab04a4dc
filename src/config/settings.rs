//! Settings as given by flags and variables. `--help` prints the doc comments of the fields.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::store::redis::options::ReplicaAcks;

/// Settings as they were given. Not `Debug`: secrets are among them.
#[derive(Args, Clone)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// IP address and port to listen on
    #[arg(
        long,
        env = "LEASEHOLD_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "IP:PORT"
    )]
    pub(super) listen: SocketAddr,
    /// Where locks are kept; by default what the other settings imply
    #[arg(long, env = "LEASEHOLD_STORE")]
    pub(super) store: Option<StoreKind>,
    /// One Redis, direct: redis:// or rediss://[user[:password]@]host[:port][/db]
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(super) redis_url: Option<String>,
    /// The Redis Sentinels; the others of the set are found through them
    #[arg(
        long,
        env = "LEASEHOLD_SENTINELS",
        value_delimiter = ',',
        value_name = "HOST[:PORT],…"
    )]
    pub(super) sentinels: Vec<String>,
    /// The master set that the Sentinels watch [default: mymaster]
    #[arg(long, env = "LEASEHOLD_SENTINEL_MASTER", value_name = "NAME")]
    pub(super) sentinel_master: Option<String>,
    /// ACL user on the data nodes
    #[arg(long, env = "LEASEHOLD_REDIS_USERNAME", value_name = "USER")]
    pub(super) redis_username: Option<String>,
    /// Password of the data nodes
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(super) redis_password: Option<String>,
    /// File with the password of the data nodes
    #[arg(long, env = "LEASEHOLD_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub(super) redis_password_file: Option<PathBuf>,
    /// Database number on the data nodes [default: 0]
    #[arg(long, env = "LEASEHOLD_REDIS_DB", value_name = "NUMBER", value_parser = clap::value_parser!(u16))]
    pub(super) redis_db: Option<u16>,
    /// ACL user on the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_USERNAME", value_name = "USER")]
    pub(super) sentinel_username: Option<String>,
    /// Password of the Sentinels
    #[arg(
        long,
        env = "LEASEHOLD_SENTINEL_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(super) sentinel_password: Option<String>,
    /// File with the password of the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    pub(super) sentinel_password_file: Option<PathBuf>,
    /// TLS towards the data nodes; rediss:// implies it
    #[arg(long, env = "LEASEHOLD_REDIS_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub(super) redis_tls: Option<bool>,
    /// TLS towards the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub(super) sentinel_tls: Option<bool>,
    /// Authority that signed the servers' certificates, in PEM; the system's by default
    #[arg(long, env = "LEASEHOLD_TLS_CA_FILE", value_name = "FILE")]
    pub(super) tls_ca_file: Option<PathBuf>,
    /// Client certificate, in PEM
    #[arg(long, env = "LEASEHOLD_TLS_CERT_FILE", value_name = "FILE")]
    pub(super) tls_cert_file: Option<PathBuf>,
    /// Key of the client certificate, in PEM
    #[arg(long, env = "LEASEHOLD_TLS_KEY_FILE", value_name = "FILE")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// Connections to Redis
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_POOL_SIZE",
        default_value_t = 4,
        value_name = "NUMBER"
    )]
    pub(super) redis_pool_size: usize,
    /// How long a connection to Redis may take to stand
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS",
        default_value_t = 1000,
        value_name = "MS"
    )]
    pub(super) redis_connect_timeout_ms: u64,
    /// How long Redis may take to answer
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    pub(super) redis_response_timeout_ms: u64,
    /// Replicas that must confirm a grant or renewal: auto (all online ones, at least one under Sentinel) or a number
    #[arg(long, env = "LEASEHOLD_REPLICA_ACKS", default_value = "auto", value_parser = parse_acks, value_name = "auto|NUMBER")]
    pub(super) replica_acks: ReplicaAcks,
    /// Begins the name of every key in Redis
    #[arg(
        long,
        env = "LEASEHOLD_KEY_PREFIX",
        default_value = "leasehold:",
        value_name = "TEXT"
    )]
    pub(super) key_prefix: String,
    /// The longest TTL of a lease
    #[arg(
        long,
        env = "LEASEHOLD_MAX_TTL_MS",
        default_value_t = 3_600_000,
        value_name = "MS"
    )]
    pub(super) max_ttl_ms: u64,
    /// The longest wait for a lock
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAIT_MS",
        default_value_t = 50_000,
        value_name = "MS"
    )]
    pub(super) max_wait_ms: u64,
    /// How far the data nodes' clocks may be apart
    #[arg(
        long,
        env = "LEASEHOLD_MAX_CLOCK_SKEW_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    pub(super) max_clock_skew_ms: u64,
    /// How long grants may pause after a loss [default: the longest TTL]
    #[arg(long, env = "LEASEHOLD_MAX_RECOVERY_MS", value_name = "MS")]
    pub(super) max_recovery_ms: Option<u64>,
    /// How many requests may wait on this server
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS",
        default_value_t = 100_000,
        value_name = "NUMBER"
    )]
    pub(super) max_waiters: usize,
    /// How many requests may wait for one key
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS_PER_KEY",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    pub(super) max_waiters_per_key: usize,
    /// How many clients may be connected [default: what the limit of open files leaves room for]
    #[arg(long, env = "LEASEHOLD_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub(super) max_connections: Option<usize>,
    /// How long the head of a request may take to arrive
    #[arg(
        long,
        env = "LEASEHOLD_HEADER_TIMEOUT_MS",
        default_value_t = 10_000,
        value_name = "MS"
    )]
    pub(super) header_timeout_ms: u64,
    /// Names that clients may call this server by, besides loopback names [default: on a loopback address none, elsewhere any]
    #[arg(
        long,
        env = "LEASEHOLD_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "HOST,…"
    )]
    pub(super) allowed_hosts: Vec<String>,
    /// Origins of web pages that may change locks, besides this server's own
    #[arg(
        long,
        env = "LEASEHOLD_ALLOWED_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN,…"
    )]
    pub(super) allowed_origins: Vec<String>,
    /// Bearer token that every lock route needs
    #[arg(
        long,
        env = "LEASEHOLD_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(super) token: Option<String>,
    /// File with that token
    #[arg(long, env = "LEASEHOLD_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Bearer token that breaking a lease needs
    #[arg(
        long,
        env = "LEASEHOLD_BREAK_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    pub(super) break_token: Option<String>,
    /// File with that token
    #[arg(long, env = "LEASEHOLD_BREAK_TOKEN_FILE", value_name = "FILE")]
    pub(super) break_token_file: Option<PathBuf>,
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// Embedded, in memory; forgets leases on restart.
    Memory,
    /// Redis, direct or through Sentinel.
    Redis,
}

fn parse_acks(text: &str) -> Result<ReplicaAcks, String> {
    match text {
        "auto" => Ok(ReplicaAcks::Auto),
        number => number
            .parse()
            .ok()
            .filter(|number| *number <= 16)
            .map(ReplicaAcks::Fixed)
            .ok_or_else(|| "auto, or a number from 0 to 16".to_owned()),
    }
}
