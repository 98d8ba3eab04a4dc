//! Settings as given by flags and variables. `--help` prints the doc comments of the fields.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};

use crate::store::redis::options::ReplicaAcks;

/// The value name of the settings that are secrets.
pub const SECRET: &str = "SECRET";

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
    /// Store of the locks [default: redis if a Redis is configured, else memory on a loopback address]
    #[arg(long, env = "LEASEHOLD_STORE")]
    pub(super) store: Option<StoreKind>,
    /// One Redis without Sentinel: redis:// or rediss://[user[:password]@]host[:port][/db]
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub(super) redis_url: Option<String>,
    /// Addresses of Redis Sentinels; the server discovers the other Sentinels of the set
    #[arg(
        long,
        env = "LEASEHOLD_SENTINELS",
        value_delimiter = ',',
        value_name = "HOST[:PORT],…"
    )]
    pub(super) sentinels: Vec<String>,
    /// Name of the master set that the Sentinels monitor [default: mymaster]
    #[arg(long, env = "LEASEHOLD_SENTINEL_MASTER", value_name = "NAME")]
    pub(super) sentinel_master: Option<String>,
    /// ACL user for the data nodes (master and replicas)
    #[arg(long, env = "LEASEHOLD_REDIS_USERNAME", value_name = "USER")]
    pub(super) redis_username: Option<String>,
    /// Password for the data nodes
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_PASSWORD",
        hide_env_values = true,
        value_name = SECRET
    )]
    pub(super) redis_password: Option<String>,
    /// File that contains the password for the data nodes
    #[arg(long, env = "LEASEHOLD_REDIS_PASSWORD_FILE", value_name = "FILE")]
    pub(super) redis_password_file: Option<PathBuf>,
    /// Database number on the data nodes [default: 0]
    #[arg(long, env = "LEASEHOLD_REDIS_DB", value_name = "NUMBER", value_parser = clap::value_parser!(u16))]
    pub(super) redis_db: Option<u16>,
    /// ACL user for the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_USERNAME", value_name = "USER")]
    pub(super) sentinel_username: Option<String>,
    /// Password for the Sentinels
    #[arg(
        long,
        env = "LEASEHOLD_SENTINEL_PASSWORD",
        hide_env_values = true,
        value_name = SECRET
    )]
    pub(super) sentinel_password: Option<String>,
    /// File that contains the password for the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    pub(super) sentinel_password_file: Option<PathBuf>,
    /// Use TLS for connections to the data nodes; rediss:// implies it
    #[arg(long, env = "LEASEHOLD_REDIS_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub(super) redis_tls: Option<bool>,
    /// Use TLS for connections to the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub(super) sentinel_tls: Option<bool>,
    /// Authority that signed the certificates of Redis, in PEM format [default: the authorities of the system]
    #[arg(long, env = "LEASEHOLD_TLS_CA_FILE", value_name = "FILE")]
    pub(super) tls_ca_file: Option<PathBuf>,
    /// Client certificate for Redis, in PEM format
    #[arg(long, env = "LEASEHOLD_TLS_CERT_FILE", value_name = "FILE")]
    pub(super) tls_cert_file: Option<PathBuf>,
    /// Private key of the client certificate, in PEM format
    #[arg(long, env = "LEASEHOLD_TLS_KEY_FILE", value_name = "FILE")]
    pub(super) tls_key_file: Option<PathBuf>,
    /// Connections to Redis for operations on locks, 1 to 64
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_POOL_SIZE",
        default_value_t = 4,
        value_name = "NUMBER"
    )]
    pub(super) redis_pool_size: usize,
    /// Timeout for opening a connection to Redis, 10 to 60000 ms
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS",
        default_value_t = 1000,
        value_name = "MS"
    )]
    pub(super) redis_connect_timeout_ms: u64,
    /// Timeout for a reply of Redis, 10 to 60000 ms
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    pub(super) redis_response_timeout_ms: u64,
    /// Replicas that must confirm a grant or renewal: auto (all online replicas, with Sentinel at least one), or 0 to 16
    #[arg(long, env = "LEASEHOLD_REPLICA_ACKS", default_value = "auto", value_parser = parse_acks, value_name = "auto|NUMBER")]
    pub(super) replica_acks: ReplicaAcks,
    /// Prefix of all keys and channels in Redis
    #[arg(
        long,
        env = "LEASEHOLD_KEY_PREFIX",
        default_value = "leasehold:",
        value_name = "TEXT"
    )]
    pub(super) key_prefix: String,
    /// Longest TTL that a client can request, 1000 ms to one week
    #[arg(
        long,
        env = "LEASEHOLD_MAX_TTL_MS",
        default_value_t = 3_600_000,
        value_name = "MS"
    )]
    pub(super) max_ttl_ms: u64,
    /// Longest wait that a client can request, 0 (no waiting) to one week
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAIT_MS",
        default_value_t = 50_000,
        value_name = "MS"
    )]
    pub(super) max_wait_ms: u64,
    /// Largest allowed difference between the clocks of the data nodes, 1 ms to one week. Other clients get a lock so long
    /// after the deadline of an expired lease
    #[arg(
        long,
        env = "LEASEHOLD_MAX_CLOCK_SKEW_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    pub(super) max_clock_skew_ms: u64,
    /// Longest pause of new grants after a loss, 1 ms to one week [default: LEASEHOLD_MAX_TTL_MS]
    #[arg(long, env = "LEASEHOLD_MAX_RECOVERY_MS", value_name = "MS")]
    pub(super) max_recovery_ms: Option<u64>,
    /// Limit of waiting requests on this server
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS",
        default_value_t = 100_000,
        value_name = "NUMBER"
    )]
    pub(super) max_waiters: usize,
    /// Limit of waiting requests for one key, over all servers
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS_PER_KEY",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    pub(super) max_waiters_per_key: usize,
    /// Limit of client connections [default: what the limit of open files allows]
    #[arg(long, env = "LEASEHOLD_MAX_CONNECTIONS", value_name = "NUMBER")]
    pub(super) max_connections: Option<usize>,
    /// Timeout for the head of a request to arrive, 100 to 600000 ms
    #[arg(
        long,
        env = "LEASEHOLD_HEADER_TIMEOUT_MS",
        default_value_t = 10_000,
        value_name = "MS"
    )]
    pub(super) header_timeout_ms: u64,
    /// How long a connection may be idle, 1000 ms to one day; longer than proxies keep idle connections
    #[arg(
        long,
        env = "LEASEHOLD_IDLE_TIMEOUT_MS",
        default_value_t = 3_660_000,
        value_name = "MS"
    )]
    pub(super) idle_timeout_ms: u64,
    /// Host names that requests can address, besides loopback names [default: none on a loopback address, any elsewhere]
    #[arg(
        long,
        env = "LEASEHOLD_ALLOWED_HOSTS",
        value_delimiter = ',',
        value_name = "HOST,…"
    )]
    pub(super) allowed_hosts: Vec<String>,
    /// Other origins whose web pages can change locks
    #[arg(
        long,
        env = "LEASEHOLD_ALLOWED_ORIGINS",
        value_delimiter = ',',
        value_name = "ORIGIN,…"
    )]
    pub(super) allowed_origins: Vec<String>,
    /// Bearer token that all lock routes require
    #[arg(
        long,
        env = "LEASEHOLD_TOKEN",
        hide_env_values = true,
        value_name = SECRET
    )]
    pub(super) token: Option<String>,
    /// File that contains the bearer token of all lock routes
    #[arg(long, env = "LEASEHOLD_TOKEN_FILE", value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// Bearer token that breaking a lease and ending a recovery require
    #[arg(
        long,
        env = "LEASEHOLD_BREAK_TOKEN",
        hide_env_values = true,
        value_name = SECRET
    )]
    pub(super) break_token: Option<String>,
    /// File that contains the bearer token for breaking
    #[arg(long, env = "LEASEHOLD_BREAK_TOKEN_FILE", value_name = "FILE")]
    pub(super) break_token_file: Option<PathBuf>,
    /// File with principals, the digests of their tokens, and their grants
    #[arg(long, env = "LEASEHOLD_AUTH_FILE", value_name = "FILE")]
    pub(super) auth_file: Option<PathBuf>,
    /// Let every client acquire locks that reaches an address which is not a loopback one
    #[arg(long, env = "LEASEHOLD_INSECURE_OPEN", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    pub(super) insecure_open: Option<bool>,
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// In memory; a restart forgets all leases.
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
            .ok_or_else(|| "must be auto, or a number from 0 to 16".to_owned()),
    }
}
