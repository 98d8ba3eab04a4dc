//! When which fault was at work.

use crate::history::{Event, Phase};

/// How long after everything is back the outcome of a call still says nothing.
const SETTLE_US: u64 = 1_000_000;

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

    /// All but those in which nothing was done.
    fn faults(&self) -> impl Iterator<Item = &Window> {
        self.all.iter().filter(|window| window.nemesis != "none")
    }
}
