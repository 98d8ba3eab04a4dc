//! The commands for scripts: one call each.

use std::io::Write;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::arguments::{ConnectionArguments, LockArguments, duration};
use crate::client::{Client, Failure, Grant, LockStatus, held};

/// How long a server may take to renew a lease.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(5);

/// The commands for scripts.
#[derive(Subcommand)]
pub(super) enum Verb {
    /// Acquire a lock, and print its lease as variables for a shell
    Acquire {
        #[command(flatten)]
        lock: LockArguments,
        #[command(flatten)]
        common: Common,
    },
    /// Renew a lease
    Renew {
        #[command(flatten)]
        lease: LeaseArguments,
        /// How long the lease lasts from now on [default: as before]
        #[arg(long, value_name = "DURATION", value_parser = duration)]
        ttl: Option<Duration>,
        #[command(flatten)]
        common: Common,
    },
    /// Release a lease
    Release {
        #[command(flatten)]
        lease: LeaseArguments,
        #[command(flatten)]
        common: Common,
    },
    /// Show who holds a lock
    Show {
        /// Key of the lock
        key: String,
        #[command(flatten)]
        common: Common,
    },
    /// List the held locks, with --json one line of JSON for each
    Ls {
        /// Only keys that begin so
        #[arg(default_value = "")]
        prefix: String,
        #[command(flatten)]
        common: Common,
    },
    /// Break the lease of another client
    Break {
        /// Key of the lock
        key: String,
        /// Fencing token of the lease, as `show` prints it
        #[arg(long, value_name = "NUMBER")]
        fencing_token: u64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Args)]
pub(super) struct Common {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: ConnectionArguments,
}

#[derive(Args)]
pub(super) struct LeaseArguments {
    /// Key of the lock
    #[arg(env = "LEASEHOLD_KEY")]
    key: String,
    /// Lease id, as `acquire` printed it
    #[arg(
        long,
        env = "LEASEHOLD_LEASE_ID",
        hide_env_values = true,
        value_name = "ID"
    )]
    lease_id: String,
}

impl Verb {
    pub(super) async fn run(&self) -> Result<(), Failure> {
        match self {
            Self::Acquire { lock, common } => {
                let client = common.connection.client()?;
                let grant = client.acquire(&lock.acquire(), &mut |_| {}).await?;
                let written = common.print(&lease(&grant), || {
                    format!(
                        "export LEASEHOLD_KEY={} LEASEHOLD_LEASE_ID={}\n\
                         export LEASEHOLD_FENCING_TOKEN={} LEASEHOLD_EXPIRES_AT={}",
                        grant.key, grant.lease_id, grant.fencing_token, grant.expires_at
                    )
                });
                if let Err(error) = written {
                    client.release(&grant.key, &grant.lease_id).await?;
                    return Err(Failure::Usage(format!("cannot print the lease: {error}")));
                }
            }
            Self::Renew {
                lease: of,
                ttl,
                common,
            } => {
                let client = common.connection.client()?;
                let grant = client
                    .renew(&of.key, &of.lease_id, *ttl, RENEWAL_TIMEOUT)
                    .await?;
                common.say(&lease(&grant), || {
                    format!("{} is renewed until {}", grant.key, grant.expires_at)
                });
            }
            Self::Release { lease, common } => {
                let client = common.connection.client()?;
                client.release(&lease.key, &lease.lease_id).await?;
                common.say(&json!({"key": lease.key, "released": true}), || {
                    format!("{} is released", lease.key)
                });
            }
            Self::Show { key, common } => {
                let status = common.connection.client()?.inspect(key).await?;
                common.say(&status, || in_words(&status));
            }
            Self::Ls { prefix, common } => {
                let client = common.connection.client()?;
                list(&client, prefix, common).await?;
            }
            Self::Break {
                key,
                fencing_token,
                common,
            } => {
                let client = common.connection.client()?;
                client.break_lease(key, *fencing_token).await?;
                common.say(&json!({"key": key, "broken": true}), || {
                    format!("the lease of {key} is broken")
                });
            }
        }
        Ok(())
    }
}

impl Common {
    fn print(&self, value: &Value, words: impl FnOnce() -> String) -> std::io::Result<()> {
        let text = if self.json {
            value.to_string()
        } else {
            words()
        };
        writeln!(std::io::stdout(), "{text}")
    }

    /// The reader may close the pipe early, as `head` does. That is not a failure.
    fn say(&self, value: &Value, words: impl FnOnce() -> String) {
        let _written = self.print(value, words);
    }
}

async fn list(client: &Client, prefix: &str, common: &Common) -> Result<(), Failure> {
    let mut cursor: Option<String> = None;
    loop {
        let page = client.list(prefix, cursor.as_deref()).await?;
        for status in page["locks"].as_array().into_iter().flatten() {
            common.say(status, || in_words(status));
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => return Ok(()),
        }
    }
}

/// A lease for a script. `expires_in_ms` counts from now.
fn lease(grant: &Grant) -> Value {
    let left = u64::try_from(grant.deadline.left().as_millis()).unwrap_or(u64::MAX);
    json!({
        "key": grant.key,
        "lease_id": grant.lease_id,
        "fencing_token": grant.fencing_token,
        "expires_at": grant.expires_at,
        "expires_in_ms": left,
        "ttl_ms": grant.ttl_ms,
    })
}

fn in_words(status: &Value) -> String {
    let status: LockStatus = serde_json::from_value(status.clone()).unwrap_or_default();
    let waiters = match status.waiters {
        0 => String::new(),
        1 => "; 1 request waits".to_owned(),
        several => format!("; {several} requests wait"),
    };
    match status.fencing_token {
        Some(token) => format!(
            "{}, fencing token {token}{waiters}",
            held(&status.key, &status)
        ),
        None => format!("{} is free{waiters}", status.key),
    }
}
