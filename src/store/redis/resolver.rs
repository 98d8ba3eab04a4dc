//! The task that finds the master.
//!
//! It asks (the Sentinels, or the one configured address), checks what it finds, activates it and
//! publishes it as a new generation. Not deadpool-redis' own Sentinel pool: it keeps writing to a deposed
//! master for as long as a connection to it lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::activation::{Activator, Heard, REPORTING_TIME};
use super::change::Change;
use super::diagnosis::Diagnosis;
use super::node::Node;
use super::options::{Address, Discovery, RedisOptions};
use super::script::Source;
use super::sentinel::Sentinels;
use super::topology::{Generation, Topology, View};
use super::witness::Step;
use crate::lock::lease::millis;
use crate::store::clock::wall_clock;
use crate::store::contract::{Condition, Event, Health};
use crate::telemetry::{ClockStep, FailureCause, RedisMetrics};

/// How often to look whether all is as it was. Messages from Sentinels and failed operations do not
/// wait for it.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The same while something is wrong: less than the time in which a newly activated master waits for
/// reports.
const TROUBLED_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The shortest time between two looks.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often a master that is in order is asked what it is: its answer to the heartbeat says all but its settings.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The task behind a [`Topology`]; its owner stops it and waits for it.
pub(super) struct Resolver {
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}
/// Starts the resolver.
pub(super) fn start(
    options: &Arc<RedisOptions>,
    script: Arc<Source>,
    activator: Activator,
    metrics: RedisMetrics,
) -> (Topology, Resolver) {
    let starting = Health {
        condition: Condition::Starting("the server has not reached the store yet".into()),
        last_change: None,
        accepted_risk: options.accepted_risk(),
    };
    let with_sentinels = matches!(options.discovery, Discovery::Sentinel { .. });
    let (topology, publish) = Topology::new(starting, with_sentinels);
    let stop = CancellationToken::new();
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
            topology.doubts(),
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
        last_refusal: None,
        last_in_order: Instant::now(),
        last_master: None,
        activator,
        metrics,
        next_number: 1,
        probe_at: Instant::now(),
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
    /// Why there is no master, by the last that gave a reason: who hangs up without one means the same.
    last_refusal: Option<Diagnosis>,
    last_in_order: Instant,
    /// The one before, also when there is none now.
    last_master: Option<Address>,
    activator: Activator,
    metrics: RedisMetrics,
    next_number: u64,
    /// When the known master is asked again what it is: at once if there is a doubt.
    probe_at: Instant,
}

/// A generation, and what it said to this server's report.
struct Found {
    generation: Arc<Generation>,
    epoch: Option<u64>,
    heard: Heard,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        let doubts = self.topology.doubts();
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
                    self.probe_at = begun;
                    TROUBLED_POLL_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(interval) => {}
                () = doubts.notified() => {
                    self.probe_at = begun;
                    tokio::time::sleep_until(begun + MIN_POLL_INTERVAL).await;
                }
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
        let (address, epoch) = match &mut self.finder {
            Finder::Direct(address) => (address.clone(), None),
            Finder::Sentinel(sentinels) => {
                let named = sentinels.master().await?;
                if named.in_order {
                    self.topology.endorse();
                }
                (named.address, named.epoch)
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
        let probed = if known.is_none() || self.probe_at <= Instant::now() {
            self.probe_at = Instant::now() + PROBE_INTERVAL;
            node.probe().await
        } else {
            Ok(())
        };
        let refused = self.topology.take_role_refused();
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
        let stepped = self.topology.stepped();
        let activation = known.map(|generation| generation.activation.clone());
        let mut heard = self.activator.report(&node, activation, stepped).await?;
        self.topology.step_is_settled();
        if current.is_none() && heard.pause <= REPORTING_TIME {
            // Before the first contact nobody is served anyway: it is over when the store is called ready.
            tokio::time::sleep(heard.pause).await;
            heard.pause = Duration::ZERO;
        }
        let same = known.filter(|known| known.activation == heard.activation);
        let generation = if let Some(same) = same {
            Arc::clone(same)
        } else {
            let number = self.next_number;
            self.next_number += 1;
            Arc::new(Generation {
                number,
                node,
                activation: heard.activation.clone(),
            })
        };
        Ok(Found {
            generation,
            epoch,
            heard,
        })
    }

    fn settle(&mut self, found: Found) {
        let Found {
            generation,
            epoch,
            heard,
        } = found;
        let pause = heard.pause;
        self.metrics.paused(pause);
        if let Some(step) = heard.step {
            self.metrics.clock_steps.count(match step {
                Step::Small => ClockStep::Small,
                Step::Large => ClockStep::Large,
            });
        }
        let away = self.last_in_order.elapsed();
        self.last_in_order = Instant::now();
        self.last_refusal = None;
        let before = self.topology.current();
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.number != generation.number);
        let address = generation.node.address.clone();
        let last_master = self.last_master.replace(address.clone());
        let change = last_master
            .filter(|_| is_new)
            .map(|from| Change::new(from, address.clone(), epoch, away, &heard));
        if let Some(change) = &change {
            change.count(&self.metrics);
        }
        if is_new {
            self.announce(change.as_ref(), &address, away);
        }
        let trouble = match pause {
            Duration::ZERO => self.topology.trouble(),
            _ => Some(Diagnosis::passing(format!(
                "{address} lost leases on which clients may still count, or its clock stepped: new grants pause until \
                 these leases have ended; renewals and releases continue"
            ))),
        };
        let condition = trouble.as_ref().map_or(Condition::Ready, |trouble| {
            Condition::Degraded(trouble.text.clone())
        });
        match &trouble {
            None if self.last_complaint.is_some() && !is_new => {
                info!(%address, "the store is healthy again");
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
            let changed = is_new || view.health.condition != condition;
            view.generation = Some(generation);
            view.health.condition = condition;
            if let Some(change) = change {
                view.health.last_change = Some(Event {
                    at: wall_clock(),
                    text: change.to_string(),
                });
            }
            changed
        });
        if let Some(old) = replaced {
            old.retired.cancel();
        }
    }

    fn announce(&self, change: Option<&Change>, address: &Address, away: Duration) {
        match change {
            Some(change) if change.lost_leases() => error!("{change}"),
            Some(change) => warn!("{change}"),
            None if self.last_complaint.is_none() => info!(%address, "the store is ready"),
            None => info!(%address, away_ms = millis(away), "the store is now ready"),
        }
    }

    fn complain(&mut self, mut diagnosis: Diagnosis) {
        self.metrics.faults.count(FailureCause::NoMaster);
        if !diagnosis.hung_up {
            self.last_refusal = Some(diagnosis.clone());
        } else if let Some(refusal) = &self.last_refusal {
            diagnosis = refusal.clone();
        }
        if self.last_complaint.as_ref() != Some(&diagnosis) {
            error!("the store is not usable: {diagnosis}");
        }
        let condition = match self.topology.health().condition {
            Condition::Starting(_) => Condition::Starting(diagnosis.text.clone()),
            _ => Condition::Degraded(diagnosis.text.clone()),
        };
        let retired = self.topology.current().filter(|_| diagnosis.disqualifies);
        self.publish.send_modify(|view| {
            view.health.condition = condition;
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
