//! The answer with a lease, and the request to renew one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::fields::{Milliseconds, present, rfc3339};
use super::limits::Limits;
use crate::http::problem::Problem;
use crate::lock::key::LockKey;
use crate::lock::lease::{Ttl, millis};
use crate::lock::rules::Lease as GrantedLease;
use crate::store::contract::Timed;

/// A lease: exclusive until its deadline.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lease {
    /// The key of the lock.
    #[schema(example = "my_lock")]
    pub key: String,
    /// The secret that proves that the lease is yours. Renewals and the release send it as `Lease-Id`.
    #[schema(
        example = "5f0c2f7f1c7e4f0b9a4d2b6c8e1f3a57",
        pattern = "^[0-9a-f]{32}$"
    )]
    pub lease_id: String,
    /// A number that rises with every grant of the whole service. Send it to the protected resource,
    /// which must reject each token that is lower than the highest it has seen.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    pub fencing_token: u64,
    /// The name of the holder, as the acquisition gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub holder: Option<String>,
    /// The metadata of the acquisition.
    pub metadata: BTreeMap<String, String>,
    /// The TTL of the lease, in milliseconds. A renewal without `ttl_ms` extends the lease to this
    /// time from then on.
    #[schema(minimum = 100)]
    pub ttl_ms: u64,
    /// The moment of the grant, on the clock of the store.
    #[schema(format = DateTime)]
    pub acquired_at: String,
    /// The deadline of the lease, on the clock of the store. It is for people: programs count
    /// `expires_in_ms` on their own monotonic clock.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// Milliseconds from the answer to the deadline. A client can count on the lease until the moment at
    /// which it *sent* the request, plus `waited_ms`, plus `expires_in_ms`.
    #[schema(minimum = 0)]
    pub expires_in_ms: u64,
    /// Milliseconds until the client should renew the lease: a third of the TTL.
    #[schema(minimum = 0)]
    pub renew_after_ms: u64,
    /// Milliseconds from the arrival of the request to its answer.
    #[schema(minimum = 0)]
    pub waited_ms: u64,
}

impl Lease {
    /// The lease as its holder sees it now; `arrived` is the moment at which the request arrived.
    ///
    /// The store reads its clock when the server asks it or later, so `expires_in_ms` shrinks by the time since then.
    /// `waited_ms` covers the time from the arrival to now. A client adds both to the moment at which it sent the
    /// request. The sum is never later than the lease's deadline, however long the answer takes.
    #[must_use]
    pub fn new(key: &LockKey, lease: &Timed<GrantedLease>, arrived: Instant) -> Self {
        let GrantedLease { lease_id, info } = &lease.value;
        let now = Instant::now();
        let left = info
            .expires_in()
            .saturating_sub(now.saturating_duration_since(lease.asked_at));
        Self {
            key: key.as_str().to_owned(),
            lease_id: lease_id.expose(),
            fencing_token: info.fencing_token.get(),
            holder: info
                .holder
                .as_ref()
                .map(|holder| holder.as_str().to_owned()),
            metadata: info.metadata.pairs().clone(),
            ttl_ms: millis(info.ttl.get()),
            acquired_at: rfc3339(info.acquired_at),
            expires_at: rfc3339(info.deadline),
            expires_in_ms: millis(left),
            renew_after_ms: millis(info.ttl.get() / 3),
            waited_ms: millis(now.saturating_duration_since(arrived)),
        }
    }
}

/// The parameters of a renewal. The field is optional, and so is the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_ms": 10_000}))]
pub struct RenewBody {
    /// The new TTL of the lease, in milliseconds. If it is absent, the TTL stays the same.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = u64, required = false, minimum = 100)]
    pub ttl_ms: Option<Milliseconds>,
}

impl RenewBody {
    /// Checks the bound.
    ///
    /// # Errors
    /// A problem that names the field and its bounds.
    pub fn ttl(&self, limits: &Limits) -> Result<Option<Ttl>, Problem> {
        limits.ttl(self.ttl_ms.as_ref())
    }
}
