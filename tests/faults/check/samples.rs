//! Short constructors of calls, accesses and faults, for handmade histories. Moments are in milliseconds.

use crate::history::{Access, Arm, Call, Event, Fault, GrantedLease, Op, Outcome, Phase, Seen};

pub(super) fn call(attempt: &str, op: Op, sent: u64, answered: u64) -> Event {
    Event::Call(Box::new(Call {
        client: 0,
        attempt: attempt.to_owned(),
        key: "k".to_owned(),
        op,
        server: "s".to_owned(),
        sent_at: sent * 1000,
        answered_at: Some(answered * 1000),
        idempotent: false,
        lease_id: None,
        break_token: None,
        ttl_ms: Some(1000),
        wait_ms: 0,
        outcome: Outcome::Unknown,
        status: None,
        problem: None,
        reason: None,
        lease: None,
        seen: None,
    }))
}

pub(super) fn with(mut event: Event, change: impl FnOnce(&mut Call)) -> Event {
    if let Event::Call(call) = &mut event {
        change(call);
    }
    event
}

pub(super) fn outcome(event: Event, outcome: Outcome) -> Event {
    with(event, |call| call.outcome = outcome)
}

pub(super) fn answer(event: Event, lease_id: &str, token: u64, expires_in_ms: u64) -> Event {
    with(outcome(event, Outcome::Done), |call| {
        call.lease = Some(GrantedLease {
            lease_id: lease_id.to_owned(),
            token,
            expires_in_ms,
            waited_ms: 0,
        });
    })
}

pub(super) fn grant(attempt: &str, sent: u64, answered: u64, lease_id: &str, token: u64) -> Event {
    answer(
        call(attempt, Op::Acquire, sent, answered),
        lease_id,
        token,
        1000,
    )
}

pub(super) fn for_lease(event: Event, lease_id: &str) -> Event {
    with(event, |call| call.lease_id = Some(lease_id.to_owned()))
}

pub(super) fn renewal(
    attempt: &str,
    sent: u64,
    answered: u64,
    lease_id: &str,
    is: Outcome,
) -> Event {
    outcome(
        for_lease(call(attempt, Op::Renew, sent, answered), lease_id),
        is,
    )
}

pub(super) fn release(
    attempt: &str,
    sent: u64,
    answered: u64,
    lease_id: &str,
    is: Outcome,
) -> Event {
    outcome(
        for_lease(call(attempt, Op::Release, sent, answered), lease_id),
        is,
    )
}

pub(super) fn idempotent(event: Event) -> Event {
    with(event, |call| call.idempotent = true)
}

pub(super) fn on_key(event: Event, key: &str) -> Event {
    with(event, |call| key.clone_into(&mut call.key))
}

pub(super) fn sighting(attempt: &str, sent: u64, answered: u64, holder: &str, token: u64) -> Event {
    with(
        outcome(call(attempt, Op::Inspect, sent, answered), Outcome::Done),
        |call| {
            call.seen = Some(Seen {
                holder: Some(holder.to_owned()),
                token,
                held_for_ms: 0,
                expires_in_ms: None,
            });
        },
    )
}

/// A waiter that timed out.
pub(super) fn waiting(sent: u64, wait_ms: u64) -> Event {
    let waiter = call("w", Op::Acquire, sent, sent + wait_ms);
    with(outcome(waiter, Outcome::Refused), |call| {
        call.wait_ms = wait_ms;
        call.status = Some(423);
    })
}

pub(super) fn access(arm: Arm, token: u64, base: Option<u64>, value: u64, at: u64) -> Event {
    Event::Access(Access {
        client: 0,
        key: "k".to_owned(),
        arm,
        token,
        at: at * 1000,
        base,
        value,
        accepted: true,
    })
}

pub(super) fn fault(nemesis: &str, phase: Phase, at: u64) -> Event {
    Event::Fault(Fault {
        nemesis: nemesis.to_owned(),
        phase,
        at: at * 1000,
        detail: if phase == Phase::Probe { "k" } else { "" }.to_owned(),
    })
}
