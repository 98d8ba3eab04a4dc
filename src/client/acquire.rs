//! The calls for locks.

use std::collections::BTreeMap;
use std::time::Duration;

use hyper::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::answer::{Answer, Grant, LockStatus};
use super::call::{Call, Client};
use super::clock::Moment;
use super::failure::Failure;
use crate::random;

/// How long the server keeps one request waiting. It keeps the place of a waiter for longer than the next request takes.
const POLL: Duration = Duration::from_secs(20);

/// The wait of the first request: its answer tells who holds the lock.
const FIRST_POLL: Duration = Duration::from_millis(500);

/// The shortest time between two requests.
const MIN_POLL: Duration = Duration::from_millis(250);

/// How long an answer may take beyond its wait.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause before the first repetition; it doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause before a repetition.
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// For how long a caller that does not wait repeats a call that no server answers.
const PATIENCE: Duration = Duration::from_secs(3);

/// For how long a caller that waits without a limit asks until a server answers for the first time.
const FIRST_CONTACT: Duration = Duration::from_secs(10);

/// What to acquire.
#[derive(Clone, Debug)]
pub struct Acquire {
    /// The key of the lock.
    pub key: String,
    /// How long the lease lasts.
    pub ttl: Duration,
    /// How long the lock is held at least.
    pub hold_at_least: Duration,
    /// The holder's name.
    pub holder: Option<String>,
    /// Name-value pairs.
    pub metadata: BTreeMap<String, String>,
    /// How long to wait for the lock.
    pub wait: Wait,
}

/// How long to wait for a lock that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Not at all.
    No,
    /// So long.
    For(Duration),
    /// Without a limit.
    Forever,
}

/// Who holds the lock while the caller waits; `None` while no server can tell.
pub type Waiting<'a> = &'a mut dyn FnMut(Option<&LockStatus>);

impl Client {
    /// Acquires a lock. All requests have one `Idempotency-Key`, so that a waiter keeps its place, and a lost answer costs
    /// nothing. Dropping the future while it waits takes the request back.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn acquire(&self, wanted: &Acquire, waiting: Waiting<'_>) -> Result<Grant, Failure> {
        let idempotency_key = random::id();
        let begun = Moment::now();
        let until = match wanted.wait {
            Wait::No => Some(begun),
            Wait::For(time) => Some(begun + time),
            Wait::Forever => None,
        };
        let (mut poll, mut longest, mut pause) = (FIRST_POLL, POLL, FIRST_PAUSE);
        // Until when failures may pass.
        let mut patient_until = match wanted.wait {
            Wait::No => Some(begun + PATIENCE),
            Wait::For(time) => Some(begun + time.max(PATIENCE)),
            Wait::Forever => Some(begun + FIRST_CONTACT),
        };
        loop {
            let left = until.map_or(Duration::MAX, Moment::left);
            let wait = poll.min(longest).min(left);
            let answer = self.ask(wanted, &idempotency_key, wait).await;
            let (failure, retry_after) = match answer {
                Ok(answer) if answer.is_success() => return answer.grant(),
                Ok(answer) if answer.status == 423 => {
                    let status: LockStatus = answer.clone().read()?;
                    if until.is_some_and(|until| until.left().is_zero()) {
                        return Err(Failure::NotAcquired(held(&wanted.key, &status)));
                    }
                    waiting(Some(&status));
                    (poll, pause) = (POLL, FIRST_PAUSE);
                    if wanted.wait == Wait::Forever {
                        patient_until = None;
                    }
                    // The operator allows hardly any wait.
                    sleep(MIN_POLL.saturating_sub(wait)).await;
                    continue;
                }
                Ok(answer) if is_too_long_a_wait(&answer) && !wait.is_zero() => {
                    longest = Duration::from_millis(millis(wait) / 2);
                    continue;
                }
                Ok(answer) if may_pass(answer.status) => (answer.failure(), answer.retry_after),
                Ok(answer) => return Err(answer.failure()),
                Err(failure @ Failure::Unavailable(_)) => (failure, None),
                Err(failure) => return Err(failure),
            };
            let left = patient_until.map_or(MAX_PAUSE, Moment::left);
            if left.is_zero() {
                return Err(failure);
            }
            waiting(None);
            let pause_now = retry_after.unwrap_or(pause).clamp(pause, MAX_PAUSE);
            sleep(jitter(pause_now).min(left)).await;
            pause = (pause * 2).min(MAX_PAUSE);
        }
    }

    async fn ask(
        &self,
        wanted: &Acquire,
        idempotency_key: &str,
        wait: Duration,
    ) -> Result<Answer, Failure> {
        let mut body = json!({ "ttl_ms": millis(wanted.ttl), "wait_ms": millis(wait) });
        if !wanted.hold_at_least.is_zero() {
            body["hold_at_least_ms"] = millis(wanted.hold_at_least).into();
        }
        if let Some(holder) = &wanted.holder {
            body["holder"] = holder.as_str().into();
        }
        if !wanted.metadata.is_empty() {
            body["metadata"] = json!(wanted.metadata);
        }
        let call = Call {
            headers: vec![("idempotency-key", idempotency_key)],
            body: Some(body),
            ..Call::new(Method::POST, path(&wanted.key), wait + ANSWER_TIMEOUT)
        };
        self.call(&call).await
    }

    /// Renews a lease. Each server may take `limit`.
    ///
    /// # Errors
    /// [`Failure`]; only [`Failure::Lost`] says that the lease is over.
    pub async fn renew(
        &self,
        key: &str,
        lease_id: &str,
        ttl: Option<Duration>,
        limit: Duration,
    ) -> Result<Grant, Failure> {
        let call = Call {
            headers: vec![("lease-id", lease_id)],
            body: ttl.map(|ttl| json!({ "ttl_ms": millis(ttl) })),
            ..Call::new(Method::PUT, format!("{}/lease", path(key)), limit)
        };
        let answer = self.call(&call).await?;
        if answer.is_success() {
            answer.grant()
        } else {
            Err(answer.failure())
        }
    }

    /// Releases a lease.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn release(&self, key: &str, lease_id: &str) -> Result<(), Failure> {
        let call = Call {
            headers: vec![("lease-id", lease_id)],
            ..Call::new(Method::DELETE, path(key), ANSWER_TIMEOUT)
        };
        self.repeat(&call).await.map(drop)
    }

    /// Breaks the lease with this token.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn break_lease(&self, key: &str, fencing_token: u64) -> Result<(), Failure> {
        let path = format!("{}?force=true&fencing_token={fencing_token}", path(key));
        let call = Call::new(Method::DELETE, path, ANSWER_TIMEOUT);
        self.repeat(&call).await.map(drop)
    }

    /// The status of a lock, in JSON.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn inspect(&self, key: &str) -> Result<Value, Failure> {
        let call = Call::new(Method::GET, path(key), ANSWER_TIMEOUT);
        self.repeat(&call).await.map(|answer| answer.body)
    }

    /// A page of the held locks with this prefix, in JSON.
    ///
    /// # Errors
    /// [`Failure`].
    pub async fn list(&self, prefix: &str, cursor: Option<&str>) -> Result<Value, Failure> {
        let mut path = format!("/locks?limit=1000&prefix={}", escaped(prefix));
        if let Some(cursor) = cursor {
            path = format!("{path}&cursor={}", escaped(cursor));
        }
        let call = Call::new(Method::GET, path, ANSWER_TIMEOUT);
        self.repeat(&call).await.map(|answer| answer.body)
    }

    /// Calls, and repeats a call that no server answers for a moment.
    async fn repeat(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let until = Moment::now() + PATIENCE;
        let mut pause = FIRST_PAUSE;
        loop {
            let failure = match self.call(call).await {
                Ok(answer) if answer.is_success() => return Ok(answer),
                Ok(answer) => answer.failure(),
                Err(failure) => failure,
            };
            if !matches!(failure, Failure::Unavailable(_)) || until.left().is_zero() {
                return Err(failure);
            }
            sleep(jitter(pause)).await;
            pause *= 2;
        }
    }
}

/// Who holds a lock, in words.
#[must_use]
pub fn held(key: &str, status: &LockStatus) -> String {
    let seconds = |ms: u64| Duration::from_millis(ms).as_secs();
    let since = seconds(status.held_for_ms);
    let by = match (&status.holder, status.released) {
        // Who may not read the lock learns only for how long.
        _ if status.fencing_token.is_none() => format!(
            "held for {} s more if it is not renewed; the token does not permit to see by whom",
            seconds(status.expires_in_ms) + 1
        ),
        (_, true) => format!(
            "released, and stays held for {} s more",
            seconds(status.expires_in_ms) + 1
        ),
        (Some(holder), _) => format!("held by {holder} for {since} s"),
        (None, _) => format!("held by a client without a name for {since} s"),
    };
    match status.position {
        Some(position) => format!("{key} is {by} (position {position} in the queue)"),
        None => format!("{key} is {by}"),
    }
}

/// Failures that may pass: no server can serve, or too many requests wait.
const fn may_pass(status: u16) -> bool {
    status >= 500 || matches!(status, 408 | 429)
}

/// The operator allows shorter waits only.
fn is_too_long_a_wait(answer: &Answer) -> bool {
    answer.status == 400 && answer.detail().starts_with("wait_ms must be")
}

/// Three quarters to five quarters of it, so that clients do not repeat at the same moment.
fn jitter(pause: Duration) -> Duration {
    let random = f64::from(random::number()) / f64::from(u32::MAX);
    pause.mul_f64(0.75 + random / 2.0)
}

fn path(key: &str) -> String {
    format!("/locks/{}", escaped(key))
}

fn escaped(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
