//! Which Redis is the master now, and since when.
//!
//! One task asks (the Sentinels, or the one configured address), checks what it finds, activates it
//! and publishes a *generation*: a node together with the activation under which grants may be made
//! there. A new generation replaces the old one at once; what was in flight at the old node has no
//! known outcome. Not deadpool-redis' own Sentinel pool: it keeps writing to a deposed master for as
//! long as a connection to it lives.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use tokio::sync::{Mutex, Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::acks::Endorsement;
use super::activation::{Activator, REPORTING_TIME};
use super::diagnosis::Diagnosis;
use super::node::Node;
use super::options::{Address, Discovery, RedisOptions};
use super::script::Source;
use super::sentinel::Sentinels;
use super::witness::Witness;
use crate::lock::lease::millis;
use crate::store::contract::Health;

/// How often to look whether all is as it was. News from Sentinels and failed operations do not
/// wait for it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The same while something is wrong: less than the time in which a newly activated master waits for
/// reports.
const TROUBLED_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The shortest time between two looks.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How long trouble that operations met counts as present.
const TROUBLE_MEMORY: Duration = Duration::from_secs(5);

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
    /// The activation whose clock has stepped.
    stepped: Arc<StdMutex<Option<String>>>,
    /// What operations met lately that the resolver's own questions do not.
    trouble: Arc<StdMutex<Option<(Diagnosis, Instant)>>>,
    /// When the Sentinels last agreed that the master is in order; absent without Sentinels.
    endorsed: Endorsement,
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

    /// Where the Sentinels' agreement is noted.
    pub(super) fn endorsement(&self) -> Endorsement {
        self.endorsed.clone()
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
        activator: Activator::new(Arc::clone(options), Arc::clone(witness)),
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
    activator: Activator,
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
            let interval = match found {
                Ok(found) => {
                    self.settle(found);
                    POLL_INTERVAL
                }
                Err(diagnosis) => {
                    self.complain(diagnosis);
                    TROUBLED_POLL_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(interval) => {}
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
            && (known.is_none()
                || refused
                || probed
                    .as_ref()
                    .is_err_and(|diagnosis| diagnosis.disqualifies))
            && matches!(node.is_one_node().await, Ok(false))
        {
            return Err(node.any_node_service());
        }
        probed?;
        if let (None, Some(deposed)) = (known, &current) {
            // What it confirms from here on would be missing in the report to its successor.
            deposed.node.retired.cancel();
        }
        let stepped = self.topology.stepped.lock().expect(UNPOISONED).clone();
        let activation = known.map(|generation| generation.activation.clone());
        let (activation, mut pause) = self.activator.report(&node, activation, stepped).await?;
        self.topology.stepped.lock().expect(UNPOISONED).take();
        if current.is_none() && pause <= REPORTING_TIME {
            // Before the first contact nobody is served anyway: it is over when the store is called ready.
            tokio::time::sleep(pause).await;
            pause = Duration::ZERO;
        }
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
            Some(trouble) if self.last_complaint.as_ref() == Some(trouble) => {}
            Some(trouble) if pause.is_zero() => error!("the store is not usable: {trouble}"),
            Some(trouble) => error!(pause_ms = millis(pause), "new grants pause: {trouble}"),
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
