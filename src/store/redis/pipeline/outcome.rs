//! What became of a batch: its reply decoded, or why there is none.

use std::time::Duration;

use deadpool_redis::PoolError;
use redis::{RedisError, Value};
use tokio::time::Instant;

use crate::lock::lease::Timestamp;
use crate::store::contract::{Outcome, StoreError};
use crate::store::redis::errors::diagnosis::{Diagnosis, said};
use crate::store::redis::errors::kinds;
use crate::store::redis::errors::refusals::{self, Effect};
use crate::store::redis::master::explain_guard;
use crate::store::redis::master::topology::{Generation, Topology};
use crate::store::redis::scripts::reply::{ReadAt, Refusal, Reply, decode, text};
use crate::telemetry::{FailureCause, RedisMetrics, Shortfall};

/// What became of a batch as a whole.
pub(crate) enum Run {
    /// Each operation has a reply.
    Done(Done),
    /// The guard of the script stopped the batch: the node did nothing, and another generation may.
    Guarded { is_replica: bool, text: String },
    /// Another node took over, before or after the batch was sent.
    Replaced { sent: bool },
    /// The node did nothing, and another generation may.
    Refused(Diagnosis),
    /// The node did nothing, because Redis lacks something.
    Failed(StoreError, Diagnosis),
    /// The effects are unknown.
    Lost(Diagnosis),
}

/// The reply to a batch.
pub(crate) struct Done {
    pub(crate) at: Timestamp,
    pub(crate) asked_at: Instant,
    pub(crate) online_replicas: usize,
    /// The count of grants and renewals, with those of the batch.
    pub(crate) writes: u64,
    /// The leases of the whole store.
    pub(crate) held: u64,
    /// Leases that the batch found expired.
    pub(crate) expired: u64,
    /// Releases that the store forgot early.
    pub(crate) forgotten: u64,
    pub(crate) replies: Vec<Result<Reply, Refusal>>,
    /// Locks that are reserved for waiters of this server, each with its waiter.
    pub(crate) reservations: Vec<(String, String)>,
    /// The clock has stepped beyond the skew.
    pub(crate) stepped: bool,
}

/// Decodes the reply of the batch script.
pub(crate) fn read_batch(
    generation: &Generation,
    reply: &Value,
    operations: usize,
    asked_at: Instant,
) -> Run {
    let Value::Array(fields) = reply else {
        return unexpected(generation, reply);
    };
    if let [guard, reason, detail] = &fields[..]
        && text(guard) == Some("guard")
    {
        let (reason, detail) = (text(reason), text(detail));
        let (reason, detail) = (reason.unwrap_or_default(), detail.unwrap_or_default());
        let text = explain_guard(&generation.node.address, reason, detail).text;
        return Run::Guarded {
            is_replica: reason == "role",
            text,
        };
    }
    let done = || {
        let [
            ok,
            now,
            behind,
            online,
            writes,
            held,
            expired,
            forgotten,
            replies,
            reservations,
        ] = &fields[..]
        else {
            return None;
        };
        let (Value::Array(replies), Value::Array(reservations)) = (replies, reservations) else {
            return None;
        };
        let number = |value: &Value| match value {
            Value::Int(number) => u64::try_from(*number).ok(),
            value => text(value)?.parse().ok(),
        };
        let at = Timestamp::from_micros(number(now)?);
        if text(ok)? != "ok" || replies.len() != operations {
            return None;
        }
        let read_at = ReadAt {
            now: at,
            behind: Duration::from_micros(number(behind)?),
        };
        let replies = replies.iter().map(|value| decode(value, read_at));
        let pair = |pair: &[Value]| {
            let [lock, waiter] = pair else { return None };
            Some((text(lock)?.to_owned(), text(waiter)?.to_owned()))
        };
        Some(Done {
            at,
            asked_at,
            online_replicas: usize::try_from(number(online)?).ok()?,
            writes: number(writes)?,
            // A wrong count, as after a change by hand, must not cost the replies.
            held: number(held).unwrap_or(0),
            expired: number(expired)?,
            forgotten: number(forgotten)?,
            replies: replies.collect::<Option<_>>()?,
            reservations: reservations.chunks(2).map(pair).collect::<Option<_>>()?,
            stepped: false,
        })
    };
    done().map_or_else(|| unexpected(generation, reply), Run::Done)
}

/// The values may hold lease ids, so the log gets only the shape.
fn unexpected(generation: &Generation, reply: &Value) -> Run {
    let shape = match reply {
        Value::Array(values) => format!("a list of {} values", values.len()),
        _ => "no list".to_owned(),
    };
    Run::Lost(Diagnosis::passing(format!(
        "{} sent an unexpected reply to a script ({shape}): check that it is Redis or Valkey",
        generation.node.address
    )))
}

/// The error of a refused operation; `None` if another generation may execute it.
pub(crate) fn refused(
    refusal: &Refusal,
    done_stepped: bool,
    generation: &Generation,
    topology: &Topology,
    metrics: &RedisMetrics,
) -> Option<StoreError> {
    match refusal {
        Refusal::Replicas => {
            metrics.shortfalls.count(Shortfall::Offline);
            Some(StoreError::ReplicationUnconfirmed {
                outcome: Outcome::None,
            })
        }
        Refusal::Clock if !done_stepped => {
            metrics.faults.count(FailureCause::Late);
            let at = &generation.node.address;
            topology.operations_meet(Diagnosis::passing(format!(
                "commands reach {at} too late to be executed: {at}, this server or the network between them is overloaded"
            )));
            Some(not_done(
                "the command reached Redis too late to be executed",
            ))
        }
        Refusal::Clock | Refusal::Inactive => None,
        Refusal::Failed { done, said } => {
            metrics.faults.count(kinds::of_operation(said));
            let diagnosis = generation.node.explain_operation(said);
            let error = match refusals::find(said) {
                Some(refusal) => without_effect(refusal.effect, &diagnosis),
                None => StoreError::Internal {
                    cause: format!("a script failed: {said}"),
                },
            };
            topology.operations_meet(diagnosis);
            Some(if *done {
                or_unknown(error, said)
            } else {
                error
            })
        }
    }
}

/// The error of an operation that Redis refused before it had an effect.
fn without_effect(effect: Effect, diagnosis: &Diagnosis) -> StoreError {
    match effect {
        Effect::None => not_done(diagnosis.text.clone()),
        Effect::OutOfMemory => StoreError::OutOfMemory,
        Effect::NotPersisting => StoreError::NotPersisting,
    }
}

/// A part of the effects remains, or may remain.
fn or_unknown(error: StoreError, said: &str) -> StoreError {
    match error {
        StoreError::Unavailable { cause, .. } => lost(cause),
        StoreError::Internal { cause } => StoreError::Internal { cause },
        _ => lost(format!(
            "a script stored only a part of its effects: {said}"
        )),
    }
}

/// A call failed as a whole. A script that Redis refused has written nothing: failed writes do not end it.
pub(crate) fn failed_call(generation: &Generation, error: &RedisError) -> Run {
    let diagnosis = generation.node.explain(error);
    if error.code().is_none() {
        return Run::Lost(diagnosis);
    }
    match refusals::find(&said(error)).map(|refusal| refusal.effect) {
        Some(Effect::None) => Run::Refused(diagnosis),
        Some(effect) => Run::Failed(without_effect(effect, &diagnosis), diagnosis),
        None => {
            let cause = diagnosis.text.clone();
            Run::Failed(StoreError::Internal { cause }, diagnosis)
        }
    }
}

pub(crate) fn no_connection(generation: &Generation, error: &PoolError) -> Diagnosis {
    match error {
        PoolError::Backend(error) => generation.node.explain(error),
        other => Diagnosis::passing(format!(
            "no connection to {} is free ({other}): it answers too slowly",
            generation.node.address
        )),
    }
}

pub(crate) fn not_done(cause: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        outcome: Outcome::None,
        cause: cause.into(),
    }
}

pub(crate) fn lost(cause: impl Into<String>) -> StoreError {
    StoreError::Unavailable {
        outcome: Outcome::Unknown,
        cause: cause.into(),
    }
}
