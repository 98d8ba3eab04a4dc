//! Group commit: operations that arrive while a batch is under way form the next one.
//!
//! A batch is one script call behind one guard, one round trip, and needs no timer: an idle store
//! sends an operation at once. A few *lanes* (one pooled connection each) keep as many batches in
//! flight. An operation that fails does not fail its neighbours. Grants and renewals are answered
//! only after [`super::confirm`] has seen them on the replicas.

use std::sync::Arc;

use deadpool_redis::{Connection, PoolError};
use redis::{ErrorKind, RedisError, Value};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::{self, Answer, Operation, Reply};
use super::confirm::Confirmer;
use super::node::explain;
use super::options::RedisOptions;
use super::reply::{list, text};
use super::script::Source;
use super::topology::{Generation, Topology, explain_guard};
use crate::lock::lease::Timestamp;
use crate::store::contract::{Outcome, StoreError};

/// The most operations of one batch: Redis serves nobody else meanwhile (about 1 ms).
const MAX_BATCH: usize = 64;

/// The most operations that wait for a lane; more are refused.
const MAX_QUEUED: usize = 16_384;

struct Queued {
    operation: Operation,
    deadline: Instant,
    answer: oneshot::Sender<Answer>,
}

/// Takes operations and answers them.
pub(super) struct Commit {
    queue: mpsc::Sender<Queued>,
    options: Arc<RedisOptions>,
    stop: CancellationToken,
    lanes: TaskTracker,
}

struct Lane {
    queue: Arc<Mutex<mpsc::Receiver<Queued>>>,
    options: Arc<RedisOptions>,
    topology: Topology,
    script: Arc<Source>,
    confirmer: Arc<Confirmer>,
    /// Kept from batch to batch: a pool asks a connection whether it lives each time it lends it.
    connection: Option<(u64, Connection)>,
}

/// What became of a batch as a whole.
enum Run {
    /// Each operation has a reply.
    Done {
        at: Timestamp,
        online_replicas: usize,
        replies: Vec<Value>,
    },
    /// Nothing was done, and another generation may be able to.
    Refused(String),
    /// Nothing was done, and the lack is Redis' own.
    Failed(StoreError),
    /// Nobody knows.
    Lost(String),
}

impl Commit {
    pub(super) fn start(
        options: &Arc<RedisOptions>,
        topology: &Topology,
        script: &Arc<Source>,
        confirmer: &Arc<Confirmer>,
    ) -> Self {
        let (queue, receiver) = mpsc::channel(MAX_QUEUED);
        let receiver = Arc::new(Mutex::new(receiver));
        let (stop, lanes) = (CancellationToken::new(), TaskTracker::new());
        for _ in 0..options.pool_size {
            let lane = Lane {
                queue: Arc::clone(&receiver),
                options: Arc::clone(options),
                topology: topology.clone(),
                script: Arc::clone(script),
                confirmer: Arc::clone(confirmer),
                connection: None,
            };
            lanes.spawn(lane.run(stop.clone()));
        }
        lanes.close();
        Self {
            queue,
            options: Arc::clone(options),
            stop,
            lanes,
        }
    }

    /// Runs one operation. If the future is dropped the operation may still run.
    pub(super) async fn run(&self, operation: Operation) -> Answer {
        let (answer, answered) = oneshot::channel();
        let deadline = Instant::now() + self.options.patience();
        let queued = Queued {
            operation,
            deadline,
            answer,
        };
        if self.queue.try_send(queued).is_err() {
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
            let queue = Arc::clone(&self.queue);
            let receive = async {
                queue.lock().await.recv_many(&mut batch, MAX_BATCH).await;
            };
            if stop.run_until_cancelled(receive).await.is_none() {
                return;
            }
            self.run_batch(std::mem::take(&mut batch)).await;
        }
    }

    /// Runs a batch at the current generation, and again at a newer one for as long as it certainly
    /// did nothing and there is time.
    async fn run_batch(&mut self, batch: Vec<Queued>) {
        let Some(deadline) = batch.iter().map(|queued| queued.deadline).min() else {
            return;
        };
        let mut generation = match self.topology.current() {
            Some(generation) => Some(generation),
            None => self.topology.newer(None, deadline).await,
        };
        let mut why = "no usable master is known".to_owned();
        while let Some(current) = generation {
            if Instant::now() >= deadline {
                break;
            }
            match self.run_at(&current, &batch).await {
                Run::Done {
                    at,
                    online_replicas,
                    replies,
                } => {
                    return self.deliver(&current, batch, at, online_replicas, replies);
                }
                Run::Failed(error) => return fail(batch, &error),
                Run::Lost(cause) => {
                    self.topology.doubt();
                    return fail(batch, &lost(cause));
                }
                Run::Refused(cause) => why = cause,
            }
            generation = self.topology.newer(Some(current.number), deadline).await;
        }
        fail(batch, &not_done(why));
    }

    async fn run_at(&mut self, generation: &Generation, queued: &[Queued]) -> Run {
        let node = &generation.node;
        let mut connection = match self.connection.take() {
            Some((number, connection)) if number == generation.number => connection,
            _ => match node.retired.run_until_cancelled(node.pool.get()).await {
                Some(Ok(connection)) => connection,
                Some(Err(error)) => return Run::Refused(no_connection(generation, &error)),
                None => return Run::Refused("the master changed".into()),
            },
        };
        let operations: Vec<_> = queued.iter().map(|queued| &queued.operation).collect();
        let call = batch::call(
            &mut connection,
            &self.script,
            &self.options,
            generation,
            &operations,
        );
        let Some(reply) = node.retired.run_until_cancelled(call).await else {
            drop(Connection::take(connection));
            return Run::Lost("the master changed while the operation was under way".into());
        };
        match reply {
            Ok(value) => {
                self.connection = Some((generation.number, connection));
                self.read(generation, &value, queued.len())
            }
            Err(error) => {
                // After a time-out the connection looks healthy and answers the wrong questions.
                drop(Connection::take(connection));
                failed_call(generation, &error)
            }
        }
    }

    fn read(&self, generation: &Generation, reply: &Value, operations: usize) -> Run {
        let fields = list(reply).unwrap_or_default();
        match (fields.first().and_then(text), fields) {
            (Some("ok"), [_, now, online, replies @ ..]) if replies.len() == operations => {
                let (now, online) = (text(now).map(str::parse), text(online).map(str::parse));
                match (now, online) {
                    (Some(Ok(now)), Some(Ok(online_replicas))) => Run::Done {
                        at: Timestamp::from_micros(now),
                        online_replicas,
                        replies: replies.to_vec(),
                    },
                    _ => Run::Lost("a batch was answered without its time".into()),
                }
            }
            (Some("guard"), [_, reason, detail]) => {
                let (reason, detail) = (
                    text(reason).unwrap_or_default(),
                    text(detail).unwrap_or_default(),
                );
                if reason == "role" {
                    self.topology.role_was_refused();
                }
                Run::Refused(explain_guard(&generation.node.address, reason, detail).text)
            }
            _ => Run::Lost(format!(
                "a batch was answered with something else: {reply:?}"
            )),
        }
    }

    fn deliver(
        &self,
        generation: &Arc<Generation>,
        batch: Vec<Queued>,
        at: Timestamp,
        online_replicas: usize,
        replies: Vec<Value>,
    ) {
        let required = self.confirmer.required(online_replicas);
        for (
            Queued {
                operation,
                deadline,
                answer,
            },
            value,
        ) in batch.into_iter().zip(replies)
        {
            let reply = operation_result(value, at);
            if required > 0 && reply.as_ref().is_ok_and(must_be_confirmed) {
                self.confirmer
                    .confirm(generation, required, operation, reply, deadline, answer);
            } else {
                // Nobody waits for it any more if the send fails.
                let _gone = answer.send(reply);
            }
        }
    }
}

/// Only what a client will count on: a grant, a renewal, a lease shown again.
fn must_be_confirmed(reply: &Reply) -> bool {
    let outcome = list(&reply.value).and_then(<[Value]>::first).and_then(text);
    matches!(outcome, Some("granted" | "replayed" | "renewed"))
}

fn operation_result(value: Value, at: Timestamp) -> Answer {
    match super::reply::texts(&value).as_deref() {
        Some(["error", message]) => Err(failed_operation(message)),
        _ => Ok(Reply { value, at }),
    }
}

/// An operation that Redis stopped at its first write, so that it did nothing.
fn failed_operation(message: &str) -> StoreError {
    if message.contains("OOM ") {
        StoreError::OutOfMemory
    } else if message.contains("MISCONF ") {
        StoreError::NotPersisting
    } else if [
        "READONLY ",
        "NOREPLICAS ",
        "NOPERM ",
        "can't run this command",
    ]
    .iter()
    .any(|c| message.contains(c))
    {
        not_done(message)
    } else {
        StoreError::Internal {
            cause: format!("a script failed: {message}"),
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
            cause: explain(at, error, "the credentials").text,
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
