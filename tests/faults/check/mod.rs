//! Judges a history by the contract. Every function here is a pure function of events.

pub(crate) mod examples;
mod exclusion;
mod failures;
mod leases;
mod promises;
mod quality;
pub(crate) mod report;
mod resource;
mod samples;
mod tokens;
mod waiting;
mod windows;

use std::collections::BTreeMap;

use crate::history::{Call, Event};
use windows::Windows;

/// The rules by the names that violations carry.
pub(crate) const RULES: [(&str, &str); 13] = [
    (
        "exclusion",
        "no two clients can count on a lease of one key at once",
    ),
    (
        "token-order",
        "a grant asked for after another was answered has a higher token, over all keys",
    ),
    ("token-unique", "one token, one lease; one lease, one token"),
    (
        "read-order",
        "no answer names a holder older than one whose grant was answered before the question",
    ),
    (
        "fenced-resource",
        "the resource that refuses lower tokens loses no update",
    ),
    (
        "confirmed-grant-lost",
        "no lease is answered 409 while its holder can count on it",
    ),
    (
        "shrunken-lease",
        "no answer gives a lease less time than an earlier one promised",
    ),
    (
        "revived-lease",
        "a lease that is over, or was answered 409, does not come back",
    ),
    (
        "release-of-successor",
        "a late release does not end another's lease",
    ),
    (
        "idempotency",
        "one live lease at most for a lock key and an Idempotency-Key",
    ),
    (
        "definite-failure-left-nothing",
        "a request that failed for certain, and a disconnected client, hold no lock",
    ),
    (
        "lost-wake-up",
        "no client waits more than 3 s for a free lock, before and after a fault, whichever process died",
    ),
    (
        "liveness",
        "every server grants again after a fault, and every key can be acquired at the end",
    ),
];

/// The promises that the contract suspends under a fault; such violations have their own count. Token order, the fenced
/// resource and all other rules have no excuse.
pub(crate) const EXCUSES: [(&str, &[&str]); 13] = [
    // The fault destroys every copy of the leases: renewals fail, but no other client may get the locks either.
    // Promises made afterwards have no excuse.
    ("flushall", &["confirmed-grant-lost"]),
    ("fast-empty-master-restart", &["confirmed-grant-lost"]),
    ("flush-unconfirmed", &["confirmed-grant-lost"]),
    // As above; besides, the old copy restores ended leases until their deadlines.
    (
        "restored-backup",
        &[
            "confirmed-grant-lost",
            "shrunken-lease",
            "read-order",
            "definite-failure-left-nothing",
        ],
    ),
    // A lease that expired during the step, and whose lock is still free, is live again when the clock steps back.
    ("clock-plus-240ms", &["revived-lease"]),
    ("clock-minus-240ms", &["revived-lease"]),
    ("clock-plus-240ms-thrice", &["revived-lease"]),
    ("clock-240ms-two-nodes", &["revived-lease"]),
    ("clock-240ms-new-server", &["revived-lease"]),
    // The clocks step beyond the skew. A step back extends the wait of a waiter that timed out, and the lock may be
    // reserved for it for 3 s.
    ("clock-plus-2s", CLOCK_STEP),
    ("clock-minus-2s", CLOCK_STEP),
    ("clock-plus-ttl", CLOCK_STEP),
    ("clock-minus-ttl", CLOCK_STEP),
];

const CLOCK_STEP: &[&str] = &[
    "exclusion",
    "confirmed-grant-lost",
    "shrunken-lease",
    "revived-lease",
    "definite-failure-left-nothing",
];

/// The clock skew: a lease keeps others from its key for so long after its deadline, and accepts renewals until then.
const GRACE_US: u64 = 500_000;

/// How long an answer from before the destruction of the data may still be in flight.
const ON_ITS_WAY_US: u64 = 250_000;

/// A violated rule.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) at: u64,
    pub(crate) text: String,
    /// The part of the history that shows the violation.
    pub(crate) evidence: Vec<Event>,
    /// When the last answer with the broken promise arrived.
    pub(crate) promised_at: Option<u64>,
    /// The fault at that time; set by `check`.
    pub(crate) nemesis: String,
    /// Whether the contract excuses the violation, under this fault or under any.
    pub(crate) excused: bool,
}

impl Violation {
    fn new(rule: &'static str, at: u64, text: String, evidence: &[&Call]) -> Self {
        Self {
            rule,
            at,
            text,
            evidence: evidence
                .iter()
                .map(|call| Event::Call(Box::new((*call).clone())))
                .collect(),
            promised_at: None,
            nemesis: String::new(),
            excused: false,
        }
    }
}

/// The contents of a report.
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Why the run proves nothing; empty if it is valid.
    pub(crate) indeterminate: Vec<String>,
    pub(crate) rows: BTreeMap<String, quality::Row>,
    pub(crate) totals: quality::Totals,
    /// Seconds from the start of the history to the first counted violation of a rule.
    pub(crate) first_seconds: BTreeMap<&'static str, u64>,
}

impl Verdict {
    /// Adds another run's verdict.
    pub(crate) fn add(&mut self, other: Self) {
        self.violations.extend(other.violations);
        self.indeterminate.extend(other.indeterminate);
        for (nemesis, row) in other.rows {
            self.rows.entry(nemesis).or_default().add(row);
        }
        self.totals.add(&other.totals);
        for (rule, seconds) in other.first_seconds {
            let first = self.first_seconds.entry(rule).or_insert(seconds);
            *first = seconds.min(*first);
        }
    }
}

/// Judges a history.
pub(crate) fn check(events: &[Event]) -> Verdict {
    let windows = Windows::new(events);
    let calls: Vec<&Call> = events
        .iter()
        .filter_map(|event| match event {
            Event::Call(call) => Some(&**call),
            _ => None,
        })
        .collect();
    let leases = leases::collect(&calls);
    let mut violations = Vec::new();
    violations.extend(exclusion::overlaps(&leases));
    violations.extend(exclusion::lost(&leases, &calls, &windows));
    violations.extend(promises::shrunken(&leases, &calls, &windows));
    violations.extend(promises::revived(&leases, &calls, &windows));
    violations.extend(tokens::order(&leases));
    violations.extend(tokens::unique(&leases));
    violations.extend(tokens::reads(&leases, &calls));
    violations.extend(tokens::idempotency(&leases));
    violations.extend(resource::fenced(events));
    violations.extend(failures::left_something(&calls, &windows));
    violations.extend(waiting::lost_wake_ups(&leases, &calls, &windows));
    violations.extend(waiting::liveness(events, &leases, &calls, &windows));
    for violation in &mut violations {
        windows
            .nemesis_at(violation.at)
            .clone_into(&mut violation.nemesis);
        let excuses = EXCUSES
            .iter()
            .filter(|(nemesis, _)| *nemesis == violation.nemesis);
        violation.excused |= excuses
            .flat_map(|(_, rules)| rules.iter())
            .any(|rule| *rule == violation.rule)
            && (violation.promised_at).is_none_or(|promised| {
                violation.nemesis.starts_with("clock-")
                    || promised <= windows.healed_before(violation.at) + ON_ITS_WAY_US
            });
    }
    violations.sort_by_key(|violation| violation.at);
    let totals = quality::totals(events, &calls, &leases, &windows);
    let rows = quality::rows(events, &calls, &leases, &windows, &violations);
    let indeterminate = quality::doubts(events, &totals, &windows);
    let begin = events.first().map_or(0, Event::at);
    let mut first_seconds = BTreeMap::new();
    for violation in violations.iter().filter(|violation| !violation.excused) {
        first_seconds
            .entry(violation.rule)
            .or_insert(violation.at.saturating_sub(begin) / 1_000_000);
    }
    Verdict {
        violations,
        indeterminate,
        rows,
        totals,
        first_seconds,
    }
}
