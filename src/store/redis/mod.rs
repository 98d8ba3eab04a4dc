//! The Redis store: one script, run in batches on the master that `topology` names.
//!
//! Data, below a prefix (`leasehold:`), readable with `redis-cli`:
//! - `meta`, a hash: data format, the replication id and activation under which grants are made, the
//!   last fencing token, a count of grants and renewals, until when new grants pause;
//! - `servers`, a hash: the activation that each server reported to last, and when;
//! - `queue:<key>` and `kept:<key>`, sorted sets, and `places:<key>`, a hash: who waits for a lock; see `queue.lua`;
//! - `leases`, a sorted set: the names of held locks by the deadlines of their leases, to count them;
//! - `turns`, a hash: for which waiters locks are reserved that were not claimed yet;
//! - `lock:<key>`, a text of one line for each record; see `record.lua`. The deadline stands in it.
//!
//! A server hears on the channel `wake:<server>` that it is a waiter's turn. Never uses `CONFIG`, `FUNCTION` or keyspace notifications, which managed Redis forbids.
//!
#![doc = include_str!("README.md")]

mod acks;
mod activation;
mod batch;
mod census;
mod change;
mod commit;
mod confirm;
mod diagnosis;
mod fault;
mod intake;
mod node;
pub mod options;
mod reply;
mod resolver;
mod script;
mod sentinel;
mod topology;
mod wake;
mod walk;
mod witness;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use self::acks::Acks;
use self::activation::Activator;
use self::batch::{Batches, Operation, Reply, Requested};
use self::census::KnownLeases;
use self::commit::Commit;
use self::confirm::Confirmer;
use self::intake::Urgency;
use self::options::RedisOptions;
use self::reply::{fields, lease, lease_info, list, outcome, text};
use self::resolver::Resolver;
use self::topology::Topology;
use self::wake::{Listener, Wake};
use self::walk::{Cursor, Step};
use self::witness::Witness;
use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, FencingToken, LeaseId, Timestamp, Ttl, micros};
use crate::lock::request::{Acquire, Ticket, WaiterId};
use crate::lock::rules::{Acquisition, EndOutcome, Lease, LeaseInfo, Loss, Renewal};
use crate::random;
use crate::store::contract::{
    Health, LeaseStats, ListQuery, MAX_PAGE_BYTES, Page, Store, StoreError, StoreEvent, Timed,
    listed_bytes,
};
use crate::telemetry::RedisMetrics;

pub use self::node::MIN_REDIS_VERSION;

/// How many of Redis' keys one step of a listing looks at: most may be somebody else's, and Redis serves nobody else
/// meanwhile (about 1 ms).
const SCAN_COUNT: usize = 128;

/// About how many bytes of locks one step reads: a page takes several, so that leases go between them.
const STEP_BYTES: usize = 64 * 1024;

/// How many steps a page takes before it is given empty.
const MAX_STEPS_PER_PAGE: usize = 20;

/// See the module.
pub struct RedisStore {
    options: Arc<RedisOptions>,
    witness: Arc<Witness>,
    topology: Topology,
    resolver: Resolver,
    confirmer: Arc<Confirmer>,
    commit: Commit,
    listener: Listener,
    leases: Arc<KnownLeases>,
}

impl RedisStore {
    /// Starts the store's tasks; [`Store::health`] tells when it is ready.
    #[must_use]
    pub fn start(options: RedisOptions, metrics: RedisMetrics) -> Self {
        let options = Arc::new(options);
        let script = Arc::new(script::batch(options.clock, &options.key_prefix));
        let witness = Arc::new(Witness::new(
            options.max_clock_skew,
            options.unnoticed_step(),
        ));
        let server_id: Arc<str> = random::id().into();
        let (wake, news) = Wake::new();
        let leases = Arc::new(KnownLeases::default());
        let activator = Activator::new(
            Arc::clone(&options),
            Arc::clone(&witness),
            Arc::clone(&server_id),
            wake.clone(),
            Arc::clone(&leases),
        );
        let (topology, resolver) =
            resolver::start(&options, Arc::clone(&script), activator, metrics.clone());
        let listener = Listener::start(&wake, news, &topology, &options, &server_id);
        let batches = Arc::new(Batches::new(
            script,
            Arc::clone(&options),
            Arc::clone(&witness),
            server_id,
        ));
        let acks = Arc::new(Acks::new(&options, topology.endorsement()));
        let confirmer = Arc::new(Confirmer::start(
            &options,
            &topology,
            &batches,
            &witness,
            &acks,
            metrics.clone(),
        ));
        let around = commit::WorkerContext {
            topology: topology.clone(),
            batches,
            witness: Arc::clone(&witness),
            confirmer: Arc::clone(&confirmer),
            wake,
            leases: Arc::clone(&leases),
            metrics,
        };
        let commit = Commit::start(&options, around);
        Self {
            options,
            witness,
            topology,
            resolver,
            confirmer,
            commit,
            listener,
            leases,
        }
    }

    /// The name of a lock in Redis.
    fn name(&self, key: &LockKey) -> Vec<u8> {
        format!("{}{key}", self.options.lock_prefix()).into_bytes()
    }

    async fn run(
        &self,
        verb: &'static str,
        key: &LockKey,
        arguments: Vec<Vec<u8>>,
        urgency: Urgency,
    ) -> Result<Reply, StoreError> {
        let operation = Operation {
            verb,
            key: self.name(key),
            arguments,
            request: None,
        };
        self.commit.run(operation, urgency).await
    }

    /// A lease may end sooner by what the clock may have stepped unnoticed.
    fn timed<T>(&self, value: T, reply: &Reply) -> Timed<T> {
        let asked_at = reply.asked_at;
        let earlier = asked_at.checked_sub(self.options.unnoticed_step());
        Timed {
            value,
            asked_at: earlier.unwrap_or(asked_at),
        }
    }

    /// One step of a listing, of about `max_bytes` of locks at most.
    async fn scan(
        &self,
        cursor: &Cursor,
        query: &ListQuery,
        max_bytes: usize,
    ) -> Result<Step, StoreError> {
        let prefix = self.options.lock_prefix();
        let pattern = format!("{}*", escape_glob(&format!("{prefix}{}", query.prefix)));
        let (end, given) = cursor.given();
        let operation = Operation {
            verb: "list",
            key: prefix.clone().into_bytes(),
            arguments: arguments([
                cursor.scan().to_owned(),
                pattern,
                SCAN_COUNT.to_string(),
                end.to_owned(),
                given.map_or_else(String::new, |key| format!("{prefix}{key}")),
                max_bytes.to_string(),
            ]),
            request: None,
        };
        let reply = self.commit.list(operation).await?;
        read_step(&reply, &prefix).ok_or_else(|| misunderstood(&reply))
    }
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
        let (idempotency_key, fingerprint) = match request.idempotency {
            Some(idempotency) => (idempotency.key.to_hex(), idempotency.fingerprint.to_hex()),
            None => Default::default(),
        };
        let metadata = match request.metadata.pairs() {
            none if none.is_empty() => String::new(),
            pairs => serde_json::to_string(pairs).expect("a map of strings is JSON"),
        };
        let ttl = in_micros(request.ttl.get());
        // Not renewed yet, and nobody's ticket and server.
        let line = format!(
            "{idempotency_key}\t{ttl}\t0\t{}\t{fingerprint}\t\t\t{}\t{metadata}\n",
            request.attempt.0,
            request.holder.as_ref().map_or("", |holder| holder.as_str()),
        );
        let wait = request.wait.map_or_else(String::new, |wait| {
            let ticket = wait
                .ticket
                .map_or_else(String::new, |ticket| ticket.0.to_string());
            format!("{} {ticket} {}", micros(wait.timeout), wait.max_waiters)
        });
        let operation = Operation {
            verb: "acquire",
            key: self.name(key),
            arguments: arguments([request.lease_id.expose(), ttl, line, wait]),
            request: Some(Requested {
                waiter: request.waiter_id(),
                lease_id: request.lease_id,
                attempt: request.attempt,
            }),
        };
        let reply = self.commit.run(operation, urgency).await?;
        if let Some(["recovering", pause]) = fields(&reply.value).as_deref() {
            let retry_after = Duration::from_micros(pause.parse().unwrap_or(0));
            return Err(StoreError::Recovering { retry_after });
        }
        let answer = understand(&reply, |fields, at| match fields {
            ["granted", token, deadline] => {
                Some(Acquisition::Granted(taken(request, token, deadline, at)?))
            }
            ["granted", rest @ ..] => Some(Acquisition::Granted(lease(rest, at)?)),
            ["replayed", rest @ ..] => Some(Acquisition::Replayed(lease(rest, at)?)),
            ["held", waiters, position, rest @ ..] => Some(Acquisition::Held {
                info: lease_info(rest, at)?,
                waiters: waiters.parse().ok()?,
                position: position.parse().ok(),
            }),
            ["queued", waiters, ticket, rest @ ..] => Some(Acquisition::Queued {
                info: lease_info(rest, at)?,
                waiters: waiters.parse().ok()?,
                ticket: Ticket(ticket.parse().ok()?),
            }),
            ["too_many_waiters"] => Some(Acquisition::TooManyWaiters),
            ["key_reused"] => Some(Acquisition::KeyReused),
            ["already_released"] => Some(Acquisition::AlreadyReleased),
            _ => None,
        })?;
        if let Acquisition::Granted(lease) = &answer {
            self.witness.saw_token(lease.info.fencing_token.get());
        }
        Ok(self.timed(answer, &reply))
    }

    async fn renew(
        &self,
        key: &LockKey,
        lease_id: LeaseId,
        ttl: Option<Ttl>,
    ) -> Result<Timed<Renewal>, StoreError> {
        let ttl = ttl.map_or_else(String::new, |ttl| in_micros(ttl.get()));
        let reply = self
            .run(
                "renew",
                key,
                arguments([lease_id.expose(), ttl]),
                Urgency::Lease,
            )
            .await?;
        let value = understand(&reply, |fields, at| match fields {
            ["renewed", rest @ ..] => Some(Renewal::Renewed(lease(rest, at)?)),
            ["lost", reason] => Some(Renewal::Lost(loss(reason)?)),
            _ => None,
        })?;
        Ok(self.timed(value, &reply))
    }

    async fn release(&self, key: &LockKey, lease_id: LeaseId) -> Result<EndOutcome, StoreError> {
        let arguments = arguments([lease_id.expose()]);
        let reply = self.run("release", key, arguments, Urgency::Lease).await?;
        understand(&reply, ending)
    }

    async fn break_lease(
        &self,
        key: &LockKey,
        token: FencingToken,
    ) -> Result<EndOutcome, StoreError> {
        let arguments = arguments([format!("{:016}", token.get())]);
        let reply = self.run("break", key, arguments, Urgency::Lease).await?;
        understand(&reply, ending)
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
        let operation = Operation::rollback(self.name(key), request, keep);
        understand(
            &self.commit.run(operation, Urgency::Waiting).await?,
            |fields, _| match fields {
                ["abandoned"] => Some(true),
                ["void"] => Some(false),
                _ => None,
            },
        )
    }

    async fn inspect(&self, key: &LockKey) -> Result<(Option<LeaseInfo>, usize), StoreError> {
        let reply = self
            .run("inspect", key, Vec::new(), Urgency::Work)
            .await
            .map_err(StoreError::of_a_read)?;
        understand(&reply, |fields, at| match fields {
            ["held", waiters, _, rest @ ..] => {
                Some((Some(lease_info(rest, at)?), waiters.parse().ok()?))
            }
            ["free", waiters] => Some((None, waiters.parse().ok()?)),
            _ => None,
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let generation = self.topology.current();
        let mark = generation
            .as_ref()
            .and_then(|g| g.activation.get(..8))
            .unwrap_or("00000000");
        let mut cursor = Some(match &query.cursor {
            None => Cursor::start(mark),
            Some(text) => Cursor::decode(text, mark).ok_or(StoreError::InvalidCursor)?,
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
        page.next_cursor = walk::encode(cursor.as_ref());
        Ok(page)
    }

    async fn next_event(&self) -> StoreEvent {
        self.listener.next().await
    }

    fn lease_stats(&self) -> Option<LeaseStats> {
        self.leases.known()
    }

    fn health(&self) -> Health {
        self.topology.health()
    }

    async fn close(&self) {
        self.commit.close().await;
        self.confirmer.close().await;
        self.listener.close().await;
        self.resolver.close().await;
    }
}

fn read_step(reply: &Reply, prefix: &str) -> Option<Step> {
    let [kind, end, is_cut, entries @ ..] = list(&reply.value)? else {
        return None;
    };
    if text(kind)? != "page" {
        return None;
    }
    let is_cut = text(is_cut)? == "cut";
    let mut locks = Vec::with_capacity(entries.len() / 2);
    for entry in entries.chunks_exact(2) {
        let (key, held) = (text(&entry[0])?, fields(&entry[1])?);
        // Something else's key below this prefix is not a lock.
        let Ok(key) = LockKey::parse(key.strip_prefix(prefix)?) else {
            continue;
        };
        let waiters = held.get(1)?.parse().ok()?;
        locks.push((key, lease_info(held.get(3..)?, reply.at)?, waiters));
    }
    Some(Step {
        end: text(end)?.to_owned(),
        locks,
        is_cut,
    })
}

/// A lease that is as it was asked for and begins now.
fn taken(request: Acquire, token: &str, deadline: &str, now: Timestamp) -> Option<Lease> {
    Some(Lease {
        lease_id: request.lease_id,
        info: LeaseInfo {
            holder: request.holder,
            metadata: request.metadata,
            fencing_token: FencingToken::new(token.parse().ok()?)?,
            ttl: request.ttl,
            acquired_at: now,
            deadline: Timestamp::from_micros(deadline.parse().ok()?),
            renewals: 0,
            read_at: now,
        },
    })
}

fn ending(fields: &[&str], _: Timestamp) -> Option<EndOutcome> {
    match fields {
        ["ended", ""] => Some(EndOutcome::Ended { held_for: None }),
        ["ended", micros] => Some(EndOutcome::Ended {
            held_for: Some(Duration::from_micros(micros.parse().ok()?)),
        }),
        ["lost", reason] => Some(EndOutcome::Lost(loss(reason)?)),
        _ => None,
    }
}

fn loss(reason: &str) -> Option<Loss> {
    match reason {
        "not_held" => Some(Loss::NotHeld),
        "held_by_other" => Some(Loss::HeldByOther),
        _ => None,
    }
}

fn understand<T>(
    reply: &Reply,
    read: impl FnOnce(&[&str], Timestamp) -> Option<T>,
) -> Result<T, StoreError> {
    fields(&reply.value)
        .and_then(|fields| read(&fields, reply.at))
        .ok_or_else(|| misunderstood(reply))
}

fn misunderstood(reply: &Reply) -> StoreError {
    // The value may hold a lease id, so only its shape is told.
    StoreError::Internal {
        cause: format!(
            "a script replied {:?} with unexpected fields",
            outcome(&reply.value)
        ),
    }
}

fn arguments<const N: usize>(texts: [String; N]) -> Vec<Vec<u8>> {
    texts.map(String::into_bytes).into()
}

fn in_micros(duration: Duration) -> String {
    micros(duration).to_string()
}

fn escape_glob(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
