//! At most one lease of a key at a time, and no confirmed lease lost before its deadline.

use std::collections::{HashMap, HashSet};

use super::Violation;
use super::leases::Lease;
use super::windows::Windows;
use crate::history::{Call, Op};

/// Two clients could both rely on a lease of one key.
pub(super) fn overlaps(leases: &[Lease]) -> Vec<Violation> {
    let mut claims: HashMap<&str, Vec<(u64, u64, usize, usize)>> = HashMap::new();
    for (index, lease) in leases.iter().enumerate() {
        let of_key = claims.entry(lease.key).or_default();
        of_key.extend(
            lease
                .proven_claims()
                .map(|(from, until, proof)| (from, until, index, proof)),
        );
    }
    let mut violations = Vec::new();
    let mut reported = HashSet::new();
    for of_key in claims.values_mut() {
        of_key.sort_unstable();
        let mut open: Vec<(u64, usize, usize)> = Vec::new();
        for (from, until, index, proof) in of_key.iter().copied() {
            open.retain(|(until, ..)| *until > from);
            for (other_until, other, other_proof) in &open {
                let pair = (index.min(*other), index.max(*other));
                if *other != index && reported.insert(pair) {
                    let (one, two) = (&leases[*other], &leases[index]);
                    let both = until.min(*other_until) - from;
                    violations.push(Violation::new(
                        "exclusion",
                        from,
                        format!(
                            "{}: {} (token {}) and {} (token {}) both hold it for {} ms",
                            one.key,
                            one.attempt,
                            one.token,
                            two.attempt,
                            two.token,
                            both / 1000
                        ),
                        &[one.proofs[*other_proof].call, two.proofs[proof].call],
                    ));
                }
            }
            open.push((until, index, proof));
        }
    }
    violations
}

/// The server answered 409 for a lease although its holder could rely on it and no client had ended it. A successful
/// release of another lease meanwhile is to blame, unless a fault explains the loss.
pub(super) fn lost(leases: &[Lease], calls: &[&Call], windows: &Windows) -> Vec<Violation> {
    let mut releases: HashMap<&str, Vec<&Call>> = HashMap::new();
    for call in calls.iter().filter(|call| call.op == Op::Release) {
        releases.entry(&call.key).or_default().push(call);
    }
    let mut violations = Vec::new();
    for lease in leases {
        let Some(loss) = lease.lost else { continue };
        let Some(lost_at) = loss.answered_at else {
            continue;
        };
        // The call in which the holder ends the lease may itself find the loss. A break comes from another client, and
        // the lease may be over from then on.
        let ended_before = lease.end_sent.is_some_and(|sent| sent < loss.sent_at)
            || lease.break_sent.is_some_and(|sent| sent < lost_at);
        let counted_on = lease
            .proofs
            .iter()
            .any(|proof| proof.from <= loss.sent_at && lost_at < proof.until);
        if ended_before || !counted_on {
            continue;
        }
        let culprit = releases.get(lease.key).and_then(|releases| {
            releases.iter().find(|release| {
                release.lease_id.as_deref() != Some(lease.id)
                    && release.succeeded()
                    && release.sent_at > lease.granted
                    && release.sent_at < lost_at
            })
        });
        let promised = lease.proofs.iter().map(|proof| proof.from);
        let promised = promised.filter(|from| *from <= loss.sent_at).max();
        let undisturbed = !windows.disturbed(lease.granted, lost_at);
        let left = (lease.proven_until() - lost_at) / 1000;
        let mut evidence = vec![lease.grant, loss];
        let rule = match culprit.filter(|_| undisturbed) {
            Some(release) => {
                evidence.insert(1, release);
                "release-of-successor"
            }
            None => "confirmed-grant-lost",
        };
        let mut violation = Violation::new(
            rule,
            lost_at,
            format!(
                "{}: {} (token {}) is lost ({}) {left} ms before its end",
                lease.key,
                lease.attempt,
                lease.token,
                loss.reason.as_deref().unwrap_or("?")
            ),
            &evidence,
        );
        violation.promised_at = promised;
        violations.push(violation);
    }
    violations
}
