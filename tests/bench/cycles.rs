//! Cycles of acquire and release, each connection with its own lock: as fast as possible, or at a fixed rate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::generator::{Answer, Connections, Senders, quoted};

/// How long all connections may take to release their locks.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How long it may take to acquire many locks.
const HOLD_LIMIT: Duration = Duration::from_secs(180);

/// A placeholder in a release until the lease id is known.
const NO_LEASE_ID: &str = "00000000000000000000000000000000";

/// The API of the measured server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Leasehold,
    Webdis,
}

/// Connections to one server, each with its lock.
pub(crate) struct Clients {
    connections: Connections,
    locks: Locks,
    idle: Vec<usize>,
}

struct Locks {
    requests: Vec<Requests>,
    /// When the request in progress was due.
    due: Vec<Instant>,
    releasing: Vec<bool>,
    timed: bool,
    tally: Tally,
}

struct Requests {
    acquire: Vec<u8>,
    release: Vec<u8>,
    lease_id_at: Option<usize>,
}

/// The results.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) cycles: u64,
    /// Answers with another status.
    pub(crate) failures: u64,
    pub(crate) elapsed: Duration,
    /// Microseconds; empty unless timed.
    pub(crate) acquires: Vec<u32>,
    pub(crate) releases: Vec<u32>,
}

impl Tally {
    pub(crate) fn per_second(&self) -> f64 {
        count(self.cycles) / self.elapsed.as_secs_f64()
    }
}

/// A count as a floating-point number.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn count(number: u64) -> f64 {
    number as f64
}

/// A size as a floating-point number.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn size(number: usize) -> f64 {
    number as f64
}

impl Clients {
    /// Opens the connections; the lock names begin with `name`.
    pub(crate) fn open(dialect: Dialect, at: SocketAddr, connections: usize, name: &str) -> Self {
        let requests = (0..connections).map(|id| requests(dialect, &format!("{name}-{id}")));
        Self {
            connections: Connections::open(&[at], connections).expect("the server listens"),
            locks: Locks {
                requests: requests.collect(),
                due: vec![Instant::now(); connections],
                releasing: vec![false; connections],
                timed: false,
                tally: Tally::default(),
            },
            idle: (0..connections).rev().collect(),
        }
    }

    /// Runs as fast as the server answers; the next call continues the requests in progress.
    pub(crate) fn run(&mut self, time: Duration) -> Tally {
        self.closed_loop(time, false)
    }

    /// As `run`, with the times of all requests.
    pub(crate) fn timed(&mut self, time: Duration) -> Tally {
        self.closed_loop(time, true)
    }

    fn closed_loop(&mut self, time: Duration, timed: bool) -> Tally {
        self.locks.begin(timed);
        while let Some(id) = self.idle.pop() {
            self.locks
                .acquire(self.connections.senders(), id, Instant::now());
        }
        let begun = Instant::now();
        let end = begun + time;
        while Instant::now() < end {
            let locks = &mut self.locks;
            self.connections.answers(Some(time), |senders, id, answer| {
                if locks.answered(senders, id, answer) {
                    locks.acquire(senders, id, Instant::now());
                }
            });
        }
        self.locks.end(begun)
    }

    /// Starts `rate` cycles per second at random moments, even when the server lags behind. Latency counts from the
    /// moment at which a cycle was due.
    pub(crate) fn paced(&mut self, rate: f64, time: Duration) -> Tally {
        self.settle();
        self.locks.begin(true);
        let waker = self.connections.waker();
        let over = Arc::new(AtomicBool::new(false));
        let begun = Instant::now();
        let mut arrivals = Arrivals::new(rate, begun);
        let moments = Arrivals::new(rate, begun);
        let pacer = {
            let over = Arc::clone(&over);
            thread::spawn(move || pace(moments, &over, || drop(waker.wake())))
        };
        while begun.elapsed() < time {
            while let Some(id) = self.idle.last().copied() {
                let Some(due) = arrivals.take(Instant::now()) else {
                    break;
                };
                self.idle.pop();
                self.locks.acquire(self.connections.senders(), id, due);
            }
            let (locks, idle) = (&mut self.locks, &mut self.idle);
            self.connections.answers(Some(time), |senders, id, answer| {
                if locks.answered(senders, id, answer) {
                    idle.push(id);
                }
            });
        }
        over.store(true, Ordering::Relaxed);
        pacer.join().expect("the pacer does not panic");
        self.locks.end(begun)
    }

    /// Finishes all cycles in progress.
    pub(crate) fn settle(&mut self) {
        let end = Instant::now() + END_LIMIT;
        while self.idle.len() < self.locks.requests.len() && Instant::now() < end {
            let (locks, idle) = (&mut self.locks, &mut self.idle);
            self.connections
                .answers(Some(END_LIMIT), |senders, id, answer| {
                    if locks.answered(senders, id, answer) {
                        idle.push(id);
                    }
                });
        }
    }
}

impl Locks {
    fn begin(&mut self, timed: bool) {
        self.timed = timed;
        self.tally = Tally::default();
    }

    fn end(&mut self, begun: Instant) -> Tally {
        self.timed = false;
        self.tally.elapsed = begun.elapsed();
        std::mem::take(&mut self.tally)
    }

    fn acquire(&mut self, senders: &mut Senders, id: usize, due: Instant) {
        self.due[id] = due;
        self.releasing[id] = false;
        senders.send(id, &self.requests[id].acquire);
    }

    /// Continues a cycle; true once the cycle is over.
    fn answered(&mut self, senders: &mut Senders, id: usize, answer: &Answer) -> bool {
        let releasing = self.releasing[id];
        if self.timed {
            let now = Instant::now();
            let took = u32::try_from((now - self.due[id]).as_micros()).unwrap_or(u32::MAX);
            let times = if releasing {
                &mut self.tally.releases
            } else {
                &mut self.tally.acquires
            };
            times.push(took);
            self.due[id] = now;
        }
        if !(200..300).contains(&answer.status) {
            self.tally.failures += 1;
            return true;
        }
        if releasing {
            self.tally.cycles += 1;
            return true;
        }
        let requests = &mut self.requests[id];
        if let Some(at) = requests.lease_id_at {
            let lease_id = quoted(answer.body, "\"lease_id\":\"").unwrap_or_default();
            if lease_id.len() != NO_LEASE_ID.len() {
                self.tally.failures += 1;
                return true;
            }
            requests.release[at..at + lease_id.len()].copy_from_slice(lease_id);
        }
        self.releasing[id] = true;
        senders.send(id, &requests.release);
        false
    }
}

/// The requests of a connection for its lock.
fn requests(dialect: Dialect, key: &str) -> Requests {
    match dialect {
        Dialect::Leasehold => {
            let release = format!(
                "DELETE /locks/{key} HTTP/1.1\r\nhost: localhost\r\nlease-id: {NO_LEASE_ID}\r\n\r\n"
            );
            Requests {
                acquire: acquire(key, "{\"ttl_ms\":10000}"),
                lease_id_at: release.find(NO_LEASE_ID),
                release: release.into(),
            }
        }
        Dialect::Webdis => Requests {
            acquire: get(&format!("SET/{key}/{NO_LEASE_ID}/NX/PX/10000")),
            release: get(&format!("DEL/{key}")),
            lease_id_at: None,
        },
    }
}

/// The request for a lock.
pub(crate) fn acquire(key: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "POST /locks/{key} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .into()
}

/// The end of a lease.
pub(crate) fn release(key: &str, lease_id: &[u8]) -> Vec<u8> {
    let lease_id = String::from_utf8_lossy(lease_id);
    format!("DELETE /locks/{key} HTTP/1.1\r\nhost: localhost\r\nlease-id: {lease_id}\r\n\r\n")
        .into()
}

/// A renewal with the TTL of the lease.
pub(crate) fn renew(key: &str, lease_id: &[u8]) -> Vec<u8> {
    let lease_id = String::from_utf8_lossy(lease_id);
    format!("PUT /locks/{key}/lease HTTP/1.1\r\nhost: localhost\r\nlease-id: {lease_id}\r\ncontent-length: 0\r\n\r\n")
        .into()
}

pub(crate) fn get(path: &str) -> Vec<u8> {
    format!("GET /{path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into()
}

/// Acquires the locks `from..to`; returns the number of failures.
pub(crate) fn hold(at: SocketAddr, from: usize, to: usize, ttl_ms: u64) -> u64 {
    const CONNECTIONS: usize = 64;
    let mut connections = Connections::open(&[at], CONNECTIONS).expect("the server listens");
    let body = format!("{{\"ttl_ms\":{ttl_ms}}}");
    let (mut next, mut open, mut failures) = (from, 0, 0);
    for id in 0..CONNECTIONS.min(to - from) {
        connections.send(id, &acquire(&format!("held-{next:07}"), &body));
        next += 1;
        open += 1;
    }
    let end = Instant::now() + HOLD_LIMIT;
    while open > 0 {
        assert!(Instant::now() < end, "locks are acquired too slowly");
        connections.answers(Some(END_LIMIT), |senders, id, answer| {
            failures += u64::from(answer.status != 201);
            open -= 1;
            if next < to {
                senders.send(id, &acquire(&format!("held-{next:07}"), &body));
                next += 1;
                open += 1;
            }
        });
    }
    failures
}

/// Random moments, `rate` per second; equal rates and starts give equal moments.
struct Arrivals {
    mean: f64,
    next: Instant,
    state: u64,
}

impl Arrivals {
    fn new(rate: f64, begun: Instant) -> Self {
        Self {
            mean: 1.0 / rate,
            next: begun,
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// The next moment, if it is not after `now`.
    fn take(&mut self, now: Instant) -> Option<Instant> {
        let due = self.next;
        if due > now {
            return None;
        }
        // xorshift64
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let uniform = (count(self.state >> 11) + 1.0) / count((1 << 53) + 1);
        self.next += Duration::from_secs_f64(-uniform.ln() * self.mean);
        Some(due)
    }
}

/// Wakes the generator at each moment, because epoll only has a resolution of 1 ms.
fn pace(mut moments: Arrivals, over: &AtomicBool, wake: impl Fn()) {
    while !over.load(Ordering::Relaxed) {
        let now = Instant::now();
        let mut due = false;
        while moments.take(now).is_some() {
            due = true;
        }
        if due {
            wake();
        }
        thread::sleep(moments.next.saturating_duration_since(Instant::now()));
    }
}
