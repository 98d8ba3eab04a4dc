//! Handmade histories: each breaks one rule, or looks like a violation but is none.

use std::process::ExitCode;

use super::check;
use super::samples::{
    access, answer, call, fault, for_lease, grant, idempotent, on_key, outcome, release, renewal,
    sighting, waiting, with,
};
use crate::history::{Arm, Event, Op, Outcome, PROBE_CLIENT, Phase};

type Example = (&'static str, &'static [&'static str], fn() -> Vec<Event>);

/// Each entry: a description, the violated rules, and the history.
const EXAMPLES: &[Example] = &[
    ("one after the other", &[], one_after_the_other),
    ("two holders", &["exclusion"], || {
        vec![grant("a", 0, 10, "l1", 1), grant("b", 20, 30, "l2", 2)]
    }),
    ("the second holder comes after the proven end", &[], || {
        vec![grant("a", 0, 10, "l1", 1), grant("b", 1000, 1010, "l2", 2)]
    }),
    (
        "the second holder comes once the release was sent",
        &[],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                release("a", 20, 40, "l1", Outcome::Unknown),
                grant("b", 21, 30, "l2", 2),
            ]
        },
    ),
    ("a TTL counted from the answer", &["exclusion"], || {
        let slow = answer(call("a", Op::Acquire, 0, 900), "l1", 1, 1000);
        let slow = with(slow, |call| {
            call.lease.as_mut().expect("granted").waited_ms = 900;
        });
        vec![slow, grant("b", 1000, 1010, "l2", 2)]
    }),
    ("a renewal extends the claim", &["exclusion"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            answer(
                for_lease(call("a", Op::Renew, 500, 510), "l1"),
                "l1",
                1,
                1000,
            ),
            grant("b", 1100, 1110, "l2", 2),
        ]
    }),
    ("a break ends the claim", &[], || {
        let breaking = with(
            outcome(call("b", Op::Break, 20, 30), Outcome::Done),
            |call| {
                call.break_token = Some(1);
            },
        );
        vec![
            grant("a", 0, 10, "l1", 1),
            breaking,
            grant("b", 31, 40, "l2", 2),
        ]
    }),
    ("a token that goes back", &["token-order"], || {
        vec![
            grant("a", 0, 10, "l1", 5),
            release("a", 20, 30, "l1", Outcome::Done),
            grant("b", 40, 50, "l2", 4),
        ]
    }),
    ("tokens over different keys", &["token-order"], || {
        vec![
            grant("a", 0, 10, "l1", 5),
            on_key(grant("b", 20, 30, "l2", 4), "other"),
        ]
    }),
    ("grants at the same time may have any order", &[], || {
        vec![
            grant("a", 0, 30, "l1", 5),
            on_key(grant("b", 20, 40, "l2", 4), "other"),
        ]
    }),
    ("a replay has its old token", &[], || {
        vec![
            idempotent(outcome(call("a", Op::Acquire, 0, 10), Outcome::Unknown)),
            on_key(grant("b", 15, 20, "l2", 5), "other"),
            idempotent(grant("a", 30, 40, "l1", 4)),
        ]
    }),
    ("one token for two", &["token-unique"], || {
        vec![
            grant("a", 0, 30, "l1", 5),
            on_key(grant("b", 20, 40, "l2", 5), "other"),
        ]
    }),
    ("a read of the past", &["read-order"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            release("a", 20, 30, "l1", Outcome::Done),
            grant("b", 40, 50, "l2", 2),
            sighting("c", 60, 70, "a", 1),
        ]
    }),
    ("a write over an unseen write", &["fenced-resource"], || {
        vec![
            access(Arm::Fenced, 1, None, 0, 10),
            access(Arm::Fenced, 2, None, 0, 20),
            access(Arm::Fenced, 2, Some(0), 1, 30),
            access(Arm::Fenced, 1, Some(0), 1, 40),
        ]
    }),
    ("the same without fencing is what it is for", &[], || {
        vec![
            access(Arm::Control, 2, Some(0), 1, 30),
            access(Arm::Control, 1, Some(0), 1, 40),
        ]
    }),
    (
        "a lease lost before its end",
        &["confirmed-grant-lost"],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                renewal("a", 300, 310, "l1", Outcome::Lost),
            ]
        },
    ),
    ("a lease lost after its end", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            renewal("a", 900, 1010, "l1", Outcome::Lost),
        ]
    }),
    ("a lost lease under a flush is excused", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            fault("flushall", Phase::Inject, 100),
            renewal("a", 300, 310, "l1", Outcome::Lost),
        ]
    }),
    (
        "another holder under a flush is not",
        &["exclusion"],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                fault("flushall", Phase::Inject, 100),
                grant("b", 300, 310, "l2", 2),
            ]
        },
    ),
    (
        "a late release ends a successor",
        &["release-of-successor"],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                release("a", 20, 30, "l1", Outcome::Done),
                grant("b", 40, 50, "l2", 2),
                release("a", 60, 70, "l1", Outcome::Done),
                renewal("b", 80, 90, "l2", Outcome::Lost),
            ]
        },
    ),
    (
        "two leases for one idempotency key",
        &["exclusion", "idempotency"],
        || {
            vec![
                idempotent(grant("a", 0, 10, "l1", 1)),
                idempotent(grant("a", 20, 30, "l2", 2)),
            ]
        },
    ),
    (
        "a refused acquisition holds",
        &["definite-failure-left-nothing"],
        || {
            vec![
                outcome(call("a", Op::Acquire, 0, 10), Outcome::NotDone),
                sighting("b", 20, 30, "a", 1),
            ]
        },
    ),
    (
        "an acquisition given up holds",
        &["definite-failure-left-nothing"],
        || {
            vec![
                with(call("a", Op::Acquire, 0, 10), |call| {
                    call.problem = Some(crate::history::ABANDONED.to_owned());
                }),
                sighting("b", 3000, 3010, "a", 1),
            ]
        },
    ),
    ("an acquisition whose answer got lost may hold", &[], || {
        vec![
            outcome(call("a", Op::Acquire, 0, 10), Outcome::Unknown),
            sighting("b", 3000, 3010, "a", 1),
        ]
    }),
    ("an acquisition to be repeated may hold", &[], || {
        vec![
            idempotent(outcome(call("a", Op::Acquire, 0, 10), Outcome::Unknown)),
            sighting("b", 3000, 3010, "a", 1),
        ]
    }),
    ("an answer promises less", &["shrunken-lease"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            with(sighting("b", 20, 30, "a", 1), |call| {
                call.seen.as_mut().expect("seen").expires_in_ms = Some(1200);
            }),
        ]
    }),
    ("a fault uses the grace up", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            fault("clock-plus-240ms", Phase::Inject, 15),
            with(sighting("b", 20, 30, "a", 1), |call| {
                call.seen.as_mut().expect("seen").expires_in_ms = Some(1200);
            }),
        ]
    }),
    (
        "an answer to others counts without the grace",
        &["shrunken-lease"],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                with(sighting("b", 20, 30, "a", 1), |call| {
                    call.seen.as_mut().expect("seen").expires_in_ms = Some(969);
                }),
            ]
        },
    ),
    ("an answer promises as much", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            with(sighting("b", 20, 30, "a", 1), |call| {
                call.seen.as_mut().expect("seen").expires_in_ms = Some(1469);
            }),
        ]
    }),
    ("a renewal after all is over", &["revived-lease"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            answer(
                for_lease(call("a", Op::Renew, 1700, 1710), "l1"),
                "l1",
                1,
                1000,
            ),
        ]
    }),
    ("a renewal in the grace", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            answer(
                for_lease(call("a", Op::Renew, 1450, 1460), "l1"),
                "l1",
                1,
                1000,
            ),
        ]
    }),
    ("a replay in the grace", &["revived-lease"], || {
        vec![
            idempotent(grant("a", 0, 10, "l1", 1)),
            idempotent(grant("a", 1450, 1460, "l1", 1)),
        ]
    }),
    ("a renewal after a refusal", &["revived-lease"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            renewal("a", 1001, 1010, "l1", Outcome::Lost),
            answer(
                for_lease(call("a", Op::Renew, 1020, 1030), "l1"),
                "l1",
                1,
                1000,
            ),
        ]
    }),
    ("a renewal after one that may have been made", &[], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            renewal("a", 900, 950, "l1", Outcome::Unknown),
            answer(
                for_lease(call("a", Op::Renew, 1700, 1710), "l1"),
                "l1",
                1,
                1000,
            ),
        ]
    }),
    ("a lease broken by another", &[], || {
        let breaking = with(
            outcome(call("b", Op::Break, 20, 40), Outcome::Unknown),
            |call| call.break_token = Some(1),
        );
        vec![
            grant("a", 0, 10, "l1", 1),
            renewal("a", 15, 30, "l1", Outcome::Lost),
            breaking,
        ]
    }),
    (
        "what is granted after a flush must stay",
        &["confirmed-grant-lost"],
        || {
            vec![
                fault("flushall", Phase::Inject, 100),
                fault("flushall", Phase::Heal, 110),
                grant("a", 400, 410, "l1", 1),
                renewal("a", 500, 510, "l1", Outcome::Lost),
            ]
        },
    ),
    (
        "a refusal that names who asked",
        &["definite-failure-left-nothing"],
        || {
            vec![with(
                outcome(call("a", Op::Acquire, 0, 10), Outcome::Refused),
                |call| {
                    call.seen = Some(crate::history::Seen {
                        holder: Some("a".to_owned()),
                        token: 1,
                        held_for_ms: 5,
                        expires_in_ms: Some(995),
                    });
                },
            )]
        },
    ),
    ("a reservation that a failover brought back", &[], || {
        under("kill-master", 5, 8, vec![reserved(2_200, 799)])
    }),
    (
        "a reservation without a fault",
        &["definite-failure-left-nothing"],
        || vec![reserved(2_200, 799)],
    ),
    (
        "a lease that a failover brought back",
        &["definite-failure-left-nothing"],
        || under("kill-master", 5, 8, vec![reserved(2_200, 1_299)]),
    ),
    ("a waiter on a free lock", &["lost-wake-up"], || {
        vec![
            grant("a", 0, 10, "l1", 1),
            release("a", 500, 510, "l1", Outcome::Done),
            waiting(100, 8000),
        ]
    }),
    (
        "a waiter on a free lock while a fault is at work",
        &[],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                fault("kill-master", Phase::Inject, 400),
                release("a", 500, 510, "l1", Outcome::Done),
                waiting(100, 8000),
            ]
        },
    ),
    (
        "a waiter on a free lock while nothing is done",
        &["lost-wake-up"],
        || {
            vec![
                grant("a", 0, 10, "l1", 1),
                fault("none", Phase::Inject, 400),
                release("a", 500, 510, "l1", Outcome::Done),
                waiting(100, 8000),
            ]
        },
    ),
    ("a shorter lease after a longer one, noticed", &[], || {
        short_after_long(900)
    }),
    (
        "a shorter lease after a longer one, noticed when the longer one would have been over",
        &["lost-wake-up"],
        || short_after_long(9_000),
    ),
    ("the same while clients die", &["lost-wake-up"], || {
        under("client-dies-granted", 200, 12_000, short_after_long(9_000))
    }),
    ("the same while a server is killed", &[], || {
        under("kill-server", 200, 12_000, short_after_long(9_000))
    }),
    (
        "a waiter without a wake-up before a server was killed",
        &["lost-wake-up"],
        || under("kill-server", 6_000, 12_000, short_after_long(9_000)),
    ),
    (
        "a waiter that is served some time after a fault",
        &[],
        || under("sentinel-failover", 200, 1_000, short_after_long(9_500)),
    ),
    (
        "a waiter that is forgotten after a fault",
        &["lost-wake-up"],
        || under("sentinel-failover", 200, 1_000, short_after_long(12_000)),
    ),
    ("a lock in doubt after a fault", &[], || {
        under("clock-minus-ttl", 200, 1_000, short_after_long(12_000))
    }),
    (
        "a lock released under a fault, whose lease may be back",
        &[],
        || {
            let long = answer(call("a", Op::Acquire, 0, 10), "l1", 1, 15_000);
            let released = release("a", 500, 510, "l1", Outcome::Done);
            let history = vec![long, released, waiting(100, 14_000)];
            under("sentinel-failover", 200, 1_000, history)
        },
    ),
    ("a waiter on a held lock", &[], || {
        vec![
            answer(call("a", Op::Acquire, 0, 10), "l1", 1, 6000),
            waiting(100, 8000),
        ]
    }),
    (
        "a key that can no longer be acquired",
        &["liveness"],
        || vec![grant("a", 0, 10, "l1", 1), fault("", Phase::Probe, 100)],
    ),
    ("a key requested late and acquired at once", &[], || {
        let probe = with(grant("p", 3500, 3510, "l9", 9), |call| {
            call.client = PROBE_CLIENT;
        });
        vec![
            grant("a", 0, 10, "l1", 1),
            fault("", Phase::Probe, 100),
            probe,
        ]
    }),
    ("a key acquired only later", &["liveness"], || {
        let of_the_probe = |event| with(event, |call| call.client = PROBE_CLIENT);
        let refused = outcome(call("p", Op::Acquire, 1100, 1110), Outcome::Refused);
        vec![
            grant("a", 0, 10, "l1", 1),
            fault("", Phase::Probe, 100),
            of_the_probe(refused),
            of_the_probe(grant("p", 2590, 2600, "l9", 9)),
        ]
    }),
    (
        "a key acquired soon after the grace of its lease",
        &[],
        || {
            let of_the_probe = |event| with(event, |call| call.client = PROBE_CLIENT);
            let refused = outcome(call("p", Op::Acquire, 1100, 1110), Outcome::Refused);
            vec![
                grant("a", 0, 10, "l1", 1),
                fault("", Phase::Probe, 100),
                of_the_probe(refused),
                of_the_probe(grant("p", 2390, 2400, "l9", 9)),
            ]
        },
    ),
    ("a key acquired after the last lease", &[], || {
        let probe = with(grant("p", 1500, 1510, "l9", 9), |call| {
            call.client = PROBE_CLIENT;
        });
        vec![
            grant("a", 0, 10, "l1", 1),
            fault("", Phase::Probe, 100),
            probe,
        ]
    }),
];

/// Checks that each history violates exactly the listed rules.
pub(crate) fn run() -> ExitCode {
    let mut failed = 0;
    for (about, expected, history) in EXAMPLES {
        let mut events = history();
        events.sort_by_key(Event::at);
        let verdict = check(&events);
        let counted = verdict.violations.iter().filter(|v| !v.excused);
        let mut broken: Vec<&str> = counted.map(|violation| violation.rule).collect();
        broken.sort_unstable();
        broken.dedup();
        if broken != *expected {
            failed += 1;
            println!("{about}: expected {expected:?}, found {broken:?}");
            for violation in &verdict.violations {
                println!("  {}: {}", violation.rule, violation.text);
            }
        }
    }
    println!("{} passed, {failed} failed", EXAMPLES.len() - failed);
    ExitCode::from(u8::from(failed > 0))
}

/// A release long before the lease's deadline hands the lock to a waiter for 300 ms, which never releases it. The next
/// waiter gets the lock after so many milliseconds.
fn short_after_long(next: u64) -> Vec<Event> {
    let long = answer(call("a", Op::Acquire, 0, 10), "l1", 1, 15_000);
    let short = answer(call("b", Op::Acquire, 50, 110), "l2", 2, 300);
    let waiter = answer(call("c", Op::Acquire, 60, next), "l3", 3, 1_000);
    let waits = |event| {
        with(event, |call| {
            (call.wait_ms, call.status) = (14_000, Some(201));
        })
    };
    let released = release("a", 100, 105, "l1", Outcome::Done);
    vec![long, released, waits(short), waits(waiter)]
}

/// The same history with a fault between two moments.
fn under(nemesis: &str, inject: u64, back: u64, mut history: Vec<Event>) -> Vec<Event> {
    history.push(fault(nemesis, Phase::Inject, inject));
    history.push(fault(nemesis, Phase::Heal, back));
    history.push(fault(nemesis, Phase::Back, back));
    history
}

/// A refusal that names its own request, with a TTL of 3 s, as the holder for so long and for so much longer.
fn reserved(held_for_ms: u64, expires_in_ms: u64) -> Event {
    with(
        outcome(call("a", Op::Acquire, 0, 10), Outcome::Refused),
        |call| {
            call.ttl_ms = Some(3_000);
            call.seen = Some(crate::history::Seen {
                holder: Some("a".to_owned()),
                token: 1,
                held_for_ms,
                expires_in_ms: Some(expires_in_ms),
            });
        },
    )
}

fn one_after_the_other() -> Vec<Event> {
    vec![
        grant("a", 0, 10, "l1", 1),
        release("a", 20, 30, "l1", Outcome::Done),
        grant("b", 15, 40, "l2", 2),
        release("b", 50, 60, "l2", Outcome::Done),
        // A late duplicate of the same release.
        release("a", 100, 110, "l1", Outcome::Lost),
        access(Arm::Fenced, 1, None, 0, 12),
        access(Arm::Fenced, 1, Some(0), 1, 14),
        access(Arm::Fenced, 2, None, 1, 42),
        access(Arm::Fenced, 2, Some(1), 2, 44),
    ]
}
