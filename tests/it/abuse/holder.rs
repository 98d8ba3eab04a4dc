//! The well-behaved client: it holds a short lease and renews it in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::http::try_http;

/// How long its leases last without a renewal.
pub(super) const TTL: Duration = Duration::from_secs(2);

/// The pause after a failure with an unknown effect on the lease.
const PAUSE: Duration = Duration::from_millis(50);

pub(super) struct Holder {
    addr: String,
    token: String,
    key: String,
}

/// The results of the client.
pub(super) struct Held {
    /// The duration of each renewal, including repetitions.
    pub(super) renewals: Vec<Duration>,
    /// How often the client had to repeat a request.
    pub(super) repeated: u64,
    /// The smallest rest of the lease at a renewal.
    pub(super) least_left: Duration,
}

impl Holder {
    pub(super) fn new(addr: &str, token: &str, number: usize) -> Self {
        Self {
            addr: addr.to_owned(),
            token: format!("Bearer {token}"),
            key: format!("well-behaved/{number}"),
        }
    }

    /// Holds a lease until the run is `over`; panics if it loses the lease.
    pub(super) fn hold(&self, over: &AtomicBool) -> Held {
        let (lease_id, mut until) = self.acquire();
        let mut held = Held {
            renewals: Vec::new(),
            repeated: 0,
            least_left: TTL,
        };
        let lease = [("Lease-Id", &*lease_id)];
        let path = format!("/locks/{}/lease", self.key);
        while !over.load(Ordering::Relaxed) {
            sleep(TTL / 3);
            let begun = Instant::now();
            loop {
                let sent = Instant::now();
                assert!(sent < until, "{}: not renewed in time", self.key);
                match self.call("PUT", &path, &lease, None) {
                    Some((200, body)) => {
                        held.least_left = held.least_left.min(until - sent);
                        until = sent + time_left(&body);
                        break;
                    }
                    Some((409, body)) => panic!("{} is lost: {body}", self.key),
                    _ => {
                        held.repeated += 1;
                        sleep(PAUSE);
                    }
                }
            }
            held.renewals.push(begun.elapsed());
        }
        held
    }

    fn acquire(&self) -> (String, Instant) {
        let body = json!({"ttl_ms": TTL.as_millis(), "wait_ms": 5000}).to_string();
        let path = format!("/locks/{}", self.key);
        loop {
            let sent = Instant::now();
            // A closed connection may have brought a lease; the next request waits until that lease is over.
            if let Some((201, body)) = self.call("POST", &path, &[], Some(&body)) {
                let lease_id = body["lease_id"].as_str().expect("an id").to_owned();
                return (lease_id, sent + time_left(&body));
            }
            sleep(PAUSE);
        }
    }

    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<&str>,
    ) -> Option<(u16, serde_json::Value)> {
        let common = [
            ("Authorization", &*self.token),
            ("Content-Type", "application/json"),
        ];
        let headers = [&common, headers].concat();
        let reply = try_http(&self.addr, method, path, &headers, body).ok()?;
        Some((reply.status, reply.json()))
    }
}

/// How long the client may rely on the lease, from the sending of the request.
fn time_left(lease: &serde_json::Value) -> Duration {
    let ms = |name: &str| lease[name].as_u64().expect("milliseconds");
    Duration::from_millis(ms("waited_ms") + ms("expires_in_ms"))
}
