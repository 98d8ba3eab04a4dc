//! What the servers answer.

use std::time::Duration;

use hyper::header::RETRY_AFTER;
use hyper::http::response::Parts;
use serde::Deserialize;
use serde_json::Value;

use super::clock::Moment;
use super::failure::Failure;

/// An answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// When the service can be asked again, if it says so.
    pub(super) retry_after: Option<Duration>,
    /// The body; null if it is none in JSON.
    pub body: Value,
    /// When the request was sent.
    pub(super) sent: Moment,
}

/// A lease, and until when its holder can count on it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Grant {
    /// The key of the lock.
    pub key: String,
    /// Proves that the lease is the caller's.
    pub lease_id: String,
    /// The fencing token.
    pub fencing_token: u64,
    /// The deadline on the clock of the store, for people.
    pub expires_at: String,
    /// The TTL, in milliseconds.
    pub ttl_ms: u64,
    waited_ms: u64,
    expires_in_ms: u64,
    /// From this moment on the lease is not the holder's. Counted from before the request was sent.
    #[serde(skip, default = "unknown")]
    pub deadline: Moment,
    /// When the request was sent.
    #[serde(skip, default = "unknown")]
    pub sent: Moment,
}

const fn unknown() -> Moment {
    Moment::at(Duration::ZERO)
}

/// A lock as other clients see it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct LockStatus {
    /// The key of the lock.
    pub key: String,
    /// Whether the lock is held or reserved.
    pub held: bool,
    /// Only `hold_at_least_ms` keeps the lock held.
    pub released: bool,
    /// How many wait.
    pub waiters: u64,
    /// The holder's name.
    pub holder: Option<String>,
    /// The token of the lease.
    pub fencing_token: Option<u64>,
    /// For how long the lock has been held.
    pub held_for_ms: u64,
    /// When others can have the lock at the latest, if its lease is not renewed.
    pub expires_in_ms: u64,
    /// The position of the caller in the queue.
    pub position: Option<u64>,
}

impl Answer {
    pub(super) fn new(head: &Parts, body: &[u8], sent: Moment) -> Self {
        let retry_after = head.headers.get(RETRY_AFTER);
        let seconds = retry_after.and_then(|value| value.to_str().ok()?.parse().ok());
        Self {
            status: head.status.as_u16(),
            retry_after: seconds.map(Duration::from_secs),
            body: serde_json::from_slice(body).unwrap_or_default(),
            sent,
        }
    }

    pub(super) const fn is_success(&self) -> bool {
        self.status / 100 == 2
    }

    /// The lease in the body.
    pub(super) fn grant(self) -> Result<Grant, Failure> {
        let sent = self.sent;
        let mut grant: Grant = self.read()?;
        let counts_for = grant.waited_ms.saturating_add(grant.expires_in_ms);
        grant.deadline = sent + Duration::from_millis(counts_for);
        grant.sent = sent;
        Ok(grant)
    }

    /// The body as this type.
    pub(super) fn read<T: serde::de::DeserializeOwned>(self) -> Result<T, Failure> {
        serde_json::from_value(self.body).map_err(|error| {
            Failure::Unavailable(format!("this is no answer of Leasehold: {error}"))
        })
    }

    /// What is wrong, in the words of the server.
    pub(super) fn detail(&self) -> String {
        let detail = self.body["detail"].as_str();
        detail.map_or_else(
            || format!("the server answered {}", self.status),
            str::to_owned,
        )
    }

    /// The failure that this answer means to a caller that does not wait.
    pub(super) fn failure(&self) -> Failure {
        let detail = self.detail();
        match self.status {
            401 | 403 => Failure::NotPermitted(detail),
            409 => Failure::Lost(detail),
            423 | 429 => Failure::NotAcquired(detail),
            400..500 => Failure::Usage(detail),
            _ => Failure::Unavailable(detail),
        }
    }
}
