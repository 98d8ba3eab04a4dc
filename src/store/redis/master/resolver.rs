//! The task that finds the master.
//!
//! The resolver asks the Sentinels (or takes the configured address), probes the node, activates it, and publishes it
//! as a new generation. It does not use the Sentinel pool of deadpool-redis: that pool keeps writing to a deposed
//! master for as long as a connection to it lives.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{error, info, warn};

use super::activation::{Activator, ReportReply};
use super::change::Change;
use super::clock::ClockJump;
use super::node::Node;
use super::sentinel::Sentinels;
use super::topology::{Generation, Topology, View};
use super::trouble_log::TroubleLog;
use crate::lock::lease::{Timestamp, millis};
use crate::store::clock::wall_clock;
use crate::store::contract::{Condition, Event, Health};
use crate::store::redis::errors::diagnosis::{self, Diagnosis};
use crate::store::redis::options::{Address, Discovery, RedisOptions};
use crate::store::redis::scripts::{REPORTING_TIME, Scripts};
use crate::telemetry::{ClockStep, FailureCause, RedisMetrics};

/// How often the resolver looks for the master and sends a heartbeat. Messages of Sentinels and failed operations make
/// it look earlier.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The interval while no master is usable. It is shorter than the time for which a newly activated master waits for
/// reports.
const TROUBLED_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The shortest time between two searches for the master.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How often the resolver probes a healthy master. The reply to each heartbeat shows everything except its settings.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// The task behind a [`Topology`]; its owner stops it and waits for it.
pub(crate) struct Resolver {
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Starts the resolver. It is not connected yet when this returns.
pub(crate) fn start(
    options: &Arc<RedisOptions>,
    scripts: Arc<Scripts>,
    activator: Activator,
    metrics: RedisMetrics,
) -> (Topology, Resolver) {
    let starting = Health {
        condition: Condition::Starting("the server has not reached the store yet".into()),
        since: Some(wall_clock()),
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
            topology.clone(),
            stop.clone(),
        ))),
    };
    let resolver = ResolverTask {
        finder,
        options: Arc::clone(options),
        scripts,
        topology: topology.clone(),
        publish,
        log: TroubleLog::default(),
        last_refusal: None,
        last_healthy: Instant::now(),
        last_master: None,
        activator,
        metrics,
        next_number: 1,
        probe_at: Instant::now(),
        warning: None,
    };
    let tasks = TaskTracker::new();
    tasks.spawn(resolver.run(stop.clone()));
    tasks.close();
    (topology, Resolver { stop, tasks })
}

impl Resolver {
    /// Ends the task and waits for it.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// The source of the master's address.
enum Finder {
    Direct(Address),
    Sentinel(Box<Sentinels>),
}

struct ResolverTask {
    finder: Finder,
    options: Arc<RedisOptions>,
    scripts: Arc<Scripts>,
    topology: Topology,
    publish: watch::Sender<View>,
    log: TroubleLog,
    /// The last reason that a peer gave. It still applies when a peer closes the connection without a reason.
    last_refusal: Option<Diagnosis>,
    last_healthy: Instant,
    /// The last known master. It stays here while there is none, so that the log can name it.
    last_master: Option<Address>,
    activator: Activator,
    metrics: RedisMetrics,
    next_number: u64,
    /// When the resolver probes the known master again: at once after a failure or a request to refresh.
    probe_at: Instant,
    /// What the last probe of the master found, if it can be used all the same.
    warning: Option<Diagnosis>,
}

/// A generation, and its reply to this server's report.
struct Found {
    generation: Arc<Generation>,
    epoch: Option<u64>,
    report: ReportReply,
}

impl ResolverTask {
    async fn run(mut self, stop: CancellationToken) {
        let refresh_requests = self.topology.refresh_requests();
        while !stop.is_cancelled() {
            let begun = Instant::now();
            let Some(found) = stop.run_until_cancelled(self.resolve()).await else {
                break;
            };
            let interval = match found {
                Ok(found) => {
                    self.apply(found);
                    if self.warning.is_some() {
                        self.probe_at = begun;
                    }
                    POLL_INTERVAL
                }
                Err(diagnosis) => {
                    self.report_failure(diagnosis);
                    self.probe_at = begun;
                    TROUBLED_POLL_INTERVAL
                }
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(interval) => {}
                () = refresh_requests.notified() => {
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

    /// Finds the master, probes it, activates it, and reports to it. Dropping the future is safe: the next call adopts
    /// an activation whose reply was lost, and a repeated report changes nothing.
    async fn resolve(&mut self) -> Result<Found, Diagnosis> {
        let (address, epoch) = match &mut self.finder {
            Finder::Direct(address) => (address.clone(), None),
            Finder::Sentinel(sentinels) => {
                let named = sentinels.master().await?;
                if named.healthy {
                    self.topology.sentinels_agree();
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
                Arc::clone(&self.scripts),
            )?),
        };
        let is_due = known.is_none() || self.probe_at <= Instant::now();
        let probed = if is_due {
            self.probe_at = Instant::now() + PROBE_INTERVAL;
            node.probe().await
        } else {
            Ok(self.warning.take())
        };
        let met_replica = self.topology.take_replica_report();
        if matches!(self.finder, Finder::Direct(_))
            && (known.is_none()
                || met_replica
                || probed
                    .as_ref()
                    .is_err_and(|diagnosis| diagnosis.disqualifies))
            && matches!(node.is_one_node().await, Ok(false))
        {
            return Err(node.any_node_service());
        }
        self.warning = probed?;
        if known.is_none() {
            node.check_pool().await?;
        }
        if is_due && let Err(diagnosis) = node.check_commands().await {
            if known.is_none() {
                return Err(diagnosis);
            }
            // Some operations still work.
            self.warning = Some(diagnosis);
        }
        if let (None, Some(deposed)) = (known, &current) {
            // A write that the deposed master confirms later would be missing from the report to its successor.
            deposed.node.retired.cancel();
        }
        let stepped = self.topology.stepped_activation();
        let activation = known.map(|generation| generation.activation.clone());
        let mut report = self
            .activator
            .report(&node, activation, stepped.clone())
            .await?;
        self.topology.clear_clock_step(stepped.as_ref());
        if current.is_none() && report.pause <= REPORTING_TIME {
            // Without a generation this server runs no operation. The pause is over before the store reports that it is
            // ready.
            tokio::time::sleep(report.pause).await;
            report.pause = Duration::ZERO;
        }
        let same = known.filter(|known| known.activation == report.activation);
        let generation = if let Some(same) = same {
            Arc::clone(same)
        } else {
            let number = self.next_number;
            self.next_number += 1;
            Arc::new(Generation {
                number,
                node,
                activation: report.activation.clone(),
            })
        };
        Ok(Found {
            generation,
            epoch,
            report,
        })
    }

    fn apply(&mut self, found: Found) {
        let Found {
            generation,
            epoch,
            report,
        } = found;
        let pause = report.pause;
        self.metrics.paused(pause);
        if let Some(jump) = report.clock_jump {
            self.metrics.clock_steps.count(match jump {
                ClockJump::WithinSkew => ClockStep::Small,
                ClockJump::BeyondSkew => ClockStep::Large,
            });
        }
        let away = self.last_healthy.elapsed();
        self.last_healthy = Instant::now();
        self.last_refusal = None;
        let before = self.topology.current();
        let is_new = before
            .as_ref()
            .is_none_or(|before| before.number != generation.number);
        let address = generation.node.address.clone();
        let last_master = self.last_master.replace(address.clone());
        let change = last_master
            .filter(|_| is_new)
            .map(|from| Change::new(from, address.clone(), epoch, away, &report));
        if let Some(change) = &change {
            change.count(&self.metrics);
        }
        if is_new {
            announce(change.as_ref(), &address, away);
        }
        let trouble = self.trouble(&address, &report);
        let condition = trouble.as_ref().map_or(Condition::Ready, |trouble| {
            Condition::Degraded(trouble.text.clone())
        });
        match &trouble {
            None => {
                if let (Some(lasted), false) = (self.log.end(), is_new) {
                    info!(%address, after_ms = millis(lasted), "the store is healthy again");
                }
            }
            Some(trouble) if pause.is_zero() => {
                if self.log.is_due(&trouble.text) {
                    warn!("the store is degraded: {trouble}");
                }
            }
            Some(trouble) => {
                if self.log.is_due(&trouble.text) {
                    error!(pause_ms = millis(pause), "new grants pause: {trouble}");
                }
            }
        }
        let old_node = before.map(|before| Arc::clone(&before.node));
        let replaced = old_node.filter(|old| !Arc::ptr_eq(old, &generation.node));
        self.publish.send_if_modified(|view| {
            let changed = is_new || view.health.condition != condition;
            view.generation = Some(generation);
            view.health.since = since(&view.health, &condition);
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

    fn report_failure(&mut self, mut diagnosis: Diagnosis) {
        self.metrics.faults.count(FailureCause::NoMaster);
        // Without the master it is unknown whether new grants pause.
        self.metrics.paused(Duration::ZERO);
        if !diagnosis.hung_up {
            self.last_refusal = Some(diagnosis.clone());
        } else if let Some(refusal) = &self.last_refusal {
            diagnosis = refusal.clone();
        }
        self.log_failure(&diagnosis);
        let condition = match self.topology.health().condition {
            Condition::Starting(_) => Condition::Starting(diagnosis.text.clone()),
            _ => Condition::Degraded(diagnosis.text.clone()),
        };
        let retired = self.topology.current().filter(|_| diagnosis.disqualifies);
        self.publish.send_modify(|view| {
            view.health.since = since(&view.health, &condition);
            view.health.condition = condition;
            if diagnosis.disqualifies {
                view.generation = None;
            }
        });
        if let Some(generation) = retired {
            generation.node.retired.cancel();
        }
    }

    /// What keeps the master from full service, although it can be used.
    fn trouble(&self, address: &Address, report: &ReportReply) -> Option<Diagnosis> {
        if !report.pause.is_zero() {
            return Some(Diagnosis::passing(format!(
                "{address} lost leases on which clients may still count, or its clock stepped: new grants pause until \
                 these leases have ended; renewals and releases continue"
            )));
        }
        let (online, needed) = (report.online, self.options.least_replicas());
        if online < needed {
            let diagnosis = diagnosis::too_few_replicas(address, online, needed, "online");
            return Some(diagnosis);
        }
        self.topology.trouble().or_else(|| self.warning.clone())
    }

    /// Logs why the store is not usable. What a change of the configuration must mend is an error; the rest may pass.
    fn log_failure(&mut self, diagnosis: &Diagnosis) {
        if !self.log.is_due(&diagnosis.text) {
            return;
        }
        if diagnosis.disqualifies {
            error!("the store is not usable: {diagnosis}");
        } else {
            warn!("the store is not usable: {diagnosis}");
        }
    }
}

/// Logs that another generation has begun.
fn announce(change: Option<&Change>, address: &Address, away: Duration) {
    match change {
        Some(change) if change.lost_leases() => error!("{change}"),
        Some(change) => warn!("{change}"),
        None => info!(%address, away_ms = millis(away), "the store is now ready"),
    }
}

/// Since when the store is not healthy.
fn since(before: &Health, condition: &Condition) -> Option<Timestamp> {
    match condition {
        Condition::Ready => None,
        _ => Some(before.since.unwrap_or_else(wall_clock)),
    }
}
