//! Figures of a run, and whether the run can prove anything.

use std::collections::{BTreeMap, HashMap};

use super::leases::Lease;
use super::windows::{Window, Windows};
use super::{Violation, resource};
use crate::history::{Arm, Call, Event, Op, Outcome, Phase};

/// The share of unknown outcomes outside of faults above which a run proves nothing, in percent.
const MOST_UNKNOWN_PERCENT: u64 = 5;

/// The figures of one fault, each from its injection to the next injection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) injections: usize,
    pub(crate) seen: usize,
    pub(crate) operations: usize,
    pub(crate) unknown: usize,
    pub(crate) overslept: usize,
    /// By rule: counted and excused violations.
    pub(crate) violations: BTreeMap<&'static str, (usize, usize)>,
    /// In milliseconds, one value per injection.
    pub(crate) after_injection: Vec<u64>,
    pub(crate) after_effect: Vec<u64>,
    pub(crate) after_heal: Vec<u64>,
    pub(crate) longest_gap: Vec<u64>,
}

impl Row {
    /// Adds the same fault's row of another run.
    pub(super) fn add(&mut self, other: Self) {
        self.injections += other.injections;
        self.seen += other.seen;
        self.operations += other.operations;
        self.unknown += other.unknown;
        self.overslept += other.overslept;
        for (rule, (counted, excused)) in other.violations {
            let sum = self.violations.entry(rule).or_default();
            sum.0 += counted;
            sum.1 += excused;
        }
        self.after_injection.extend(other.after_injection);
        self.after_effect.extend(other.after_effect);
        self.after_heal.extend(other.after_heal);
        self.longest_gap.extend(other.longest_gap);
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Totals {
    pub(crate) runs: usize,
    pub(crate) seconds: u64,
    pub(crate) operations: usize,
    pub(crate) grants: usize,
    pub(crate) quiet_operations: usize,
    pub(crate) quiet_unknown: usize,
    pub(crate) accesses: usize,
    pub(crate) refused_accesses: usize,
    pub(crate) overslept: usize,
    pub(crate) lost_by_control: usize,
    pub(crate) stalls: usize,
}

impl Totals {
    /// Adds the figures of another run.
    pub(super) fn add(&mut self, other: &Self) {
        self.runs += other.runs;
        self.seconds += other.seconds;
        self.operations += other.operations;
        self.grants += other.grants;
        self.quiet_operations += other.quiet_operations;
        self.quiet_unknown += other.quiet_unknown;
        self.accesses += other.accesses;
        self.refused_accesses += other.refused_accesses;
        self.overslept += other.overslept;
        self.lost_by_control += other.lost_by_control;
        self.stalls += other.stalls;
    }
}

pub(super) fn totals(
    events: &[Event],
    calls: &[&Call],
    leases: &[Lease],
    windows: &Windows,
) -> Totals {
    let begin = events.first().map_or(0, Event::at);
    let end = events.last().map_or(0, Event::at);
    let mut totals = Totals {
        runs: 1,
        seconds: (end - begin) / 1_000_000,
        operations: calls.len(),
        grants: leases.len(),
        overslept: overslept(events, leases).len(),
        lost_by_control: resource::lost_by_control(events),
        ..Totals::default()
    };
    let up = first_grant(calls);
    for call in calls {
        let over = call.answered_at.unwrap_or(call.sent_at);
        if call.sent_at >= up && !windows.disturbed(call.sent_at, over) {
            totals.quiet_operations += 1;
            totals.quiet_unknown += usize::from(is_unknown(call));
        }
    }
    for event in events {
        match event {
            Event::Access(access) if access.arm == Arm::Fenced => {
                totals.accesses += 1;
                totals.refused_accesses += usize::from(!access.accepted);
            }
            Event::Stall { .. } => totals.stalls += 1,
            _ => {}
        }
    }
    totals
}

pub(super) fn rows(
    events: &[Event],
    calls: &[&Call],
    leases: &[Lease],
    windows: &Windows,
    violations: &[Violation],
) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> = BTreeMap::new();
    for call in calls {
        let row = rows
            .entry(windows.nemesis_at(call.sent_at).to_owned())
            .or_default();
        row.operations += 1;
        row.unknown += usize::from(is_unknown(call));
    }
    for at in overslept(events, leases) {
        rows.entry(windows.nemesis_at(at).to_owned())
            .or_default()
            .overslept += 1;
    }
    for violation in violations {
        let row = rows.entry(violation.nemesis.clone()).or_default();
        let (counted, excused) = row.violations.entry(violation.rule).or_default();
        if violation.excused {
            *excused += 1;
        } else {
            *counted += 1;
        }
    }
    let mut grants: Vec<(u64, u64)> = leases
        .iter()
        .map(|lease| (lease.grant.sent_at, lease.granted))
        .collect();
    grants.sort_unstable();
    for window in &windows.all {
        let row = rows.entry(window.nemesis.clone()).or_default();
        row.injections += 1;
        row.seen += usize::from(window.seen);
        row.after_injection
            .extend(time_to_grant(&grants, window.inject));
        row.after_effect
            .extend(time_to_grant(&grants, window.effect));
        row.after_heal.extend(time_to_grant(&grants, window.heal));
        row.longest_gap.push(longest_gap(&grants, window));
    }
    rows
}

/// The reasons why the run proves nothing.
pub(super) fn doubts(events: &[Event], totals: &Totals, windows: &Windows) -> Vec<String> {
    let mut doubts = Vec::new();
    for window in windows.all.iter().filter(|window| !window.seen) {
        doubts.push(format!("the effect of {} was not seen", window.nemesis));
    }
    if totals.quiet_unknown as u64 * 100 > totals.quiet_operations as u64 * MOST_UNKNOWN_PERCENT {
        doubts.push(format!(
            "{} of {} operations outside of faults have an unknown outcome",
            totals.quiet_unknown, totals.quiet_operations
        ));
    }
    if totals.lost_by_control == 0 {
        doubts.push(format!(
            "blind: the control arm lost no update, with {} leases overslept",
            totals.overslept
        ));
    }
    if totals.stalls > 0 {
        doubts.push(format!("the harness stalled {} times", totals.stalls));
    }
    let ended = |event: &Event| matches!(event, Event::Fault(fault) if fault.phase == Phase::Probe);
    if !events.iter().any(ended) {
        doubts.push("the run was interrupted".to_owned());
    }
    doubts
}

/// When holders still used the resource after the end of their leases.
fn overslept(events: &[Event], leases: &[Lease]) -> Vec<u64> {
    let by_token: HashMap<u64, &Lease> = leases.iter().map(|lease| (lease.token, lease)).collect();
    let mut first: HashMap<u64, u64> = HashMap::new();
    for event in events {
        if let Event::Access(access) = event
            && by_token
                .get(&access.token)
                .is_some_and(|lease| access.at > lease.proven_until())
        {
            first.entry(access.token).or_insert(access.at);
        }
    }
    first.into_values().collect()
}

/// A client that gave up early by its own choice is no sign of a fault.
fn is_unknown(call: &Call) -> bool {
    let gave_up = call
        .answered_at
        .is_none_or(|at| at - call.sent_at < (call.wait_ms + 2500) * 1000);
    call.outcome == Outcome::Unknown
        && !(call.op == Op::Acquire && call.status.is_none() && gave_up)
}

fn first_grant(calls: &[&Call]) -> u64 {
    let granted = calls
        .iter()
        .filter(|call| call.op == Op::Acquire && call.succeeded());
    granted
        .filter_map(|call| call.answered_at)
        .min()
        .unwrap_or(u64::MAX)
}

/// Milliseconds until the first answer to a grant requested after `since`.
fn time_to_grant(grants: &[(u64, u64)], since: u64) -> Option<u64> {
    let after = grants.partition_point(|(sent, _)| *sent < since);
    let first = grants[after..].iter().map(|(_, answered)| *answered).min();
    first.map(|answered| (answered - since) / 1000)
}

/// The longest time during a fault without an answered grant, in milliseconds.
fn longest_gap(grants: &[(u64, u64)], window: &Window) -> u64 {
    let mut answered: Vec<u64> = grants
        .iter()
        .map(|(_, answered)| *answered)
        .filter(|at| (window.inject..=window.back).contains(at))
        .collect();
    answered.push(window.back);
    answered.sort_unstable();
    let mut last = window.inject;
    let mut longest = 0;
    for at in answered {
        longest = longest.max(at - last);
        last = at;
    }
    longest / 1000
}
