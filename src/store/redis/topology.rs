//! Which Redis is the master now, and since when.
//!
//! One task asks (the Sentinels, or the one configured address), checks what it finds, activates it
//! and publishes a *generation*: a node together with the activation under which grants may be made
//! there. A new generation replaces the old one at once; what was in flight at the old node has no
//! known outcome. Not deadpool-redis' own Sentinel pool: it keeps writing to a deposed master for as
//! long as a connection to it lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use redis::Value;
use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::diagnosis::Diagnosis;
use super::node::{Node, Question};
use super::options::{Address, Discovery, RedisOptions};
use super::reply::{text, texts};
use super::script::{ACTIVATION, REPORT, Source};
use super::sentinel::Sentinels;
use super::witness::Witness;
use crate::lock::lease::{Timestamp, micros, millis};
use crate::random;
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

/// How long trouble that operations met counts as present.
const TROUBLE_MEMORY: Duration = Duration::from_secs(5);

/// How often a report is repeated while other servers activate.
const MAX_REPORTS: usize = 5;

/// How long the Sentinels' word counts that the master is in order.
const ENDORSEMENT: Duration = Duration::from_secs(3);

const UNPOISONED: &str = "nothing panics while it holds the lock";

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
    /// What this server remembers, for a master that does not.
    witness: Arc<Witness>,
    /// The activation whose clock has stepped.
    stepped: Arc<StdMutex<Option<String>>>,
    /// What operations met lately that the resolver's own questions do not.
    trouble: Arc<StdMutex<Option<(Diagnosis, Instant)>>>,
    /// When the Sentinels last agreed that the master is in order; absent without Sentinels.
    endorsed: Option<Arc<StdMutex<Option<Instant>>>>,
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

    /// Reports that the clock of an activated master has stepped.
    pub(super) fn clock_stepped(&self, activation: &str) {
        *self.stepped.lock().expect(UNPOISONED) = Some(activation.to_owned());
        self.doubt();
    }

    /// Reports what operations meet, and the resolver's own questions do not.
    pub(super) fn operations_meet(&self, diagnosis: Diagnosis) {
        *self.trouble.lock().expect(UNPOISONED) = Some((diagnosis, Instant::now()));
        self.doubt();
    }

    fn trouble(&self) -> Option<Diagnosis> {
        let trouble = self.trouble.lock().expect(UNPOISONED);
        trouble
            .as_ref()
            .filter(|(_, at)| at.elapsed() < TROUBLE_MEMORY)
            .map(|(diagnosis, _)| diagnosis.clone())
    }

    /// Whether the Sentinels, if there are any, agreed a moment ago that the master is in order.
    pub(super) fn is_endorsed(&self) -> bool {
        let Some(endorsed) = &self.endorsed else {
            return true;
        };
        endorsed
            .lock()
            .expect(UNPOISONED)
            .is_some_and(|at| at.elapsed() < ENDORSEMENT)
    }
}

/// Starts the resolver.
pub(super) fn start(
    options: &Arc<RedisOptions>,
    script: Arc<Source>,
    witness: &Arc<Witness>,
) -> (Topology, Resolver) {
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
        witness: Arc::clone(witness),
        stepped: Arc::default(),
        trouble: Arc::default(),
        endorsed: matches!(options.discovery, Discovery::Sentinel { .. }).then(Arc::default),
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
        last_in_order: Instant::now(),
        server_id: format!("{:032x}", u128::from_be_bytes(random::bytes())),
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
    last_in_order: Instant,
    /// Tells this server from the others.
    server_id: String,
    next_number: u64,
}

/// A generation, and for how long it grants nothing new.
struct Found {
    generation: Arc<Generation>,
    pause: Duration,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let Some(found) = stop.run_until_cancelled(self.resolve()).await else {
                break;
            };
            match found {
                Ok(found) => self.settle(found),
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

    /// Finds the master, checks and activates it, and tells it what this server remembers. Dropping the
    /// future is safe: an activation that nobody heard of is adopted by the next, and a report repeated
    /// says the same.
    async fn resolve(&mut self) -> Result<Found, Diagnosis> {
        let address = match &mut self.finder {
            Finder::Direct(address) => address.clone(),
            Finder::Sentinel(sentinels) => {
                let named = sentinels.master().await?;
                if let (true, Some(endorsed)) = (named.in_order, &self.topology.endorsed) {
                    *endorsed.lock().expect(UNPOISONED) = Some(Instant::now());
                }
                named.address
            }
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
        let stepped = self.topology.stepped.lock().expect(UNPOISONED).clone();
        let activation = known.map(|generation| generation.activation.clone());
        let (activation, pause) = self.report(&node, activation, stepped).await?;
        if let Some(generation) = known.filter(|generation| generation.activation == activation) {
            return Ok(Found {
                generation: Arc::clone(generation),
                pause,
            });
        }
        let number = self.next_number;
        self.next_number += 1;
        let generation = Arc::new(Generation {
            number,
            node,
            activation,
        });
        Ok(Found { generation, pause })
    }

    /// Reports to the node under `activation`, activating it first where that is needed. Says under which
    /// activation it was heard, and for how long nothing new is granted.
    async fn report(
        &self,
        node: &Node,
        activation: Option<String>,
        mut stepped: Option<String>,
    ) -> Result<(String, Duration), Diagnosis> {
        let mut activation = match activation {
            Some(activation) if stepped.as_ref() != Some(&activation) => activation,
            _ => self.activate(node, &mut stepped).await?,
        };
        for _ in 0..MAX_REPORTS {
            match self
                .report_once(node, &activation, stepped.is_some())
                .await?
            {
                Reported::Heard {
                    stepped_now: true, ..
                } => {
                    stepped = Some(activation);
                    activation = self.activate(node, &mut stepped).await?;
                }
                Reported::Heard { pause, .. } => {
                    self.topology.witness.reported_to(&activation);
                    self.topology.stepped.lock().expect(UNPOISONED).take();
                    return Ok((activation, pause));
                }
                Reported::NotActive => activation = self.activate(node, &mut stepped).await?,
            }
        }
        Err(Diagnosis::passing(format!(
            "{} is activated again and again",
            node.address
        )))
    }

    /// Activates the node, or adopts the activation that it has. A clock that is not the one that this
    /// server knew counts as stepped.
    async fn activate(
        &self,
        node: &Node,
        stepped: &mut Option<String>,
    ) -> Result<String, Diagnosis> {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let arguments = [
            DATA_FORMAT.to_owned(),
            format!("{:032x}", u128::from_be_bytes(random::bytes())),
            self.topology.witness.token().to_string(),
            micros(since_epoch).to_string(),
            micros(MAX_ACTIVATION_CLOCK_DIFFERENCE).to_string(),
            TOKEN_GAP.to_string(),
            stepped.clone().unwrap_or_default(),
        ];
        let sent = Instant::now();
        let reply = node
            .ask(&Question::Run(
                &ACTIVATION,
                &[self.options.meta_key()],
                &arguments,
            ))
            .await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(["active", activation, token, now]) => {
                self.topology.witness.saw_token(token.parse().unwrap_or(0));
                let now = Timestamp::from_micros(now.parse().unwrap_or(0));
                if self.topology.witness.is_a_step(now, sent, received) {
                    stepped.get_or_insert_with(|| (*activation).to_owned());
                }
                self.topology.witness.set_clock(now, sent, received);
                Ok((*activation).to_owned())
            }
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(misunderstood(node, &reply)),
        }
    }

    async fn report_once(
        &self,
        node: &Node,
        activation: &str,
        stepped: bool,
    ) -> Result<Reported, Diagnosis> {
        let memory = self.topology.witness.memory();
        let arguments = [
            self.server_id.clone(),
            activation.to_owned(),
            memory.activation,
            memory.writes.to_string(),
            memory.token.to_string(),
            micros(memory.counts_on).to_string(),
            u8::from(stepped).to_string(),
            micros(self.options.max_recovery).to_string(),
            micros(self.options.max_clock_skew).to_string(),
            DATA_FORMAT.to_owned(),
        ];
        let keys = [self.options.meta_key(), self.options.servers_key()];
        let sent = Instant::now();
        let reply = node.ask(&Question::Run(&REPORT, &keys, &arguments)).await?;
        let received = Instant::now();
        match texts(&reply).as_deref() {
            Some(["ok", now, pause]) => {
                let now = Timestamp::from_micros(now.parse().unwrap_or(0));
                let stepped_now = self.topology.witness.is_a_step(now, sent, received);
                if !stepped_now {
                    self.topology.witness.saw_time(now, sent, received);
                }
                let pause = Duration::from_micros(pause.parse().unwrap_or(0));
                Ok(Reported::Heard { pause, stepped_now })
            }
            Some(["guard", "inactive" | "activation", _]) => Ok(Reported::NotActive),
            Some(["guard", reason, detail]) => Err(explain_guard(&node.address, reason, detail)),
            _ => Err(misunderstood(node, &reply)),
        }
    }

    fn settle(&mut self, Found { generation, pause }: Found) {
        let away = self.last_in_order.elapsed();
        self.last_in_order = Instant::now();
        let before = self.topology.current();
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.number != generation.number);
        let address = generation.node.address.clone();
        if is_new {
            self.announce(before.as_deref(), &address, away);
        }
        let trouble = match pause {
            Duration::ZERO => self.topology.trouble(),
            _ => Some(Diagnosis::passing(format!(
                "{address} has lost leases that may still be counted on, or its clock stepped: renewals go on, new grants \
                 wait until they are over"
            ))),
        };
        let health = trouble.as_ref().map_or(Health::Ready, |trouble| {
            Health::Degraded(trouble.text.clone())
        });
        match &trouble {
            None if self.last_complaint.is_some() && !is_new => {
                info!(%address, "the store is in order again");
            }
            Some(trouble) if self.last_complaint.as_ref() != Some(trouble) => {
                error!("the store is not usable: {trouble}");
            }
            _ => {}
        }
        self.last_complaint = trouble;
        let old_node = before.map(|before| Arc::clone(&before.node));
        let replaced = old_node.filter(|old| !Arc::ptr_eq(old, &generation.node));
        self.publish.send_if_modified(|view| {
            let changed = is_new || view.health != health;
            *view = View {
                generation: Some(generation),
                health,
            };
            changed
        });
        if let Some(old) = replaced {
            old.retired.cancel();
        }
    }

    /// Says in the operator's words what happened.
    fn announce(&self, before: Option<&Generation>, address: &Address, away: Duration) {
        let away_ms = millis(away);
        match before {
            None if self.last_complaint.is_none() => info!(%address, "the store is ready"),
            None => info!(%address, away_ms, "the store is ready after all"),
            Some(before) if before.node.address == *address => {
                warn!(%address, away_ms, "the master restarted or was reset, or its clock stepped: it is activated again");
            }
            Some(before) => {
                warn!(from = %before.node.address, to = %address, away_ms, "the master changed");
            }
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

/// What became of a report.
enum Reported {
    Heard {
        pause: Duration,
        stepped_now: bool,
    },
    /// The node has another activation, or none.
    NotActive,
}

fn misunderstood(node: &Node, reply: &Value) -> Diagnosis {
    let answer = text(reply).unwrap_or("a list");
    Diagnosis::disqualifying(format!(
        "{} answered something else than asked for: {answer}",
        node.address
    ))
}

/// A guard's refusal in the operator's words.
pub(super) fn explain_guard(address: &Address, reason: &str, detail: &str) -> Diagnosis {
    Diagnosis::disqualifying(match reason {
        "role" => format!(
            "{address} is a replica now ({detail}) and cannot hold locks: a failover is under way, or the address is no master's"
        ),
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
