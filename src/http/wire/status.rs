//! The status of a lock, and pages of them.

use std::collections::BTreeMap;

use serde::Serialize;
use utoipa::ToSchema;

use super::fields::rfc3339;
use crate::lock::key::LockKey;
use crate::lock::lease::millis;
use crate::lock::rules::LeaseInfo;

/// The status of a lock.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockStatus {
    /// The key of the lock.
    #[schema(example = "my_lock")]
    pub key: String,
    /// Whether a client holds the lock, the lock is reserved for a waiter, or `hold_at_least_ms` keeps it held. All fields
    /// below `waiters` are present only if it is true.
    pub held: bool,
    /// The number of requests that wait for the lock.
    #[schema(minimum = 0)]
    pub waiters: u64,
    /// `true` if the lease is over, and only its `hold_at_least_ms` keeps the lock held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub released: Option<bool>,
    /// The name of the holder, if the acquisition gave one and the lease is not over.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub holder: Option<String>,
    /// The metadata of the acquisition.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// The fencing token of the current lease. A break must name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub fencing_token: Option<u64>,
    /// The moment at which the current lease was granted, on the clock of the store.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub acquired_at: Option<String>,
    /// Milliseconds since the current lease was granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub held_for_ms: Option<u64>,
    /// Milliseconds until other clients can have the lock if its holder does not renew: until the
    /// deadline and the end of `hold_at_least_ms`, plus the clock skew on Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub expires_in_ms: Option<u64>,
    /// How often the current lease was renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub renewals: Option<u64>,
}

/// A page of held locks.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockPage {
    /// The locks. A page can have fewer than `limit`, even none, and not be the last.
    pub locks: Vec<LockStatus>,
    /// The `cursor` of the next page. It is absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
}

impl LockStatus {
    /// The status of the lock `key`.
    #[must_use]
    pub fn new(key: &LockKey, info: Option<&LeaseInfo>, waiters: usize) -> Self {
        Self {
            key: key.as_str().to_owned(),
            held: info.is_some(),
            waiters: u64::try_from(waiters).unwrap_or(u64::MAX),
            released: info.filter(|h| h.released).map(|_| true),
            holder: info
                .and_then(|h| h.holder.as_ref())
                .map(|holder| holder.as_str().to_owned()),
            metadata: info.map(|h| h.metadata.pairs().clone()),
            fencing_token: info.map(|h| h.fencing_token.get()),
            acquired_at: info.map(|h| rfc3339(h.acquired_at)),
            held_for_ms: info.map(|h| millis(h.held_for())),
            expires_in_ms: info.map(|h| millis(h.expires_in())),
            renewals: info.map(|h| h.renewals),
        }
    }
}
