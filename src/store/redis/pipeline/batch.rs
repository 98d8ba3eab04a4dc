//! A batch: operations that go to Redis as one script call.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::time::Instant;

use crate::lock::key::LockKey;
use crate::lock::lease::{Attempt, LeaseId, micros};
use crate::lock::request::WaiterId;
use crate::store::contract::StoreError;
use crate::store::redis::master::clock::{Estimate, MasterClock};
use crate::store::redis::master::topology::Generation;
use crate::store::redis::options::RedisOptions;
use crate::store::redis::scripts::Scripts;
use crate::store::redis::scripts::reply::Reply;

/// Before the first reading of the master's clock, any time is accepted.
const ANY_TIME: Estimate = Estimate {
    micros: 0,
    tolerance: Duration::from_secs(1 << 40),
    expiry_limit: 1 << 60,
};

/// One operation on one lock.
pub(crate) struct Operation {
    pub(crate) verb: &'static str,
    /// The lock; empty for an operation on all locks.
    pub(crate) key: String,
    /// The arguments, as the script of the verb reads them.
    pub(crate) arguments: String,
    /// Acquisitions only: the grant to roll back if it is not confirmed.
    pub(crate) request: Option<Requested>,
}

/// An acquisition, as its rollback names it.
#[derive(Clone, Copy)]
pub(crate) struct Requested {
    pub(crate) waiter: WaiterId,
    pub(crate) lease_id: LeaseId,
    pub(crate) attempt: Attempt,
}

impl Operation {
    pub(crate) fn new(verb: &'static str, key: &LockKey, arguments: String) -> Self {
        Self {
            verb,
            key: key.as_str().to_owned(),
            arguments,
            request: None,
        }
    }

    /// Takes back what a request got, or shortens its lease to `keep`.
    pub(crate) fn rollback(key: String, request: Requested, keep: Option<Duration>) -> Self {
        let keep = keep.map_or_else(String::new, |keep| micros(keep).to_string());
        let (waiter, id) = (request.waiter.expose(), request.lease_id.expose());
        Self {
            verb: "rollback",
            key,
            arguments: format!("{waiter}\t{id}\t{}\t{keep}", request.attempt.0),
            request: None,
        }
    }
}

/// A reply, and when the store read its clock.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) reply: Reply,
    /// When the batch was sent: a lower bound of the moment at which Redis read its clock.
    pub(crate) asked_at: Instant,
}

pub(crate) type Answer = Result<Answered, StoreError>;

/// Sends batches.
pub(crate) struct Batches {
    scripts: Arc<Scripts>,
    clock: Arc<MasterClock>,
    server_id: Arc<str>,
    key_prefix: String,
    keys: [String; 6],
    /// The replicas that must be online for grants and renewals.
    least_replicas: String,
    grace: String,
}

impl Batches {
    pub(crate) fn new(
        scripts: Arc<Scripts>,
        options: &RedisOptions,
        clock: Arc<MasterClock>,
        server_id: Arc<str>,
    ) -> Self {
        let [released, also_released] = options.releases_keys();
        Self {
            scripts,
            clock,
            server_id,
            key_prefix: options.key_prefix.clone(),
            keys: [
                options.locks_key(),
                options.leases_key(),
                options.servers_key(),
                options.reservations_key(),
                released,
                also_released,
            ],
            least_replicas: options.least_replicas().to_string(),
            grace: micros(options.max_clock_skew).to_string(),
        }
    }

    /// Runs operations as one script call.
    pub(crate) async fn call(
        &self,
        connection: &mut MultiplexedConnection,
        generation: &Generation,
        operations: &[&Operation],
    ) -> Result<Value, RedisError> {
        let estimate = self.clock.estimate(Instant::now()).unwrap_or(ANY_TIME);
        let (time, tolerance, limit) = (
            estimate.micros.to_string(),
            micros(estimate.tolerance).to_string(),
            estimate.expiry_limit.to_string(),
        );
        let mut arguments = vec![
            generation.activation.as_bytes(),
            self.server_id.as_bytes(),
            self.key_prefix.as_bytes(),
            time.as_bytes(),
            tolerance.as_bytes(),
            limit.as_bytes(),
            self.least_replicas.as_bytes(),
            self.grace.as_bytes(),
        ];
        for operation in operations {
            arguments.push(operation.verb.as_bytes());
            arguments.push(operation.key.as_bytes());
            arguments.push(operation.arguments.as_bytes());
        }
        self.scripts
            .batch
            .run(connection, &self.keys, &arguments)
            .await
    }
}
