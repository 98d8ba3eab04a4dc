//! Validates the settings of Redis and Sentinel: required combinations and contradictions.

use std::time::Duration;

use crate::config::error::{ConfigError, bounded_ms, wrong};
use crate::config::files::{not_pem, read_pem, secret};
use crate::config::settings::Settings;
use crate::config::url::parse_url;
use crate::secret::Secret;
use crate::store::redis::options::{Address, Clock, Discovery, Endpoint, RedisOptions, Tls};

const DEFAULT_SENTINEL_PORT: u16 = 26379;

/// The characters that a key prefix may contain besides ASCII letters and digits.
const PREFIX_PUNCTUATION: &str = "-._:{}/";
const MAX_PREFIX_BYTES: usize = 64;

/// The bounds of `LEASEHOLD_REDIS_POOL_SIZE`.
const POOL_SIZES: std::ops::RangeInclusive<usize> = 1..=64;

/// The bounds of the timeouts for connections to Redis and for its answers, in milliseconds.
const TIMEOUTS_MS: std::ops::RangeInclusive<u64> = 10..=60_000;

impl Settings {
    /// The name of the first given setting that has an effect only with Redis.
    pub(super) fn names_redis_detail(&self) -> Option<&'static str> {
        let set = [
            (self.redis_username.is_some(), "LEASEHOLD_REDIS_USERNAME"),
            (self.redis_password.is_some(), "LEASEHOLD_REDIS_PASSWORD"),
            (
                self.redis_password_file.is_some(),
                "LEASEHOLD_REDIS_PASSWORD_FILE",
            ),
            (self.redis_db.is_some(), "LEASEHOLD_REDIS_DB"),
            (self.redis_tls.is_some(), "LEASEHOLD_REDIS_TLS"),
            (self.tls_ca_file.is_some(), "LEASEHOLD_TLS_CA_FILE"),
            (self.tls_cert_file.is_some(), "LEASEHOLD_TLS_CERT_FILE"),
            (self.tls_key_file.is_some(), "LEASEHOLD_TLS_KEY_FILE"),
        ];
        let mut set = self.sentinel_details().into_iter().chain(set);
        set.find_map(|(is_set, name)| is_set.then_some(name))
    }

    /// Where Redis is and how to log in, from the URL or the settings of Sentinel.
    pub(super) fn redis(&self, sentinel: bool) -> Result<RedisOptions, ConfigError> {
        if sentinel && self.redis_url.is_some() {
            return wrong(
                "LEASEHOLD_REDIS_URL and LEASEHOLD_SENTINELS are both set: remove one of them",
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
                        "LEASEHOLD_REDIS_DB and the database in LEASEHOLD_REDIS_URL are different: remove one of them",
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
        self.redis_options(discovery, data, db.unwrap_or(0))
    }

    /// Adds the settings that do not depend on how the server finds Redis.
    fn redis_options(
        &self,
        discovery: Discovery,
        data: Endpoint,
        db: u16,
    ) -> Result<RedisOptions, ConfigError> {
        if !POOL_SIZES.contains(&self.redis_pool_size) {
            let (least, most) = POOL_SIZES.into_inner();
            return wrong(format!(
                "LEASEHOLD_REDIS_POOL_SIZE is {}, but must be from {least} to {most}",
                self.redis_pool_size
            ));
        }
        Ok(RedisOptions {
            discovery,
            data,
            db: i64::from(db),
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
            max_clock_skew: Duration::from_millis(self.max_clock_skew_ms),
            max_recovery: Duration::from_millis(self.max_recovery_ms.unwrap_or(self.max_ttl_ms)),
            clock: Clock::Server,
        })
    }

    /// The settings that have an effect only with Sentinel, and whether each is given.
    fn sentinel_details(&self) -> [(bool, &'static str); 5] {
        [
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
        ]
    }

    fn refuse_sentinel_details(&self) -> Result<(), ConfigError> {
        let mut set = self.sentinel_details().into_iter();
        match set.find(|(is_set, _)| *is_set) {
            Some((_, name)) => wrong(format!(
                "{name} is set, but LEASEHOLD_SENTINELS is not: set it, or remove {name}"
            )),
            None => Ok(()),
        }
    }

    /// Decides on TLS, and refuses a setting that would switch off the TLS of the URL.
    fn agree_on_tls(&self, in_url: bool) -> Result<bool, ConfigError> {
        match (self.redis_tls, in_url) {
            (Some(false), true) => wrong(
                "LEASEHOLD_REDIS_TLS is false, but LEASEHOLD_REDIS_URL begins with rediss:// (TLS): change one of them",
            ),
            (setting, in_url) => Ok(in_url || setting.unwrap_or(false)),
        }
    }

    fn sentinel_discovery(&self, tls: bool) -> Result<Discovery, ConfigError> {
        let parse = |text: &String| {
            // The error does not show the text, because it may contain a password.
            Address::parse(text.trim(), DEFAULT_SENTINEL_PORT).ok_or_else(|| {
                ConfigError(
                    "LEASEHOLD_SENTINELS must be host:port, or several of them separated by commas"
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
            return wrong(format!(
                "LEASEHOLD_SENTINEL_MASTER is {master:?}, but a name must not be empty or contain spaces"
            ));
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
                "a LEASEHOLD_TLS_*_FILE is set, but TLS is off: set LEASEHOLD_REDIS_TLS or LEASEHOLD_SENTINEL_TLS",
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
                return wrong(
                    "LEASEHOLD_TLS_CERT_FILE and LEASEHOLD_TLS_KEY_FILE must be set together",
                );
            }
        };
        let ca = self
            .tls_ca_file
            .as_ref()
            .map(|path| read_pem("LEASEHOLD_TLS_CA_FILE", path, "CERTIFICATE"));
        let identity = identity
            .as_ref()
            .map(|(certificate, key)| (certificate.as_slice(), key));
        match Tls::new(ca.transpose()?.as_deref(), identity) {
            Ok(tls) => Ok(Some(tls)),
            Err(error) => wrong(error.to_string()),
        }
    }
}

/// Refuses a user without a password: without one the server would silently log in as the default user.
fn refuse_user_without_password(endpoint: &Endpoint, setting: &str) -> Result<(), ConfigError> {
    match (&endpoint.username, &endpoint.password) {
        (Some(username), _) if username.is_empty() => wrong(format!(
            "{setting}_USERNAME is empty: set a name, or remove it"
        )),
        (Some(_), None) => wrong(format!(
            "{setting}_USERNAME is set, but {setting}_PASSWORD is not: set it, or {setting}_PASSWORD_FILE"
        )),
        _ => Ok(()),
    }
}

fn merge<T>(setting: &mut Option<T>, in_url: Option<T>, name: &str) -> Result<(), ConfigError> {
    match (&setting, in_url) {
        (Some(_), Some(_)) => wrong(format!(
            "{name} is set, and LEASEHOLD_REDIS_URL contains the same setting: remove one of them"
        )),
        (None, given) => {
            *setting = given;
            Ok(())
        }
        (Some(_), None) => Ok(()),
    }
}

fn check_prefix(prefix: &str) -> Result<String, ConfigError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || PREFIX_PUNCTUATION.contains(c);
    if prefix.is_empty() || prefix.len() > MAX_PREFIX_BYTES || !prefix.chars().all(allowed) {
        return wrong(format!(
            "LEASEHOLD_KEY_PREFIX must have 1 to {MAX_PREFIX_BYTES} characters of A-Z a-z 0-9 {PREFIX_PUNCTUATION}"
        ));
    }
    Ok(prefix.to_owned())
}
