//! Sweeps the store once a second: ends what is over, hands locks to their waiters, and repairs the index of leases.
//!
//! No lease depends on it. Expiry counts from the deadline, whether or not a sweep has seen it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::batch::Operation;
use super::queue::Urgency;
use super::workers::Pipeline;
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
    pub(crate) fn start(pipeline: &Arc<Pipeline>) -> Self {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (pipeline, stopped) = (Arc::clone(pipeline), stop.clone());
        tasks.spawn(async move {
            let forever = async {
                loop {
                    while sweep(&pipeline).await {}
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
async fn sweep(pipeline: &Pipeline) -> bool {
    let operation = Operation {
        verb: "sweep",
        key: String::new(),
        arguments: random::id(),
        request: None,
    };
    match pipeline.run(operation, Urgency::Work).await {
        Ok(answered) => match answered.reply {
            Reply::Swept { more } => more,
            _ => false,
        },
        Err(error) => {
            tracing::debug!("the store was not swept: {error}");
            false
        }
    }
}
