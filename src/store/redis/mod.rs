//! The Redis store: one script, run in batches on the master.
//!
//! Data below a prefix (`leasehold:`), readable with `redis-cli`:
//! - `locks`, a hash without a TTL: the activation record in fields that begin with `#`, and a field for each lock. Its
//!   text has a line for each lease or reservation, and begins with `Q` if the lock has a queue;
//! - `leases`, a sorted set: the keys of the locks by the moment at which something of them ends;
//! - `released:1` and `released:2`, hashes: the releases of the last seconds;
//! - `queue:<key>` and `kept:<key>`, sorted sets, and `entries:<key>`, a hash: the queue of a lock;
//! - `servers`, a hash: the heartbeats; `reservations`, a hash: the locks that are reserved for waiters.
//!
//! The folders, from bottom to top: `scripts`, `errors`, `events`, `master`, `pipeline`. Imports point downwards. All
//! connections are opened in `connection`.
//!
//! The store never uses `CONFIG`, `FUNCTION` or keyspace notifications: managed Redis forbids them.
//!
#![doc = include_str!("README.md")]

mod connection;
mod errors;
mod events;
mod lease_stats;
mod listing;
mod master;
pub mod options;
mod pipeline;
mod scripts;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::events::{EventSender, Subscription};
use self::lease_stats::KnownLeases;
use self::listing::Cursor;
use self::master::Activator;
use self::master::clock::MasterClock;
use self::master::high_water_mark::HighWaterMark;
use self::master::resolver::{self, Resolver};
use self::master::topology::Topology;
use self::options::{Clock, RedisOptions};
use self::pipeline::{
    Acks, Answered, Batches, Confirmer, Operation, Pipeline, Requested, Sweeper, Urgency,
    WorkerContext,
};
use self::scripts::Scripts;
use self::scripts::reply::{Reply, ScanStep};
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Ttl, micros};
use crate::lock::request::{Acquire, WaiterId};
use crate::lock::rules::{Acquisition, EndOutcome, LeaseInfo, Renewal};
use crate::random;
use crate::store::contract::{
    Health, LeaseStats, ListQuery, MAX_PAGE_BYTES, Outcome, Page, Store, StoreError, StoreEvent,
    Timed, listed_bytes,
};
use crate::telemetry::RedisMetrics;

pub use self::master::node::MIN_REDIS_VERSION;

/// How many members of the index one step of a listing looks at: other commands wait meanwhile.
const SCAN_COUNT: usize = 128;

/// About how many bytes of locks one step reads: a page takes several, so that leases go between them.
const STEP_BYTES: usize = 64 * 1024;

/// How many steps a page takes before it is given empty.
const MAX_STEPS_PER_PAGE: usize = 20;

/// See the module.
pub struct RedisStore {
    mark: Arc<HighWaterMark>,
    topology: Topology,
    resolver: Resolver,
    confirmer: Arc<Confirmer>,
    pipeline: Pipeline,
    sweeper: Option<Sweeper>,
    subscription: Subscription,
    leases: Arc<KnownLeases>,
    metrics: RedisMetrics,
}

impl RedisStore {
    /// Starts the store's tasks; [`Store::health`] tells when it is ready.
    #[must_use]
    pub fn start(options: RedisOptions, metrics: RedisMetrics) -> Self {
        let options = Arc::new(options);
        let scripts = Arc::new(Scripts::new(options.clock, &options.key_prefix));
        let has_own_clock = options.clock == Clock::Server;
        let clock = Arc::new(MasterClock::new(options.max_clock_skew, has_own_clock));
        let mark = Arc::new(HighWaterMark::default());
        let server_id: Arc<str> = random::id().into();
        let (events, received) = EventSender::new();
        let leases = Arc::new(KnownLeases::default());
        let activator = Activator::new(
            Arc::clone(&options),
            Arc::clone(&scripts),
            Arc::clone(&clock),
            Arc::clone(&mark),
            Arc::clone(&server_id),
            events.clone(),
        );
        let (topology, resolver) =
            resolver::start(&options, Arc::clone(&scripts), activator, metrics.clone());
        let subscription = subscribe(&events, received, &topology, &options, &server_id);
        let batches = Arc::new(Batches::new(
            Arc::clone(&scripts),
            &options,
            Arc::clone(&clock),
            server_id,
        ));
        let acks = Arc::new(Acks::new(&options, topology.agreement()));
        let confirmer = Arc::new(Confirmer::start(
            &options,
            &topology,
            &batches,
            &scripts,
            &mark,
            &acks,
            metrics.clone(),
        ));
        let context = Arc::new(WorkerContext {
            topology: topology.clone(),
            batches,
            clock,
            mark: Arc::clone(&mark),
            confirmer: Arc::clone(&confirmer),
            events,
            leases: Arc::clone(&leases),
            metrics: metrics.clone(),
        });
        let pipeline = Pipeline::start(&options, Arc::clone(&context));
        // A test that sets the clock decides what happens between its operations.
        let sweeper = has_own_clock.then(|| Sweeper::start(context));
        Self {
            mark,
            topology,
            resolver,
            confirmer,
            pipeline,
            sweeper,
            subscription,
            leases,
            metrics,
        }
    }

    async fn run(&self, operation: Operation, urgency: Urgency) -> Result<Answered, StoreError> {
        self.pipeline.run(operation, urgency).await
    }

    /// One step of a listing, of about `max_bytes` of locks at most.
    async fn scan(
        &self,
        cursor: &Cursor,
        query: &ListQuery,
        max_bytes: usize,
    ) -> Result<ScanStep, StoreError> {
        let pattern = listing::pattern_of(&query.prefix);
        let operation = Operation {
            verb: "list",
            key: String::new(),
            arguments: cursor.arguments(SCAN_COUNT, max_bytes, &pattern),
            request: None,
        };
        let answered = self.pipeline.list(operation).await?;
        match answered.reply {
            Reply::Page(step) => Ok(step),
            Reply::Rebuilding => Err(StoreError::Unavailable {
                outcome: Outcome::None,
                cause: "the index of leases is being rebuilt".to_owned(),
            }),
            other => Err(unexpected(&other)),
        }
    }
}

/// Subscribes at each generation.
fn subscribe(
    events: &EventSender,
    received: mpsc::Receiver<StoreEvent>,
    topology: &Topology,
    options: &RedisOptions,
    server_id: &str,
) -> Subscription {
    let topology = topology.clone();
    Subscription::start(events, received, options, server_id, move || {
        let topology = topology.clone();
        async move {
            let generation = topology.any().await;
            let node = Arc::clone(&generation.node);
            events::Source {
                retired: node.retired.clone(),
                connection: Box::pin(async move { generation.node.subscriber().await }),
                failed: Box::new(move |error| {
                    // The resolver notices a node that does not answer.
                    if error.code().is_some() {
                        topology.operations_meet(node.explain_subscription(error));
                    }
                }),
            }
        }
    })
}

#[async_trait]
impl Store for RedisStore {
    async fn acquire(
        &self,
        key: &LockKey,
        request: Acquire,
    ) -> Result<Timed<Acquisition>, StoreError> {
        let urgency = match request.wait {
            Some(_) => Urgency::Waiting,
            None => Urgency::Work,
        };
        let operation = Operation {
            request: Some(Requested {
                waiter: request.waiter_id(),
                lease_id: request.lease_id,
                attempt: request.attempt,
            }),
            ..Operation::new("acquire", key, acquire_arguments(&request))
        };
        let answered = self.run(operation, urgency).await?;
        let value = match answered.reply {
            Reply::Granted(lease) => {
                self.mark.saw_token(lease.info.fencing_token.get());
                Acquisition::Granted(lease)
            }
            Reply::Replayed(lease) => Acquisition::Replayed(lease),
            Reply::Held {
                waiters,
                position,
                info,
            } => Acquisition::Held {
                info,
                waiters,
                position,
            },
            Reply::Queued {
                waiters,
                ticket,
                info,
            } => Acquisition::Queued {
                info,
                waiters,
                ticket,
            },
            Reply::TooManyWaiters => Acquisition::TooManyWaiters,
            Reply::KeyReused => Acquisition::KeyReused,
            Reply::AlreadyReleased => Acquisition::AlreadyReleased,
            Reply::Recovering(retry_after) => return Err(StoreError::Recovering { retry_after }),
            other => return Err(unexpected(&other)),
        };
        Ok(timed(value, answered.asked_at))
    }

    async fn renew(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, StoreError> {
        let ttl = ttl.map_or_else(String::new, |ttl| micros(ttl.get()).to_string());
        let operation = Operation::new("renew", key, format!("{}\t{ttl}", lease_id.expose()));
        let answered = self.run(operation, Urgency::Lease).await?;
        let value = match answered.reply {
            Reply::Renewed(lease) => Renewal::Renewed(lease),
            Reply::Lost(loss) => Renewal::Lost(loss),
            other => return Err(unexpected(&other)),
        };
        Ok(timed(value, answered.asked_at))
    }

    async fn release(&self, key: &LockKey, lease_id: LeaseId) -> Result<EndOutcome, StoreError> {
        let operation = Operation::new("release", key, lease_id.expose());
        ended(self.run(operation, Urgency::Lease).await?.reply)
    }

    async fn break_lease(
        &self,
        key: &LockKey,
        token: FencingToken,
    ) -> Result<EndOutcome, StoreError> {
        let operation = Operation::new("break", key, token.get().to_string());
        ended(self.run(operation, Urgency::Lease).await?.reply)
    }

    async fn rollback(
        &self,
        key: &LockKey,
        waiter: WaiterId,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
    ) -> Result<bool, StoreError> {
        let request = Requested {
            waiter,
            lease_id,
            attempt,
        };
        let operation = Operation::rollback(key.as_str().to_owned(), request, keep);
        rolled_back(&self.run(operation, Urgency::Waiting).await?.reply)
    }

    async fn decline(&self, key: &LockKey, waiter: WaiterId) -> Result<bool, StoreError> {
        let operation = Operation::new("decline", key, waiter.expose());
        rolled_back(&self.run(operation, Urgency::Waiting).await?.reply)
    }

    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError> {
        let operation = Operation::new("inspect", key, String::new());
        let answered = self.run(operation, Urgency::Work).await;
        match answered.map_err(StoreError::of_a_read)?.reply {
            Reply::Held { waiters, info, .. } => Ok((Some(info), waiters)),
            Reply::Free { waiters } => Ok((None, waiters)),
            other => Err(unexpected(&other)),
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let mut cursor = Some(match &query.cursor {
            None => Cursor::start(),
            Some(text) => Cursor::decode(text).ok_or(StoreError::InvalidCursor)?,
        });
        let mut page = Page::default();
        let mut bytes = 0;
        for _ in 0..MAX_STEPS_PER_PAGE {
            let Some(from) = cursor.take() else { break };
            let before = page.locks.len();
            let step = self
                .scan(&from, query, STEP_BYTES.min(MAX_PAGE_BYTES - bytes))
                .await
                .map_err(StoreError::of_a_read)?;
            cursor = from.advance(step, &mut page, query.limit);
            let added = &page.locks[before..];
            bytes += added.iter().map(listed_bytes).sum::<usize>();
            if page.locks.len() >= query.limit || bytes >= MAX_PAGE_BYTES {
                break;
            }
        }
        page.next_cursor = listing::encode(cursor.as_ref());
        Ok(page)
    }

    async fn end_recovery(&self) -> Result<Duration, StoreError> {
        let operation = Operation {
            verb: "resume",
            key: String::new(),
            arguments: String::new(),
            request: None,
        };
        match self.run(operation, Urgency::Lease).await?.reply {
            Reply::Resumed(left) => {
                if !left.is_zero() {
                    self.metrics.recovery_ended();
                    self.topology.request_refresh();
                }
                Ok(left)
            }
            other => Err(unexpected(&other)),
        }
    }

    async fn next_event(&self) -> StoreEvent {
        self.subscription.next().await
    }

    fn lease_stats(&self) -> Option<LeaseStats> {
        self.leases.known()
    }

    fn health(&self) -> Health {
        self.topology.health()
    }

    async fn close(&self) {
        if let Some(sweeper) = &self.sweeper {
            sweeper.close().await;
        }
        self.pipeline.close().await;
        self.confirmer.close().await;
        self.subscription.close().await;
        self.resolver.close().await;
    }
}

/// The arguments of `acquire.lua`.
fn acquire_arguments(request: &Acquire) -> String {
    let (idempotency_key, fingerprint) = match request.idempotency {
        Some(idempotency) => (idempotency.key.to_hex(), idempotency.fingerprint.to_hex()),
        None => Default::default(),
    };
    let (timeout, ticket, max_waiters) = match request.wait {
        None => Default::default(),
        Some(wait) => (
            micros(wait.timeout).to_string(),
            wait.ticket.map(|ticket| ticket.0.to_string()),
            wait.max_waiters.to_string(),
        ),
    };
    let metadata = match request.metadata.pairs() {
        none if none.is_empty() => String::new(),
        pairs => serde_json::to_string(pairs).expect("a map of strings is JSON"),
    };
    format!(
        "{}\t{idempotency_key}\t{fingerprint}\t{}\t{metadata}\n{}\t{}\t{timeout}\t{}\t{max_waiters}",
        request.lease_id.expose(),
        request.holder.as_ref().map_or("", |holder| holder.as_str()),
        request.attempt.0,
        ttl_and_hold(request),
        ticket.unwrap_or_default(),
    )
}

/// The TTL, and behind a `+` how long the lock is held at least.
fn ttl_and_hold(request: &Acquire) -> String {
    let ttl = micros(request.ttl.get()).to_string();
    match micros(request.hold_at_least) {
        0 => ttl,
        hold => format!("{ttl}+{hold}"),
    }
}

fn ended(reply: Reply) -> Result<EndOutcome, StoreError> {
    match reply {
        Reply::Ended { held_for } => Ok(EndOutcome::Ended { held_for }),
        Reply::Lost(loss) => Ok(EndOutcome::Lost(loss)),
        other => Err(unexpected(&other)),
    }
}

fn rolled_back(reply: &Reply) -> Result<bool, StoreError> {
    match reply {
        Reply::RolledBack(done) => Ok(*done),
        other => Err(unexpected(other)),
    }
}

const fn timed<T>(value: T, asked_at: Instant) -> Timed<T> {
    Timed { value, asked_at }
}

/// The reply may hold a lease id, so the log gets only its kind.
fn unexpected(reply: &Reply) -> StoreError {
    let kind = format!("{reply:?}");
    let kind = kind.split(['(', ' ']).next().unwrap_or_default();
    StoreError::Internal {
        cause: format!("a script replied {kind} to another operation"),
    }
}
