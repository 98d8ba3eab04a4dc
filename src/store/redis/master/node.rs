//! A Redis node at one address: its connections, and the checks that it can hold locks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use deadpool_redis::Runtime;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{RedisError, Value, cmd};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::store::redis::connection::{Connections, Connector};
use crate::store::redis::errors::diagnosis::{self, Diagnosis};
use crate::store::redis::errors::refusals;
use crate::store::redis::errors::target::Target;
use crate::store::redis::options::{Address, RedisOptions};
use crate::store::redis::scripts::reply::{text, texts};
use crate::store::redis::scripts::{Scripts, Source};

/// The oldest Redis that the store supports: it needs `SENTINEL MYID`, and ACL rules for channels.
pub const MIN_REDIS_VERSION: (u32, u32) = (6, 2);

/// How often the resolver repeats a question when the peer closes the connection without a reason.
const MAX_REPEATS: usize = 4;

/// A node that the store talks to. Retiring it interrupts all operations on it at once.
pub(crate) struct Node {
    pub(crate) address: Address,
    pub(crate) pool: Connections,
    /// Cancelled when another node takes over. The outcome of operations in flight on this node is then unknown.
    pub(crate) retired: CancellationToken,
    /// How many connections have failed. After each failure the other connections are checked before their next use.
    breaks: AtomicU64,
    connector: Connector,
    target: Target,
    options: Arc<RedisOptions>,
    scripts: Arc<Scripts>,
    /// The resolver has a connection of its own, so that its questions never wait behind operations on locks.
    control: Mutex<Option<MultiplexedConnection>>,
}

const INFO: Question<'_> = Question::Command(&["INFO"]);

/// What deadpool-redis sends before it gives a connection out again.
const CHECKS: [Question<'_>; 2] = [
    Question::Command(&["UNWATCH"]),
    Question::Command(&["PING"]),
];

/// A confirmation for which no replica is needed.
const WAIT: Question<'_> = Question::Command(&["WAIT", "0", "1"]);

/// A question of the resolver to a node.
pub(crate) enum Question<'a> {
    /// A command with its arguments.
    Command(&'static [&'static str]),
    /// A script with its keys and arguments.
    Run(&'a Source, &'a [String], &'a [String]),
}

impl Question<'_> {
    async fn ask(&self, connection: &mut MultiplexedConnection) -> Result<Value, RedisError> {
        match self {
            Self::Command(words) => cmd(words[0]).arg(&words[1..]).query_async(connection).await,
            Self::Run(script, keys, arguments) => {
                let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
                script.run(connection, keys, &arguments).await
            }
        }
    }
}

impl Node {
    /// Prepares a pool for one address without connecting.
    pub(crate) fn new(
        address: Address,
        options: Arc<RedisOptions>,
        scripts: Arc<Scripts>,
    ) -> Result<Self, Diagnosis> {
        let unusable = |error: &dyn fmt::Display| {
            Diagnosis::disqualifying(format!("cannot set up connections to {address}: {error}"))
        };
        let connector = Connector::new(
            &options.data,
            &address,
            options.db,
            options.connect_timeout,
            options.response_timeout,
        );
        let manager = connector
            .clone()
            .manager()
            .map_err(|error| unusable(&error))?;
        let pool = Connections::builder(manager)
            // One more connection than `pool_size`, for listings.
            .max_size(options.pool_size + 1)
            .wait_timeout(Some(options.response_timeout))
            .create_timeout(Some(options.connect_timeout + options.response_timeout))
            .recycle_timeout(Some(options.response_timeout))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| unusable(&error))?;
        Ok(Self {
            address,
            pool,
            retired: CancellationToken::new(),
            breaks: AtomicU64::new(0),
            connector,
            target: Target::data(&options),
            options,
            scripts,
            control: Mutex::new(None),
        })
    }

    /// How many connections have failed so far.
    pub(crate) fn breaks(&self) -> u64 {
        self.breaks.load(Ordering::Relaxed)
    }

    /// Reports that a connection has failed.
    pub(crate) fn connection_broke(&self) {
        self.breaks.fetch_add(1, Ordering::Relaxed);
    }

    /// Opens a connection for subscriptions.
    pub(crate) async fn subscriber(&self) -> Result<PubSub, RedisError> {
        self.connector.subscriber().await
    }

    /// Opens a connection outside the pool.
    pub(crate) async fn own_connection(&self) -> Result<MultiplexedConnection, RedisError> {
        self.connector.open().await
    }

    /// Asks over the control connection. After any failure the node opens a new one.
    pub(crate) async fn ask(&self, question: &Question<'_>) -> Result<Value, Diagnosis> {
        let mut control = self.control.lock().await;
        let cached = control.take();
        let was_cached = cached.is_some();
        let mut answer = self.ask_over(cached, question).await;
        if was_cached && answer.is_err() {
            // The cached connection may have died unnoticed. Only a new one shows the present problem.
            answer = self.ask_over(None, question).await;
        }
        // A peer that refuses during the handshake may close the connection before this server has read the reason.
        let dropped =
            |error: &RedisError| error.is_connection_dropped() && !error.is_connection_refusal();
        for _ in 0..MAX_REPEATS {
            if !answer.as_ref().is_err_and(dropped) {
                break;
            }
            answer = self.ask_over(None, question).await;
        }
        if answer.as_ref().is_err_and(dropped)
            && let Some(refusal) = self.connector.refusal().await
        {
            answer = Err(refusal);
        }
        let (answer, connection) = answer.map_err(|error| Diagnosis {
            hung_up: dropped(&error),
            ..self.explain(&error)
        })?;
        *control = Some(connection);
        Ok(answer)
    }

    async fn ask_over(
        &self,
        connection: Option<MultiplexedConnection>,
        question: &Question<'_>,
    ) -> Result<(Value, MultiplexedConnection), RedisError> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => self.own_connection().await?,
        };
        let answer = question.ask(&mut connection).await?;
        Ok((answer, connection))
    }

    /// Checks the role, version and settings of the node. The error says why the node cannot hold locks; the diagnosis
    /// says why it may lose them after one more change of its settings.
    pub(crate) async fn probe(&self) -> Result<Option<Diagnosis>, Diagnosis> {
        let info = self.ask(&INFO).await?;
        let info = parse_info(&info);
        let field = |name: &str| info.get(name).copied().unwrap_or_default();
        let at = &self.address;
        let mode = match field("redis_mode") {
            // Valkey has another name for it.
            "" => field("server_mode"),
            mode => mode,
        };
        let problem = match (mode, field("role"), field("maxmemory_policy")) {
            ("sentinel", ..) => return Err(diagnosis::sentinel(at)),
            ("cluster", ..) => return Err(diagnosis::cluster(at)),
            _ if !is_recent(field("redis_version")) => format!(
                "{at} runs Redis {}, which is too old: Leasehold requires {}.{} or newer",
                field("redis_version"),
                MIN_REDIS_VERSION.0,
                MIN_REDIS_VERSION.1
            ),
            (_, "slave", _) => self.explain_replica(field("master_host"), field("master_port")),
            _ if field("loading") == "1" => {
                return Err(Diagnosis::passing(format!(
                    "{at} is loading its data: wait until it has finished"
                )));
            }
            (_, _, policy) if policy.starts_with("allkeys") => {
                let evicts = format!(
                    "{at} evicts keys when its memory is full (maxmemory-policy {policy}), and can drop locks that are held: \
                     set maxmemory-policy to noeviction"
                );
                if field("maxmemory") != "0" {
                    return Err(Diagnosis::disqualifying(evicts));
                }
                return Ok(Some(Diagnosis::passing(format!(
                    "{evicts} (maxmemory is 0 now, so nothing is evicted yet)"
                ))));
            }
            _ => return Ok(None),
        };
        Err(Diagnosis::disqualifying(problem))
    }

    /// Checks that the node has all commands that the store uses, and that the ACL user may use them. An operation finds
    /// that out too, but late, and Redis does not name the command inside a script.
    pub(crate) async fn check_commands(&self) -> Result<(), Diagnosis> {
        let (hashes, sorted_sets) = self.options.kinds_of_keys();
        let arguments = [hashes.len().to_string(), self.options.common_channel()];
        let keys = [&hashes[..], &sorted_sets[..]].concat();
        let question = Question::Run(&self.scripts.check, &keys, &arguments);
        let reply = self.ask(&question).await?;
        let failed = texts(&reply).unwrap_or_default();
        let (mut commands, mut first): (Vec<&str>, Option<&str>) = (Vec::new(), None);
        for failure in failed.chunks_exact(2) {
            let [command, said] = *failure else {
                continue;
            };
            if refusals::is_about_commands(said) {
                first.get_or_insert(said);
                if !commands.contains(&command) {
                    commands.push(command);
                }
            }
        }
        if self.options.least_replicas() > 0 {
            self.ask(&WAIT).await?;
        }
        match first {
            None => Ok(()),
            Some(said) => Err(self.explain_operation(&format!("{}: {said}", commands.join(", ")))),
        }
    }

    /// Checks that the pool can check its connections. Otherwise it would open one for each operation.
    pub(crate) async fn check_pool(&self) -> Result<(), Diagnosis> {
        for question in &CHECKS {
            self.ask(question).await?;
        }
        Ok(())
    }

    /// Whether all connections lead to the same node. A Service over all nodes of a set leads each connection to
    /// another node, so three connections are compared.
    pub(crate) async fn is_one_node(&self) -> Result<bool, Diagnosis> {
        let first = run_id(&self.ask(&INFO).await?);
        for _ in 0..2 {
            let other = self.ask_over(None, &INFO).await;
            let (info, _connection) = other.map_err(|error| self.explain(&error))?;
            if run_id(&info) != first {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(crate) fn any_node_service(&self) -> Diagnosis {
        Diagnosis::disqualifying(format!(
            "{} leads to different nodes, as a Service for master and replicas does: set LEASEHOLD_SENTINELS, or use the \
             address of the master",
            self.address
        ))
    }

    fn explain_replica(&self, host: &str, port: &str) -> String {
        format!(
            "{} is a replica (of {host}:{port}) and cannot hold locks: set LEASEHOLD_REDIS_URL to the master's address, or \
             use LEASEHOLD_SENTINELS to follow the master",
            self.address
        )
    }

    /// Explains an error of Redis to the operator.
    pub(crate) fn explain(&self, error: &RedisError) -> Diagnosis {
        self.target.explain(&self.address, error)
    }

    /// Explains to the operator why this server receives no messages.
    pub(crate) fn explain_subscription(&self, error: &RedisError) -> Diagnosis {
        Diagnosis::passing(format!(
            "this server receives no messages, so its waiters get a free lock up to a second late: {}",
            self.explain(error)
        ))
    }

    /// Explains an error that a script received to the operator.
    pub(crate) fn explain_operation(&self, said: &str) -> Diagnosis {
        self.target.explain_operation(&self.address, said)
    }
}

fn run_id(info: &Value) -> String {
    parse_info(info)
        .get("run_id")
        .copied()
        .unwrap_or_default()
        .to_owned()
}

fn parse_info(info: &Value) -> HashMap<&str, &str> {
    let lines = text(info).unwrap_or_default().lines();
    lines.filter_map(|line| line.split_once(':')).collect()
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
