//! Judges a history by the contract. Everything here is a pure function over events.

pub(crate) mod examples;
mod exclusion;
mod failures;
mod leases;
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
pub(crate) const RULES: [&str; 11] = [
    "exclusion",
    "token-order",
    "token-unique",
    "read-order",
    "fenced-resource",
    "confirmed-grant-lost",
    "release-of-successor",
    "idempotency",
    "definite-failure-left-nothing",
    "lost-wake-up",
    "liveness",
];

/// What the contract does not promise under a fault: such violations are counted apart. Token order, the fenced
/// resource and all others are never excused.
const EXCUSES: [(&str, &[&str]); 6] = [
    // Every copy of the leases is destroyed: they cannot be renewed, but nobody else may have them either.
    ("flushall", &["confirmed-grant-lost"]),
    ("fast-empty-master-restart", &["confirmed-grant-lost"]),
    // The clocks step beyond the skew.
    ("clock-plus-2s", &["exclusion", "confirmed-grant-lost"]),
    ("clock-minus-2s", &["exclusion", "confirmed-grant-lost"]),
    ("clock-plus-ttl", &["exclusion", "confirmed-grant-lost"]),
    ("clock-minus-ttl", &["exclusion", "confirmed-grant-lost"]),
];

/// A rule broken.
#[derive(Clone, Debug)]
pub(crate) struct Violation {
    pub(crate) rule: &'static str,
    pub(crate) at: u64,
    pub(crate) text: String,
    /// The part of the history that shows it.
    pub(crate) evidence: Vec<Event>,
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
    violations.extend(tokens::order(&leases));
    violations.extend(tokens::unique(&leases));
    violations.extend(tokens::reads(&leases, &calls));
    violations.extend(tokens::idempotency(&leases));
    violations.extend(resource::fenced(events));
    violations.extend(failures::left_something(&calls, &windows));
    violations.extend(waiting::lost_wake_ups(&leases, &calls, &windows));
    violations.extend(waiting::liveness(events, &leases, &calls));
    for violation in &mut violations {
        windows
            .nemesis_at(violation.at)
            .clone_into(&mut violation.nemesis);
        let excuses = EXCUSES
            .iter()
            .filter(|(nemesis, _)| *nemesis == violation.nemesis);
        violation.excused = excuses
            .flat_map(|(_, rules)| rules.iter())
            .any(|rule| *rule == violation.rule);
    }
    violations.sort_by_key(|violation| violation.at);
    let totals = quality::totals(events, &calls, &leases, &windows);
    let rows = quality::rows(events, &calls, &leases, &windows, &violations);
    let indeterminate = quality::doubts(events, &totals, &windows);
    Verdict {
        violations,
        indeterminate,
        rows,
        totals,
    }
}
