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

    /// Whether a fault was at work at some time between these moments.
    pub(super) fn disturbed(&self, from: u64, until: u64) -> bool {
        self.all
            .iter()
            .any(|window| window.inject <= until && from <= window.back + SETTLE_US)
    }
}
