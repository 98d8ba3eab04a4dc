//! Sweeps the store once a second: ends what is over, hands locks to their waiters, and repairs the index of leases.
//!
//! No lease depends on it. Expiry counts from the deadline, whether or not a sweep has seen it. Sweeps go over the
//! connection of the heartbeats: the pool would check a connection that was idle for a second, at two commands a sweep.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::Operation;
use super::outcome::{Run, read_batch};
use super::workers::WorkerContext;
use crate::random;
use crate::store::redis::scripts::reply::Reply;

/// The time between two sweeps.
const INTERVAL: Duration = Duration::from_secs(1);

/// The task that sweeps; its owner stops it and waits for it.
pub(crate) struct Sweeper {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Sweeper {
    pub(crate) fn start(context: Arc<WorkerContext>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stopped = stop.clone();
        tasks.spawn(async move {
            let forever = async {
                loop {
                    while sweep(&context).await {}
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

/// One step; returns whether there is more to do at once. A failure waits for the next sweep.
async fn sweep(context: &WorkerContext) -> bool {
    let operation = Operation {
        verb: "sweep",
        key: String::new(),
        arguments: random::id(),
        request: None,
    };
    let Some(generation) = context.topology.current() else {
        return false;
    };
    let asked_at = Instant::now();
    let asked = context.batches.ask(&generation, operation);
    match generation.node.retired.run_until_cancelled(asked).await {
        Some(Ok(reply)) => {
            let run = read_batch(&generation, &reply, 1, asked_at);
            match context.learn(&generation, run) {
                Run::Done(done) => done.replies == [Ok(Reply::Swept { more: true })],
                _ => false,
            }
        }
        Some(Err(diagnosis)) => {
            tracing::debug!("the store was not swept: {diagnosis}");
            false
        }
        None => false,
    }
}
