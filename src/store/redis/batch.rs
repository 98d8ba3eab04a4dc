//! A batch: operations that go to Redis as one script call.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::time::Instant;

use super::activation::DATA_FORMAT;
use super::options::RedisOptions;
use super::script::Source;
use super::topology::Generation;
use super::witness::{Estimate, Witness};
use crate::lock::lease::{Attempt, LeaseId, Timestamp, micros};
use crate::lock::request::WaiterId;
use crate::store::contract::StoreError;

/// How long after the last moment that matters, and after the skew of clocks, Redis may drop a lock's
/// key: it is each node's own clock that counts it.
const GARBAGE_MARGIN: Duration = Duration::from_secs(3);

/// Before the master's clock was read for the first time.
const ANY_TIME: Estimate = Estimate {
    micros: 0,
    tolerance: Duration::from_secs(1 << 40),
    ahead: Duration::from_secs(1 << 40),
};

/// One operation on one key.
pub(super) struct Operation {
    pub(super) verb: &'static str,
    pub(super) key: Vec<u8>,
    pub(super) arguments: Vec<Vec<u8>>,
    /// Present if a lease may come of it that must be taken back when it cannot be confirmed.
    pub(super) request: Option<Requested>,
}

/// A request for a lock, as what takes it back must name it.
#[derive(Clone, Copy)]
pub(super) struct Requested {
    pub(super) waiter: WaiterId,
    pub(super) lease_id: LeaseId,
    pub(super) attempt: Attempt,
}

impl Operation {
    /// What takes back what a request got, or cuts it to `keep`.
    pub(super) fn rollback(key: Vec<u8>, request: Requested, keep: Option<Duration>) -> Self {
        let texts = [
            request.waiter.expose(),
            request.lease_id.expose(),
            request.attempt.0.to_string(),
            keep.map_or_else(String::new, |keep| micros(keep).to_string()),
        ];
        Self {
            verb: "abandon",
            key,
            arguments: texts.map(String::into_bytes).into(),
            request: None,
        }
    }
}

/// What a script replied to one operation, and when.
pub(super) struct Reply {
    pub(super) value: Value,
    pub(super) at: Timestamp,
    /// When the batch was sent, before which Redis cannot have read its clock.
    pub(super) asked_at: Instant,
}

pub(super) type Answer = Result<Reply, StoreError>;

/// Sends batches.
pub(super) struct Batches {
    script: Arc<Source>,
    options: Arc<RedisOptions>,
    witness: Arc<Witness>,
    server_id: Arc<str>,
    /// Replicas without which nothing is granted or renewed.
    floor: usize,
}

impl Batches {
    pub(super) fn new(
        script: Arc<Source>,
        options: Arc<RedisOptions>,
        witness: Arc<Witness>,
        server_id: Arc<str>,
    ) -> Self {
        let floor = options.least_replicas();
        Self {
            script,
            options,
            witness,
            server_id,
            floor,
        }
    }

    /// Runs operations as one script call.
    pub(super) async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        generation: &Generation,
        operations: &[&Operation],
    ) -> Result<Value, RedisError> {
        let shared = [
            self.options.meta_key(),
            self.options.servers_key(),
            self.options.turns_key(),
            self.options.leases_key(),
        ];
        let estimate = self.witness.estimate(Instant::now()).unwrap_or(ANY_TIME);
        let guard = [
            micros(GARBAGE_MARGIN + self.options.max_clock_skew).to_string(),
            estimate.micros.to_string(),
            micros(estimate.tolerance).to_string(),
            micros(estimate.ahead).to_string(),
            self.floor.to_string(),
            micros(self.options.max_clock_skew).to_string(),
            micros(self.options.max_ttl).to_string(),
            self.server_id.to_string(),
            self.options.key_prefix.clone(),
        ];
        let mut keys: Vec<_> = shared.iter().map(String::as_bytes).collect();
        let mut arguments = vec![DATA_FORMAT.as_bytes(), generation.activation.as_bytes()];
        arguments.extend(guard.iter().map(String::as_bytes));
        for operation in operations {
            keys.push(&operation.key);
            arguments.push(operation.verb.as_bytes());
            arguments.extend(operation.arguments.iter().map(Vec::as_slice));
        }
        self.script.run(connection, &keys, &arguments).await
    }
}
