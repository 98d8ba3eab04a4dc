//! The time windows of the faults.

use crate::history::{Event, Phase};

/// How long after the recovery the outcome of a call still proves nothing.
const SETTLE_US: u64 = 1_000_000;

/// The same for waiters: the lock may be reserved for a waiter at a killed server until its absence is detected.
const WAITERS_SETTLE_US: u64 = 6_000_000;
/// Faults that leave the service untouched.
const NO_FAULTS: [&str; 1] = ["none"];
/// Faults that kill clients only: the service stays whole and must work without these clients.
const DEATHS: [&str; 2] = ["client-dies-granted", "client-dies-waiting"];
/// Faults after which a lease may outlast every known deadline: a clock stepped back beyond the skew, or an old copy of
/// the data is in use.
const LENGTHENING: [&str; 5] = [
    "clock-minus-2s",
    "clock-minus-ttl",
    "clock-plus-2s",
    "clock-plus-ttl",
    "restored-backup",
];

/// One injection.
#[derive(Clone, Debug)]
pub(super) struct Window {
    pub(super) nemesis: String,
    pub(super) inject: u64,
    /// When the effect last showed; the injection if it never did.
    pub(super) effect: u64,
    pub(super) heal: u64,
    /// When every server granted again; the end of the history without such a record.
    pub(super) back: u64,
    pub(super) seen: bool,
}

pub(super) struct Windows {
    pub(super) all: Vec<Window>,
}

impl Windows {
    pub(super) fn new(events: &[Event]) -> Self {
        let mut all: Vec<Window> = Vec::new();
        let end = events.last().map_or(0, Event::at);
        for event in events {
            let Event::Fault(fault) = event else { continue };
            let current = all.last_mut();
            match (fault.phase, current) {
                // The second injection of a pair belongs to the first.
                (Phase::Inject, Some(window))
                    if window.back == end && window.nemesis == fault.nemesis => {}
                (Phase::Inject, _) => all.push(Window {
                    nemesis: fault.nemesis.clone(),
                    inject: fault.at,
                    effect: fault.at,
                    heal: end,
                    back: end,
                    seen: false,
                }),
                (Phase::Effect, Some(window)) => {
                    window.seen = true;
                    window.effect = fault.at;
                }
                (Phase::NoEffect, Some(window)) => window.seen = false,
                (Phase::Heal, Some(window)) => window.heal = fault.at,
                (Phase::Back, Some(window)) => window.back = fault.at,
                _ => {}
            }
        }
        Self { all }
    }

    /// The last fault injected before this moment.
    pub(super) fn nemesis_at(&self, at: u64) -> &str {
        let after = self.all.partition_point(|window| window.inject <= at);
        match after.checked_sub(1) {
            Some(index) => &self.all[index].nemesis,
            None => "start",
        }
    }

    /// When the last fault injected before this moment was repaired.
    pub(super) fn healed_before(&self, at: u64) -> u64 {
        let after = self.all.partition_point(|window| window.inject <= at);
        after.checked_sub(1).map_or(0, |index| self.all[index].heal)
    }

    /// The end of all faults that overlap the interval; the end of the interval without such a fault.
    pub(super) fn over_by(&self, from: u64, until: u64) -> u64 {
        let at_work = self
            .faults()
            .filter(|window| window.inject <= until && from <= window.back);
        let back = at_work.map(|window| window.back).max();
        back.unwrap_or(until).max(until)
    }

    /// Whether a fault overlaps the interval.
    pub(super) fn disturbed(&self, from: u64, until: u64) -> bool {
        self.faults()
            .any(|window| window.inject <= until && from <= window.back + SETTLE_US)
    }

    /// The parts of the interval in which no fault excuses a wait for a lock. They end at a fault that lengthens
    /// leases, because the end of a lease is unknown from then on.
    pub(super) fn whole(&self, from: u64, until: u64) -> Vec<(u64, u64)> {
        let mut parts = Vec::new();
        let mut from = from;
        for window in self.faults() {
            let name = window.nemesis.as_str();
            let over = window.back + WAITERS_SETTLE_US;
            if DEATHS.contains(&name) || over < from {
                continue;
            }
            if until < window.inject {
                break;
            }
            if from < window.inject {
                parts.push((from, window.inject));
            }
            // A random pair may contain any fault.
            if LENGTHENING.contains(&name) || name == "random-pair" {
                return parts;
            }
            from = over;
        }
        if from < until {
            parts.push((from, until));
        }
        parts
    }

    /// All windows in which the campaign did something to the service.
    fn faults(&self) -> impl Iterator<Item = &Window> {
        self.all
            .iter()
            .filter(|window| !NO_FAULTS.contains(&window.nemesis.as_str()))
    }
}
