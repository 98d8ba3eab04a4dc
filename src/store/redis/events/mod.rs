//! Events for the waiters of this server: a lock is reserved for one of them, or queue entries may be lost.
//!
//! Redis publishes a reservation to the server of the waiter. A lost message costs a second, because each heartbeat reads
//! the outstanding reservations (see `report.lua`). An event decides nothing: it is a reason to ask.
//!
//! This folder knows no master: the caller opens the connections that it subscribes with.

use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::PubSub;
use redis::{RedisError, Value};
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lock::key::LockKey;
use crate::lock::request::WaiterId;
use crate::store::contract::StoreEvent;
use crate::store::redis::options::RedisOptions;
use crate::store::redis::scripts::ASK;

/// The most events that the service has not read yet. Further ones are lost until the next heartbeat.
const MAX_PENDING_EVENTS: usize = 65_536;

/// How long a subscription may be silent before a ping: it receives a message with each heartbeat.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How long to wait before subscribing again.
const RESUBSCRIBE_AFTER: Duration = Duration::from_millis(500);

/// Sends events to the service.
#[derive(Clone)]
pub(crate) struct EventSender(mpsc::Sender<StoreEvent>);

/// A connection for a subscription, and when to give it up, also while it is being opened.
pub(crate) struct Source {
    pub(crate) connection: Pin<Box<dyn Future<Output = Result<PubSub, RedisError>> + Send>>,
    pub(crate) retired: CancellationToken,
    /// Called with the error that ended the subscription.
    pub(crate) failed: Box<dyn Fn(&RedisError) + Send>,
}

/// Receives the messages of Redis, and passes all events on.
pub(crate) struct Subscription {
    events: Mutex<mpsc::Receiver<StoreEvent>>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl EventSender {
    pub(crate) fn new() -> (Self, mpsc::Receiver<StoreEvent>) {
        let (events, receiver) = mpsc::channel(MAX_PENDING_EVENTS);
        (Self(events), receiver)
    }

    /// A lock is reserved for a waiter of this server.
    pub(crate) fn reserved(&self, lock: &str, waiter: &str) {
        if let (Ok(key), Some(waiter)) = (LockKey::parse(lock), WaiterId::parse(waiter)) {
            let _lost = self.0.try_send(StoreEvent::Reserved(key, waiter));
        }
    }

    /// A lock is held, or reserved for a waiter of another server, until then.
    pub(crate) fn held_until(&self, lock: &str, until: Instant) {
        if let Ok(key) = LockKey::parse(lock) {
            let _lost = self.0.try_send(StoreEvent::HeldUntil(key, until));
        }
    }

    /// A waiter has the lock.
    pub(crate) fn granted(&self, waiter: WaiterId) {
        let _lost = self.0.try_send(StoreEvent::Granted(waiter));
    }

    pub(crate) fn queues_lost(&self) {
        let _lost = self.0.try_send(StoreEvent::QueuesLost);
    }
}

impl Subscription {
    /// Subscribes with each connection that `connect` gives.
    pub(crate) fn start<C, F>(
        sender: &EventSender,
        events: mpsc::Receiver<StoreEvent>,
        options: &RedisOptions,
        server_id: &str,
        connect: C,
    ) -> Self
    where
        C: Fn() -> F + Send + Sync + 'static,
        F: Future<Output = Source> + Send,
    {
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let (sender, stopped) = (sender.clone(), stop.clone());
        let (own, common) = (options.wake_channel(server_id), options.common_channel());
        tasks.spawn(async move {
            let forever = async {
                loop {
                    let Source {
                        connection,
                        retired,
                        failed,
                    } = connect().await;
                    let listening =
                        async { listen(connection.await?, &own, &common, &sender).await };
                    // Whatever ended it, the next subscription may succeed.
                    if let Some(Err(error)) = retired.run_until_cancelled(listening).await {
                        failed(&error);
                    }
                    sleep(RESUBSCRIBE_AFTER).await;
                }
            };
            stopped.run_until_cancelled(forever).await;
        });
        tasks.close();
        Self {
            events: Mutex::new(events),
            stop,
            tasks,
        }
    }

    pub(crate) async fn next(&self) -> StoreEvent {
        match self.events.lock().await.recv().await {
            Some(event) => event,
            // The store is closed.
            None => std::future::pending().await,
        }
    }

    /// Ends the task and waits for it.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn listen(
    connection: PubSub,
    own: &str,
    common: &str,
    events: &EventSender,
) -> Result<(), RedisError> {
    let (mut sink, mut messages) = connection.split();
    for channel in [own, common] {
        match timeout(PING_INTERVAL, sink.subscribe(channel)).await {
            Ok(subscribed) => subscribed?,
            Err(_) => return Ok(()),
        }
    }
    // Messages before the subscription are lost.
    events.queues_lost();
    loop {
        match timeout(PING_INTERVAL, messages.next()).await {
            Ok(Some(message)) => {
                let text: String = message.get_payload()?;
                match text.split_once(' ') {
                    Some((waiter, lock)) if message.get_channel_name() == own => {
                        events.reserved(lock, waiter);
                    }
                    Some((first, lock)) => {
                        if let Some(waiter) = WaiterId::parse(first) {
                            events.granted(waiter);
                        } else {
                            let left = Duration::from_micros(first.parse().unwrap_or(0));
                            events.held_until(lock, Instant::now() + left);
                        }
                    }
                    None if text == ASK => events.queues_lost(),
                    // A heartbeat: the subscription works.
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
