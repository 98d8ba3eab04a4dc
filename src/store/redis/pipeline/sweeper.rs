//! Sweeps the store once a second: ends what is over, hands locks to their waiters, and repairs the index of leases.
//!
//! No lease depends on it. Expiry counts from the deadline, whether or not a sweep has seen it. Sweeps have their own
//! connection: the pool would check one that was idle for a second, at two commands a sweep, and a heartbeat must not
//! wait for a sweep when the master hangs.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::Operation;
use super::outcome::{Run, read_batch};
use super::workers::WorkerContext;
use crate::random;
use crate::store::redis::errors::kinds;
use crate::store::redis::master::topology::Generation;
use crate::store::redis::scripts::reply::Reply;

/// The time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(1);

/// The owner of the task that sweeps: it stops the task and waits for it.
pub(crate) struct Sweeper {
    stop: CancellationToken,
    tasks: TaskTracker,
}

struct SweeperTask {
    context: Arc<WorkerContext>,
    /// The connection to the master of the generation with this number.
    connection: Option<(u64, MultiplexedConnection)>,
}

impl Sweeper {
    pub(crate) fn start(context: Arc<WorkerContext>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let mut task = SweeperTask {
            context,
            connection: None,
        };
        let stopped = stop.clone();
        tasks.spawn(async move {
            let forever = async {
                loop {
                    while task.sweep().await {}
                    sleep(INTERVAL).await;
                }
            };
            stopped.run_until_cancelled(forever).await;
        });
        tasks.close();
        Self { stop, tasks }
    }

    /// Ends the task and waits for it.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl SweeperTask {
    /// One step; returns whether there is more to do at once. A failure waits for the next sweep.
    async fn sweep(&mut self) -> bool {
        let Some(generation) = self.context.topology.current() else {
            return false;
        };
        let asked_at = Instant::now();
        let retired = generation.node.retired.clone();
        match retired.run_until_cancelled(self.ask(&generation)).await {
            Some(Ok(reply)) => {
                let run = read_batch(&generation, &reply, 1, asked_at);
                match self.context.learn(&generation, run) {
                    Run::Done(done) => done.replies == [Ok(Reply::Swept { more: true })],
                    _ => false,
                }
            }
            Some(Err(error)) => {
                self.context.metrics.faults.count(kinds::of_call(&error));
                tracing::debug!("the store was not swept: {error}");
                false
            }
            None => false,
        }
    }

    /// A call that fails or is cancelled takes its connection along.
    async fn ask(&mut self, generation: &Generation) -> Result<Value, RedisError> {
        let mut connection = match self.connection.take() {
            Some((number, connection)) if number == generation.number => connection,
            _ => generation.node.own_connection().await?,
        };
        let operation = Operation {
            verb: "sweep",
            key: String::new(),
            arguments: random::id(),
            request: None,
        };
        let batches = &self.context.batches;
        let reply = batches
            .call(&mut connection, generation, &[&operation])
            .await?;
        self.connection = Some((generation.number, connection));
        Ok(reply)
    }
}
