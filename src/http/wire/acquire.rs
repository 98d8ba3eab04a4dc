//! The request for a lock.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use super::fields::{Milliseconds, distinct_pairs, present};
use super::limits::Limits;
use crate::http::problem::Problem;
use crate::lock::lease::{Digest, Holder, Idempotency, Metadata, Ttl, millis};
use crate::service::AcquireRequest;

/// The lengths that an `Idempotency-Key` may have, in bytes.
pub const IDEMPOTENCY_KEY_LENGTH: RangeInclusive<usize> = 16..=255;

/// The parameters of an acquisition. Every field is optional, and so is the body.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_ms": 10_000, "wait_ms": 5_000, "holder": "billing-7d9f", "metadata": {"job": "42"}}))]
pub struct AcquireBody {
    /// How long the lease lasts without a renewal, in milliseconds. The operator sets the maximum
    /// (by default an hour).
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = u64, required = false, minimum = 100, default = 30_000)]
    pub ttl_ms: Option<Milliseconds>,
    /// How long to wait for a held lock, in milliseconds. The operator sets the maximum (by default
    /// 50 seconds).
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = u64, required = false, minimum = 0, default = 0)]
    pub wait_ms: Option<Milliseconds>,
    /// How long the lock is held at least, in milliseconds from the grant on, however the lease ends: released earlier,
    /// expired, or lost in a failover. Until then no other client gets the lock, plus the clock skew on Redis; only a break
    /// ends that. For jobs that must not run twice although they are short. It may exceed `ttl_ms`. The operator sets the
    /// maximum, which is that of `ttl_ms`. 0, or its absence, holds the lock for no longer than the lease.
    #[serde(default, deserialize_with = "present")]
    // No default: some generators make a property with a default a required one, which breaks the programs of before.
    #[schema(value_type = u64, required = false, minimum = 0)]
    pub hold_at_least_ms: Option<Milliseconds>,
    /// A name for the holder, which other clients can see: 1 to 256 bytes of printable characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub holder: Option<String>,
    /// Further information, which other clients can see: at most 32 pairs of strings, 4096 bytes in all.
    #[serde(default, deserialize_with = "distinct_pairs")]
    #[schema(nullable = false)]
    pub metadata: Option<BTreeMap<String, String>>,
}

impl AcquireBody {
    /// Checks every bound.
    ///
    /// # Errors
    /// A problem that names the field and its bounds.
    pub fn into_request(
        self,
        limits: &Limits,
        arrived: Instant,
        principal: &str,
        idempotency_key: Option<&str>,
    ) -> Result<AcquireRequest, Problem> {
        let ttl = limits.ttl(self.ttl_ms.as_ref())?;
        let ttl = ttl.unwrap_or_else(|| limits.default_ttl());
        let hold_at_least = limits.hold(self.hold_at_least_ms.as_ref())?;
        let wait = limits.wait(self.wait_ms.as_ref())?;
        let holder = self.holder.map(|text| {
            Holder::new(text).ok_or_else(|| {
                Problem::invalid(format!(
                    "holder must be 1 to {} bytes of printable characters",
                    Holder::MAX_BYTES
                ))
            })
        });
        let holder = holder.transpose()?;
        let metadata = Metadata::new(self.metadata.unwrap_or_default()).ok_or_else(|| {
            Problem::invalid(format!(
                "metadata must be at most {} pairs of strings, {} bytes in all, of printable characters, \
                 with no empty name",
                Metadata::MAX_PAIRS,
                Metadata::MAX_BYTES
            ))
        })?;
        let idempotency = idempotency_key.map(|key| Idempotency {
            key: digest(&[principal.as_bytes(), key.as_bytes()]),
            fingerprint: fingerprint(ttl, hold_at_least, holder.as_ref(), &metadata),
        });
        let wait_until = (!wait.is_zero()).then(|| arrived + wait);
        Ok(AcquireRequest {
            ttl,
            hold_at_least,
            wait_until,
            holder,
            metadata,
            idempotency,
        })
    }
}

fn fingerprint(
    ttl: Ttl,
    hold_at_least: Duration,
    holder: Option<&Holder>,
    metadata: &Metadata,
) -> Digest {
    let (ttl, hold) = (millis(ttl.get()), millis(hold_at_least));
    let metadata = serde_json::to_vec(metadata.pairs()).expect("a map of strings is JSON");
    digest(&[
        ttl.to_string().as_bytes(),
        hold.to_string().as_bytes(),
        holder.map_or("", Holder::as_str).as_bytes(),
        &metadata,
    ])
}

/// The first 16 bytes of a SHA-256. The length before each part keeps different splits of the same bytes apart.
fn digest(parts: &[&[u8]]) -> Digest {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(part);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&hash.finalize()[..16]);
    Digest::from_bytes(half)
}
