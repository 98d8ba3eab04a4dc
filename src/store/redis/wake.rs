//! Events for the waiters of this server: a lock is reserved for one of them, or queue entries may be lost.
//!
//! Redis publishes a turn to the server of the waiter. A lost message costs a second: what is outstanding is
//! read with each heartbeat (see `report.lua`). The store decides; news is only a reason to ask.

use std::sync::{Arc, Mutex as StdMutex};
use std::time::Duration;

use futures_util::StreamExt;
use redis::{RedisError, Value};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::options::RedisOptions;
use super::reply::{list, texts};
use super::topology::{Generation, Topology};
use crate::lock::key::LockKey;
use crate::lock::request::WaiterId;
use crate::store::contract::StoreEvent;

/// The most news that nobody has read yet; what is beyond it is lost, and read with the next heartbeat.
const MAX_PENDING_EVENTS: usize = 65_536;

/// For how long a subscription may be silent that hears of each heartbeat, before it is asked whether it lives.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait before subscribing again.
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(500);

/// Where news is put.
#[derive(Clone)]
pub(super) struct Wake {
    news: mpsc::Sender<StoreEvent>,
}

/// Where it is read, and the task behind the subscription.
pub(super) struct Listener {
    news: Mutex<mpsc::Receiver<StoreEvent>>,
    stop: CancellationToken,
    task: StdMutex<Option<JoinHandle<()>>>,
}

impl Wake {
    pub(super) fn new() -> (Self, mpsc::Receiver<StoreEvent>) {
        let (news, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        (Self { news }, receiver)
    }

    /// It is a waiter's turn for the lock with this name.
    pub(super) fn reservation(&self, lock: &str, waiter: &str) {
        if let (Ok(key), Some(waiter)) = (LockKey::parse(lock), WaiterId::parse(waiter)) {
            let _lost = self.news.try_send(StoreEvent::Reserved(key, waiter));
        }
    }

    /// A lock is reserved for a waiter of another server.
    pub(super) fn reserved(&self, lock: &str, until: Instant) {
        if let Ok(key) = LockKey::parse(lock) {
            let _lost = self.news.try_send(StoreEvent::HeldUntil(key, until));
        }
    }

    /// The turns that a batch replied with.
    pub(super) fn turns(&self, replied: &Value) {
        for turn in list(replied).unwrap_or_default() {
            if let Some([lock, waiter]) = texts(turn).as_deref() {
                self.reservation(lock, waiter);
            }
        }
    }

    pub(super) fn places_lost(&self) {
        let _lost = self.news.try_send(StoreEvent::QueuesLost);
    }
}

impl Listener {
    /// Subscribes at each generation.
    pub(super) fn start(
        wake: &Wake,
        news: mpsc::Receiver<StoreEvent>,
        topology: &Topology,
        options: &RedisOptions,
        server_id: &str,
    ) -> Self {
        let stop = CancellationToken::new();
        let (wake, topology) = (wake.clone(), topology.clone());
        let stopped = stop.clone();
        let (own, common) = (options.wake_channel(server_id), options.common_channel());
        let task = tokio::spawn(async move {
            let forever = async {
                loop {
                    let generation = topology.any().await;
                    let retired = generation.node.retired.clone();
                    let listening = listen(&generation, &own, &common, &wake);
                    // Whatever ended it, the next one stands or falls by itself.
                    let _ended = retired.run_until_cancelled(listening).await;
                    sleep(RESUBSCRIBE_AFTER).await;
                }
            };
            stopped.run_until_cancelled(forever).await;
        });
        Self {
            news: Mutex::new(news),
            stop,
            task: StdMutex::new(Some(task)),
        }
    }

    pub(super) async fn next(&self) -> StoreEvent {
        match self.news.lock().await.recv().await {
            Some(news) => news,
            // The store is closed.
            None => std::future::pending().await,
        }
    }

    /// Ends the task and waits for it.
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

async fn listen(
    generation: &Arc<Generation>,
    own: &str,
    common: &str,
    wake: &Wake,
) -> Result<(), RedisError> {
    let (mut sink, mut messages) = generation.node.subscriber().await?.split();
    sink.subscribe(own).await?;
    sink.subscribe(common).await?;
    // What was said before the subscription stood was missed.
    wake.places_lost();
    loop {
        match timeout(PING_INTERVAL, messages.next()).await {
            Ok(Some(message)) => {
                let text: String = message.get_payload()?;
                match text.split_once(' ') {
                    Some((waiter, lock)) if message.get_channel_name() == own => {
                        wake.reservation(lock, waiter);
                    }
                    Some((micros, lock)) => {
                        let left = Duration::from_micros(micros.parse().unwrap_or(0));
                        wake.reserved(lock, Instant::now() + left);
                    }
                    // A heartbeat: it hears.
                    None => {}
                }
            }
            Ok(None) => return Ok(()),
            Err(_) => match timeout(PING_INTERVAL, sink.ping::<Value>()).await {
                Ok(pong) => drop(pong?),
                Err(_) => return Ok(()),
            },
        }
    }
}
