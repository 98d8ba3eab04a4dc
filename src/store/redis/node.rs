//! One Redis at one address: its connections, and whether it can be trusted with locks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_redis::{Hook, HookError, Manager, Pool, Runtime};
use redis::aio::MultiplexedConnection;
use redis::{Client, ErrorKind, RedisError, ServerErrorKind, cmd};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use super::options::{Address, RedisOptions};
use super::script::Source;

/// The oldest Redis that has what the scripts and the resolver use (`SENTINEL MYID`, `TYPE` in
/// `SCAN`, ACL rules for channels).
pub const MIN_REDIS_VERSION: (u32, u32) = (6, 2);

/// What an ACL user needs; named to the operator when something of it is missing.
const ACL_RULES: &str = "~<prefix>* &<prefix>* +@read +@write +@scripting +@connection +info +time +wait +publish +subscribe";

/// A node that the store talks to. Ends for everybody at once when it is retired.
pub(super) struct Node {
    pub(super) address: Address,
    pub(super) pool: Pool,
    /// Cancelled when another node took over: what is in flight here has no known outcome.
    pub(super) retired: CancellationToken,
    /// How many connections have broken off: when one does, the others are not trusted either.
    breaks: AtomicU64,
    client: Client,
    options: Arc<RedisOptions>,
    /// For the resolver's own questions, so that they never wait behind locks.
    control: Mutex<Option<MultiplexedConnection>>,
}

/// Something that is wrong, in the operator's words, with what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Diagnosis {
    pub(super) text: String,
    /// Whether operations must not be sent there any more; a node that is only out of reach may be
    /// back for the next one.
    pub(super) disqualifies: bool,
}

impl Diagnosis {
    pub(super) fn disqualifying(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: true,
        }
    }

    pub(super) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: false,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Node {
    /// Prepares a pool for one address; connects nowhere yet. Each new connection loads the script.
    pub(super) fn new(
        address: Address,
        options: Arc<RedisOptions>,
        script: Arc<Source>,
    ) -> Result<Self, Diagnosis> {
        let unusable = |error: &dyn fmt::Display| {
            Diagnosis::disqualifying(format!("cannot set up connections to {address}: {error}"))
        };
        let client = options
            .data
            .client(&address, options.db)
            .map_err(|error| unusable(&error))?;
        let manager = Manager::new_with_config(
            client.get_connection_info().clone(),
            options.connection_config(),
        )
        .map_err(|error| unusable(&error))?;
        let load = Hook::async_fn(move |connection: &mut MultiplexedConnection, _| {
            let script = Arc::clone(&script);
            Box::pin(async move { script.load(connection).await.map_err(HookError::Backend) })
        });
        let pool = Pool::builder(manager)
            .max_size(options.pool_size)
            .wait_timeout(Some(options.response_timeout))
            .create_timeout(Some(options.connect_timeout + options.response_timeout))
            .recycle_timeout(Some(options.response_timeout))
            .runtime(Runtime::Tokio1)
            .post_create(load)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            address,
            pool,
            retired: CancellationToken::new(),
            breaks: AtomicU64::new(0),
            client,
            options,
            control: Mutex::new(None),
        })
    }

    /// How many connections have broken off so far.
    pub(super) fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// Reports that one more has.
    pub(super) fn connection_broke(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that nobody else uses.
    pub(super) async fn own_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        self.client
            .get_multiplexed_async_connection_with_config(&self.options.connection_config())
            .await
    }

    /// Runs one of the resolver's questions over the control connection, which is opened again
    /// after any failure.
    pub(super) async fn ask<T, F>(&self, question: F) -> Result<T, Diagnosis>
    where
        F: AsyncFnOnce(&mut MultiplexedConnection) -> Result<T, RedisError>,
    {
        let mut control = self.control.lock().await;
        let mut connection = match control.take() {
            Some(connection) => connection,
            None => self
                .own_connection()
                .await
                .map_err(|error| self.explain(&error))?,
        };
        let answer = question(&mut connection)
            .await
            .map_err(|error| self.explain(&error))?;
        *control = Some(connection);
        Ok(answer)
    }

    /// Asks the node what it is, and says what keeps it from holding locks.
    pub(super) async fn probe(&self) -> Result<(), Diagnosis> {
        let info: String = self
            .ask(async |connection| cmd("INFO").query_async(connection).await)
            .await?;
        let info = parse_info(&info);
        let field = |name: &str| info.get(name).copied().unwrap_or_default();
        let at = &self.address;
        let problem = match (
            field("redis_mode"),
            field("role"),
            field("maxmemory_policy"),
        ) {
            ("sentinel", ..) => {
                format!("{at} is a Sentinel, not a Redis: name it in LEASEHOLD_SENTINELS")
            }
            ("cluster", ..) => format!(
                "{at} is part of a Redis Cluster, which is not supported: use Sentinel or one Redis"
            ),
            _ if !is_recent(field("redis_version")) => format!(
                "{at} runs Redis {}, which is too old: {}.{} or later is needed",
                field("redis_version"),
                MIN_REDIS_VERSION.0,
                MIN_REDIS_VERSION.1
            ),
            (_, "slave", _) => self.explain_replica(field("master_host"), field("master_port")),
            (_, _, policy) if policy != "noeviction" && field("maxmemory") != "0" => format!(
                "{at} evicts keys when its memory is full (maxmemory-policy {policy}), and with them locks that \
                 somebody holds: set maxmemory-policy to noeviction"
            ),
            _ if field("loading") == "1" => {
                return Err(Diagnosis::passing(format!(
                    "{at} is loading its data: wait until it has finished"
                )));
            }
            _ => return Ok(()),
        };
        Err(Diagnosis::disqualifying(problem))
    }

    /// Compares the node that answers now with the one that answers over a second connection. A
    /// Service over all nodes of a set leads to another one each time.
    pub(super) async fn is_one_node(&self) -> Result<bool, Diagnosis> {
        let first = self.ask(run_id).await?;
        for _ in 0..2 {
            let mut other = self
                .own_connection()
                .await
                .map_err(|error| self.explain(&error))?;
            if run_id(&mut other)
                .await
                .map_err(|error| self.explain(&error))?
                != first
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn any_node_service(&self) -> Diagnosis {
        Diagnosis::disqualifying(format!(
            "{} leads to another node with each connection, as a Service over all nodes of a set does: \
             set LEASEHOLD_SENTINELS, or the address of the master alone",
            self.address
        ))
    }

    fn explain_replica(&self, host: &str, port: &str) -> String {
        format!(
            "{} is a replica (of {host}:{port}) and cannot hold locks: name the master's address in \
             LEASEHOLD_REDIS_URL, or the Sentinels in LEASEHOLD_SENTINELS, which follow it",
            self.address
        )
    }

    /// An error of Redis in the operator's words.
    pub(super) fn explain(&self, error: &RedisError) -> Diagnosis {
        explain(
            &self.address,
            error,
            "LEASEHOLD_REDIS_USERNAME and LEASEHOLD_REDIS_PASSWORD",
        )
    }
}

/// An error of a Redis or Sentinel in the operator's words; `variables` hold its credentials.
pub(super) fn explain(at: &Address, error: &RedisError, variables: &str) -> Diagnosis {
    match error.kind() {
        ErrorKind::AuthenticationFailed => Diagnosis::disqualifying(format!(
            "{at} refused the password: check {variables} (and that it has a password at all)"
        )),
        ErrorKind::Server(ServerErrorKind::NoPerm) => Diagnosis::disqualifying(format!(
            "the Redis user has too few permissions on {at} ({error}): give it {ACL_RULES}"
        )),
        ErrorKind::Server(ServerErrorKind::BusyLoading) => Diagnosis::passing(format!(
            "{at} is loading its data: wait until it has finished"
        )),
        _ if error.code() == Some("NOAUTH") => {
            Diagnosis::disqualifying(format!("{at} wants a password: set {variables}"))
        }
        _ if mentions_permission(error) => Diagnosis::disqualifying(format!(
            "the Redis user may not run what scripts need on {at} ({error}): give it {ACL_RULES}"
        )),
        _ => Diagnosis::passing(format!("{at} cannot be reached: {error}")),
    }
}

/// Inside a script a missing permission is an error of the script.
fn mentions_permission(error: &RedisError) -> bool {
    let text = error.to_string();
    text.contains("NOPERM") || text.contains("can't run this command")
}

async fn run_id(connection: &mut MultiplexedConnection) -> Result<String, RedisError> {
    let info: String = cmd("INFO").arg("server").query_async(connection).await?;
    Ok(parse_info(&info)
        .get("run_id")
        .copied()
        .unwrap_or_default()
        .to_owned())
}

fn parse_info(text: &str) -> HashMap<&str, &str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .collect()
}

fn is_recent(version: &str) -> bool {
    let mut parts = version
        .split('.')
        .map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= MIN_REDIS_VERSION
}

#[cfg(test)]
mod tests {
    use super::is_recent;

    #[test]
    fn versions_are_compared_by_number() {
        for (version, recent) in [
            ("6.2.0", true),
            ("7.0.15", true),
            ("10.0", true),
            ("6.0.16", false),
            ("5.0.14", false),
            ("", false),
        ] {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
