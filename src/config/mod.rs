//! Settings, from flags and `LEASEHOLD_*` variables, validated once.
//!
//! The server refuses to start with a setting that is misspelt, contradicts another or is out of bounds. One line
//! names that setting. An ignored setting could silently weaken mutual exclusion.

mod descriptors;
mod error;
mod files;
mod redis;
mod settings;
mod tokens;
mod url;
mod variables;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use self::error::ConfigError;
use self::error::{bounded_ms, wrong};
pub use self::settings::{SECRET, Settings, StoreKind};
use self::tokens::Source;
pub use self::tokens::{MIN_TOKEN_BYTES, TokenSources};
pub use self::variables::refuse_unknown_variables;
use crate::auth::Credentials;
use crate::http::wire::Limits;
use crate::http::{AllowedHost, AllowedOrigin};
use crate::secret::Secret;
use crate::service::WaitLimits;
use crate::store::redis::options::RedisOptions;

/// The upper bound of the settings for TTL, wait, clock skew and recovery, in milliseconds: a week.
const LONGEST_MS: u64 = 7 * 24 * 3600 * 1000;

/// The bounds of `LEASEHOLD_HEADER_TIMEOUT_MS`.
const HEADER_TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 100..=600_000;

/// The bounds of `LEASEHOLD_IDLE_TIMEOUT_MS`.
const IDLE_TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 1000..=24 * 3600 * 1000;

/// The validated settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address and port to listen on.
    pub listen: SocketAddr,
    /// The store of the locks.
    pub store: StoreConfig,
    /// The longest TTL and wait that a request may ask for.
    pub limits: Limits,
    /// The limits of waiters, in total and for each key.
    pub wait_limits: WaitLimits,
    /// The limit of client connections.
    pub max_connections: usize,
    /// The longest time for the head of a request to arrive.
    pub header_timeout: Duration,
    /// The longest time for which a connection may be idle.
    pub idle_timeout: Duration,
    /// Host names, besides the loopback names, that a request may address.
    pub allowed_hosts: Vec<AllowedHost>,
    /// Other origins whose web pages may change locks.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Where the bearer tokens come from.
    pub tokens: TokenSources,
    /// The bearer tokens of the start.
    pub credentials: Arc<Credentials>,
}

/// The store of the locks.
#[derive(Clone, Debug)]
pub enum StoreConfig {
    /// The memory of this process.
    Memory,
    /// Redis, direct or through Sentinel.
    Redis(Box<RedisOptions>),
}

impl Settings {
    /// The URL at which a client on the same machine reaches the server.
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

    /// Validates all settings, and reads the files that they name.
    ///
    /// # Errors
    /// The error describes the first invalid setting.
    pub fn validate(self) -> Result<Config, ConfigError> {
        let limits = self.limits()?;
        let store = self.store()?;
        let tokens = self.tokens();
        let credentials = Arc::new(Credentials::new(tokens.load()?));
        let is_reachable = !self.listen.ip().is_loopback();
        if is_reachable
            && credentials.directory().admits_anyone()
            && self.insecure_open != Some(true)
        {
            return wrong(format!(
                "LEASEHOLD_LISTEN is {}, where every client that reaches it could acquire locks without a token: set LEASEHOLD_TOKEN_FILE, \
                 LEASEHOLD_TOKEN or LEASEHOLD_AUTH_FILE, or LEASEHOLD_INSECURE_OPEN=true to accept that",
                self.listen
            ));
        }
        Ok(Config {
            listen: self.listen,
            store,
            limits,
            wait_limits: WaitLimits {
                max_waiters: self.max_waiters,
                max_waiters_per_key: self.max_waiters_per_key,
            },
            max_connections: self.max_connections()?,
            header_timeout: bounded_ms(
                "LEASEHOLD_HEADER_TIMEOUT_MS",
                self.header_timeout_ms,
                HEADER_TIMEOUTS_MS,
            )?,
            idle_timeout: bounded_ms(
                "LEASEHOLD_IDLE_TIMEOUT_MS",
                self.idle_timeout_ms,
                IDLE_TIMEOUTS_MS,
            )?,
            allowed_hosts: parse_all("LEASEHOLD_ALLOWED_HOSTS", &self.allowed_hosts)?,
            allowed_origins: parse_all("LEASEHOLD_ALLOWED_ORIGINS", &self.allowed_origins)?,
            tokens,
            credentials,
        })
    }

    /// The longest TTL and wait, after a check of every limit.
    fn limits(&self) -> Result<Limits, ConfigError> {
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
                "LEASEHOLD_MAX_WAITERS and LEASEHOLD_MAX_WAITERS_PER_KEY must be at least 1 (to forbid waiting, set LEASEHOLD_MAX_WAIT_MS to 0)",
            );
        }
        Ok(Limits { max_ttl, max_wait })
    }

    fn tokens(&self) -> TokenSources {
        let source = |value: &Option<String>, file: &Option<PathBuf>| Source {
            value: value.clone().map(Secret::new),
            file: file.clone(),
        };
        TokenSources {
            token: source(&self.token, &self.token_file),
            break_token: source(&self.break_token, &self.break_token_file),
            auth_file: self.auth_file.clone(),
        }
    }

    fn max_connections(&self) -> Result<usize, ConfigError> {
        let wanted = self.max_connections;
        let allowed = descriptors::max_clients(wanted, self.redis_pool_size, self.sentinels.len());
        match wanted {
            Some(0) => wrong("LEASEHOLD_MAX_CONNECTIONS must be at least 1"),
            Some(wanted) if wanted > allowed => wrong(format!(
                "LEASEHOLD_MAX_CONNECTIONS is {wanted}, but the limit of open files allows only {allowed} connections: raise that \
                 limit (ulimit -n), or lower the setting"
            )),
            wanted => Ok(wanted.unwrap_or(allowed)),
        }
    }

    fn store(&self) -> Result<StoreConfig, ConfigError> {
        let sentinel = !self.sentinels.is_empty();
        let redis_named = sentinel || self.redis_url.is_some();
        match (self.store, redis_named) {
            (Some(StoreKind::Memory), true) => wrong(
                "LEASEHOLD_STORE is memory, but LEASEHOLD_REDIS_URL or LEASEHOLD_SENTINELS names a Redis: remove one of them",
            ),
            (Some(StoreKind::Redis), false) => wrong(
                "LEASEHOLD_STORE is redis, but LEASEHOLD_REDIS_URL and LEASEHOLD_SENTINELS are not set: set one of them",
            ),
            (_, true) => self
                .redis(sentinel)
                .map(|options| StoreConfig::Redis(Box::new(options))),
            (_, false) if self.names_redis_detail().is_some() => wrong(format!(
                "{} is set, but LEASEHOLD_REDIS_URL and LEASEHOLD_SENTINELS are not, and locks would be kept in memory: set one \
                 of the two",
                self.names_redis_detail().unwrap_or_default()
            )),
            (Some(StoreKind::Memory), false) => Ok(StoreConfig::Memory),
            (None, false) if self.listen.ip().is_loopback() => Ok(StoreConfig::Memory),
            (None, false) => wrong(format!(
                "no Redis is configured, and {} is not a loopback address: set LEASEHOLD_SENTINELS or LEASEHOLD_REDIS_URL, or \
                 LEASEHOLD_STORE=memory if this is the only server (several servers in memory would grant the same lock)",
                self.listen
            )),
        }
    }
}

fn parse_all<T: FromStr<Err = String>>(
    name: &str,
    texts: &[String],
) -> Result<Vec<T>, ConfigError> {
    let parse = |text: &String| {
        text.trim()
            .parse()
            .map_err(|expected| ConfigError(format!("{name}: {text:?} is not {expected}")))
    };
    texts.iter().map(parse).collect()
}
