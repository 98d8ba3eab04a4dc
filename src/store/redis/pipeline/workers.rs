//! Group commit: operations that arrive while a batch is under way form the next one.
//!
//! A batch is one script call behind one guard, one round trip, and needs no timer: an idle store sends an operation at
//! once. A few *workers* keep two batches in flight, and more if these are slow. An operation that fails does not fail
//! the others. [`super::replication`] holds the answers on which clients rely, leases and refusals, until the replicas
//! have confirmed them.

use std::sync::Arc;
use std::time::Duration;

use deadpool::managed::Object;
use deadpool_redis::PoolError;
use tokio::sync::{Mutex, Semaphore, oneshot};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{Answer, Answered, Batches, Operation};
use super::outcome::{Done, Run, failed_call, lost, no_connection, not_done, read_batch, refused};
use super::queue::{self, BatchSource, MAX_BATCH, SubmissionQueue, Urgency};
use super::replication::{Confirmer, Unconfirmed};
use crate::store::contract::StoreError;
use crate::store::redis::connection::PoolManager;
use crate::store::redis::errors::diagnosis::Diagnosis;
use crate::store::redis::errors::kinds;
use crate::store::redis::events::EventSender;
use crate::store::redis::lease_stats::KnownLeases;
use crate::store::redis::master::clock::{ClockJump, MasterClock};
use crate::store::redis::master::high_water_mark::HighWaterMark;
use crate::store::redis::master::node::Node;
use crate::store::redis::master::topology::{Generation, Topology};
use crate::store::redis::options::RedisOptions;
use crate::telemetry::{FailureCause, Limit, RedisMetrics};

/// How long a cached connection may be idle before the pool checks it: less than any time after which Redis or a
/// firewall closes it.
const TRUSTED_IDLE: Duration = Duration::from_millis(100);

/// How many batches are in flight unless they are slow. Fewer batches are larger ones, which cost Redis and this server
/// less for each operation.
const IN_FLIGHT: usize = 2;

/// The longest pause between two steps of listings; see [`Pipeline::list`].
const MAX_LISTING_PAUSE: Duration = Duration::from_millis(250);

/// How long a worker waits for a permit. Batches that take longer are slow: their connections may have stalled, and the
/// worker has another one.
const SLOW: Duration = Duration::from_millis(10);

/// Why an operation failed that was never sent.
const WAITED_TOO_LONG: &str = "Redis is slow: operations wait too long to be sent";

struct Queued {
    operation: Operation,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Takes operations and answers them.
pub(crate) struct Pipeline {
    queue: SubmissionQueue<Queued>,
    listings: SubmissionQueue<Queued>,
    options: Arc<RedisOptions>,
    context: Arc<WorkerContext>,
    stop: CancellationToken,
    workers: TaskTracker,
}

/// The parts of the store that all workers and the sweeper share.
pub(crate) struct WorkerContext {
    pub(crate) topology: Topology,
    pub(crate) batches: Arc<Batches>,
    pub(crate) clock: Arc<MasterClock>,
    pub(crate) mark: Arc<HighWaterMark>,
    pub(crate) confirmer: Arc<Confirmer>,
    pub(crate) events: EventSender,
    pub(crate) leases: Arc<KnownLeases>,
    pub(crate) metrics: RedisMetrics,
}

struct Worker {
    source: Arc<Mutex<BatchSource<Queued>>>,
    in_flight: Arc<Semaphore>,
    context: Arc<WorkerContext>,
    cached: Option<CachedConnection>,
    /// Whether this worker runs listings.
    lists: bool,
}

/// A connection that a worker keeps from batch to batch. The pool would check it with a round trip before each batch.
struct CachedConnection {
    connection: Object<PoolManager>,
    node: Arc<Node>,
    /// How many connections to the node had failed when this one was last used.
    breaks: u64,
    used: Instant,
}

impl Pipeline {
    pub(crate) fn start(options: &Arc<RedisOptions>, context: Arc<WorkerContext>) -> Self {
        let (stop, workers) = (CancellationToken::new(), TaskTracker::new());
        let start = |number: usize, in_flight: usize, max_batch: usize, lists: bool| {
            let (queue, source) = queue::queues(max_batch);
            let source = Arc::new(Mutex::new(source));
            let in_flight = Arc::new(Semaphore::new(in_flight));
            for _ in 0..number {
                let worker = Worker {
                    source: Arc::clone(&source),
                    in_flight: Arc::clone(&in_flight),
                    context: Arc::clone(&context),
                    cached: None,
                    lists,
                };
                workers.spawn(worker.run(stop.clone()));
            }
            queue
        };
        let queue = start(options.pool_size, IN_FLIGHT, MAX_BATCH, false);
        let listings = start(1, 1, 1, true);
        workers.close();
        Self {
            queue,
            listings,
            options: Arc::clone(options),
            context,
            stop,
            workers,
        }
    }

    /// Runs one operation. If the future is dropped, the operation may still run.
    pub(crate) async fn run(&self, operation: Operation, urgency: Urgency) -> Answer {
        self.run_in(&self.queue, operation, urgency).await
    }

    /// Runs a step of a listing in a batch of its own, so that no lease waits for it. A pause of the same length
    /// follows each step, so that listings take half of Redis' time at most. If the future is dropped, the step may
    /// still run.
    pub(crate) async fn list(&self, operation: Operation) -> Answer {
        self.run_in(&self.listings, operation, Urgency::Work).await
    }

    async fn run_in(
        &self,
        queue: &SubmissionQueue<Queued>,
        operation: Operation,
        urgency: Urgency,
    ) -> Answer {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.operation_timeout();
        let queued = Queued {
            operation,
            deadline,
            answer,
        };
        if !queue.put(queued, urgency) {
            let why = "more operations wait for Redis than this server keeps: Redis is slow, or one server is too few";
            if !self.stop.is_cancelled() {
                self.context.metrics.limits.count(Limit::RedisQueue);
                let overload = Diagnosis::passing(why);
                self.context.topology.operations_meet(overload);
            }
            return Err(not_done(why));
        }
        answered
            .await
            .unwrap_or_else(|_| Err(lost("the store was closed")))
    }

    /// Ends the workers after the batches that they have in flight.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.workers.wait().await;
    }
}

impl WorkerContext {
    /// Passes on the reservations, the lease counts, a clock step or a change of role that the reply shows.
    pub(super) fn learn(&self, generation: &Generation, run: Run) -> Run {
        match run {
            Run::Done(mut done) => {
                for (lock, waiter) in done.reservations.drain(..) {
                    self.events.reserved(&lock, &waiter);
                }
                self.leases.update(done.held, done.expired, done.forgotten);
                let counts_until = self.mark.counts_until();
                let jump = self
                    .clock
                    .saw(done.at, done.asked_at, Instant::now(), counts_until);
                match jump {
                    None => {}
                    // The next report tells the other servers.
                    Some(ClockJump::WithinSkew) => self.topology.request_refresh(),
                    Some(ClockJump::BeyondSkew) => {
                        done.stepped = true;
                        self.topology.clock_stepped(&generation.activation);
                    }
                }
                Run::Done(done)
            }
            Run::Guarded { is_replica, text } => {
                self.metrics.faults.count(FailureCause::NotMaster);
                if is_replica {
                    self.topology.report_replica();
                }
                Run::Guarded { is_replica, text }
            }
            other => other,
        }
    }
}

impl Worker {
    async fn run(mut self, stop: CancellationToken) {
        let mut batch = Vec::with_capacity(MAX_BATCH);
        loop {
            let source = Arc::clone(&self.source);
            let in_flight = Arc::clone(&self.in_flight);
            // After this wait the worker exceeds the limit, and has no permit to give back.
            let permit = async { timeout(SLOW, in_flight.acquire()).await.ok() };
            let receive = async { source.lock().await.fill(&mut batch, permit).await };
            let permit = stop.run_until_cancelled(receive).await;
            // The store closes, or the pipeline is gone.
            if permit.is_none() || batch.is_empty() {
                return;
            }
            if self.lists {
                // A client that has disconnected needs no page.
                batch.retain(|queued| !queued.answer.is_closed());
            }
            let begun = Instant::now();
            self.run_batch(std::mem::take(&mut batch)).await;
            drop(permit);
            if self.lists {
                let pause = sleep(begun.elapsed().min(MAX_LISTING_PAUSE));
                let _stopped = stop.run_until_cancelled(pause).await;
            }
        }
    }

    /// Runs a batch at the current generation. Operations that certainly had no effect run again at a newer generation,
    /// until their deadline.
    async fn run_batch(&mut self, mut batch: Vec<Queued>) {
        // Why the operations have not run yet; `None` if nothing but time was lacking.
        let mut why: Option<String> = None;
        let mut generation = self.context.topology.current();
        let mut before = None;
        loop {
            // The earliest deadline limits the whole batch, so late operations leave it first.
            let all = batch.len();
            batch = fail_late(batch, why.as_deref().unwrap_or(WAITED_TOO_LONG));
            if batch.len() < all && why.is_none() {
                let slow = Diagnosis::passing(WAITED_TOO_LONG);
                self.context.topology.operations_meet(slow);
            }
            let Some(deadline) = batch.iter().map(|queued| queued.deadline).min() else {
                return;
            };
            let Some(current) = generation else {
                if before.is_none() {
                    why = Some("no usable master is known".to_owned());
                }
                generation = self.context.topology.newer(before, deadline).await;
                if generation.is_none() && Instant::now() < deadline {
                    // The store is closed.
                    return fail(batch, &not_done(why.unwrap_or_default()));
                }
                continue;
            };
            match self.run_at(&current, &batch).await {
                Run::Done(done) => {
                    batch = self.deliver(&current, batch, done);
                    if batch.is_empty() {
                        return;
                    }
                    let text = "the master restarted or was replaced since its activation, or its clock stepped";
                    why = Some(text.to_owned());
                }
                Run::Failed(error, diagnosis) => {
                    self.context.topology.operations_meet(diagnosis);
                    return fail(batch, &error);
                }
                Run::Lost(diagnosis) => {
                    let error = lost(diagnosis.text.clone());
                    self.context.topology.operations_meet(diagnosis);
                    return fail(batch, &error);
                }
                Run::Replaced { sent: true } => {
                    let error = lost("the master changed while the operation was in progress");
                    return fail(batch, &error);
                }
                Run::Replaced { sent: false } => why = Some("the master changed".to_owned()),
                Run::Guarded { text, .. } => why = Some(text),
                Run::Refused(diagnosis) => {
                    why = Some(diagnosis.text.clone());
                    self.context.topology.operations_meet(diagnosis);
                }
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
                self.context.metrics.faults.count(kinds::of_pool(&error));
                return Run::Refused(no_connection(generation, &error));
            }
            None => return Run::Replaced { sent: false },
        };
        let operations: Vec<_> = queued.iter().map(|queued| &queued.operation).collect();
        let sent = Instant::now();
        let call = self
            .context
            .batches
            .call(&mut connection, generation, &operations);
        let Some(reply) = node.retired.run_until_cancelled(call).await else {
            drop(Object::take(connection));
            return Run::Replaced { sent: true };
        };
        match reply {
            Ok(value) => {
                self.context.metrics.batch(queued.len(), sent.elapsed());
                self.cache(node, connection);
                let run = read_batch(generation, &value, queued.len(), sent);
                self.context.learn(generation, run)
            }
            Err(error) => {
                // After a time-out the connection looks healthy, but its next reply may belong to this call.
                drop(Object::take(connection));
                node.connection_broke();
                self.context.metrics.faults.count(kinds::of_call(&error));
                failed_call(generation, &error)
            }
        }
    }

    /// The cached connection to `node`, or one from the pool if the cached one may have died unnoticed.
    async fn connection(&mut self, node: &Arc<Node>) -> Result<Object<PoolManager>, PoolError> {
        let alive = |cached: &CachedConnection| {
            Arc::ptr_eq(&cached.node, node)
                && cached.breaks == node.breaks()
                && cached.used.elapsed() < TRUSTED_IDLE
        };
        match self.cached.take().filter(alive) {
            Some(cached) => Ok(cached.connection),
            None => node.pool.get().await,
        }
    }

    fn cache(&mut self, node: &Arc<Node>, connection: Object<PoolManager>) {
        let (node, breaks) = (Arc::clone(node), node.breaks());
        self.cached = Some(CachedConnection {
            connection,
            node,
            breaks,
            used: Instant::now(),
        });
    }

    /// Answers the operations of a batch. Returns those that another generation may execute.
    fn deliver(&self, generation: &Arc<Generation>, batch: Vec<Queued>, done: Done) -> Vec<Queued> {
        let context = &self.context;
        let required = context.confirmer.required(generation, done.online_replicas);
        let mut retries = Vec::new();
        for (queued, reply) in batch.into_iter().zip(done.replies) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(refusal) => {
                    let (topology, metrics) = (&context.topology, &context.metrics);
                    match refused(&refusal, done.stepped, generation, topology, metrics) {
                        // The client may be gone.
                        Some(error) => drop(queued.answer.send(Err(error))),
                        None => retries.push(queued),
                    }
                    continue;
                }
            };
            let answered = Answered {
                reply,
                asked_at: done.asked_at,
            };
            if answered.reply.needs_confirmation() {
                context.confirmer.confirm(Unconfirmed {
                    generation: Arc::clone(generation),
                    required,
                    writes: done.writes,
                    operation: queued.operation,
                    answered,
                    deadline: queued.deadline,
                    answer: queued.answer,
                });
            } else {
                let _gone = queued.answer.send(Ok(answered));
            }
        }
        retries
    }
}

/// Fails the operations whose deadline is over, and returns the others.
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
