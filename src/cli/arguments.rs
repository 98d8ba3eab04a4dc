//! The arguments of the commands that call a server.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use jiff::SignedDuration;
use nix::unistd::User;

use crate::client::{Acquire, Client, Connection, Failure, Wait, exit, read_ca};
use crate::config::SECRET;
use crate::run::{OnLost, Run, elect};
use crate::secret::Secret;

/// How to reach the servers.
#[derive(Args)]
#[command(next_help_heading = "Server")]
pub(super) struct ConnectionArguments {
    /// Base URLs of the servers, tried in turn; can be repeated
    #[arg(
        long,
        env = "LEASEHOLD_SERVER",
        value_delimiter = ',',
        default_value = "http://127.0.0.1:8080",
        value_name = "URL,…"
    )]
    server: Vec<String>,
    /// Bearer token
    #[arg(long, env = "LEASEHOLD_TOKEN", hide_env_values = true, value_name = SECRET)]
    token: Option<String>,
    /// File with the bearer token in its first line
    #[arg(long, env = "LEASEHOLD_TOKEN_FILE", value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// Authorities that signed the certificate of an https:// server, in PEM format [default: those of the system]
    #[arg(long, env = "LEASEHOLD_CA_FILE", value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

/// Which lock, and how to acquire it.
#[derive(Args)]
pub(super) struct LockArguments {
    /// Key of the lock
    key: String,
    /// Do not wait for a lock that is held
    #[arg(short = 'n', long, conflicts_with = "wait")]
    no_wait: bool,
    /// How long to wait for a lock that is held: 30s, 5m, 1h [default: without a limit]
    #[arg(short = 'w', long, value_name = "DURATION", value_parser = duration)]
    wait: Option<Duration>,
    /// How long the lease lasts without a renewal
    #[arg(long, default_value = "30s", value_name = "DURATION", value_parser = duration)]
    ttl: Duration,
    /// How long the lock stays held at least, from the grant on, however the lease ends
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    at_least: Option<Duration>,
    /// Name for the holder, which other clients can see [default: user@host:pid]
    #[arg(long, value_name = "NAME")]
    holder: Option<String>,
    /// Further information, which other clients can see; can be repeated
    #[arg(short = 'm', long, value_name = "NAME=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

/// The arguments of `run`.
#[derive(Args)]
pub(super) struct RunArguments {
    #[command(flatten)]
    lock: LockArguments,
    /// What to do when the lease is lost: end the command before the lock can be another client's, or warn
    #[arg(long, value_enum, default_value = "kill")]
    on_lost: OnLost,
    /// How long the command may take to end after SIGTERM; at most a third of the TTL
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    kill_after: Duration,
    /// Exit code if the lock is not acquired
    #[arg(short = 'E', long, default_value_t = exit::NOT_ACQUIRED, value_name = "NUMBER")]
    exit_code: u8,
    /// Set LEASEHOLD_LEASE_ID, which can renew and release the lease, for the command
    #[arg(long)]
    export_lease_id: bool,
    /// Write each event to stderr as a line of JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArguments,
    /// The command and its arguments; no shell is in between
    #[arg(last = true, required = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

/// The arguments of `elect`.
#[derive(Args)]
pub(super) struct ElectArguments {
    /// Key of the lock that the leader holds
    key: String,
    /// IP address and port for GET /role
    #[arg(long, default_value = "127.0.0.1:9090", value_name = "IP:PORT")]
    listen: SocketAddr,
    /// How long the lease lasts without a renewal: the longest time without a leader
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = duration)]
    ttl: Duration,
    /// Name for the candidate, which other clients can see [default: user@host:pid]
    #[arg(long, value_name = "NAME")]
    holder: Option<String>,
    #[command(flatten)]
    connection: ConnectionArguments,
}

impl ElectArguments {
    pub(super) async fn run(&self) -> Result<u8, Failure> {
        let lock = Acquire {
            key: self.key.clone(),
            ttl: self.ttl,
            hold_at_least: Duration::ZERO,
            holder: self.holder.clone().or_else(|| Some(who())),
            metadata: BTreeMap::new(),
            wait: Wait::Forever,
        };
        elect(&self.connection.client()?, &lock, self.listen).await
    }
}

impl ConnectionArguments {
    pub(super) fn client(&self) -> Result<Client, Failure> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => Some(token.clone()),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    Failure::Usage(format!("cannot read {}: {error}", file.display()))
                })?;
                Some(text.lines().next().unwrap_or_default().to_owned())
            }
            (None, None) => None,
        };
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(Failure::Usage(
                "the token is empty: set LEASEHOLD_TOKEN or LEASEHOLD_TOKEN_FILE, or remove them"
                    .into(),
            ));
        }
        Client::new(&Connection {
            servers: self.server.clone(),
            token: token.map(Secret::new),
            ca: self.ca_file.as_deref().map(read_ca).transpose()?,
        })
    }
}

impl LockArguments {
    pub(super) fn acquire(&self) -> Acquire {
        let wait = match self.wait {
            _ if self.no_wait => Wait::No,
            Some(time) => Wait::For(time),
            None => Wait::Forever,
        };
        Acquire {
            key: self.key.clone(),
            ttl: self.ttl,
            hold_at_least: self.at_least.unwrap_or_default(),
            holder: self.holder.clone().or_else(|| Some(who())),
            metadata: self.metadata.iter().cloned().collect::<BTreeMap<_, _>>(),
            wait,
        }
    }
}

impl RunArguments {
    pub(super) fn parse(&self) -> Result<(Client, Run), Failure> {
        let run = Run {
            lock: self.lock.acquire(),
            command: self.command.clone(),
            on_lost: self.on_lost,
            kill_after: self.kill_after,
            not_acquired: self.exit_code,
            export_lease_id: self.export_lease_id,
            json: self.json,
        };
        Ok((self.connection.client()?, run))
    }
}

/// `user@host:pid`.
fn who() -> String {
    let id = nix::unistd::getuid();
    // A job of cron has no USER.
    let user = User::from_uid(id).ok().flatten();
    let user = user.map_or_else(|| id.to_string(), |user| user.name);
    let host = nix::unistd::gethostname().unwrap_or_default();
    format!("{user}@{}:{}", host.to_string_lossy(), std::process::id())
}

/// `30s`, `5m`, `1h30m`; a number alone is seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map(Duration::from_secs).ok();
    let parsed = seconds.or_else(|| Duration::try_from(text.parse::<SignedDuration>().ok()?).ok());
    parsed.ok_or_else(|| "write it like 500ms, 30s, 5m or 1h30m".to_owned())
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write it like NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_written_as_people_write_them() {
        for (text, milliseconds) in [
            ("30", 30_000),
            ("30s", 30_000),
            ("500ms", 500),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
        ] {
            assert_eq!(
                duration(text),
                Ok(Duration::from_millis(milliseconds)),
                "{text}"
            );
        }
        for text in ["", "soon", "-5s", "5 parsecs"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
