//! Group commit: operations that arrive while a batch is under way form the next one.
//!
//! A batch is one script call behind one guard, one round trip, and needs no timer: an idle store
//! sends an operation at once. A few *lanes* (one pooled connection each) keep two batches in flight, and more if
//! these are slow. An operation that fails does not fail its neighbours. What a client will count on, a lease as
//! well as a refusal, is answered only after [`super::confirm`] has heard from the replicas.

use std::sync::Arc;
use std::time::Duration;

use deadpool_redis::{Connection, PoolError};
use redis::{ErrorKind, RedisError, Value};
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::activation::explain_guard;
use super::batch::{Answer, Batches, Operation, Reply};
use super::census::KnownLeases;
use super::confirm::{Confirmer, Unconfirmed};
use super::diagnosis::lacks_permission;
use super::fault;
use super::intake::{self, Intake, MAX_BATCH, Outlet, Urgency};
use super::node::Node;
use super::options::RedisOptions;
use super::reply::{list, outcome, text};
use super::topology::{Generation, Topology};
use super::wake::Wake;
use super::witness::{Step, Witness};
use crate::lock::lease::Timestamp;
use crate::store::contract::{Outcome, StoreError};
use crate::telemetry::{FailureCause, Limit, RedisMetrics, Shortfall};

/// How long a connection may be idle before it is asked whether it lives: less than any time after which
/// Redis or a firewall cuts it.
const TRUSTED_IDLE: Duration = Duration::from_millis(100);

/// How many batches are under way unless they are slow: fewer are larger, and cost Redis and this server less for each
/// operation.
const IN_FLIGHT: usize = 2;

/// The longest pause between two steps of listings; see [`Commit::list`].
const MAX_LISTING_PAUSE: Duration = Duration::from_millis(250);

/// When batches are slow: a connection may have stalled, and others are there.
const SLOW: Duration = Duration::from_millis(10);

struct Queued {
    operation: Operation,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Takes operations and answers them.
pub(super) struct Commit {
    intake: Intake<Queued>,
    listings: Intake<Queued>,
    options: Arc<RedisOptions>,
    around: Arc<WorkerContext>,
    stop: CancellationToken,
    lanes: TaskTracker,
}

/// What lanes have in common.
pub(super) struct WorkerContext {
    pub(super) topology: Topology,
    pub(super) batches: Arc<Batches>,
    pub(super) witness: Arc<Witness>,
    pub(super) confirmer: Arc<Confirmer>,
    pub(super) wake: Wake,
    pub(super) leases: Arc<KnownLeases>,
    pub(super) metrics: RedisMetrics,
}

struct Lane {
    outlet: Arc<Mutex<Outlet<Queued>>>,
    in_flight: Arc<Semaphore>,
    around: Arc<WorkerContext>,
    kept: Option<Kept>,
    /// Whether it is for listings.
    lists: bool,
}

/// A connection that a lane keeps from batch to batch, because a pool asks a connection whether it lives
/// each time it lends it.
struct Kept {
    connection: Connection,
    node: Arc<Node>,
    /// How many connections to the node had broken off when this one was last used.
    breaks: u64,
    used: Instant,
}

/// What became of a batch as a whole.
enum Run {
    /// Each operation has a reply.
    Done(Done),
    /// Nothing was done, and another generation may be able to.
    Refused(String),
    /// Nothing was done, and the lack is Redis' own.
    Failed(StoreError),
    /// Nobody knows.
    Lost(String),
}

/// What a batch was answered.
struct Done {
    at: Timestamp,
    asked_at: Instant,
    online_replicas: usize,
    /// The number of the last grant or renewal among them.
    writes: u64,
    replies: Vec<Value>,
    /// The clock has stepped, if operations were refused because of the time.
    stepped: bool,
}

impl Commit {
    pub(super) fn start(options: &Arc<RedisOptions>, around: WorkerContext) -> Self {
        let around = Arc::new(around);
        let (stop, lanes) = (CancellationToken::new(), TaskTracker::new());
        let start = |number: usize, in_flight: usize, max_batch: usize, lists: bool| {
            let (intake, outlet) = intake::queues(max_batch);
            let outlet = Arc::new(Mutex::new(outlet));
            let in_flight = Arc::new(Semaphore::new(in_flight));
            for _ in 0..number {
                let lane = Lane {
                    outlet: Arc::clone(&outlet),
                    in_flight: Arc::clone(&in_flight),
                    around: Arc::clone(&around),
                    kept: None,
                    lists,
                };
                lanes.spawn(lane.run(stop.clone()));
            }
            intake
        };
        let intake = start(options.pool_size, IN_FLIGHT, MAX_BATCH, false);
        let listings = start(1, 1, 1, true);
        lanes.close();
        Self {
            intake,
            listings,
            options: Arc::clone(options),
            around,
            stop,
            lanes,
        }
    }

    /// Runs one operation. If the future is dropped the operation may still run.
    pub(super) async fn run(&self, operation: Operation, urgency: Urgency) -> Answer {
        self.run_in(&self.intake, operation, urgency).await
    }

    /// Runs a step of a listing: alone, one at a time, and with a pause behind it that is as long as it took. So listings
    /// have no share in a batch that a lease depends on, and half of Redis' time at most.
    pub(super) async fn list(&self, operation: Operation) -> Answer {
        self.run_in(&self.listings, operation, Urgency::Work).await
    }

    async fn run_in(
        &self,
        intake: &Intake<Queued>,
        operation: Operation,
        urgency: Urgency,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.patience();
        let queued = Queued {
            operation,
            deadline,
            answer,
        };
        if !intake.put(queued, urgency) {
            if !self.stop.is_cancelled() {
                self.around.metrics.limits.count(Limit::RedisQueue);
            }
            return Err(not_done(
                "too many operations wait for Redis, or the store is closed",
            ));
        }
        answered
            .await
            .unwrap_or_else(|_| Err(lost("the store was closed")))
    }

    /// Ends the lanes after the batches that they have in flight.
    pub(super) async fn close(&self) {
        self.stop.cancel();
        self.lanes.wait().await;
    }
}

impl Lane {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let outlet = Arc::clone(&self.outlet);
            let in_flight = Arc::clone(&self.in_flight);
            // Past the limit after a while, and then it is nobody's place that is given back.
            let place = async { timeout(SLOW, in_flight.acquire()).await.ok() };
            let receive = async { outlet.lock().await.fill(&mut batch, place).await };
            let place = stop.run_until_cancelled(receive).await;
            // Nothing comes if nobody is left who could ask.
            if place.is_none() || batch.is_empty() {
                return;
            }
            if self.lists {
                // A client that hung up needs no page.
                batch.retain(|queued| !queued.answer.is_closed());
            }
            let begun = Instant::now();
            self.run_batch(std::mem::take(&mut batch)).await;
            drop(place);
            if self.lists {
                let pause = sleep(begun.elapsed().min(MAX_LISTING_PAUSE));
                let _stopped = stop.run_until_cancelled(pause).await;
            }
        }
    }

    /// Runs a batch at the current generation, and again at a newer one for as long as it certainly
    /// did nothing and there is time.
    async fn run_batch(&mut self, mut batch: Vec<Queued>) {
        let mut why = "Redis is slow: the operation waited too long to be sent".to_owned();
        let mut generation = self.around.topology.current();
        let mut before = None;
        loop {
            // Those that waited for too long must not fail those that came later.
            batch = fail_late(batch, &why);
            let Some(deadline) = batch.iter().map(|queued| queued.deadline).min() else {
                return;
            };
            let Some(current) = generation else {
                if before.is_none() {
                    "no usable master is known".clone_into(&mut why);
                }
                generation = self.around.topology.newer(before, deadline).await;
                if generation.is_none() && Instant::now() < deadline {
                    // The store is closed.
                    return fail(batch, &not_done(why));
                }
                continue;
            };
            match self.run_at(&current, &batch).await {
                Run::Done(done) => {
                    batch = self.deliver(&current, batch, done);
                    if batch.is_empty() {
                        return;
                    }
                    "the master restarted or was replaced since its activation, or its clock stepped"
                        .clone_into(&mut why);
                }
                Run::Failed(error) => return fail(batch, &error),
                Run::Lost(cause) => {
                    self.around.topology.doubt();
                    return fail(batch, &lost(cause));
                }
                Run::Refused(cause) => why = cause,
            }
            (generation, before) = (None, Some(current.number));
        }
    }

    async fn run_at(&mut self, generation: &Generation, queued: &[Queued]) -> Run {
        let node = &generation.node;
        let mut connection = match node
            .retired
            .run_until_cancelled(self.connection(node))
            .await
        {
            Some(Ok(connection)) => connection,
            Some(Err(error)) => {
                self.around.metrics.faults.count(fault::of_pool(&error));
                return Run::Refused(no_connection(generation, &error));
            }
            None => return Run::Refused("the master changed".into()),
        };
        let operations: Vec<_> = queued.iter().map(|queued| &queued.operation).collect();
        let sent = Instant::now();
        let call = self
            .around
            .batches
            .call(&mut connection, generation, &operations);
        let Some(reply) = node.retired.run_until_cancelled(call).await else {
            drop(Connection::take(connection));
            return Run::Lost("the master changed while the operation was in progress".into());
        };
        match reply {
            Ok(value) => {
                self.around.metrics.batch(queued.len(), sent.elapsed());
                self.keep(node, connection);
                let run = self.read(generation, value, queued.len(), sent);
                self.check_time(generation, run)
            }
            Err(error) => {
                // After a time-out the connection looks healthy and answers the wrong questions.
                drop(Connection::take(connection));
                node.connection_broke();
                self.around.metrics.faults.count(fault::of_call(&error));
                failed_call(generation, &error)
            }
        }
    }

    /// The lane's connection to `node`, or another one from the pool if it may have died unseen.
    async fn connection(&mut self, node: &Arc<Node>) -> Result<Connection, PoolError> {
        let alive = |kept: &Kept| {
            Arc::ptr_eq(&kept.node, node)
                && kept.breaks == node.breaks()
                && kept.used.elapsed() < TRUSTED_IDLE
        };
        match self.kept.take().filter(alive) {
            Some(kept) => Ok(kept.connection),
            None => node.pool.get().await,
        }
    }

    fn keep(&mut self, node: &Arc<Node>, connection: Connection) {
        let (node, breaks) = (Arc::clone(node), node.breaks());
        self.kept = Some(Kept {
            connection,
            node,
            breaks,
            used: Instant::now(),
        });
    }

    fn read(
        &self,
        generation: &Generation,
        reply: Value,
        operations: usize,
        asked_at: Instant,
    ) -> Run {
        let fields = match reply {
            Value::Array(fields) => fields,
            other => return misread(&other),
        };
        let fields = match <[Value; 7]>::try_from(fields) {
            Ok(
                [
                    ok,
                    now,
                    online,
                    writes,
                    ran_out,
                    Value::Array(replies),
                    turns,
                ],
            ) if text(&ok) == Some("ok") && replies.len() == operations => {
                self.around.wake.turns(&turns);
                self.around.leases.ran_out(number(&ran_out).unwrap_or(0));
                return match (number(&now), number(&online), number(&writes)) {
                    (Some(now), Some(online), Some(writes)) => Run::Done(Done {
                        at: Timestamp::from_micros(now),
                        asked_at,
                        online_replicas: usize::try_from(online).unwrap_or(0),
                        writes,
                        replies,
                        stepped: false,
                    }),
                    _ => Run::Lost("the reply to a batch lacks its numbers".into()),
                };
            }
            Ok(other) => return misread(&Value::Array(other.into())),
            Err(fields) => fields,
        };
        match &fields[..] {
            [guard, reason, detail] if text(guard) == Some("guard") => {
                self.around.metrics.faults.count(FailureCause::NotMaster);
                let reason = text(reason).unwrap_or_default();
                if reason == "role" {
                    self.around.topology.role_was_refused();
                }
                let detail = text(detail).unwrap_or_default();
                Run::Refused(explain_guard(&generation.node.address, reason, detail).text)
            }
            _ => misread(&Value::Array(fields)),
        }
    }

    /// Learns from the time that a batch was answered with.
    fn check_time(&self, generation: &Generation, run: Run) -> Run {
        let Run::Done(mut done) = run else { return run };
        let (sent, received) = (done.asked_at, Instant::now());
        match self.around.witness.step(done.at, sent, received) {
            None => self.around.witness.saw_time(done.at, sent, received),
            // The resolver sees it too, and what is known of the time stays until it has done so.
            Some(Step::Small) => self.around.topology.doubt(),
            Some(Step::Large) => {
                done.stepped = true;
                self.around.topology.clock_stepped(&generation.activation);
            }
        }
        Run::Done(done)
    }

    /// Answers what was done, and gives back what was refused here and may be done elsewhere.
    fn deliver(&self, generation: &Arc<Generation>, batch: Vec<Queued>, done: Done) -> Vec<Queued> {
        let required = self
            .around
            .confirmer
            .required(generation, done.online_replicas);
        let mut again = Vec::new();
        for (queued, value) in batch.into_iter().zip(done.replies) {
            let reply = match refusal(&value) {
                None => match failure(&value) {
                    Some(said) => {
                        self.around.metrics.faults.count(fault::of_operation(said));
                        Err(failed_operation(
                            &self.around.topology,
                            &generation.node,
                            said,
                        ))
                    }
                    None => Ok(Reply {
                        value,
                        at: done.at,
                        asked_at: done.asked_at,
                    }),
                },
                Some("replicas") => {
                    self.around.metrics.shortfalls.count(Shortfall::Offline);
                    Err(StoreError::ReplicationUnconfirmed {
                        outcome: Outcome::None,
                    })
                }
                Some("clock") if !done.stepped => {
                    self.around.metrics.faults.count(FailureCause::Late);
                    Err(not_done(
                        "the command reached Redis too late to be executed",
                    ))
                }
                Some(_) => {
                    again.push(queued);
                    continue;
                }
            };
            let Queued {
                operation,
                deadline,
                answer,
            } = queued;
            match reply {
                Ok(reply) if must_be_confirmed(&reply) => {
                    let unconfirmed = Unconfirmed {
                        generation: Arc::clone(generation),
                        required,
                        writes: done.writes,
                        operation,
                        reply,
                        deadline,
                        answer,
                    };
                    self.around.confirmer.confirm(unconfirmed);
                }
                // Nobody waits for it any more if the send fails.
                reply => drop(answer.send(reply)),
            }
        }
        again
    }
}

/// Why an operation may not run now.
fn refusal(value: &Value) -> Option<&str> {
    let (outcome, rest) = text(value)?.split_once('\t')?;
    let (reason, _detail) = rest.split_once('\t')?;
    (outcome == "refused").then_some(reason)
}

/// What Redis said to an operation that failed.
fn failure(value: &Value) -> Option<&str> {
    let (outcome, said) = text(value)?.split_once('\t')?;
    (outcome == "error").then_some(said)
}

fn number(value: &Value) -> Option<u64> {
    text(value)?.parse().ok()
}

fn misread(reply: &Value) -> Run {
    // The values may hold lease ids, so only the shape is told.
    let length = list(reply).map(<[Value]>::len);
    Run::Lost(format!(
        "the reply to a batch is not as expected (length {length:?})"
    ))
}

/// All that a client will count on: a lease, and also that a lock is held or a lease lost. A master that
/// was cut off and deposed looks healthy to itself; only its replicas know better. Letting go waits for
/// nobody, and lists may be stale.
fn must_be_confirmed(reply: &Reply) -> bool {
    !matches!(
        outcome(&reply.value),
        Some(
            "ended" | "abandoned" | "void" | "page" | "queued" | "too_many_waiters" | "recovering"
        )
    )
}

/// Says what an operation met that Redis stopped at its first write, so that it did nothing.
fn failed_operation(topology: &Topology, node: &Node, said: &str) -> StoreError {
    if said.contains("OOM ") {
        topology.doubt();
        StoreError::OutOfMemory
    } else if said.contains("MISCONF ") {
        topology.doubt();
        StoreError::NotPersisting
    } else if said.contains("READONLY ") || said.contains("NOREPLICAS ") || lacks_permission(said) {
        let diagnosis = node.explain_operation(said);
        topology.operations_meet(diagnosis.clone());
        not_done(diagnosis.text)
    } else {
        StoreError::Internal {
            cause: format!("a script failed: {said}"),
        }
    }
}

fn failed_call(generation: &Generation, error: &RedisError) -> Run {
    let at = &generation.node.address;
    let before_it_ran = matches!(
        error.code(),
        Some(
            "READONLY"
                | "NOREPLICAS"
                | "LOADING"
                | "MASTERDOWN"
                | "NOPERM"
                | "NOAUTH"
                | "BUSY"
                | "NOSCRIPT"
        )
    );
    match error.kind() {
        _ if before_it_ran => Run::Refused(generation.node.explain(error).text),
        _ if error.code() == Some("OOM") => Run::Failed(StoreError::OutOfMemory),
        _ if error.code() == Some("MISCONF") => Run::Failed(StoreError::NotPersisting),
        ErrorKind::Server(_) | ErrorKind::Extension => Run::Failed(StoreError::Internal {
            cause: generation.node.explain(error).text,
        }),
        _ => Run::Lost(format!("{at}: {error}")),
    }
}

fn no_connection(generation: &Generation, error: &PoolError) -> String {
    match error {
        PoolError::Backend(error) => generation.node.explain(error).text,
        other => format!("{}: no connection: {other}", generation.node.address),
    }
}

/// Fails the operations whose time is over, and gives back the others.
fn fail_late(batch: Vec<Queued>, why: &str) -> Vec<Queued> {
    let now = Instant::now();
    let (late, rest): (Vec<_>, _) = batch.into_iter().partition(|queued| queued.deadline <= now);
    fail(late, &not_done(why));
    rest
}

fn fail(batch: Vec<Queued>, error: &StoreError) {
    for queued in batch {
        let _gone = queued.answer.send(Err(error.clone()));
    }
}

pub(super) fn not_done(cause: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        outcome: Outcome::None,
        cause: cause.into(),
    }
}

pub(super) fn lost(cause: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        outcome: Outcome::Unknown,
        cause: cause.into(),
    }
}
