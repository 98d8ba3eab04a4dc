//! Judges a history by the contract. Everything here is a pure function over events.

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

/// The rules, by the names under which violations are counted.
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
        "who failed for certain, or went away, does not hold the lock",
    ),
    (
        "lost-wake-up",
        "nobody waits more than 3 s for a lock that is free, whoever died with it, before a fault and after it",
    ),
    (
        "liveness",
        "every server grants again after a fault, and every key can be taken in the end",
    ),
];

/// What the contract does not promise under a fault: such violations are counted apart. Token order, the fenced
/// resource and all others are never excused.
pub(crate) const EXCUSES: [(&str, &[&str]); 10] = [
    // Every copy of the leases is destroyed: they cannot be renewed, but nobody else may have them either. What is
    // promised afterwards is not excused.
    ("flushall", &["confirmed-grant-lost"]),
    ("fast-empty-master-restart", &["confirmed-grant-lost"]),
    ("flush-unconfirmed", &["confirmed-grant-lost"]),
    // The same, and leases that were over are there again until their time is up, as they once were.
    (
        "restored-backup",
        &[
            "confirmed-grant-lost",
            "shrunken-lease",
            "read-order",
            "definite-failure-left-nothing",
        ],
    ),
    // A lease that was over for less than the step and that nobody took since is not over when the clock is back.
    ("clock-plus-240ms", &["revived-lease"]),
    ("clock-minus-240ms", &["revived-lease"]),
    // The clocks step beyond the skew. When one steps back, a wait that was over is not over yet, and the lock may
    // be reserved for three seconds for who waited.
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

/// How long an answer may be on its way that was given before the data were destroyed.
const ON_ITS_WAY_US: u64 = 250_000;

/// A rule broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) at: u64,
    pub(crate) text: String,
    /// The part of the history that shows it.
    pub(crate) evidence: Vec<Event>,
    /// When the last answer came that promised what was not kept.
    pub(crate) promised_at: Option<u64>,
    /// Under which fault it happened, and whether the contract excuses it there; set by `check`.
    pub(crate) nemesis: String,
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

/// All that a report says.
pub(crate) struct Verdict {
    pub(crate) violations: Vec<Violation>,
    /// Why the run proves nothing, if it does not.
    pub(crate) indeterminate: Vec<String>,
    pub(crate) rows: BTreeMap<String, quality::Row>,
    pub(crate) totals: quality::Totals,
    /// Seconds from the history's begin to the first counted violation of a rule.
    pub(crate) first_seconds: BTreeMap<&'static str, u64>,
}

impl Verdict {
    /// Takes in another run's verdict.
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
    violations.extend(promises::shrunken(&leases, &calls));
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
        violation.excused = excuses
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
