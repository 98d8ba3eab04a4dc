//! The values of a lease, each valid by construction.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A moment of the store's clock, in microseconds since the Unix epoch.
///
/// Stores compare only moments that they read themselves; a client never sees one without the
/// `expires_in_ms` that makes it independent of clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The moment `micros` microseconds after the Unix epoch.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    #[must_use]
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// This moment, `by` later.
    #[must_use]
    pub fn after(self, by: Duration) -> Self {
        Self(self.0.saturating_add(micros(by)))
    }

    /// This moment, `by` earlier.
    #[must_use]
    pub fn before(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(micros(by)))
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }
}

/// A moment of the store's clock, and the grace that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The present time.
    pub now: Timestamp,
    /// How long a lease outlasts its deadline for other clients, unless it was granted with a longer grace.
    pub grace: Duration,
}

/// A duration in whole microseconds, the resolution of every store.
pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds, rounded down: an answer must never promise more time than is left.
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The secret that proves that a lease is the caller's: 128 random bits, written as 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId([u8; 16]);

impl LeaseId {
    /// A lease id out of 128 bits, which the caller draws from the operating system.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Parses 32 lower-case hex digits; anything else is not a lease id.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        hex_to_bytes(text).map(Self)
    }

    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// The secret itself, for the store and for the answer to its holder.
    #[must_use]
    pub fn expose(&self) -> String {
        bytes_to_hex(&self.0)
    }
}

/// Redacted: a lease id in a log would let its readers release the lease.
impl fmt::Debug for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LeaseId(redacted)")
    }
}

/// A number that only rises, one for each grant of the whole service; it authorises nothing.
///
/// Stays below 2^53, so that a JSON number is exact in every language.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FencingToken(u64);

impl FencingToken {
    /// The largest token: the largest integer that a double holds exactly together with its
    /// neighbours.
    pub const MAX: u64 = (1 << 53) - 1;

    /// A token out of its number; `None` above [`FencingToken::MAX`].
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number <= Self::MAX {
            Some(Self(number))
        } else {
            None
        }
    }

    /// The number.
    #[must_use]
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// How long a lease lasts without a renewal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(Duration);

impl Ttl {
    /// The shortest TTL: below it, network delay alone would end most leases.
    pub const MIN: Duration = Duration::from_millis(100);

    /// A TTL between [`Ttl::MIN`] and `max`; `None` outside.
    #[must_use]
    pub fn new(duration: Duration, max: Duration) -> Option<Self> {
        (Self::MIN <= duration && duration <= max).then_some(Self(duration))
    }

    /// A TTL that a store kept; it was checked when it was granted.
    pub(crate) const fn stored(duration: Duration) -> Self {
        Self(duration)
    }

    /// The duration.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

/// The holder of a lease, as the client names it: 1 to 256 bytes of printable characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder(String);

impl Holder {
    /// The longest holder, in bytes.
    pub const MAX_BYTES: usize = 256;

    /// A holder out of its text; `None` if it is empty, too long or not printable.
    #[must_use]
    pub fn new(text: String) -> Option<Self> {
        let valid = !text.is_empty() && text.len() <= Self::MAX_BYTES && is_printable(&text);
        valid.then_some(Self(text))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// String pairs that a client attaches to its lease for people and tools to read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata(BTreeMap<String, String>);

impl Metadata {
    /// The most pairs.
    pub const MAX_PAIRS: usize = 32;
    /// The most bytes of all names and values together.
    pub const MAX_BYTES: usize = 4096;

    /// Metadata out of its pairs; `None` if there are too many, they are too long, a name is empty
    /// or a character is not printable.
    #[must_use]
    pub fn new(pairs: BTreeMap<String, String>) -> Option<Self> {
        let bytes: usize = pairs
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        let valid = pairs.len() <= Self::MAX_PAIRS
            && bytes <= Self::MAX_BYTES
            && pairs
                .iter()
                .all(|(name, value)| !name.is_empty() && is_printable(name) && is_printable(value));
        valid.then_some(Self(pairs))
    }

    /// Metadata that a store kept; it was checked when it was granted.
    pub(crate) const fn stored(pairs: BTreeMap<String, String>) -> Self {
        Self(pairs)
    }

    /// The pairs, by name.
    #[must_use]
    pub const fn pairs(&self) -> &BTreeMap<String, String> {
        &self.0
    }
}

/// No control characters: stores keep records in lines and fields, terminals show them to people.
fn is_printable(text: &str) -> bool {
    !text.chars().any(char::is_control)
}

/// 128 bits of a SHA-256, kept instead of the text.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Digest([u8; 16]);

impl Digest {
    /// A digest out of its bits.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    pub(super) const fn to_bytes(self) -> [u8; 16] {
        self.0
    }

    /// 32 hex digits.
    #[must_use]
    pub fn to_hex(self) -> String {
        bytes_to_hex(&self.0)
    }
}

/// Identifies an acquisition over all repetitions of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Idempotency {
    /// The digest of the principal and its `Idempotency-Key`.
    pub key: Digest,
    /// The digest of TTL, holder and metadata, which must be the same in every repetition.
    pub fingerprint: Digest,
}

/// One request's try at a lock. A lease remembers the last attempt that touched it, so that a rollback does not end a
/// lease that another request has received since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt(pub u64);

pub(super) fn bytes_to_hex(bytes: &[u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(*bytes))
}

pub(super) fn hex_to_bytes(text: &str) -> Option<[u8; 16]> {
    let lower_hex = text
        .bytes()
        .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if text.len() != 32 || !lower_hex {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

#[cfg(test)]
mod tests;
