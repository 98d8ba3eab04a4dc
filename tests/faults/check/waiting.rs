//! Free locks go to their waiters, and every lock becomes available again in the end.

use std::collections::HashMap;

use super::leases::Lease;
use super::windows::Windows;
use super::{GRACE_US, Violation};
use crate::history::{Call, Event, Op, Outcome, PROBE_CLIENT, Phase};

/// How long a free lock may have a waiter without a fault; a lost hint costs a second.
const HAND_OVER_US: u64 = 3_000_000;
/// How long before its answer a grant may have happened.
const ANSWER_US: u64 = 1_000_000;
/// The allowance of the liveness rule beyond the rest of a TTL and the grace.
const LIVENESS_US: u64 = 1_000_000;
/// How much longer than its requested wait a client waits for an answer.
const PATIENCE_US: u64 = 3_000_000;

/// A waiter stood in the queue although the lock was certainly free for longer than a hand-over takes. The lock was
/// released, or its lease expired, even a lease shorter than the one the waiter's server knew of. Dying clients are no
/// excuse. A fault excuses only its own duration: the waits before and after it count.
pub(super) fn lost_wake_ups(
    leases: &[Lease],
    calls: &[&Call],
    windows: &Windows,
) -> Vec<Violation> {
    let known = holds(leases, calls, windows, Doubt::IfSeen);
    let longest = holds(leases, calls, windows, Doubt::Always);
    let none = Vec::new();
    let mut violations = Vec::new();
    for call in calls
        .iter()
        .filter(|call| call.op == Op::Acquire && call.wait_ms > 0)
    {
        let Some(answered) = call.answered_at.filter(|_| call.status.is_some()) else {
            continue;
        };
        // The request is no waiter after its wait.
        let until = answered.min(call.sent_at + call.wait_ms * 1000);
        let parts = windows.whole(call.sent_at, until).into_iter();
        let gaps = parts.map(|(from, until)| {
            let is_first = from == call.sent_at;
            let holds = if is_first { &known } else { &longest };
            longest_gap(holds.get(call.key.as_str()).unwrap_or(&none), from, until)
        });
        let Some((from, gap)) = gaps.max_by_key(|(_, gap)| *gap) else {
            continue;
        };
        if gap > HAND_OVER_US {
            violations.push(Violation::new(
                "lost-wake-up",
                from + gap,
                format!(
                    "{}: {} waited while the lock was free for {} ms",
                    call.key,
                    call.attempt,
                    gap / 1000
                ),
                &[call],
            ));
        }
    }
    violations
}

/// After the last fault every key becomes available once the remaining leases are over.
pub(super) fn liveness(
    events: &[Event],
    leases: &[Lease],
    calls: &[&Call],
    windows: &Windows,
) -> Vec<Violation> {
    let mut violations: Vec<Violation> = events.iter().filter_map(not_back).collect();
    let probe = events.iter().find_map(|event| match event {
        Event::Fault(fault) if fault.phase == Phase::Probe => Some(fault),
        _ => None,
    });
    let Some(probe) = probe else {
        return violations;
    };
    let of_clients: Vec<&Call> = calls
        .iter()
        .copied()
        .filter(|call| call.client != PROBE_CLIENT)
        .collect();
    let known: Vec<&Lease> = leases
        .iter()
        .filter(|lease| lease.grant.client != PROBE_CLIENT)
        .collect();
    for key in probe.detail.split_whitespace() {
        let held = known.iter().filter(|lease| lease.key == key).map(|lease| {
            let (from, until) = hold_of(lease);
            // Releases are not confirmed: a failover may restore the lease.
            if windows.disturbed(from, until) {
                longest_hold_of(lease)
            } else {
                until
            }
        });
        let maybe = of_clients
            .iter()
            .filter(|call| call.key == key)
            .filter_map(|call| doubtful_hold(call))
            .map(|(_, until)| until);
        // The rule counts from the first request for the key, because the probe has many keys.
        let asked = calls
            .iter()
            .filter(|call| call.client == PROBE_CLIENT && call.key == key)
            .map(|call| call.sent_at)
            .min();
        let asked = asked.unwrap_or(probe.at).max(probe.at);
        let may_last_until = held.chain(maybe).max().unwrap_or(0).max(asked);
        let acquired = calls.iter().find(|call| {
            call.client == PROBE_CLIENT
                && call.key == key
                && call.op == Op::Acquire
                && call.succeeded()
        });
        let at = acquired
            .and_then(|call| call.answered_at)
            .unwrap_or(u64::MAX);
        if at > may_last_until + LIVENESS_US {
            let when = match acquired {
                Some(_) => format!("only {} ms after that", (at - may_last_until) / 1000),
                None => "never".to_owned(),
            };
            violations.push(Violation::new(
                "liveness",
                may_last_until + LIVENESS_US,
                format!(
                    "{key}: free {} ms after the clients ended at the latest, and acquired {when}",
                    (may_last_until - probe.at) / 1000
                ),
                &acquired.map(|call| vec![*call]).unwrap_or_default(),
            ));
        }
    }
    violations
}

/// A server that did not grant again although all faults were repaired.
fn not_back(event: &Event) -> Option<Violation> {
    match event {
        Event::Fault(fault) if fault.phase == Phase::NotBack => Some(Violation::new(
            "liveness",
            fault.at,
            fault.detail.clone(),
            &[],
        )),
        _ => None,
    }
}

/// When a lease released under a fault counts as restored: releases are not confirmed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Doubt {
    /// Only if a later answer shows the lease.
    IfSeen,
    Always,
}

/// The intervals in which each key may have been held, ordered and without overlaps.
fn holds<'a>(
    leases: &[Lease<'a>],
    calls: &[&'a Call],
    windows: &Windows,
    doubt: Doubt,
) -> HashMap<&'a str, Vec<(u64, u64)>> {
    let mut last_seen: HashMap<(&str, u64), u64> = HashMap::new();
    for call in calls {
        if let Some(seen) = &call.seen {
            let last = last_seen.entry((&call.key, seen.token)).or_default();
            *last = call.sent_at.max(*last);
        }
    }
    let mut holds: HashMap<&str, Vec<(u64, u64)>> = HashMap::new();
    for lease in leases {
        let (from, mut until) = hold_of(lease);
        let seen = last_seen.get(&(lease.key, lease.token));
        let is_back = doubt == Doubt::Always || seen.is_some_and(|seen| *seen > until);
        if is_back && windows.disturbed(from, until) {
            until = longest_hold_of(lease);
        }
        holds.entry(lease.key).or_default().push((from, until));
    }
    for call in calls {
        if let Some(hold) = doubtful_hold(call) {
            holds.entry(&call.key).or_default().push(hold);
        }
    }
    for of_key in holds.values_mut() {
        of_key.sort_unstable();
        let mut merged: Vec<(u64, u64)> = Vec::new();
        for (from, until) in of_key.iter().copied() {
            match merged.last_mut().filter(|last| from <= last.1) {
                Some(last) => last.1 = last.1.max(until),
                None => merged.push((from, until)),
            }
        }
        *of_key = merged;
    }
    holds
}

/// The longest interval in which the store may have kept a lease.
fn hold_of(lease: &Lease) -> (u64, u64) {
    let from = lease
        .first_sent
        .max(lease.granted.saturating_sub(ANSWER_US));
    let until = longest_hold_of(lease);
    (from, until.min(lease.ended.unwrap_or(u64::MAX)))
}

/// The latest end of the lease for others if no client had ended it: a dead holder blocks a key for its TTL plus the skew.
fn longest_hold_of(lease: &Lease) -> u64 {
    let proofs = lease.proofs.iter().filter_map(|proof| {
        let left = proof.call.lease.as_ref()?.expires_in_ms;
        Some(proof.from + left * 1000)
    });
    proofs.max().unwrap_or(lease.granted) + GRACE_US
}

/// The interval in which a call without an answer may have made or kept a lease.
fn doubtful_hold(call: &Call) -> Option<(u64, u64)> {
    if call.outcome != Outcome::Unknown || !matches!(call.op, Op::Acquire | Op::Renew) {
        return None;
    }
    // A renewal does not record its TTL; the longest TTL is its upper bound.
    let ttl_ms = call.ttl_ms.unwrap_or(crate::workload::LONGEST_TTL_MS);
    let over = call
        .answered_at
        .unwrap_or(call.sent_at + call.wait_ms * 1000 + PATIENCE_US);
    Some((call.sent_at, over + ttl_ms * 1000 + GRACE_US + ANSWER_US))
}

/// The longest gap between these moments in which no client can have held the lock: its start and its length.
fn longest_gap(holds: &[(u64, u64)], from: u64, until: u64) -> (u64, u64) {
    let first = holds.partition_point(|(_, end)| *end <= from);
    let mut free_since = from;
    let mut longest = (from, 0);
    for (start, end) in &holds[first..] {
        let free_until = (*start).min(until);
        if free_until.saturating_sub(free_since) > longest.1 {
            longest = (free_since, free_until - free_since);
        }
        free_since = free_since.max(*end);
        if *start >= until {
            return longest;
        }
    }
    if until.saturating_sub(free_since) > longest.1 {
        longest = (free_since, until - free_since);
    }
    longest
}
