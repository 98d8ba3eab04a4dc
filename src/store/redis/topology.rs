//! Which Redis is the master now, and since when.
//!
//! One task asks (the Sentinels, or the one configured address), checks what it finds, activates it
//! and publishes a *generation*: a node together with the activation under which grants may be made
//! there. A new generation replaces the old one at once; what was in flight at the old node has no
//! known outcome. Not deadpool-redis' own Sentinel pool: it keeps writing to a deposed master for as
//! long as a connection to it lives.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::node::{Diagnosis, Node};
use super::options::{Address, Discovery, RedisOptions};
use super::reply::{text, texts};
use super::script::{ACTIVATION, Source};
use super::sentinel::Sentinels;
use crate::lock::lease::micros;
use crate::store::contract::Health;

/// The layout of the data in Redis; a server that meets a higher one writes nothing.
pub(super) const DATA_FORMAT: &str = "1";

/// How often to look whether all is as it was. News from Sentinels and failed operations do not
/// wait for it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two looks.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Between the tokens of one activation and the next: more grants than a failover can lose. Seen as
/// microseconds it is 4.2 s, by which activations in quick succession run ahead of the clock. Only if
/// within that time Redis loses everything and all servers end, does no memory of that remain.
const TOKEN_GAP: u64 = 1 << 22;

/// How far the clocks of Redis and of this server may be apart when tokens are based on them: wide
/// enough for a clock in the wrong time zone, too narrow to burn the range of tokens.
const MAX_ACTIVATION_CLOCK_DIFFERENCE: Duration = Duration::from_secs(24 * 3600);

/// A node and the activation under which it grants.
pub(super) struct Generation {
    /// Rises with each.
    pub(super) number: u64,
    pub(super) node: Arc<Node>,
    pub(super) activation: String,
}

/// What operations see of the topology.
#[derive(Clone)]
pub(super) struct Topology {
    view: watch::Receiver<View>,
    /// Wakes the resolver.
    doubt: Arc<Notify>,
    /// The highest token that this server has seen: a node that lost everything goes on above it.
    high_water: Arc<AtomicU64>,
    /// A connection led to a node that was no master, while the resolver's own may lead to one: the
    /// sign of a name that stands for any node.
    role_refused: Arc<AtomicBool>,
}

#[derive(Clone)]
struct View {
    generation: Option<Arc<Generation>>,
    health: Health,
}

/// The task behind a [`Topology`]; its owner stops it and waits for it.
pub(super) struct Resolver {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Topology {
    /// The generation to use now.
    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.view.borrow().generation.clone()
    }

    /// Why there is none, or that there is.
    pub(super) fn health(&self) -> Health {
        self.view.borrow().health.clone()
    }

    /// Makes the resolver look again now.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// A generation after number `than` (any, for `None`), as soon as there is one before
    /// `deadline`. Dropping the future changes nothing.
    pub(super) async fn newer(
        &self,
        than: Option<u64>,
        deadline: Instant,
    ) -> Option<Arc<Generation>> {
        self.doubt();
        let mut view = self.view.clone();
        let is_newer = |view: &View| {
            view.generation
                .as_ref()
                .is_some_and(|g| Some(g.number) > than)
        };
        let found = tokio::time::timeout_at(deadline, view.wait_for(is_newer)).await;
        found.ok()?.ok()?.generation.clone()
    }

    /// Reports that a node took itself for no master.
    pub(super) fn role_was_refused(&self) {
        self.role_refused.store(true, Ordering::Relaxed);
        self.doubt();
    }

    /// Remembers a token that was granted.
    pub(super) fn saw_token(&self, token: u64) {
        self.high_water.fetch_max(token, Ordering::Relaxed);
    }
}

/// Starts the resolver.
pub(super) fn start(options: &Arc<RedisOptions>, script: Arc<Source>) -> (Topology, Resolver) {
    let starting = Health::Starting("the store was not reached yet".into());
    let (publish, view) = watch::channel(View {
        generation: None,
        health: starting,
    });
    let doubt = Arc::new(Notify::new());
    let stop = CancellationToken::new();
    let topology = Topology {
        view,
        doubt,
        high_water: Arc::default(),
        role_refused: Arc::default(),
    };
    let finder = match &options.discovery {
        Discovery::Direct(address) => Finder::Direct(address.clone()),
        Discovery::Sentinel {
            sentinels,
            master,
            endpoint,
        } => Finder::Sentinel(Box::new(Sentinels::new(
            sentinels.clone(),
            master,
            endpoint.clone(),
            Arc::clone(&topology.doubt),
            stop.clone(),
        ))),
    };
    let work = Work {
        finder,
        options: Arc::clone(options),
        script,
        topology: topology.clone(),
        publish,
        last_complaint: None,
        next_number: 1,
    };
    let task = tokio::spawn(work.run(stop.clone()));
    (
        topology,
        Resolver {
            stop,
            task: Mutex::new(Some(task)),
        },
    )
}

impl Resolver {
    /// Ends the task and waits for it.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        if let Some(task) = self.task.lock().await.take() {
            // It only fails if it panicked, and the panic was reported then.
            let _ended = task.await;
        }
    }
}

enum Finder {
    Direct(Address),
    Sentinel(Box<Sentinels>),
}

struct Work {
    finder: Finder,
    options: Arc<RedisOptions>,
    script: Arc<Source>,
    topology: Topology,
    publish: watch::Sender<View>,
    /// So that a lasting problem is logged once and not each second.
    last_complaint: Option<Diagnosis>,
    next_number: u64,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let Some(found) = stop.run_until_cancelled(self.resolve()).await else {
                break;
            };
            match found {
                Ok(generation) => self.settle(generation),
                Err(diagnosis) => self.complain(diagnosis),
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(POLL_INTERVAL) => {}
                () = self.topology.doubt.notified() => tokio::time::sleep_until(begun + MIN_POLL_INTERVAL).await,
            }
        }
        if let Some(generation) = self.topology.current() {
            generation.node.retired.cancel();
        }
        if let Finder::Sentinel(sentinels) = self.finder {
            sentinels.close().await;
        }
    }

    /// Finds the master, checks and activates it. Dropping the future is safe: an activation that
    /// nobody heard of is adopted by the next.
    async fn resolve(&mut self) -> Result<Arc<Generation>, Diagnosis> {
        let address = match &mut self.finder {
            Finder::Direct(address) => address.clone(),
            Finder::Sentinel(sentinels) => sentinels.master().await?,
        };
        let current = self.topology.current();
        let known = current
            .as_ref()
            .filter(|generation| generation.node.address == address);
        let node = match known {
            Some(generation) => Arc::clone(&generation.node),
            None => Arc::new(Node::new(
                address,
                Arc::clone(&self.options),
                Arc::clone(&self.script),
            )?),
        };
        let probed = node.probe().await;
        let refused = self.topology.role_refused.swap(false, Ordering::Relaxed);
        if matches!(self.finder, Finder::Direct(_))
            && (known.is_none() || refused || probed.is_err())
            && matches!(node.is_one_node().await, Ok(false))
        {
            return Err(node.any_node_service());
        }
        probed?;
        let activation = self.activate(&node).await?;
        if let Some(generation) = known.filter(|generation| generation.activation == activation) {
            return Ok(Arc::clone(generation));
        }
        let number = self.next_number;
        self.next_number += 1;
        Ok(Arc::new(Generation {
            number,
            node,
            activation,
        }))
    }

    async fn activate(&self, node: &Node) -> Result<String, Diagnosis> {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let arguments = [
            DATA_FORMAT.to_owned(),
            format!("{:032x}", u128::from_be_bytes(crate::random::bytes())),
            self.topology.high_water.load(Ordering::Relaxed).to_string(),
            micros(since_epoch).to_string(),
            micros(MAX_ACTIVATION_CLOCK_DIFFERENCE).to_string(),
            TOKEN_GAP.to_string(),
        ];
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        let meta = self.options.meta_key();
        let reply: Value = node
            .ask(async |connection| {
                ACTIVATION
                    .run(connection, &[meta.as_bytes()], &arguments)
                    .await
            })
            .await?;
        match texts(&reply).as_deref() {
            Some(["active", activation, token]) => {
                self.topology.saw_token(token.parse().unwrap_or(0));
                Ok((*activation).to_owned())
            }
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(Diagnosis::disqualifying(format!(
                "{} answered an activation with something else: {}",
                node.address,
                text(&reply).unwrap_or("not a list")
            ))),
        }
    }

    fn settle(&mut self, generation: Arc<Generation>) {
        let before = self.topology.current();
        if before
            .as_ref()
            .is_some_and(|before| before.number == generation.number)
        {
            if self.last_complaint.take().is_some() {
                info!(address = %generation.node.address, "the store is in order again");
                self.publish.send_modify(|view| view.health = Health::Ready);
            }
            return;
        }
        self.last_complaint = None;
        let address = &generation.node.address;
        match &before {
            None => info!(%address, "the store is ready"),
            Some(before) if before.node.address == *address => {
                warn!(%address, "the master restarted or was reset; its fencing tokens go on above a gap");
            }
            Some(before) => warn!(from = %before.node.address, to = %address, "the master changed"),
        }
        let old_node = before.map(|before| Arc::clone(&before.node));
        let same_node = old_node
            .as_ref()
            .is_some_and(|old| Arc::ptr_eq(old, &generation.node));
        self.publish.send_replace(View {
            generation: Some(generation),
            health: Health::Ready,
        });
        if let Some(old) = old_node.filter(|_| !same_node) {
            old.retired.cancel();
        }
    }

    fn complain(&mut self, diagnosis: Diagnosis) {
        let view = self.topology.view.borrow().clone();
        if self.last_complaint.as_ref() != Some(&diagnosis) {
            error!("the store is not usable: {diagnosis}");
        }
        let health = match view.health {
            Health::Starting(_) => Health::Starting(diagnosis.text.clone()),
            _ => Health::Degraded(diagnosis.text.clone()),
        };
        let retired = view.generation.filter(|_| diagnosis.disqualifies);
        self.publish.send_modify(|view| {
            view.health = health;
            if diagnosis.disqualifies {
                view.generation = None;
            }
        });
        if let Some(generation) = retired {
            generation.node.retired.cancel();
        }
        self.last_complaint = Some(diagnosis);
    }
}

/// A guard's refusal in the operator's words.
pub(super) fn explain_guard(address: &Address, reason: &str, detail: &str) -> Diagnosis {
    Diagnosis::disqualifying(match reason {
        "role" => format!("{address} is not a master but a {detail}"),
        "format" => format!(
            "the data at {address} has format {detail}, newer than this version of Leasehold can read ({DATA_FORMAT}): \
             run the newer version"
        ),
        "clock" => format!(
            "the clocks of {address} and of this server are more than {} hours apart: set both right",
            MAX_ACTIVATION_CLOCK_DIFFERENCE.as_secs() / 3600
        ),
        other => format!("{address} refused: {other} {detail}"),
    })
}
