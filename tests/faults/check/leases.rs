//! Leases as the answers to their clients prove them.

use std::collections::HashMap;

use crate::history::{Call, Op, Outcome};

/// All facts that clients learned about one lease.
pub(super) struct Lease<'a> {
    pub(super) key: &'a str,
    pub(super) id: &'a str,
    pub(super) token: u64,
    /// Another token that a later answer names for the same lease.
    pub(super) other_token: Option<u64>,
    pub(super) attempt: &'a str,
    pub(super) idempotent: bool,
    /// When its client sent the first request of the acquisition, a lower bound of the grant.
    pub(super) first_sent: u64,
    /// When the first answer with the grant arrived, an upper bound of the grant.
    pub(super) granted: u64,
    pub(super) grant: &'a Call,
    /// Answers that prove the lease: from the answer until the deadline by the contract.
    pub(super) proofs: Vec<Proof<'a>>,
    /// When the holder or a break first tried to end the lease.
    pub(super) end_sent: Option<u64>,
    /// When a break first tried to end the lease.
    pub(super) break_sent: Option<u64>,
    /// When an answer first confirmed the end.
    pub(super) ended: Option<u64>,
    /// The first answer that reports the loss.
    pub(super) lost: Option<&'a Call>,
}

pub(super) struct Proof<'a> {
    pub(super) from: u64,
    pub(super) until: u64,
    pub(super) call: &'a Call,
}

impl Lease<'_> {
    /// When its holder could rely on it: each proof until the first attempt to end the lease or the known loss.
    pub(super) fn claims(&self) -> impl Iterator<Item = (u64, u64)> {
        self.proven_claims().map(|(from, until, _)| (from, until))
    }

    /// The same, each with the index of its proof.
    pub(super) fn proven_claims(&self) -> impl Iterator<Item = (u64, u64, usize)> {
        let known_loss = self.lost.and_then(|call| call.answered_at);
        let end = self
            .end_sent
            .unwrap_or(u64::MAX)
            .min(known_loss.unwrap_or(u64::MAX));
        self.proofs
            .iter()
            .enumerate()
            .map(move |(index, proof)| (proof.from, proof.until.min(end), index))
            .filter(|(from, until, _)| from < until)
    }

    /// The last moment that any proof covers.
    pub(super) fn proven_until(&self) -> u64 {
        self.proofs
            .iter()
            .map(|proof| proof.until)
            .max()
            .unwrap_or(0)
    }
}

/// Finds all leases of which a client received an answer.
pub(super) fn collect<'a>(calls: &[&'a Call]) -> Vec<Lease<'a>> {
    let mut first_sent: HashMap<&str, u64> = HashMap::new();
    for call in calls.iter().filter(|call| call.op == Op::Acquire) {
        let sent = first_sent.entry(&call.attempt).or_insert(call.sent_at);
        *sent = call.sent_at.min(*sent);
    }
    let mut leases: Vec<Lease<'a>> = Vec::new();
    let mut by_id: HashMap<(&str, &str), usize> = HashMap::new();
    let mut by_token: HashMap<(&str, u64), usize> = HashMap::new();
    for call in calls {
        let (Some(granted), Some(until), Some(lease)) =
            (call.answered_at, call.valid_until(), call.lease.as_ref())
        else {
            continue;
        };
        let id = (call.key.as_str(), lease.lease_id.as_str());
        let index = *by_id.entry(id).or_insert_with(|| {
            leases.push(Lease {
                key: &call.key,
                id: &lease.lease_id,
                token: lease.token,
                other_token: None,
                attempt: &call.attempt,
                idempotent: call.idempotent,
                first_sent: first_sent
                    .get(call.attempt.as_str())
                    .copied()
                    .unwrap_or(call.sent_at),
                granted,
                grant: call,
                proofs: Vec::new(),
                end_sent: None,
                break_sent: None,
                ended: None,
                lost: None,
            });
            leases.len() - 1
        });
        by_token.insert((&call.key, lease.token), index);
        let found = &mut leases[index];
        if found.token != lease.token {
            found.other_token = Some(lease.token);
        }
        found.proofs.push(Proof {
            from: granted,
            until,
            call,
        });
    }
    for call in calls {
        let index = match call.op {
            Op::Renew | Op::Release => call
                .lease_id
                .as_ref()
                .and_then(|id| by_id.get(&(call.key.as_str(), id.as_str()))),
            Op::Break => call
                .break_token
                .and_then(|token| by_token.get(&(call.key.as_str(), token))),
            Op::Acquire | Op::Inspect => None,
        };
        let Some(lease) = index.map(|index| &mut leases[*index]) else {
            continue;
        };
        if call.op != Op::Renew {
            let sent = lease.end_sent.get_or_insert(call.sent_at);
            *sent = call.sent_at.min(*sent);
            if call.op == Op::Break {
                let sent = lease.break_sent.get_or_insert(call.sent_at);
                *sent = call.sent_at.min(*sent);
            }
            if call.succeeded() {
                let at = call.answered_at.unwrap_or(u64::MAX);
                lease.ended = Some(lease.ended.unwrap_or(u64::MAX).min(at));
            }
        }
        if call.op != Op::Break && call.outcome == Outcome::Lost {
            let earlier = lease
                .lost
                .is_none_or(|lost| call.answered_at < lost.answered_at);
            if earlier {
                lease.lost = Some(call);
            }
        }
    }
    leases
}
