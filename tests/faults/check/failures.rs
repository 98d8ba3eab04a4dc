//! A failed acquisition leaves no lease behind, and neither does a client that disconnects.

use std::collections::{HashMap, HashSet};

use super::windows::Windows;
use super::{GRACE_US, Violation};
use crate::history::{ABANDONED, Call, Op, Outcome};

/// How long the grant of a disconnected client may stay visible: the server detects the disconnect, then rolls back.
const UNDO_US: u64 = 2_000_000;

/// How long a lock is reserved for a waiter, and how exactly an answer states it.
const RESERVATION_MS: u64 = 3_000;
const RESERVATION_ERROR_MS: u64 = 3;

/// The calls of an acquisition.
struct Attempt<'a> {
    calls: Vec<&'a Call>,
}

impl Attempt<'_> {
    /// Whether every call definitely failed.
    fn failed(&self) -> bool {
        self.calls.iter().all(|call| {
            matches!(
                call.outcome,
                Outcome::Refused | Outcome::NotDone | Outcome::Lost
            )
        })
    }

    /// Whether the client gave up on each call and cannot retry it; the server saw the disconnect before it answered.
    fn abandoned(&self) -> bool {
        self.calls.iter().all(|call| {
            call.outcome == Outcome::Unknown
                && call.problem.as_deref() == Some(ABANDONED)
                && !call.idempotent
        })
    }

    fn last_word(&self) -> u64 {
        let ends = self
            .calls
            .iter()
            .map(|call| call.answered_at.unwrap_or(call.sent_at));
        ends.max().unwrap_or(0)
    }
}

pub(super) fn left_something(calls: &[&Call], windows: &Windows) -> Vec<Violation> {
    let mut attempts: HashMap<&str, Attempt> = HashMap::new();
    for call in calls.iter().filter(|call| call.op == Op::Acquire) {
        let attempt = attempts
            .entry(&call.attempt)
            .or_insert(Attempt { calls: Vec::new() });
        attempt.calls.push(call);
    }
    let mut reported = HashSet::new();
    let mut violations = Vec::new();
    for sighting in calls {
        let holder = sighting
            .seen
            .as_ref()
            .and_then(|seen| seen.holder.as_deref());
        let Some((holder, attempt)) =
            holder.and_then(|holder| Some((holder, attempts.get(holder)?)))
        else {
            continue;
        };
        let last_word = attempt.last_word();
        // The refusal itself may name the attempt.
        let own = sighting.attempt == holder && sighting.answered_at == Some(last_word);
        let how = if attempt.failed() && (own || sighting.sent_at > last_word) {
            "failed for certain"
        } else if attempt.abandoned()
            // The end of a killed client's call is unknown: it lies somewhere in its wait.
            && attempt.calls.iter().all(|call| call.answered_at.is_some())
            && sighting.sent_at > last_word + UNDO_US
            && !windows.disturbed(attempt.calls[0].sent_at, sighting.sent_at)
        {
            "was given up by its client"
        } else {
            continue;
        };
        // A failover can lose the rollback of a queue entry. The lock may then be reserved for the request until its
        // server declines that. The contract promises that no lease is left, and a lease states another length: its TTL
        // and the skew.
        let is_reserved = sighting.seen.as_ref().is_some_and(|seen| {
            let whole = seen.held_for_ms + seen.expires_in_ms.unwrap_or(0);
            whole.abs_diff(RESERVATION_MS) <= RESERVATION_ERROR_MS
                && attempt.calls.iter().all(|call| {
                    let lease = call.ttl_ms.unwrap_or(0) + GRACE_US / 1000;
                    whole.abs_diff(lease) > RESERVATION_ERROR_MS
                })
        });
        let answered_at = sighting.answered_at.unwrap_or(sighting.sent_at);
        if reported.insert(holder) {
            let mut evidence = attempt.calls.clone();
            evidence.push(sighting);
            let mut violation = Violation::new(
                "definite-failure-left-nothing",
                answered_at,
                format!(
                    "{}: the acquisition {holder} {how}, and yet it holds the lock {} ms later",
                    sighting.key,
                    sighting.sent_at.saturating_sub(last_word) / 1000
                ),
                &evidence,
            );
            violation.excused =
                is_reserved && windows.disturbed(attempt.calls[0].sent_at, answered_at);
            violations.push(violation);
        }
    }
    violations
}
