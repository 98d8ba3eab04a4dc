//! When which fault was at work.

use crate::history::{Event, Phase};

/// How long after everything is back the outcome of a call still says nothing.
const SETTLE_US: u64 = 1_000_000;

/// The same for those who wait for a lock: it may have been reserved for somebody at a server that was killed and that
/// nobody missed yet.
const WAITERS_SETTLE_US: u64 = 6_000_000;
/// Faults in which nothing is done to the service.
const NO_FAULTS: [&str; 1] = ["none"];
/// Faults in which clients die: the service is as whole as ever, and has to be without them.
const DEATHS: [&str; 2] = ["client-dies-granted", "client-dies-waiting"];
/// Faults after which a lease may last longer than anybody knows of: a clock went back by more than the skew, or an old copy
/// of the data is in use.
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
    /// When its effect was last seen; the injection if it was not.
    pub(super) effect: u64,
    pub(super) heal: u64,
    /// When every server granted again; the end of the history if that was not recorded.
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

    /// The fault that was injected last before this moment.
    pub(super) fn nemesis_at(&self, at: u64) -> &str {
        let after = self.all.partition_point(|window| window.inject <= at);
        match after.checked_sub(1) {
            Some(index) => &self.all[index].nemesis,
            None => "start",
        }
    }

    /// When the fault was undone that was injected last before this moment.
    pub(super) fn healed_before(&self, at: u64) -> u64 {
        let after = self.all.partition_point(|window| window.inject <= at);
        after.checked_sub(1).map_or(0, |index| self.all[index].heal)
    }

    /// The end of the faults that were at work at some time between these moments; the second of them if there was none.
    pub(super) fn over_by(&self, from: u64, until: u64) -> u64 {
        let at_work = self
            .faults()
            .filter(|window| window.inject <= until && from <= window.back);
        let back = at_work.map(|window| window.back).max();
        back.unwrap_or(until).max(until)
    }

    /// Whether a fault was at work at some time between these moments.
    pub(super) fn disturbed(&self, from: u64, until: u64) -> bool {
        self.faults()
            .any(|window| window.inject <= until && from <= window.back + SETTLE_US)
    }

    /// The parts of the time between these moments in which who waits for a lock needs no patience with a fault. What
    /// comes after a fault that makes leases last longer is none, as nobody can say when a lock is free.
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
            // One of a pair is any of them.
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

    /// All but those in which nothing was done.
    fn faults(&self) -> impl Iterator<Item = &Window> {
        self.all
            .iter()
            .filter(|window| !NO_FAULTS.contains(&window.nemesis.as_str()))
    }
}
