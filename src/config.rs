//! Settings, from flags and `LEASEHOLD_*` variables, validated once.
//!
//! A setting that is misspelt, contradicts another or is out of bounds ends the start with one line
//! that names it: a lock service that silently ignored half of its configuration would lock nothing.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::builder::BoolishValueParser;
use clap::{Args, ValueEnum};
use redis::{ConnectionAddr, IntoConnectionInfo};

use crate::http::wire::Limits;
use crate::service::WaitLimits;
use crate::store::redis::options::{
    Address, Clock, Discovery, Endpoint, RedisOptions, ReplicaAcks, Secret, Tls,
};

const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// What a key prefix may be made of, besides ASCII letters and digits; at most so many bytes.
const PREFIX_PUNCTUATION: &str = "-._:{}/";
const MAX_PREFIX_BYTES: usize = 64;

/// The bounds of `LEASEHOLD_REDIS_POOL_SIZE`.
const POOL_SIZES: std::ops::RangeInclusive<usize> = 1..=64;

/// The bounds of both time-outs towards Redis, in milliseconds.
const TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

/// The longest that a TTL, a wait or a recovery may be set to, in milliseconds: a week.
const LONGEST_MS: u64 = 7 * 24 * 3600 * 1000;

/// Settings as they were given.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// IP address and port to listen on
    #[arg(
        long,
        env = "LEASEHOLD_LISTEN",
        default_value = "127.0.0.1:8080",
        value_name = "IP:PORT"
    )]
    listen: SocketAddr,
    /// Where locks are kept; by default what the other settings imply
    #[arg(long, env = "LEASEHOLD_STORE")]
    store: Option<StoreKind>,
    /// One Redis, direct: redis:// or rediss://[user[:password]@]host[:port][/db]
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    redis_url: Option<String>,
    /// The Redis Sentinels; the others of the set are found through them
    #[arg(
        long,
        env = "LEASEHOLD_SENTINELS",
        value_delimiter = ',',
        value_name = "HOST[:PORT],…"
    )]
    sentinels: Vec<String>,
    /// The master set that the Sentinels watch [default: mymaster]
    #[arg(long, env = "LEASEHOLD_SENTINEL_MASTER", value_name = "NAME")]
    sentinel_master: Option<String>,
    /// ACL user on the data nodes
    #[arg(long, env = "LEASEHOLD_REDIS_USERNAME", value_name = "USER")]
    redis_username: Option<String>,
    /// Password of the data nodes
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    redis_password: Option<String>,
    /// File with the password of the data nodes
    #[arg(long, env = "LEASEHOLD_REDIS_PASSWORD_FILE", value_name = "FILE")]
    redis_password_file: Option<PathBuf>,
    /// Database number on the data nodes [default: 0]
    #[arg(long, env = "LEASEHOLD_REDIS_DB", value_name = "NUMBER", value_parser = clap::value_parser!(u16))]
    redis_db: Option<u16>,
    /// ACL user on the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_USERNAME", value_name = "USER")]
    sentinel_username: Option<String>,
    /// Password of the Sentinels
    #[arg(
        long,
        env = "LEASEHOLD_SENTINEL_PASSWORD",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    sentinel_password: Option<String>,
    /// File with the password of the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_PASSWORD_FILE", value_name = "FILE")]
    sentinel_password_file: Option<PathBuf>,
    /// TLS towards the data nodes; rediss:// implies it
    #[arg(long, env = "LEASEHOLD_REDIS_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    redis_tls: Option<bool>,
    /// TLS towards the Sentinels
    #[arg(long, env = "LEASEHOLD_SENTINEL_TLS", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true",
        value_parser = BoolishValueParser::new())]
    sentinel_tls: Option<bool>,
    /// Authority that signed the servers' certificates, in PEM; the system's by default
    #[arg(long, env = "LEASEHOLD_TLS_CA_FILE", value_name = "FILE")]
    tls_ca_file: Option<PathBuf>,
    /// Client certificate, in PEM
    #[arg(long, env = "LEASEHOLD_TLS_CERT_FILE", value_name = "FILE")]
    tls_cert_file: Option<PathBuf>,
    /// Key of the client certificate, in PEM
    #[arg(long, env = "LEASEHOLD_TLS_KEY_FILE", value_name = "FILE")]
    tls_key_file: Option<PathBuf>,
    /// Connections to Redis
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_POOL_SIZE",
        default_value_t = 4,
        value_name = "NUMBER"
    )]
    redis_pool_size: usize,
    /// How long a connection to Redis may take to stand
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS",
        default_value_t = 1000,
        value_name = "MS"
    )]
    redis_connect_timeout_ms: u64,
    /// How long Redis may take to answer
    #[arg(
        long,
        env = "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    redis_response_timeout_ms: u64,
    /// Replicas that must confirm a grant or renewal: auto (all online ones, at least one under Sentinel) or a number
    #[arg(long, env = "LEASEHOLD_REPLICA_ACKS", default_value = "auto", value_parser = parse_acks, value_name = "auto|NUMBER")]
    replica_acks: ReplicaAcks,
    /// Begins the name of every key in Redis
    #[arg(
        long,
        env = "LEASEHOLD_KEY_PREFIX",
        default_value = "leasehold:",
        value_name = "TEXT"
    )]
    key_prefix: String,
    /// The longest TTL of a lease
    #[arg(
        long,
        env = "LEASEHOLD_MAX_TTL_MS",
        default_value_t = 3_600_000,
        value_name = "MS"
    )]
    max_ttl_ms: u64,
    /// The longest wait for a lock
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAIT_MS",
        default_value_t = 50_000,
        value_name = "MS"
    )]
    max_wait_ms: u64,
    /// How far the data nodes' clocks may be apart
    #[arg(
        long,
        env = "LEASEHOLD_MAX_CLOCK_SKEW_MS",
        default_value_t = 500,
        value_name = "MS"
    )]
    max_clock_skew_ms: u64,
    /// How long grants may pause after a loss [default: the longest TTL]
    #[arg(long, env = "LEASEHOLD_MAX_RECOVERY_MS", value_name = "MS")]
    max_recovery_ms: Option<u64>,
    /// How many requests may wait on this server
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS",
        default_value_t = 100_000,
        value_name = "NUMBER"
    )]
    max_waiters: usize,
    /// How many requests may wait for one key
    #[arg(
        long,
        env = "LEASEHOLD_MAX_WAITERS_PER_KEY",
        default_value_t = 10_000,
        value_name = "NUMBER"
    )]
    max_waiters_per_key: usize,
    /// Bearer token that every lock route needs
    #[arg(
        long,
        env = "LEASEHOLD_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    token: Option<String>,
    /// File with that token
    #[arg(long, env = "LEASEHOLD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Bearer token that breaking a lease needs
    #[arg(
        long,
        env = "LEASEHOLD_BREAK_TOKEN",
        hide_env_values = true,
        value_name = "SECRET"
    )]
    break_token: Option<String>,
    /// File with that token
    #[arg(long, env = "LEASEHOLD_BREAK_TOKEN_FILE", value_name = "FILE")]
    break_token_file: Option<PathBuf>,
}

/// The kinds of store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StoreKind {
    /// Embedded, in memory; forgets leases on restart.
    Memory,
    /// Redis, direct or through Sentinel.
    Redis,
}

/// Settings that were checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where locks are kept.
    pub store: StoreConfig,
    /// Bounds of requests.
    pub limits: Limits,
    /// Bounds of waiting.
    pub wait_limits: WaitLimits,
    /// The bearer token of lock routes.
    pub token: Option<Secret>,
    /// The bearer token for breaking.
    pub break_token: Option<Secret>,
}

/// Where locks are kept.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// In this process.
    Memory,
    /// In Redis.
    Redis(Box<RedisOptions>),
}

/// What is wrong with the settings, in one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

fn wrong<T>(text: impl Into<String>) -> Result<T, ConfigError> {
    Err(ConfigError(text.into()))
}

impl Settings {
    /// Where this machine reaches a server with these settings.
    #[must_use]
    pub fn own_url(&self) -> String {
        let mut at = self.listen;
        if at.ip().is_unspecified() {
            at.set_ip(match at.ip() {
                IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
                IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
            });
        }
        format!("http://{at}")
    }

    /// Checks everything and reads the files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let longest = 1..=LONGEST_MS;
        let max_ttl = bounded_ms("LEASEHOLD_MAX_TTL_MS", self.max_ttl_ms, 1000..=LONGEST_MS)?;
        let max_wait = bounded_ms("LEASEHOLD_MAX_WAIT_MS", self.max_wait_ms, 0..=LONGEST_MS)?;
        bounded_ms(
            "LEASEHOLD_MAX_CLOCK_SKEW_MS",
            self.max_clock_skew_ms,
            longest.clone(),
        )?;
        bounded_ms(
            "LEASEHOLD_MAX_RECOVERY_MS",
            self.max_recovery_ms.unwrap_or(self.max_ttl_ms),
            longest,
        )?;
        if self.max_waiters_per_key == 0 || self.max_waiters == 0 {
            return wrong(
                "LEASEHOLD_MAX_WAITERS and LEASEHOLD_MAX_WAITERS_PER_KEY must be at least 1 (set LEASEHOLD_MAX_WAIT_MS to 0 for no waiting)",
            );
        }
        let token = secret(
            "LEASEHOLD_TOKEN",
            self.token.as_ref(),
            self.token_file.as_deref(),
        )?;
        let break_token = secret(
            "LEASEHOLD_BREAK_TOKEN",
            self.break_token.as_ref(),
            self.break_token_file.as_deref(),
        )?;
        for (name, token) in [
            ("LEASEHOLD_TOKEN", &token),
            ("LEASEHOLD_BREAK_TOKEN", &break_token),
        ] {
            let visible = |token: &Secret| token.expose().bytes().all(|b| b.is_ascii_graphic());
            if !token.as_ref().is_none_or(visible) {
                return wrong(format!(
                    "{name} must be visible ASCII characters: no other can be sent in a header"
                ));
            }
        }
        if token.is_some() && token == break_token {
            return wrong(
                "LEASEHOLD_TOKEN and LEASEHOLD_BREAK_TOKEN are the same, so that everybody could break leases",
            );
        }
        Ok(Config {
            listen: self.listen,
            store: self.store()?,
            limits: Limits { max_ttl, max_wait },
            wait_limits: WaitLimits {
                max_waiters: self.max_waiters,
                max_waiters_per_key: self.max_waiters_per_key,
            },
            token,
            break_token,
        })
    }

    fn store(&self) -> Result<StoreConfig, ConfigError> {
        let sentinel = !self.sentinels.is_empty();
        let redis_named = sentinel || self.redis_url.is_some();
        match (self.store, redis_named) {
            (Some(StoreKind::Memory), true) => wrong(
                "LEASEHOLD_STORE is memory, but LEASEHOLD_REDIS_URL or LEASEHOLD_SENTINELS names a Redis: remove one of them",
            ),
            (Some(StoreKind::Redis), false) => wrong(
                "LEASEHOLD_STORE is redis, but neither LEASEHOLD_REDIS_URL nor LEASEHOLD_SENTINELS says where",
            ),
            (_, true) => self
                .redis(sentinel)
                .map(|options| StoreConfig::Redis(Box::new(options))),
            (_, false) if self.names_redis_detail().is_some() => wrong(format!(
                "{} is set, but neither LEASEHOLD_REDIS_URL nor LEASEHOLD_SENTINELS: locks would be kept in memory",
                self.names_redis_detail().unwrap_or_default()
            )),
            (Some(StoreKind::Memory), false) => Ok(StoreConfig::Memory),
            (None, false) if self.listen.ip().is_loopback() => Ok(StoreConfig::Memory),
            (None, false) => wrong(format!(
                "no Redis is named (LEASEHOLD_SENTINELS or LEASEHOLD_REDIS_URL) and {} is not a loopback address: several \
                 servers with a memory each would grant the same lock; set LEASEHOLD_STORE=memory if this is the only one",
                self.listen
            )),
        }
    }

    /// A setting that only makes sense with Redis.
    fn names_redis_detail(&self) -> Option<&'static str> {
        let set = [
            (self.sentinel_master.is_some(), "LEASEHOLD_SENTINEL_MASTER"),
            (self.redis_username.is_some(), "LEASEHOLD_REDIS_USERNAME"),
            (self.redis_password.is_some(), "LEASEHOLD_REDIS_PASSWORD"),
            (
                self.redis_password_file.is_some(),
                "LEASEHOLD_REDIS_PASSWORD_FILE",
            ),
            (self.redis_db.is_some(), "LEASEHOLD_REDIS_DB"),
            (
                self.sentinel_username.is_some(),
                "LEASEHOLD_SENTINEL_USERNAME",
            ),
            (
                self.sentinel_password.is_some(),
                "LEASEHOLD_SENTINEL_PASSWORD",
            ),
            (
                self.sentinel_password_file.is_some(),
                "LEASEHOLD_SENTINEL_PASSWORD_FILE",
            ),
            (self.redis_tls.is_some(), "LEASEHOLD_REDIS_TLS"),
            (self.sentinel_tls.is_some(), "LEASEHOLD_SENTINEL_TLS"),
            (self.tls_ca_file.is_some(), "LEASEHOLD_TLS_CA_FILE"),
            (self.tls_cert_file.is_some(), "LEASEHOLD_TLS_CERT_FILE"),
            (self.tls_key_file.is_some(), "LEASEHOLD_TLS_KEY_FILE"),
        ];
        set.into_iter()
            .find_map(|(is_set, name)| is_set.then_some(name))
    }

    fn redis(&self, sentinel: bool) -> Result<RedisOptions, ConfigError> {
        if sentinel && self.redis_url.is_some() {
            return wrong(
                "LEASEHOLD_REDIS_URL and LEASEHOLD_SENTINELS are both set: name one Redis, or the Sentinels",
            );
        }
        if !sentinel {
            self.refuse_sentinel_details()?;
        }
        let password = secret(
            "LEASEHOLD_REDIS_PASSWORD",
            self.redis_password.as_ref(),
            self.redis_password_file.as_deref(),
        )?;
        let mut data = Endpoint {
            username: self.redis_username.clone(),
            password,
            tls: None,
        };
        let mut db = self.redis_db;
        let mut data_tls = self.redis_tls.unwrap_or(false);
        let discovery = match &self.redis_url {
            Some(url) => {
                let parsed = parse_url(url)?;
                data_tls = self.agree_on_tls(parsed.tls)?;
                merge(
                    &mut data.username,
                    parsed.username,
                    "LEASEHOLD_REDIS_USERNAME",
                )?;
                merge(
                    &mut data.password,
                    parsed.password.map(Secret::new),
                    "LEASEHOLD_REDIS_PASSWORD",
                )?;
                if self.redis_db.is_some() && parsed.db.is_some_and(|db| Some(db) != self.redis_db)
                {
                    return wrong(
                        "LEASEHOLD_REDIS_DB and the database in LEASEHOLD_REDIS_URL are different",
                    );
                }
                db = db.or(parsed.db);
                Discovery::Direct(parsed.address)
            }
            None => self.sentinel_discovery(self.sentinel_tls.unwrap_or(false))?,
        };
        refuse_user_without_password(&data, "LEASEHOLD_REDIS")?;
        self.refuse_tls_files_without_tls(data_tls)?;
        data.tls = self.tls(data_tls)?;
        if !POOL_SIZES.contains(&self.redis_pool_size) {
            let (least, most) = POOL_SIZES.into_inner();
            return wrong(format!(
                "LEASEHOLD_REDIS_POOL_SIZE must be from {least} to {most}"
            ));
        }
        Ok(RedisOptions {
            discovery,
            data,
            db: i64::from(db.unwrap_or(0)),
            pool_size: self.redis_pool_size,
            connect_timeout: bounded_ms(
                "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS",
                self.redis_connect_timeout_ms,
                TIMEOUTS_MS,
            )?,
            response_timeout: bounded_ms(
                "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS",
                self.redis_response_timeout_ms,
                TIMEOUTS_MS,
            )?,
            replica_acks: self.replica_acks,
            key_prefix: check_prefix(&self.key_prefix)?,
            max_ttl: Duration::from_millis(self.max_ttl_ms),
            max_clock_skew: Duration::from_millis(self.max_clock_skew_ms),
            max_recovery: Duration::from_millis(self.max_recovery_ms.unwrap_or(self.max_ttl_ms)),
            clock: Clock::Server,
        })
    }

    fn refuse_sentinel_details(&self) -> Result<(), ConfigError> {
        let set = [
            (self.sentinel_master.is_some(), "LEASEHOLD_SENTINEL_MASTER"),
            (
                self.sentinel_username.is_some(),
                "LEASEHOLD_SENTINEL_USERNAME",
            ),
            (
                self.sentinel_password.is_some(),
                "LEASEHOLD_SENTINEL_PASSWORD",
            ),
            (
                self.sentinel_password_file.is_some(),
                "LEASEHOLD_SENTINEL_PASSWORD_FILE",
            ),
            (self.sentinel_tls.is_some(), "LEASEHOLD_SENTINEL_TLS"),
        ];
        match set.into_iter().find(|(is_set, _)| *is_set) {
            Some((_, name)) => wrong(format!(
                "{name} is set, but LEASEHOLD_SENTINELS names no Sentinel"
            )),
            None => Ok(()),
        }
    }

    /// A URL and the setting beside it must say the same.
    fn agree_on_tls(&self, in_url: bool) -> Result<bool, ConfigError> {
        match (self.redis_tls, in_url) {
            (Some(false), true) => {
                wrong("LEASEHOLD_REDIS_TLS is false, but LEASEHOLD_REDIS_URL is rediss://")
            }
            (setting, in_url) => Ok(in_url || setting.unwrap_or(false)),
        }
    }

    fn sentinel_discovery(&self, tls: bool) -> Result<Discovery, ConfigError> {
        let parse = |text: &String| {
            // The text is not shown: somebody may have put a password into it.
            Address::parse(text.trim(), DEFAULT_SENTINEL_PORT).ok_or_else(|| {
                ConfigError(
                    "LEASEHOLD_SENTINELS is not host:port, or a list of these separated by commas"
                        .to_owned(),
                )
            })
        };
        let sentinels = self.sentinels.iter().map(parse).collect::<Result<_, _>>()?;
        let password = secret(
            "LEASEHOLD_SENTINEL_PASSWORD",
            self.sentinel_password.as_ref(),
            self.sentinel_password_file.as_deref(),
        )?;
        let endpoint = Endpoint {
            username: self.sentinel_username.clone(),
            password,
            tls: self.tls(tls)?,
        };
        refuse_user_without_password(&endpoint, "LEASEHOLD_SENTINEL")?;
        let master = self
            .sentinel_master
            .clone()
            .unwrap_or_else(|| "mymaster".to_owned());
        if master.is_empty() || master.chars().any(|c| c.is_control() || c == ' ') {
            return wrong("LEASEHOLD_SENTINEL_MASTER is not the name of a master set");
        }
        Ok(Discovery::Sentinel {
            sentinels,
            master,
            endpoint,
        })
    }

    fn refuse_tls_files_without_tls(&self, data_tls: bool) -> Result<(), ConfigError> {
        let files = self.tls_ca_file.is_some()
            || self.tls_cert_file.is_some()
            || self.tls_key_file.is_some();
        if files && !data_tls && !self.sentinel_tls.unwrap_or(false) {
            return wrong(
                "LEASEHOLD_TLS_*_FILE is set, but TLS is off: set LEASEHOLD_REDIS_TLS or LEASEHOLD_SENTINEL_TLS",
            );
        }
        Ok(())
    }

    fn tls(&self, on: bool) -> Result<Option<Tls>, ConfigError> {
        if !on {
            return Ok(None);
        }
        let identity = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(certificate), Some(key_path)) => {
                let key = read_pem("LEASEHOLD_TLS_KEY_FILE", key_path, "PRIVATE KEY")?;
                let key = String::from_utf8(key)
                    .map_err(|_| not_pem("LEASEHOLD_TLS_KEY_FILE", key_path, "PRIVATE KEY"))?;
                Some((
                    read_pem("LEASEHOLD_TLS_CERT_FILE", certificate, "CERTIFICATE")?,
                    Secret::new(key),
                ))
            }
            (None, None) => None,
            _ => {
                return wrong("LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE go together");
            }
        };
        let ca = self
            .tls_ca_file
            .as_ref()
            .map(|path| read_pem("LEASEHOLD_TLS_CA_FILE", path, "CERTIFICATE"));
        let tls = Tls {
            ca: ca.transpose()?,
            identity,
        };
        let endpoint = Endpoint {
            tls: Some(tls.clone()),
            ..Endpoint::default()
        };
        let anywhere = Address {
            host: "localhost".to_owned(),
            port: 1,
        };
        match endpoint.client(&anywhere, 0) {
            Ok(_) => Ok(Some(tls)),
            Err(error) => wrong(format!(
                "LEASEHOLD_TLS_CA_FILE, LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE cannot be used: {error}"
            )),
        }
    }
}

fn read_pem(name: &str, path: &Path, label: &str) -> Result<Vec<u8>, ConfigError> {
    let bytes = std::fs::read(path)
        .map_err(|error| ConfigError(format!("{name}: cannot read {}: {error}", path.display())))?;
    let begins = |line: &[u8]| {
        let line = String::from_utf8_lossy(line);
        line.starts_with("-----BEGIN ") && line.trim_end().ends_with(&format!("{label}-----"))
    };
    if bytes.split(|byte| *byte == b'\n').any(begins) {
        Ok(bytes)
    } else {
        Err(not_pem(name, path, label))
    }
}

fn not_pem(name: &str, path: &Path, label: &str) -> ConfigError {
    ConfigError(format!(
        "{name}: {} holds no {label} in PEM",
        path.display()
    ))
}

struct ParsedUrl {
    address: Address,
    username: Option<String>,
    password: Option<String>,
    db: Option<u16>,
    tls: bool,
}

fn parse_url(url: &str) -> Result<ParsedUrl, ConfigError> {
    const FORM: &str =
        "LEASEHOLD_REDIS_URL must be redis:// or rediss://[user[:password]@]host[:port][/db]";
    let Some(rest) = url
        .strip_prefix("redis://")
        .or_else(|| url.strip_prefix("rediss://"))
    else {
        return wrong(FORM);
    };
    let info = url
        .into_connection_info()
        .map_err(|_| ConfigError(FORM.to_owned()))?;
    let (host, port, tls) = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (host, *port, false),
        ConnectionAddr::TcpTls {
            host,
            port,
            insecure: false,
            ..
        } => (host, *port, true),
        ConnectionAddr::TcpTls { .. } => {
            return wrong(
                "LEASEHOLD_REDIS_URL asks for TLS without verification (#insecure), which protects nothing",
            );
        }
        _ => return wrong(FORM),
    };
    let settings = info.redis_settings();
    let db = match rest.split_once('/').map(|(_, db)| db) {
        None | Some("") => None,
        Some(db) => Some(
            db.parse::<u16>()
                .map_err(|_| ConfigError(FORM.to_owned()))?,
        ),
    };
    if port == 0 || rest.contains('?') {
        return wrong(FORM);
    }
    Ok(ParsedUrl {
        address: Address {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        },
        username: settings.username().map(str::to_owned),
        password: settings.password().map(str::to_owned),
        db,
        tls,
    })
}

/// Redis would be asked as its default user.
fn refuse_user_without_password(endpoint: &Endpoint, setting: &str) -> Result<(), ConfigError> {
    match (&endpoint.username, &endpoint.password) {
        (Some(username), _) if username.is_empty() => wrong(format!("{setting}_USERNAME is empty")),
        (Some(_), None) => wrong(format!(
            "{setting}_USERNAME is set, but no {setting}_PASSWORD"
        )),
        _ => Ok(()),
    }
}

fn merge<T>(setting: &mut Option<T>, in_url: Option<T>, name: &str) -> Result<(), ConfigError> {
    match (&setting, in_url) {
        (Some(_), Some(_)) => wrong(format!(
            "{name} is set, and LEASEHOLD_REDIS_URL has one too: remove one of them"
        )),
        (None, given) => {
            *setting = given;
            Ok(())
        }
        (Some(_), None) => Ok(()),
    }
}

fn bounded_ms(
    name: &str,
    ms: u64,
    bounds: std::ops::RangeInclusive<u64>,
) -> Result<Duration, ConfigError> {
    if bounds.contains(&ms) {
        Ok(Duration::from_millis(ms))
    } else {
        wrong(format!(
            "{name} must be from {} to {}",
            bounds.start(),
            bounds.end()
        ))
    }
}

/// A secret from its setting or its file, which may end with a line feed.
fn secret(
    name: &str,
    value: Option<&String>,
    file: Option<&Path>,
) -> Result<Option<Secret>, ConfigError> {
    let text = match (value, file) {
        (Some(_), Some(_)) => return wrong(format!("{name} and {name}_FILE are both set")),
        (None, None) => return Ok(None),
        (Some(value), None) => value.clone(),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map_err(|error| {
                ConfigError(format!(
                    "{name}_FILE: cannot read {}: {error}",
                    path.display()
                ))
            })?
            .trim_end_matches(['\r', '\n'])
            .to_owned(),
    };
    if text.is_empty() {
        return wrong(format!("{name} is empty"));
    }
    Ok(Some(Secret::new(text)))
}

fn check_prefix(prefix: &str) -> Result<String, ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || PREFIX_PUNCTUATION.contains(c);
    if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(allowed) {
        return wrong(format!(
            "LEASEHOLD_KEY_PREFIX must be 1 to {MAX_PREFIX_BYTES} of A-Z a-z 0-9 {PREFIX_PUNCTUATION}"
        ));
    }
    Ok(prefix.to_owned())
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

/// Refuses `LEASEHOLD_*` variables that are no setting: a misspelt one would be ignored.
///
/// # Errors
/// Names the variable, and the setting that it resembles most.
pub fn refuse_unknown_variables<'a>(
    known: &[String],
    variables: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Result<(), ConfigError> {
    for (name, value) in variables {
        let ours = name.starts_with("LEASEHOLD_") && !known.iter().any(|k| k == name);
        if ours && !is_service_link(name, value) {
            let nearest = known.iter().max_by(|a, b| {
                let likeness = |known: &str| strsim::jaro_winkler(known, name);
                likeness(a).total_cmp(&likeness(b))
            });
            return wrong(format!(
                "{name} is not a setting; did you mean {}?",
                nearest.map_or("another", String::as_str)
            ));
        }
    }
    Ok(())
}

/// What Kubernetes sets in every pod for a Service whose name begins with `leasehold`.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST")
        || name.ends_with("_SERVICE_PORT")
        || name.contains("_SERVICE_PORT_")
    {
        return true;
    }
    if let Some((_, port)) = name.split_once("_PORT_") {
        let mut parts = port.split('_');
        let number = parts
            .next()
            .is_some_and(|number| number.parse::<u16>().is_ok());
        return number
            && parts
                .next()
                .is_some_and(|protocol| matches!(protocol, "TCP" | "UDP" | "SCTP"));
    }
    // A person who means a port writes a number.
    let is_url = ["tcp://", "udp://", "sctp://"]
        .iter()
        .any(|scheme| value.starts_with(scheme));
    name.ends_with("_PORT") && is_url
}
