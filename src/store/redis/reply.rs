//! Reads what scripts reply.

use std::time::Duration;

use redis::Value;

use crate::lock::lease::{FencingToken, Holder, LeaseId, Metadata, Timestamp, Ttl};
use crate::lock::rules::{Lease, LeaseInfo};

/// A text, if the reply is one.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A list of texts, if the reply is one.
pub(super) fn texts(value: &Value) -> Option<Vec<&str>> {
    list(value)?.iter().map(text).collect()
}

/// The fields of an operation's reply, which tabs set apart.
pub(super) fn fields(value: &Value) -> Option<Vec<&str>> {
    Some(text(value)?.split('\t').collect())
}

/// What an operation came to: the first field of its reply.
pub(super) fn outcome(value: &Value) -> Option<&str> {
    match value {
        Value::Array(values) => text(values.first()?),
        value => text(value)?.split('\t').next(),
    }
}

/// A list, if the reply is one.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// How long the lease in an operation's reply may be counted on, if there is one.
pub(super) fn expires_in(value: &Value, read_at: Timestamp) -> Duration {
    let deadline = match fields(value).as_deref() {
        // As in `acquire.lua`, and as in `lease_reply`.
        Some([_, _, deadline] | [_, _, _, _, deadline, ..]) => deadline.parse().ok(),
        _ => None,
    };
    let deadline = deadline.map(Timestamp::from_micros);
    deadline.map_or(Duration::ZERO, |deadline| deadline.since(read_at))
}

/// The fields of `lease_reply` in `record.lua`, after the outcome.
pub(super) fn lease(fields: &[&str], read_at: Timestamp) -> Option<Lease> {
    let (lease_id, rest) = fields.split_first()?;
    Some(Lease {
        lease_id: LeaseId::parse(lease_id)?,
        info: lease_info(rest, read_at)?,
    })
}

/// The fields of `holding_of`.
pub(super) fn lease_info(fields: &[&str], read_at: Timestamp) -> Option<LeaseInfo> {
    let [token, acquired, deadline, ttl, renewals, holder, metadata] = fields else {
        return None;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let holder = (!holder.is_empty()).then(|| Holder::new((*holder).to_owned()));
    Some(LeaseInfo {
        holder: match holder {
            Some(Some(holder)) => Some(holder),
            Some(None) => return None,
            None => None,
        },
        metadata: match *metadata {
            "" => Metadata::default(),
            json => Metadata::stored(serde_json::from_str(json).ok()?),
        },
        fencing_token: FencingToken::new(number(token)?)?,
        ttl: Ttl::stored(Duration::from_micros(number(ttl)?)),
        acquired_at: Timestamp::from_micros(number(acquired)?),
        deadline: Timestamp::from_micros(number(deadline)?),
        renewals: number(renewals)?,
        read_at,
    })
}
