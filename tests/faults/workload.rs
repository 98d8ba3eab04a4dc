//! The behaviour of a client. It acquires locks, uses their resources, renews and releases, and repeats calls without
//! an answer. Now and then it outsleeps its lease, asks for an expired lease again, or breaks another client's lease.
//! From time to time a group of clients meets at a lock of its own.

use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::clock::now_us;
use crate::history::{Arm, Call, Op, Outcome};
use crate::protocol::ClientConfig;
use crate::rng::Rng;

/// The longest TTL of any request.
///
/// It exceeds the 10 s to which the server shortens the lease of a disconnected client with an `Idempotency-Key`.
/// Otherwise a wrong shortening would not show.
pub(crate) const LONGEST_TTL_MS: u64 = 15_000;
const TTLS_MS: [u64; 6] = [300, 500, 1000, 2000, 3000, 5000];
const WAITS_MS: [u64; 6] = [0, 0, 500, 2000, 5000, 9000];
/// How much longer than its requested wait a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 5;
/// The interval between meetings of a group, and the offset between the groups.
const MEETING_US: u64 = 16_000_000;
const GROUPS_APART_US: u64 = 4_000_000;
/// How long after the start of a meeting a client may still join.
const MEETING_FOR_US: u64 = 2_000_000;
/// How long a client waits at a meeting: less than the longest TTL, and longer than any allowed delay.
const MEETING_WAIT_MS: u64 = 14_000;

/// Runs a client process until the campaign stops it.
pub(crate) fn run(config: ClientConfig) {
    let probe = config.probe;
    let seed = config.seed;
    let mut worker = Worker {
        client: Client::new(config),
        rng: Rng::new(seed),
        attempts: 0,
        stale: None,
        met: 0,
    };
    worker.met = worker.meeting();
    if probe {
        worker.probe();
    } else {
        while !worker.client.is_stopped() {
            worker.meet();
            worker.reservation();
        }
    }
}

struct Worker {
    client: Client,
    rng: Rng,
    attempts: u64,
    /// An expired lease, for a late duplicate of its release.
    stale: Option<Held>,
    /// The number of the last meeting.
    met: u64,
}

#[derive(Clone)]
struct Held {
    key: String,
    attempt: String,
    lease_id: String,
    token: u64,
    ttl_ms: u64,
    valid_until: u64,
}

impl Worker {
    fn reservation(&mut self) {
        let key = self.rng.pick(&self.client.config.keys).clone();
        if let Some(held) = self.acquire(&key) {
            let mut held = self.hold(held);
            if now_us() > held.valid_until && self.rng.percent(70) {
                // Too late: the server must not renew the lease.
                self.renew(&mut held);
            }
            // A long lease must not stay behind: it would block the lock for too long.
            if self.rng.percent(88) || held.ttl_ms == LONGEST_TTL_MS {
                self.release(&held);
            }
            if self.rng.percent(20) {
                self.stale = Some(held);
            }
        } else {
            pause_ms(self.rng.between(20, 150));
        }
        if self.rng.percent(30)
            && let Some(stale) = self.stale.take()
        {
            self.late_duplicate(&stale);
        }
        if self.rng.percent(5) {
            let call = self.prepare("look", &key, Op::Inspect);
            Client::make(call, PATIENCE);
        }
        pause_ms(self.rng.between(5, 120));
    }

    /// Joins the current meeting. One client holds the lock for much less than its TTL; the waiters then get short
    /// leases and never release them, like dead clients. Servers whose waiters saw the long lease must learn of these
    /// short leases.
    fn meet(&mut self) {
        let meeting = self.meeting();
        if std::mem::replace(&mut self.met, meeting) == meeting {
            return;
        }
        let begun = meeting * MEETING_US - self.group() * GROUPS_APART_US;
        if now_us() > begun + MEETING_FOR_US {
            // A request after the start could wake the waiters.
            return;
        }
        let first = (self.client.config.member + meeting).is_multiple_of(4);
        if !first {
            pause_ms(self.rng.between(300, 700));
        }
        let (attempt, key) = (self.next_attempt(), self.client.config.meeting.clone());
        let ttl_ms = if first {
            LONGEST_TTL_MS
        } else {
            self.rng.between(300, 600)
        };
        let mut call = self.prepare(&attempt, &key, Op::Acquire);
        call.idempotent = self.rng.percent(50);
        call.ttl_ms = Some(ttl_ms);
        call.wait_ms = MEETING_WAIT_MS;
        let patience = PATIENCE + Duration::from_millis(MEETING_WAIT_MS);
        let call = Client::make(call, patience);
        if let Some(held) = held(&call, ttl_ms).filter(|_| first) {
            let end = begun + MEETING_FOR_US + 1_000_000;
            pause_ms(end.saturating_sub(now_us()) / 1000);
            self.release(&held);
        }
    }

    /// The number of the group's current meeting.
    fn meeting(&self) -> u64 {
        (now_us() + self.group() * GROUPS_APART_US) / MEETING_US
    }

    fn group(&self) -> u64 {
        let last = self.client.config.meeting.bytes().last();
        u64::from(last.unwrap_or_default() % 4)
    }

    /// Acquires a lock; repeats calls that are safe to repeat.
    fn acquire(&mut self, key: &str) -> Option<Held> {
        let attempt = self.next_attempt();
        let idempotent = self.rng.percent(60);
        // A client that gives up early and asks again while the server still works on its first request.
        let hasty = self.rng.percent(18);
        let patient = !hasty || self.rng.percent(50);
        let wait_ms = if patient {
            *self.rng.pick(&WAITS_MS)
        } else {
            0
        };
        let long = if hasty && idempotent { 60 } else { 5 };
        let ttl_ms = if self.rng.percent(long) {
            LONGEST_TTL_MS
        } else {
            *self.rng.pick(&TTLS_MS)
        };
        for attempt_number in 0..TRIES {
            let mut call = self.prepare(&attempt, key, Op::Acquire);
            call.idempotent = idempotent;
            call.ttl_ms = Some(ttl_ms);
            call.wait_ms = wait_ms;
            let patience = if hasty && attempt_number < 2 {
                Duration::from_millis(self.rng.between(1, 60) * self.rng.between(1, 10))
            } else {
                PATIENCE + Duration::from_millis(wait_ms)
            };
            let call = Client::make(call, patience);
            match call.outcome {
                Outcome::Done => return held(&call, ttl_ms),
                Outcome::Replayed => {
                    // The outcome of the earlier request must not end this lease.
                    pause_ms(self.rng.between(5, 60));
                    let look = self.prepare("look", key, Op::Inspect);
                    Client::make(look, PATIENCE);
                    return held(&call, ttl_ms);
                }
                // Not done, hence safe to repeat.
                Outcome::NotDone => pause_ms(self.rng.between(50, 300)),
                Outcome::Unknown if idempotent => pause_ms(self.rng.between(0, 60)),
                Outcome::Refused => {
                    if let Some(seen) = call.seen.as_ref().filter(|_| self.rng.percent(1)) {
                        self.break_lease(key, seen.token);
                    }
                    return None;
                }
                Outcome::Unknown | Outcome::Lost => return None,
            }
            if self.client.is_stopped() {
                return None;
            }
        }
        None
    }

    /// Uses both arms of the resource under the lease.
    fn hold(&mut self, mut held: Held) -> Held {
        let fenced = self.client.access(&held.key, Arm::Fenced, held.token, None);
        let control = self
            .client
            .access(&held.key, Arm::Control, held.token, None);
        for _ in 0..self.rng.between(0, 3) {
            // Mostly short, so that many clients get the lock; sometimes long enough that waiters time out.
            let longest = if self.rng.percent(15) {
                held.ttl_ms.min(5000) / 3
            } else {
                80
            };
            pause_ms(self.rng.between(0, longest));
            if self.rng.percent(60) && !self.renew(&mut held) {
                return held;
            }
        }
        // The last check of a correct client before a write; a garbage collection or a busy host can still delay the
        // write.
        if now_us() >= held.valid_until {
            return held;
        }
        if held.ttl_ms == LONGEST_TTL_MS {
            let rest = self.rng.between(10_500, held.ttl_ms - 1000);
            pause_ms(if self.rng.percent(4) { rest } else { 20 });
        } else if self.rng.percent(6) {
            // Into the grace of the lease, and beyond it.
            pause_ms(held.ttl_ms + self.rng.between(100, 1700));
        } else {
            pause_ms(self.rng.between(0, 40));
        }
        if let Some(base) = fenced {
            self.client
                .access(&held.key, Arm::Fenced, held.token, Some(base));
        }
        if let Some(base) = control {
            self.client
                .access(&held.key, Arm::Control, held.token, Some(base));
        }
        held
    }

    /// Whether the client may still rely on the lease.
    fn renew(&mut self, held: &mut Held) -> bool {
        let mut call = self.prepare(&held.attempt, &held.key, Op::Renew);
        call.lease_id = Some(held.lease_id.clone());
        let call = Client::make(call, PATIENCE);
        if let Some(until) = call.valid_until() {
            held.valid_until = held.valid_until.max(until);
        }
        call.outcome != Outcome::Lost
    }

    fn release(&mut self, held: &Held) {
        for _ in 0..TRIES {
            let mut call = self.prepare(&held.attempt, &held.key, Op::Release);
            call.lease_id = Some(held.lease_id.clone());
            match Client::make(call, PATIENCE).outcome {
                Outcome::Unknown | Outcome::NotDone => pause_ms(self.rng.between(50, 300)),
                _ => return,
            }
            if self.client.is_stopped() {
                return;
            }
        }
    }

    /// Breaks another client's lease, as an administrator does.
    fn break_lease(&mut self, key: &str, token: u64) {
        let mut call = self.prepare("break", key, Op::Break);
        call.break_token = Some(token);
        Client::make(call, PATIENCE);
    }

    /// Repeats the release of an ended lease, as a proxy may do.
    fn late_duplicate(&mut self, held: &Held) {
        let mut call = self.prepare(&held.attempt, &held.key, Op::Release);
        call.lease_id = Some(held.lease_id.clone());
        Client::make(call, PATIENCE);
    }

    /// Acquires and releases every key once; asks for the remaining keys in rounds, without a wait.
    fn probe(&mut self) {
        let mut left = self.client.config.keys.clone();
        while !left.is_empty() && !self.client.is_stopped() {
            for key in std::mem::take(&mut left) {
                let attempt = self.next_attempt();
                let mut call = self.prepare(&attempt, &key, Op::Acquire);
                call.ttl_ms = Some(1000);
                let call = Client::make(call, PATIENCE);
                match held(&call, 1000) {
                    Some(held) => self.release(&held),
                    None => left.push(key),
                }
            }
            pause_ms(20);
        }
    }

    fn next_attempt(&mut self) -> String {
        self.attempts += 1;
        let config = &self.client.config;
        format!("c{}.{}.{}", config.client, config.life, self.attempts)
    }

    fn prepare(&mut self, attempt: &str, key: &str, op: Op) -> Call {
        let server = self.rng.index(self.client.config.servers.len());
        self.client.prepare(attempt, key, op, server)
    }
}

fn held(call: &Call, ttl_ms: u64) -> Option<Held> {
    let lease = call.lease.as_ref().filter(|_| call.succeeded())?;
    Some(Held {
        key: call.key.clone(),
        attempt: call.attempt.clone(),
        lease_id: lease.lease_id.clone(),
        token: lease.token,
        ttl_ms,
        valid_until: call.valid_until()?,
    })
}

fn pause_ms(ms: u64) {
    thread::sleep(Duration::from_millis(ms));
}
