//! The bodies and query parameters of requests and answers, and their conversion to and from the domain types.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use jiff::Timestamp as Instant3339;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::{Deserialize as DeriveDeserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use utoipa::ToSchema;

use crate::http::problem::Problem;
use crate::lock::key::{LockKey, check_prefix};
use crate::lock::lease::{
    Digest, FencingToken, Holder, Idempotency, Metadata, Timestamp, Ttl, millis,
};
use crate::lock::rules::{Lease as GrantedLease, LeaseInfo};
use crate::service::AcquireRequest;
use crate::store::contract::{ListQuery, Timed};

/// The TTL of an acquisition without `ttl_ms`.
pub const DEFAULT_TTL: Duration = Duration::from_secs(30);

/// The lengths that an `Idempotency-Key` may have, in bytes.
pub const IDEMPOTENCY_KEY_LENGTH: std::ops::RangeInclusive<usize> = 16..=255;

/// The number of keys of a page that names none, and the most.
pub const DEFAULT_LIST_LIMIT: u64 = 100;
/// See [`DEFAULT_LIST_LIMIT`].
pub const MAX_LIST_LIMIT: u64 = 1000;

/// The longest cursor that the server reads, in bytes.
pub(super) const MAX_CURSOR_BYTES: usize = 512;

/// Bounds that the operator sets.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The longest TTL.
    pub max_ttl: Duration,
    /// The longest wait.
    pub max_wait: Duration,
}

/// What to acquire. Every field may be absent, and so may the body.
#[derive(Debug, Default, DeriveDeserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_ms": 10_000, "wait_ms": 5_000, "holder": "billing-7d9f", "metadata": {"job": "42"}}))]
pub struct AcquireBody {
    /// How long the lease lasts without a renewal, in milliseconds. The maximum is the operator's
    /// to set (an hour by default).
    #[serde(default, deserialize_with = "present")]
    #[schema(minimum = 100, default = 30_000, nullable = false)]
    pub ttl_ms: Option<u64>,
    /// How long to wait for a lock that is held, in milliseconds. The maximum is the operator's to
    /// set (50 seconds by default).
    #[serde(default, deserialize_with = "present")]
    #[schema(minimum = 0, default = 0, nullable = false)]
    pub wait_ms: Option<u64>,
    /// Who asks, for people to read: 1 to 256 bytes of printable characters.
    #[serde(default, deserialize_with = "present")]
    #[schema(min_length = 1, max_length = 256, nullable = false)]
    pub holder: Option<String>,
    /// What else people and tools may want to know: at most 32 pairs of strings, 4096 bytes in all.
    #[serde(default, deserialize_with = "distinct_pairs")]
    #[schema(nullable = false)]
    pub metadata: Option<BTreeMap<String, String>>,
}

/// How to renew. The field may be absent, and so may the body.
#[derive(Debug, Default, DeriveDeserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"ttl_ms": 10_000}))]
pub struct RenewBody {
    /// The lease's TTL from now on, in milliseconds; what it was if absent.
    #[serde(default, deserialize_with = "present")]
    #[schema(minimum = 100, nullable = false)]
    pub ttl_ms: Option<u64>,
}

/// A lease: exclusive until its deadline.
#[derive(Debug, Serialize, ToSchema)]
pub struct Lease {
    /// The lock.
    #[schema(example = "my_lock")]
    pub key: String,
    /// The secret that proves that the lease is yours; `Lease-Id` of renewals and of the release.
    #[schema(
        example = "5f0c2f7f1c7e4f0b9a4d2b6c8e1f3a57",
        pattern = "^[0-9a-f]{32}$"
    )]
    pub lease_id: String,
    /// Rises with every grant of the whole service. Send it to the resource that the lock protects,
    /// which refuses any token lower than the highest it has seen.
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64)]
    pub fencing_token: u64,
    /// Who holds it, as the acquisition said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub holder: Option<String>,
    /// What the acquisition attached.
    pub metadata: BTreeMap<String, String>,
    /// How long a renewal extends it, in milliseconds.
    #[schema(minimum = 100)]
    pub ttl_ms: u64,
    /// When it was granted, on the store's clock.
    #[schema(format = DateTime)]
    pub acquired_at: String,
    /// When it is over unless it is renewed, on the store's clock. For people; programs count
    /// `expires_in_ms` on their own monotonic clock.
    #[schema(format = DateTime)]
    pub expires_at: String,
    /// Milliseconds left when this was answered. A client may count on the lease until the moment it
    /// *sent* the request, plus `waited_ms`, plus this.
    #[schema(minimum = 0)]
    pub expires_in_ms: u64,
    /// When to renew: a third of the TTL.
    #[schema(minimum = 0)]
    pub renew_after_ms: u64,
    /// Milliseconds from the arrival of the request to its answer.
    #[schema(minimum = 0)]
    pub waited_ms: u64,
}

/// How a lock stands.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockStatus {
    /// The lock.
    #[schema(example = "my_lock")]
    pub key: String,
    /// Whether somebody holds it; the fields below from `metadata` on are there only then.
    pub held: bool,
    /// How many requests wait for it.
    #[schema(minimum = 0)]
    pub waiters: u64,
    /// Who holds it, as the acquisition said.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub holder: Option<String>,
    /// What the acquisition attached.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub metadata: Option<BTreeMap<String, String>>,
    /// The token of the current lease; a break must name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 9_007_199_254_740_991_i64, nullable = false)]
    pub fencing_token: Option<u64>,
    /// When the current lease was granted, on the store's clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = DateTime, nullable = false)]
    pub acquired_at: Option<String>,
    /// Milliseconds since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub held_for_ms: Option<u64>,
    /// Milliseconds left of the current lease, unless it is renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub expires_in_ms: Option<u64>,
    /// How often it was renewed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, nullable = false)]
    pub renewals: Option<u64>,
}

/// A page of held locks.
#[derive(Debug, Serialize, ToSchema)]
pub struct LockPage {
    /// The locks; may be fewer than `limit`, even none, before the last page.
    pub locks: Vec<LockStatus>,
    /// The `cursor` of the next page; absent on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub next_cursor: Option<String>,
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
        let ttl = ttl(
            self.ttl_ms
                .unwrap_or(millis(DEFAULT_TTL.min(limits.max_ttl))),
            limits,
        )?;
        let wait = Duration::from_millis(self.wait_ms.unwrap_or(0));
        if wait > limits.max_wait {
            return Err(Problem::invalid(format!(
                "wait_ms must be from 0 to {} (LEASEHOLD_MAX_WAIT_MS)",
                millis(limits.max_wait)
            )));
        }
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
            fingerprint: fingerprint(ttl, holder.as_ref(), &metadata),
        });
        let wait_until = (!wait.is_zero()).then(|| arrived + wait);
        Ok(AcquireRequest {
            ttl,
            wait_until,
            holder,
            metadata,
            idempotency,
        })
    }
}

impl RenewBody {
    /// Checks the bound.
    ///
    /// # Errors
    /// A problem that names the field and its bounds.
    pub fn ttl(&self, limits: &Limits) -> Result<Option<Ttl>, Problem> {
        self.ttl_ms.map(|ms| ttl(ms, limits)).transpose()
    }
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

impl LockStatus {
    /// The status of the lock `key`.
    #[must_use]
    pub fn new(key: &LockKey, info: Option<&LeaseInfo>, waiters: usize) -> Self {
        Self {
            key: key.as_str().to_owned(),
            held: info.is_some(),
            waiters: u64::try_from(waiters).unwrap_or(u64::MAX),
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

/// Reads the query of a listing.
///
/// # Errors
/// A problem that names the parameter and its bounds.
pub fn list_query(parameters: &Parameters) -> Result<ListQuery, Problem> {
    let [prefix, limit, cursor] = parameters.take(["prefix", "limit", "cursor"])?;
    let prefix = prefix.unwrap_or_default();
    check_prefix(prefix).map_err(|_| {
        Problem::invalid("prefix must be the beginning of a key: at most 256 of its characters")
    })?;
    let limit = match limit {
        None => DEFAULT_LIST_LIMIT,
        Some(text) => integer(text)
            .filter(|limit| (1..=MAX_LIST_LIMIT).contains(limit))
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "limit must be an integer from 1 to {MAX_LIST_LIMIT}"
                ))
            })?,
    };
    if cursor.is_some_and(|cursor| cursor.len() > MAX_CURSOR_BYTES) {
        return Err(Problem::invalid(
            "cursor is not one that this service gave out in next_cursor",
        ));
    }
    let limit = usize::try_from(limit).expect("at most a thousand");
    Ok(ListQuery {
        prefix: prefix.to_owned(),
        limit,
        cursor: cursor.map(str::to_owned),
    })
}

/// Reads the query of a release. With `force=true` it returns the fencing token of the lease to break.
///
/// # Errors
/// A problem that names the parameter.
pub fn break_query(parameters: &Parameters) -> Result<Option<FencingToken>, Problem> {
    let [force, token] = parameters.take(["force", "fencing_token"])?;
    let forced = match force {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => return Err(Problem::invalid("force must be true or false")),
    };
    match (forced, token) {
        (false, None) => Ok(None),
        (false, Some(_)) => Err(Problem::invalid(
            "fencing_token goes with force=true; a release is by Lease-Id",
        )),
        (true, None) => Err(Problem::invalid(
            "force=true needs the fencing_token of the lease to break",
        )),
        (true, Some(text)) => integer(text)
            .and_then(FencingToken::new)
            .map(Some)
            .ok_or_else(|| {
                Problem::invalid(format!(
                    "fencing_token must be an integer from 0 to {}",
                    FencingToken::MAX
                ))
            }),
    }
}

/// The query parameters, decoded but not yet checked.
#[derive(Debug, Default)]
pub struct Parameters(pub Vec<(String, String)>);

impl Parameters {
    /// The values of the parameters that the route knows.
    ///
    /// # Errors
    /// A problem if the query has an unknown parameter, or a known one twice.
    pub fn take<const N: usize>(&self, known: [&str; N]) -> Result<[Option<&str>; N], Problem> {
        let mut values = [None; N];
        for (name, value) in &self.0 {
            match known.iter().position(|k| k == name) {
                None if known.is_empty() => {
                    return Err(Problem::invalid("this route takes no query parameters"));
                }
                None => {
                    return Err(Problem::invalid(format!(
                        "the query may hold only {}",
                        known.join(", ")
                    )));
                }
                Some(at) if values[at].is_some() => {
                    return Err(Problem::invalid(format!("{name} is given twice")));
                }
                Some(at) => values[at] = Some(value.as_str()),
            }
        }
        Ok(values)
    }
}

fn ttl(ms: u64, limits: &Limits) -> Result<Ttl, Problem> {
    Ttl::new(Duration::from_millis(ms), limits.max_ttl).ok_or_else(|| {
        Problem::invalid(format!(
            "ttl_ms must be from {} to {} (LEASEHOLD_MAX_TTL_MS)",
            millis(Ttl::MIN),
            millis(limits.max_ttl)
        ))
    })
}

/// Parses digits alone: no sign, fraction, exponent or leading zero.
fn integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (digits && !padded).then(|| text.parse().ok()).flatten()
}

pub(super) fn rfc3339(moment: Timestamp) -> String {
    let micros = i64::try_from(moment.as_micros()).unwrap_or(i64::MAX);
    // RFC 3339 ends with the year 9999, and no lease lasts until then.
    Instant3339::from_microsecond(micros)
        .map_or_else(|_| String::new(), |instant| format!("{instant:.3}"))
}

fn fingerprint(ttl: Ttl, holder: Option<&Holder>, metadata: &Metadata) -> Digest {
    let ttl = millis(ttl.get()).to_string();
    let metadata = serde_json::to_vec(metadata.pairs()).expect("a map of strings is JSON");
    digest(&[
        ttl.as_bytes(),
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

/// Refuses `null`: a field may only be absent.
fn present<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Refuses a map with a repeated name: the parser would silently drop one of the two values.
fn distinct_pairs<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<BTreeMap<String, String>>, D::Error> {
    struct Pairs;
    impl<'de> Visitor<'de> for Pairs {
        type Value = BTreeMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of strings")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<String, String>()? {
                if pairs.len() >= Metadata::MAX_PAIRS {
                    return Err(serde::de::Error::custom(format_args!(
                        "at most {} pairs",
                        Metadata::MAX_PAIRS
                    )));
                }
                if let Some(_first) = pairs.insert(name, value) {
                    return Err(serde::de::Error::custom("a name is given twice"));
                }
            }
            Ok(pairs)
        }
    }
    from.deserialize_map(Pairs).map(Some)
}
