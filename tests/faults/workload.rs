//! What a client does: takes locks, uses the resource behind them, renews, lets go, repeats calls whose answer it
//! did not get, and now and then oversleeps its lease, asks for it back when it is over, or breaks another's. From time
//! to time it meets some others at a lock of their own.

use std::thread;
use std::time::Duration;

use crate::client::Client;
use crate::clock::now_us;
use crate::history::{Arm, Call, Op, Outcome};
use crate::protocol::ClientConfig;
use crate::rng::Rng;

/// The longest TTL that clients ask for.
///
/// Longer than what an abandoned acquisition with an `Idempotency-Key` is cut to (10 s): only then does a cut that
/// should not be show.
pub(crate) const LONGEST_TTL_MS: u64 = 15_000;
const TTLS_MS: [u64; 6] = [300, 500, 1000, 2000, 3000, 5000];
const WAITS_MS: [u64; 6] = [0, 0, 500, 2000, 5000, 9000];
/// How much longer than its wait a client waits for an answer.
const PATIENCE: Duration = Duration::from_secs(3);
const TRIES: u32 = 5;
/// How often the clients of a group meet, and how far apart the groups do.
const MEETING_US: u64 = 16_000_000;
const GROUPS_APART_US: u64 = 4_000_000;
/// How long after its begin a client may still join in.
const MEETING_FOR_US: u64 = 2_000_000;
/// How long a client waits there: shorter than the longest TTL, and longer than any excuse.
const MEETING_WAIT_MS: u64 = 14_000;

/// Runs a client process to its end.
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
    /// A lease that is over, to be released once more by mistake.
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
                // Too late: it must not get it back.
                self.renew(&mut held);
            }
            // Nobody waits for the end of a long lease that is of no use any more.
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

    /// Takes its part in the meeting that is due: one has the lock for much less time than it might have it, and the others,
    /// who wait for it, have it for a short time and never let go, as if they had died. Whoever waits at another server
    /// than the one before has to hear of these short leases.
    fn meet(&mut self) {
        let meeting = self.meeting();
        if std::mem::replace(&mut self.met, meeting) == meeting {
            return;
        }
        let begun = meeting * MEETING_US - self.group() * GROUPS_APART_US;
        if now_us() > begun + MEETING_FOR_US {
            // Who comes late would wake the others.
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

    /// The number of the meeting that this client's group had last.
    fn meeting(&self) -> u64 {
        (now_us() + self.group() * GROUPS_APART_US) / MEETING_US
    }

    fn group(&self) -> u64 {
        let last = self.client.config.meeting.bytes().last();
        u64::from(last.unwrap_or_default() % 4)
    }

    /// Takes a lock, repeating calls that are safe to repeat.
    fn acquire(&mut self, key: &str) -> Option<Held> {
        let attempt = self.next_attempt();
        let idempotent = self.rng.percent(60);
        // A client that gives up early, and asks again while the server still works for it.
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
        for turn in 0..TRIES {
            let mut call = self.prepare(&attempt, key, Op::Acquire);
            call.idempotent = idempotent;
            call.ttl_ms = Some(ttl_ms);
            call.wait_ms = wait_ms;
            let patience = if hasty && turn < 2 {
                Duration::from_millis(self.rng.between(1, 60) * self.rng.between(1, 10))
            } else {
                PATIENCE + Duration::from_millis(wait_ms)
            };
            let call = Client::make(call, patience);
            match call.outcome {
                Outcome::Done => return held(&call, ttl_ms),
                Outcome::Replayed => {
                    // What became of the earlier request must not take it away.
                    pause_ms(self.rng.between(5, 60));
                    let look = self.prepare("look", key, Op::Inspect);
                    Client::make(look, PATIENCE);
                    return held(&call, ttl_ms);
                }
                // Certainly not done, or safe to repeat.
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

    /// Uses the resource, on both of its arms, under the lease.
    fn hold(&mut self, mut held: Held) -> Held {
        let fenced = self.client.access(&held.key, Arm::Fenced, held.token, None);
        let control = self
            .client
            .access(&held.key, Arm::Control, held.token, None);
        for _ in 0..self.rng.between(0, 3) {
            // Mostly short, so that many take turns; long enough now and then that others run out of patience.
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
        // What a correct client does last before it writes; then it is stopped by a garbage collection or a busy host.
        if now_us() >= held.valid_until {
            return held;
        }
        if held.ttl_ms == LONGEST_TTL_MS {
            let rest = self.rng.between(10_500, held.ttl_ms - 1000);
            pause_ms(if self.rng.percent(4) { rest } else { 20 });
        } else if self.rng.percent(6) {
            pause_ms(held.ttl_ms + self.rng.between(100, 1200));
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

    /// Whether the lease may still be counted on.
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

    /// Ends somebody else's lease, as an administrator does.
    fn break_lease(&mut self, key: &str, token: u64) {
        let mut call = self.prepare("break", key, Op::Break);
        call.break_token = Some(token);
        Client::make(call, PATIENCE);
    }

    /// The release of a lease that is over, once more, as a proxy may repeat it.
    fn late_duplicate(&mut self, held: &Held) {
        let mut call = self.prepare(&held.attempt, &held.key, Op::Release);
        call.lease_id = Some(held.lease_id.clone());
        Client::make(call, PATIENCE);
    }

    /// Takes every key once and lets it go; asks all that are left in turn, without waiting in line.
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
