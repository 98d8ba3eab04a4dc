//! Fencing tokens rise with real time, and each token belongs to one lease.

use std::collections::HashMap;

use super::Violation;
use super::leases::Lease;
use crate::history::Call;

/// A grant requested after the answer of another grant has a higher token, over all keys.
pub(super) fn order(leases: &[Lease]) -> Vec<Violation> {
    let mut by_sent: Vec<&Lease> = leases.iter().collect();
    by_sent.sort_by_key(|lease| lease.first_sent);
    let mut by_answer: Vec<&Lease> = leases.iter().collect();
    by_answer.sort_by_key(|lease| lease.granted);
    let mut answered = by_answer.into_iter().peekable();
    let mut highest: Option<&Lease> = None;
    let mut violations = Vec::new();
    for lease in by_sent {
        while let Some(earlier) = answered.next_if(|other| other.granted < lease.first_sent) {
            if highest.is_none_or(|highest| earlier.token > highest.token) {
                highest = Some(earlier);
            }
        }
        if let Some(earlier) = highest.filter(|earlier| lease.token <= earlier.token) {
            violations.push(Violation::new(
                "token-order",
                lease.granted,
                format!(
                    "{} got token {} after {} had got {}",
                    lease.attempt, lease.token, earlier.attempt, earlier.token
                ),
                &[earlier.grant, lease.grant],
            ));
        }
    }
    violations
}

/// One token, one lease; one lease, one token.
pub(super) fn unique(leases: &[Lease]) -> Vec<Violation> {
    let mut first: HashMap<u64, &Lease> = HashMap::new();
    let mut violations = Vec::new();
    for lease in leases {
        if let Some(other) = lease.other_token {
            violations.push(Violation::new(
                "token-unique",
                lease.granted,
                format!(
                    "{} has the tokens {} and {other}",
                    lease.attempt, lease.token
                ),
                &[lease.grant],
            ));
        }
        if let Some(other) = first.insert(lease.token, lease) {
            violations.push(Violation::new(
                "token-unique",
                lease.granted,
                format!(
                    "{} and {} both have token {}",
                    other.attempt, lease.attempt, lease.token
                ),
                &[other.grant, lease.grant],
            ));
        }
    }
    violations
}

/// No answer names a holder that is older than a grant from before the question.
pub(super) fn reads(leases: &[Lease], calls: &[&Call]) -> Vec<Violation> {
    let mut by_key: HashMap<&str, Vec<&Lease>> = HashMap::new();
    for lease in leases {
        by_key.entry(lease.key).or_default().push(lease);
    }
    let mut highest: HashMap<&str, Vec<(u64, u64, &Lease)>> = HashMap::new();
    for (key, leases) in &mut by_key {
        leases.sort_by_key(|lease| lease.granted);
        let mut best: Option<&Lease> = None;
        for lease in leases.iter().copied() {
            if best.is_none_or(|best| lease.token > best.token) {
                best = Some(lease);
                let rising = highest.entry(key).or_default();
                rising.push((lease.granted, lease.token, lease));
            }
        }
    }
    let mut violations = Vec::new();
    for call in calls {
        let (Some(seen), Some(rising)) = (&call.seen, highest.get(call.key.as_str())) else {
            continue;
        };
        let before = rising.partition_point(|(granted, ..)| *granted < call.sent_at);
        let Some((_, token, lease)) = before.checked_sub(1).map(|index| rising[index]) else {
            continue;
        };
        if seen.token < token {
            violations.push(Violation::new(
                "read-order",
                call.answered_at.unwrap_or(call.sent_at),
                format!(
                    "{}: an answer names token {} after {} had got {token}",
                    call.key, seen.token, lease.attempt
                ),
                &[lease.grant, call],
            ));
        }
    }
    violations
}

/// At most one live lease for a lock key and an idempotency key.
pub(super) fn idempotency(leases: &[Lease]) -> Vec<Violation> {
    let mut by_attempt: HashMap<&str, Vec<&Lease>> = HashMap::new();
    for lease in leases.iter().filter(|lease| lease.idempotent) {
        by_attempt.entry(lease.attempt).or_default().push(lease);
    }
    let mut violations = Vec::new();
    for leases in by_attempt.values().filter(|leases| leases.len() > 1) {
        for (index, one) in leases.iter().enumerate() {
            for other in &leases[index + 1..] {
                let overlap = one.claims().any(|(from, until)| {
                    other
                        .claims()
                        .any(|(start, end)| from.max(start) < until.min(end))
                });
                if overlap {
                    violations.push(Violation::new(
                        "idempotency",
                        one.granted.max(other.granted),
                        format!(
                            "{} has two leases at once, tokens {} and {}",
                            one.attempt, one.token, other.token
                        ),
                        &[one.grant, other.grant],
                    ));
                }
            }
        }
    }
    violations
}
