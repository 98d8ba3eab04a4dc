//! Gives an answer only after the replicas have confirmed it.
//!
//! One round covers all answers since the previous round: one guarded write and one `WAIT`. They have a connection of
//! their own, because a `WAIT` blocks every other command on its connection. If too few replicas confirm in time:
//! - The server rolls a grant back, by lease id and attempt, so that a replay or a renewal in between keeps it. It
//!   never rolls a renewal back. The outcome is *unknown*, because a replica that was cut off may still bring the write
//!   back.
//! - The outcome of a refusal is *none*, because a refusal has no effect.
//! - Rounds without an answer follow while there is none to confirm, until enough replicas confirm one. Clients that ask
//!   seldom would otherwise meet a fault that the server does not report between their calls.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::acks::Acks;
use super::batch::{Answer, Answered, Batches, Operation};
use crate::store::contract::{Outcome, StoreError};
use crate::store::redis::errors::diagnosis::{self, Diagnosis};
use crate::store::redis::errors::kinds;
use crate::store::redis::master::high_water_mark::HighWaterMark;
use crate::store::redis::master::topology::{Generation, Topology};
use crate::store::redis::options::RedisOptions;
use crate::store::redis::scripts::reply::{Reply, texts};
use crate::store::redis::scripts::{Scripts, is_forgotten};
use crate::telemetry::{Limit, RedisMetrics, Shortfall};

/// The most answers that wait for confirmation.
const MAX_UNCONFIRMED: usize = 16_384;

/// The most answers that one round covers.
const MAX_ROUND: usize = 1024;

/// How long to wait after a failed round.
const AFTER_A_FAILURE: Duration = Duration::from_millis(10);

/// The time between two rounds without an answer.
const TRIAL_INTERVAL: Duration = Duration::from_secs(1);

/// An answer that waits for confirmation, because its client will rely on it.
pub(crate) struct Unconfirmed {
    pub(crate) generation: Arc<Generation>,
    /// How many replicas must confirm it.
    pub(crate) required: usize,
    /// The count of grants and renewals, with those of its batch.
    pub(crate) writes: u64,
    pub(crate) operation: Operation,
    pub(crate) answered: Answered,
    pub(crate) deadline: Instant,
    pub(crate) answer: oneshot::Sender<Answer>,
}

/// Holds answers back until the replicas have confirmed them; its owner stops its task and waits for it.
pub(crate) struct Confirmer {
    queue: mpsc::Sender<Unconfirmed>,
    acks: Arc<Acks>,
    mark: Arc<HighWaterMark>,
    topology: Topology,
    metrics: RedisMetrics,
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct ConfirmerTask {
    queue: mpsc::Receiver<Unconfirmed>,
    pending: Vec<Unconfirmed>,
    options: Arc<RedisOptions>,
    batches: Arc<Batches>,
    scripts: Arc<Scripts>,
    acks: Arc<Acks>,
    mark: Arc<HighWaterMark>,
    topology: Topology,
    metrics: RedisMetrics,
    /// The connection for rounds, and the number of the generation that it belongs to.
    connection: Option<(u64, MultiplexedConnection)>,
    /// How many replicas confirmed the last round, if it did not fail for another reason.
    acknowledged: Option<usize>,
    /// How many replicas must confirm a round, if too few confirmed the last ones.
    wanted: Option<usize>,
}

/// The result of a round.
enum Round {
    /// This number of replicas has every write before the round.
    Acknowledged { replicas: usize, online: usize },
    /// Redis had forgotten the script, so its `WAIT` came before the write.
    Forgotten,
    /// The guard refused, because the node no longer is the master that granted.
    Guarded,
    /// Redis did not answer, or answered with an error.
    Failed(Diagnosis),
}

impl Confirmer {
    pub(crate) fn start(
        options: &Arc<RedisOptions>,
        topology: &Topology,
        batches: &Arc<Batches>,
        scripts: &Arc<Scripts>,
        mark: &Arc<HighWaterMark>,
        acks: &Arc<Acks>,
        metrics: RedisMetrics,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(MAX_UNCONFIRMED);
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let confirmer = ConfirmerTask {
            queue: receiver,
            pending: Vec::new(),
            options: Arc::clone(options),
            batches: Arc::clone(batches),
            scripts: Arc::clone(scripts),
            acks: Arc::clone(acks),
            mark: Arc::clone(mark),
            topology: topology.clone(),
            metrics: metrics.clone(),
            connection: None,
            acknowledged: None,
            wanted: None,
        };
        tasks.spawn(confirmer.run(stop.clone()));
        tasks.close();
        Self {
            queue,
            acks: Arc::clone(acks),
            mark: Arc::clone(mark),
            topology: topology.clone(),
            metrics,
            stop,
            tasks,
        }
    }

    /// How many replicas must confirm a write under `generation` while `online` replicas are online.
    pub(crate) fn required(&self, generation: &Generation, online: usize) -> usize {
        self.acks
            .required(&generation.node.address, generation.number, online)
    }

    /// Gives the answer once the required number of replicas has confirmed it.
    pub(crate) fn confirm(&self, unconfirmed: Unconfirmed) {
        if unconfirmed.required == 0 {
            unconfirmed.succeed(&self.mark);
        } else if let Err(refused) = self.queue.try_send(unconfirmed) {
            if !self.stop.is_cancelled() {
                self.metrics.limits.count(Limit::ConfirmationQueue);
                self.topology.operations_meet(Diagnosis::passing(
                    "more answers wait for the confirmation of replicas than this server keeps: the replicas are slow, or \
                     one server is too few",
                ));
            }
            refused.into_inner().fail();
        }
    }

    /// Ends the task and waits for it. Pending answers fail as unconfirmed.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Unconfirmed {
    fn succeed(self, mark: &HighWaterMark) {
        if let Some(lease) = self.answered.reply.lease() {
            mark.confirmed(
                &self.generation.activation,
                self.writes,
                Instant::now() + lease.info.counts_for(),
            );
        }
        let _gone = self.answer.send(Ok(self.answered));
    }

    /// Answers `ReplicationUnconfirmed`. A refusal certainly had no effect, whichever node is the master.
    fn fail(self) {
        let outcome = match self.answered.reply.lease() {
            Some(_) => Outcome::Unknown,
            None => Outcome::None,
        };
        let _gone = self
            .answer
            .send(Err(StoreError::ReplicationUnconfirmed { outcome }));
    }

    /// The operation that rolls a new grant back; `None` for any other answer.
    fn rollback(&self) -> Option<Operation> {
        let is_grant = matches!(self.answered.reply, Reply::Granted(_));
        let request = self.operation.request.filter(|_| is_grant)?;
        Some(Operation::rollback(
            self.operation.key.clone(),
            request,
            None,
        ))
    }
}

impl ConfirmerTask {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.pending.is_empty() {
                let idle = self.wanted.map_or(Duration::MAX, |_| TRIAL_INTERVAL);
                let receive = timeout(idle, self.queue.recv_many(&mut self.pending, MAX_ROUND));
                match stop.run_until_cancelled(receive).await {
                    // The store closes, or the `Confirmer` is gone.
                    None | Some(Ok(0)) => break,
                    Some(Ok(_)) => {}
                    Some(Err(_)) => {
                        self.try_again().await;
                        continue;
                    }
                }
            } else {
                while let Some(room) = MAX_ROUND.checked_sub(self.pending.len() + 1) {
                    let Ok(more) = self.queue.try_recv() else {
                        break;
                    };
                    self.pending.push(more);
                    if room == 0 {
                        break;
                    }
                }
            }
            self.round().await;
        }
        self.pending.drain(..).for_each(Unconfirmed::fail);
    }

    /// Sends a round without an answer, because too few replicas confirmed the last one.
    async fn try_again(&mut self) {
        let (Some(wanted), Some(generation)) = (self.wanted, self.topology.current()) else {
            return;
        };
        let node = &generation.node;
        let ask = self.ask(&generation, wanted, self.options.response_timeout);
        match node.retired.run_until_cancelled(ask).await {
            Some(Round::Acknowledged { replicas, online }) => {
                let required = self.acks.required(&node.address, generation.number, online);
                self.wanted = (replicas < required).then_some(required);
                if self.wanted.is_some() {
                    self.too_few(&generation, replicas, required);
                }
            }
            Some(Round::Failed(diagnosis)) => self.topology.operations_meet(diagnosis),
            Some(Round::Forgotten | Round::Guarded) | None => {}
        }
    }

    /// Sends one write and one `WAIT`, and gives the answers that enough replicas have confirmed.
    async fn round(&mut self) {
        let Some(generation) = self
            .pending
            .iter()
            .map(|u| &u.generation)
            .max_by_key(|g| g.number)
        else {
            return;
        };
        let generation = Arc::clone(generation);
        let begun = Instant::now();
        let (ours, others): (Vec<_>, Vec<_>) = self
            .pending
            .drain(..)
            .partition(|u| u.generation.number == generation.number);
        self.fail(others, Shortfall::Superseded);
        self.pending = ours;
        let required = self.pending.iter().map(|u| u.required).max().unwrap_or(0);
        let first_deadline = self.pending.iter().map(|u| u.deadline).min();
        let left = first_deadline.map_or(Duration::ZERO, |d| {
            d.saturating_duration_since(Instant::now())
        });
        let ask = self.ask(&generation, required, left);
        match generation.node.retired.run_until_cancelled(ask).await {
            Some(Round::Acknowledged { replicas, .. }) => {
                self.acknowledged = Some(replicas);
                self.wanted = self.wanted.filter(|wanted| *wanted > replicas);
                let (done, short) = self.pending.drain(..).partition(|u| u.required <= replicas);
                self.pending = short;
                self.metrics.replication_round(begun.elapsed());
                for unconfirmed in done {
                    self.metrics.confirmed();
                    unconfirmed.succeed(&self.mark);
                }
            }
            Some(Round::Forgotten) => self.acknowledged = Some(0),
            Some(Round::Guarded) | None => {
                let superseded = std::mem::take(&mut self.pending);
                self.fail(superseded, Shortfall::Superseded);
            }
            Some(Round::Failed(diagnosis)) => {
                self.topology.operations_meet(diagnosis);
                self.acknowledged = None;
                tokio::time::sleep(AFTER_A_FAILURE).await;
            }
        }
        let now = Instant::now();
        let (overdue, rest): (Vec<_>, Vec<_>) =
            self.pending.drain(..).partition(|u| u.deadline <= now);
        self.pending = rest;
        self.give_up(&generation, overdue).await;
    }

    fn fail(&self, unconfirmed: Vec<Unconfirmed>, why: Shortfall) {
        for unconfirmed in unconfirmed {
            self.metrics.shortfalls.count(why);
            unconfirmed.fail();
        }
    }

    /// Sends a round that `required` replicas shall confirm within `left`.
    async fn ask(&mut self, generation: &Generation, required: usize, left: Duration) -> Round {
        let connection = match self.connection.take() {
            Some((number, connection)) if number == generation.number => connection,
            _ => match generation.node.own_connection().await {
                Ok(connection) => connection,
                Err(error) => return self.failed(generation, &error),
            },
        };
        let wait_timeout = left
            .min(self.options.response_timeout / 2)
            .max(Duration::from_millis(1));
        let arguments = [generation.activation.as_bytes()];
        let keys = [self.options.locks_key()];
        let (mut for_write, mut for_wait) = (connection.clone(), connection.clone());
        let script = &self.scripts.confirm;
        let write = script.run_by_digest(&mut for_write, &keys, &arguments);
        // One connection keeps the order, so that the `WAIT` covers the write.
        let wait = async {
            let mut call = cmd("WAIT");
            call.arg(required)
                .arg(u64::try_from(wait_timeout.as_millis()).unwrap_or(1));
            call.query_async::<usize>(&mut for_wait).await
        };
        let (written, acknowledged): (Result<Value, RedisError>, _) =
            tokio::join!(biased; write, wait);
        match (written, acknowledged) {
            (Ok(written), Ok(replicas)) => {
                self.connection = Some((generation.number, connection));
                match texts(&written).as_deref() {
                    Some(["ok", online]) => Round::Acknowledged {
                        replicas,
                        online: online.parse().unwrap_or(0),
                    },
                    _ => Round::Guarded,
                }
            }
            (Err(error), _) if is_forgotten(&error) => {
                let mut connection = connection;
                match script.run(&mut connection, &keys, &arguments).await {
                    Ok(_) => {
                        self.connection = Some((generation.number, connection));
                        Round::Forgotten
                    }
                    Err(error) => self.failed(generation, &error),
                }
            }
            (Err(error), _) | (_, Err(error)) => self.failed(generation, &error),
        }
    }

    fn failed(&self, generation: &Generation, error: &RedisError) -> Round {
        self.metrics.faults.count(kinds::of_call(error));
        Round::Failed(generation.node.explain(error))
    }

    /// Fails the overdue answers. Before that it tries once to roll their grants back, if the connection still works.
    async fn give_up(&mut self, generation: &Generation, overdue: Vec<Unconfirmed>) {
        let rollbacks: Vec<_> = overdue.iter().filter_map(Unconfirmed::rollback).collect();
        if let (false, Some((_, connection))) = (rollbacks.is_empty(), &mut self.connection) {
            let rollbacks: Vec<_> = rollbacks.iter().collect();
            let done = self.batches.call(connection, generation, &rollbacks).await;
            if let Err(error) = done {
                tracing::debug!("cannot roll back unconfirmed grants: {error}");
                self.connection = None;
            }
        }
        let required = overdue.iter().map(|u| u.required).max();
        if let (Some(required), Some(confirmed)) = (required, self.acknowledged) {
            self.wanted = Some(required);
            self.too_few(generation, confirmed, required);
        }
        self.fail(overdue, Shortfall::Unconfirmed);
    }

    fn too_few(&self, generation: &Generation, confirmed: usize, required: usize) {
        let at = &generation.node.address;
        let few = diagnosis::too_few_replicas(at, confirmed, required, "confirmed in time");
        self.topology.operations_meet(few);
    }
}
