//! Answers keep their promises: a lease neither ends early nor returns after its end.

use std::collections::HashMap;

use super::leases::Lease;
use super::windows::Windows;
use super::{GRACE_US, Violation};
use crate::history::{Call, Op, Outcome};

/// The loss by rounding to whole milliseconds on both sides.
const ROUNDING_US: u64 = 10_000;
/// How long a lease may outlast its deadline: its grace plus a lag of the clocks.
const OUTLASTS_US: u64 = GRACE_US + 100_000;
/// How much longer than its requested wait a client waits for an answer.
const PATIENCE_US: u64 = 3_000_000;

/// An answer leaves less of a lease than an answer from before its question had promised.
///
/// Answers to others count until the end of the grace. A step of the clock may use the grace up, so it is not promised
/// under a fault.
pub(super) fn shrunken(leases: &[Lease], calls: &[&Call], windows: &Windows) -> Vec<Violation> {
    let mut said: HashMap<(&str, u64), Vec<(&Call, u64)>> = HashMap::new();
    for call in calls {
        if let Some((token, end)) = latest_end(call) {
            said.entry((&call.key, token))
                .or_default()
                .push((call, end));
        }
    }
    let mut violations = Vec::new();
    for lease in leases {
        let over = lease.end_sent.unwrap_or(u64::MAX);
        let none = Vec::new();
        let said = said.get(&(lease.key, lease.token)).unwrap_or(&none);
        let broken = said.iter().find_map(|(call, end)| {
            let answered = call.answered_at.filter(|at| *at < over)?;
            let with_grace = call.seen.is_some() && !windows.disturbed(lease.first_sent, answered);
            let grace = if with_grace { GRACE_US } else { 0 };
            let earlier = lease
                .proofs
                .iter()
                .find(|proof| proof.from < call.sent_at && end + ROUNDING_US < proof.until + grace);
            earlier.map(|proof| (proof, *call, proof.until + grace - end))
        });
        let Some((promise, call, short)) = broken else {
            continue;
        };
        let mut violation = Violation::new(
            "shrunken-lease",
            call.answered_at.unwrap_or(call.sent_at),
            format!(
                "{}: {} (token {}) ends {} ms before the moment that an earlier answer named",
                lease.key,
                lease.attempt,
                lease.token,
                short / 1000
            ),
            &[promise.call, call],
        );
        violation.promised_at = Some(promise.from);
        violations.push(violation);
    }
    violations
}

/// The lease in an answer, and the latest end of the lease by that answer.
fn latest_end(call: &Call) -> Option<(u64, u64)> {
    let answered = call.answered_at?;
    if let Some(seen) = &call.seen {
        // The store read its clock before this moment, so this is an upper bound.
        return Some((seen.token, answered + seen.expires_in_ms? * 1000));
    }
    let lease = call.lease.as_ref()?;
    // The rest of the lease counts from the request to the store. The end of this call is a safe upper bound.
    let underway = answered - call.sent_at;
    Some((
        lease.token,
        answered + underway + lease.expires_in_ms * 1000,
    ))
}

/// The server renewed or replayed a lease although every possible extension of it was over, or after a 409.
pub(super) fn revived(leases: &[Lease], calls: &[&Call], windows: &Windows) -> Vec<Violation> {
    let mut extensions: HashMap<(&str, &str), Vec<&Call>> = HashMap::new();
    let mut acquisitions: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in calls {
        match (call.op, &call.lease_id) {
            (Op::Renew, Some(id)) => extensions.entry((&call.key, id)).or_default().push(call),
            (Op::Acquire, _) => acquisitions.entry(&call.attempt).or_default().push(call),
            _ => {}
        }
    }
    let mut violations = Vec::new();
    for lease in leases {
        let none = Vec::new();
        let renewals = extensions.get(&(lease.key, lease.id)).unwrap_or(&none);
        let acquisitions = acquisitions.get(lease.attempt).unwrap_or(&none);
        let Some(ttl_ms) = acquisitions.iter().filter_map(|call| call.ttl_ms).max() else {
            continue;
        };
        let all = || renewals.iter().chain(acquisitions).copied();
        let of_this = |call: &&Call| {
            let told = call.lease.as_ref();
            call.succeeded() && told.is_some_and(|told| told.lease_id == lease.id)
        };
        let revived = all().filter(of_this).find_map(|call| {
            let before = all().filter(|other| {
                other.sent_at < call.sent_at
                    && matches!(
                        other.outcome,
                        Outcome::Done | Outcome::Replayed | Outcome::Unknown
                    )
            });
            let end = before
                .map(|other| done_by(other, windows) + ttl_ms * 1000)
                .max()?;
            let refused = lease.lost.filter(|lost| {
                lost.op == Op::Renew && lost.answered_at.is_some_and(|at| at < call.sent_at)
            });
            if let Some(lost) = refused {
                return Some((call, vec![lease.grant, lost, call], "was answered 409"));
            }
            // In its grace a lease accepts renewals, and is over for a repeated acquisition.
            let is_renewal = call.op == Op::Renew;
            let outlasts = if is_renewal || windows.disturbed(lease.first_sent, call.sent_at) {
                OUTLASTS_US
            } else {
                ROUNDING_US
            };
            (call.sent_at > end + outlasts).then(|| (call, vec![lease.grant, call], "was over"))
        });
        if let Some((call, evidence, why)) = revived {
            violations.push(Violation::new(
                "revived-lease",
                call.answered_at.unwrap_or(call.sent_at),
                format!(
                    "{}: {} (token {}) {why} and is back",
                    lease.key, lease.attempt, lease.token
                ),
                &evidence,
            ));
        }
    }
    violations
}

/// The latest moment at which the store may have executed a call.
fn done_by(call: &Call, windows: &Windows) -> u64 {
    match (call.outcome, call.answered_at) {
        (Outcome::Done | Outcome::Replayed, Some(answered)) => answered,
        // A fault may delay an abandoned request, which can still execute.
        _ => windows.over_by(
            call.sent_at,
            call.sent_at + call.wait_ms * 1000 + PATIENCE_US,
        ),
    }
}
