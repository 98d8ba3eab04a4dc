//! Reads what scripts reply.

use std::time::Duration;

use redis::Value;

use crate::lock::lease::{FencingToken, Holder, LeaseId, Metadata, Timestamp, Ttl};
use crate::lock::rules::{Holding, Lease};

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

/// A list, if the reply is one.
pub(super) fn list(value: &Value) -> Option<&[Value]> {
    match value {
        Value::Array(values) => Some(values),
        _ => None,
    }
}

/// The fields of `lease_reply` in `record.lua`, after the outcome.
pub(super) fn lease(fields: &[&str], read_at: Timestamp) -> Option<Lease> {
    let lease_id = LeaseId::parse(fields.first()?)?;
    Some(Lease {
        lease_id,
        holding: holding(fields, read_at)?,
    })
}

/// The same without the lease id.
pub(super) fn holding(fields: &[&str], read_at: Timestamp) -> Option<Holding> {
    let [
        _,
        token,
        acquired,
        deadline,
        ttl,
        renewals,
        holder,
        metadata,
    ] = fields
    else {
        return None;
    };
    let number = |text: &str| text.parse::<u64>().ok();
    let holder = (!holder.is_empty()).then(|| Holder::new((*holder).to_owned()));
    Some(Holding {
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
