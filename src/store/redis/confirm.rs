//! Gives an answer only when the replicas have what it stands for.
//!
//! All that was answered since the last round is covered by one guarded write and one `WAIT`, on a
//! connection of its own (a `WAIT` stalls everybody else on its connection). Too few confirmations
//! in time, and a grant is taken back, by lease id and attempt, so that a replay or a renewal in
//! between keeps it; a renewal is never undone. Either way nobody can know what a replica that was
//! cut off will bring back, so the outcome is *unknown*. What was refused here was certainly not done.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value, cmd};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::acks::Acks;
use super::batch::{Answer, Batches, Operation, Reply};
use super::diagnosis::Diagnosis;
use super::fault;
use super::options::RedisOptions;
use super::reply::{expires_in, outcome, texts};
use super::topology::{Generation, Topology};
use super::witness::Witness;
use crate::store::contract::{Outcome, StoreError};
use crate::telemetry::{Limit, RedisMetrics, Shortfall};

/// The most answers that wait for confirmation.
const MAX_UNCONFIRMED: usize = 16_384;

/// The most that one round covers.
const MAX_ROUND: usize = 1024;

/// How long to wait after a round that failed.
const AFTER_A_FAILURE: Duration = Duration::from_millis(10);

/// An answer that a client will count on.
pub(super) struct Unconfirmed {
    pub(super) generation: Arc<Generation>,
    /// How many replicas must have it first.
    pub(super) required: usize,
    /// Its number among all grants and renewals, or that of one after it.
    pub(super) writes: u64,
    pub(super) operation: Operation,
    pub(super) reply: Reply,
    pub(super) deadline: Instant,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// Takes answers that must be confirmed before they are given.
pub(super) struct Confirmer {
    queue: mpsc::Sender<Unconfirmed>,
    acks: Arc<Acks>,
    witness: Arc<Witness>,
    metrics: RedisMetrics,
    stop: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

/// Replies that tell of a change.
const WRITES: [&str; 3] = ["granted", "replayed", "renewed"];

struct Work {
    queue: mpsc::Receiver<Unconfirmed>,
    pending: Vec<Unconfirmed>,
    options: Arc<RedisOptions>,
    batches: Arc<Batches>,
    witness: Arc<Witness>,
    topology: Topology,
    metrics: RedisMetrics,
    connection: Option<(u64, MultiplexedConnection)>,
}

/// What one round learned.
enum Round {
    /// So many replicas have all that was pending.
    Acknowledged(usize),
    /// The node is not what it was when it granted.
    Guarded,
    /// No answer.
    Failed(Diagnosis),
}

impl Confirmer {
    pub(super) fn start(
        options: &Arc<RedisOptions>,
        topology: &Topology,
        batches: &Arc<Batches>,
        witness: &Arc<Witness>,
        acks: &Arc<Acks>,
        metrics: RedisMetrics,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(MAX_UNCONFIRMED);
        let stop = CancellationToken::new();
        let work = Work {
            queue: receiver,
            pending: Vec::new(),
            options: Arc::clone(options),
            batches: Arc::clone(batches),
            witness: Arc::clone(witness),
            topology: topology.clone(),
            metrics: metrics.clone(),
            connection: None,
        };
        let task = tokio::spawn(work.run(stop.clone()));
        Self {
            queue,
            acks: Arc::clone(acks),
            witness: Arc::clone(witness),
            metrics,
            stop,
            task: Mutex::new(Some(task)),
        }
    }

    /// How many replicas must confirm what was done at `generation`, `online` of them being seen.
    pub(super) fn required(&self, generation: &Generation, online: usize) -> usize {
        self.acks
            .required(&generation.node.address, generation.number, online)
    }

    /// Gives an answer once as many replicas as it requires have what it stands for.
    pub(super) fn confirm(&self, unconfirmed: Unconfirmed) {
        if unconfirmed.required == 0 {
            unconfirmed.succeed(&self.witness);
        } else if let Err(refused) = self.queue.try_send(unconfirmed) {
            if !self.stop.is_cancelled() {
                self.metrics.limits.count(Limit::ConfirmationQueue);
            }
            refused.into_inner().fail();
        }
    }

    /// Ends the task; what is unconfirmed then stays so.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        let task = self
            .task
            .lock()
            .expect("nothing panics while it holds the task")
            .take();
        if let Some(task) = task {
            // It only fails if it panicked, and the panic was reported then.
            let _ended = task.await;
        }
    }
}

impl Unconfirmed {
    fn succeed(self, witness: &Witness) {
        if self
            .outcome()
            .is_some_and(|outcome| WRITES.contains(&outcome))
        {
            witness.confirmed(
                &self.generation.activation,
                self.writes,
                Instant::now() + expires_in(&self.reply.value, self.reply.at),
            );
        }
        let _gone = self.answer.send(Ok(self.reply));
    }

    /// What was refused was certainly not done, whoever is the master.
    fn fail(self) {
        let outcome = if self
            .outcome()
            .is_some_and(|outcome| WRITES.contains(&outcome))
        {
            Outcome::Unknown
        } else {
            Outcome::None
        };
        let _gone = self
            .answer
            .send(Err(StoreError::ReplicationUnconfirmed { outcome }));
    }

    fn outcome(&self) -> Option<&str> {
        outcome(&self.reply.value)
    }

    /// What takes a new grant back.
    fn undo(&self) -> Option<Operation> {
        let request = self
            .operation
            .request
            .filter(|_| self.outcome() == Some("granted"))?;
        Some(Operation::rollback(
            self.operation.key.clone(),
            request,
            None,
        ))
    }
}

impl Work {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            if self.pending.is_empty() {
                let receive = self.queue.recv_many(&mut self.pending, MAX_ROUND);
                match stop.run_until_cancelled(receive).await {
                    // Stopped, or nobody is left who could ask.
                    None | Some(0) => break,
                    Some(_) => {}
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

    /// One write, one `WAIT`, and whoever can be answered is.
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
        let round = generation
            .node
            .retired
            .run_until_cancelled(self.ask(&generation))
            .await;
        match round {
            Some(Round::Acknowledged(replicas)) => {
                let (done, short) = self.pending.drain(..).partition(|u| u.required <= replicas);
                self.pending = short;
                self.metrics.replication_round(begun.elapsed());
                for unconfirmed in done {
                    self.metrics.confirmed();
                    unconfirmed.succeed(&self.witness);
                }
            }
            Some(Round::Guarded) | None => {
                let superseded = std::mem::take(&mut self.pending);
                self.fail(superseded, Shortfall::Superseded);
            }
            Some(Round::Failed(diagnosis)) => {
                self.topology.operations_meet(diagnosis);
                self.connection = None;
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

    async fn ask(&mut self, generation: &Generation) -> Round {
        let connection = match self.connection.take() {
            Some((number, connection)) if number == generation.number => connection,
            _ => match generation.node.own_connection().await {
                Ok(connection) => connection,
                Err(error) => return self.failed(generation, &error),
            },
        };
        let required = self.pending.iter().map(|u| u.required).max().unwrap_or(0);
        let first_deadline = self.pending.iter().map(|u| u.deadline).min();
        let left = first_deadline.map_or(Duration::ZERO, |d| {
            d.saturating_duration_since(Instant::now())
        });
        let patience = left
            .min(self.options.response_timeout / 2)
            .max(Duration::from_millis(1));
        let meta = self.options.meta_key();
        let arguments = [generation.activation.as_bytes()];
        let keys = [meta.as_bytes()];
        let (mut for_write, mut for_wait) = (connection.clone(), connection.clone());
        let write = super::script::CONFIRMATION.run(&mut for_write, &keys, &arguments);
        // The same connection keeps their order: the write goes first.
        let wait = async {
            let mut call = cmd("WAIT");
            call.arg(required)
                .arg(u64::try_from(patience.as_millis()).unwrap_or(1));
            call.query_async::<usize>(&mut for_wait).await
        };
        let (written, acknowledged): (Result<Value, RedisError>, _) =
            tokio::join!(biased; write, wait);
        match (written, acknowledged) {
            (Ok(written), Ok(replicas)) => {
                self.connection = Some((generation.number, connection));
                match texts(&written).as_deref() {
                    Some(["ok"]) => Round::Acknowledged(replicas),
                    _ => Round::Guarded,
                }
            }
            (Err(error), _) | (_, Err(error)) => self.failed(generation, &error),
        }
    }

    fn failed(&self, generation: &Generation, error: &RedisError) -> Round {
        self.metrics.faults.count(fault::of_call(error));
        Round::Failed(generation.node.explain(error))
    }

    /// Takes back the grants among `overdue` as well as can be, and says that nobody knows.
    async fn give_up(&mut self, generation: &Generation, overdue: Vec<Unconfirmed>) {
        let undos: Vec<_> = overdue.iter().filter_map(Unconfirmed::undo).collect();
        if let (false, Some((_, connection))) = (undos.is_empty(), &mut self.connection) {
            let undos: Vec<_> = undos.iter().collect();
            let undone = self.batches.call(connection, generation, &undos).await;
            if let Err(error) = undone {
                tracing::debug!("cannot roll back unconfirmed grants: {error}");
                self.connection = None;
            }
        }
        self.fail(overdue, Shortfall::Unconfirmed);
    }
}
