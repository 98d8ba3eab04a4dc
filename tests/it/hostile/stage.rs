//! A server under attack, and the state that each request must leave unchanged.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::request::Request;
use super::row::{Row, faults};
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::redis::RedisServer;

/// A request hangs if it takes longer; `raw` gives up after 5 s of silence.
const ANSWER_LIMIT: Duration = Duration::from_secs(4);
/// Longer than the longest drain.
const END_LIMIT: Duration = Duration::from_secs(15);

/// The locks that other clients hold during the attack.
pub(super) const HELD: [&str; 2] = ["held", "held/key"];

/// A server with its Redis, if it has one.
pub(super) struct Stage {
    server: Leasehold,
    redis: Option<RedisServer>,
}

/// All state that hostile requests could change.
#[derive(Debug, PartialEq)]
struct State {
    locks: Vec<Value>,
    redis_keys: Vec<String>,
}

impl Stage {
    pub(super) fn in_memory() -> Self {
        Self::with(&[("LEASEHOLD_STORE", "memory")])
    }

    pub(super) fn on_redis() -> Self {
        let redis = RedisServer::plain();
        let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
        server.wait_ready();
        Self {
            server,
            redis: Some(redis),
        }
    }

    /// A server with these variables.
    pub(super) fn with(env: &[(&str, &str)]) -> Self {
        let server = Leasehold::start(env.iter().copied());
        server.wait_ready();
        Self {
            server,
            redis: None,
        }
    }

    pub(super) fn server(&self) -> &Leasehold {
        &self.server
    }

    /// Sends each row while other clients hold the `HELD` locks, and compares the state after each row; panics with all
    /// deviations.
    pub(super) fn withstand(&self, rows: &[Row]) {
        for key in HELD {
            let body = json!({"ttl_ms": 3_600_000, "holder": "somebody else"});
            let reply = self.server.api().acquire(key, body);
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let mut before = self.state();
        assert_eq!(before.locks.len(), HELD.len(), "{before:?}");
        let mut wrong = Vec::new();
        let mut complaints = 0;
        for row in rows {
            let (_, mut found) = self.faults(row);
            let after = self.state();
            if after != before {
                found.push(format!("changed {before:?} to {after:?}"));
            }
            let log = self.complaints();
            found.extend_from_slice(&log[complaints..]);
            if !found.is_empty() {
                wrong.push(format!("{:?}\n    {}", row.0, found.join("\n    ")));
            }
            (before, complaints) = (after, log.len());
        }
        assert!(
            wrong.is_empty(),
            "{} of {} rows\n{}",
            wrong.len(),
            rows.len(),
            wrong.join("\n")
        );
    }

    /// Sends one row and returns its answer; panics if the answer differs from the row.
    pub(super) fn expect(&self, request: Request, status: u16, kind: &'static str) -> Reply {
        let row = (request, status, kind);
        let (mut replies, found) = self.faults(&row);
        assert!(
            found.is_empty(),
            "{:?}\n    {}",
            row.0,
            found.join("\n    ")
        );
        replies.remove(0)
    }

    /// Sends a good request of its own; panics when any lock is held.
    pub(super) fn expect_nothing_held(&self) {
        assert_eq!(self.state().locks, Vec::<Value>::new());
    }

    /// Shuts the server down gracefully, which a hanging request would prevent; panics if its log has complaints.
    pub(super) fn end(self) {
        self.server.terminate();
        let status = self.server.wait_exit(END_LIMIT);
        assert!(status.success(), "{status}");
        assert_eq!(self.complaints(), Vec::<String>::new());
    }

    fn faults(&self, row: &Row) -> (Vec<Reply>, Vec<String>) {
        let sent = Instant::now();
        let replies = row.0.send(self.server.addr());
        let mut found = faults(row, &replies);
        if sent.elapsed() >= ANSWER_LIMIT {
            found.push("hangs".to_owned());
        }
        (replies, found)
    }

    /// The held locks, by a good request on its own connection.
    fn state(&self) -> State {
        let reply = self.server.api().list("");
        assert_eq!(reply.status, 200, "{reply:?}\n{}", self.server.stderr());
        let lasting = |lock: &Value| {
            json!([
                lock["key"],
                lock["holder"],
                lock["fencing_token"],
                lock["renewals"],
                lock["waiters"]
            ])
        };
        let reply = reply.json();
        let locks = reply["locks"].as_array().expect("a list of locks");
        let mut locks: Vec<Value> = locks.iter().map(lasting).collect();
        locks.sort_by_key(Value::to_string);
        State {
            locks,
            redis_keys: self
                .redis
                .as_ref()
                .map(RedisServer::keys)
                .unwrap_or_default(),
        }
    }

    /// Panics and errors in the log; requests of clients must cause neither.
    fn complaints(&self) -> Vec<String> {
        let log = self.server.stderr();
        let complaint = |line: &&str| line.contains("panicked") || line.contains("\"ERROR\"");
        log.lines()
            .filter(complaint)
            .map(|line| line.chars().take(400).collect())
            .collect()
    }
}
