//! The number of leases, as Redis last answered: a scrape of the metrics asks Redis nothing.

use std::sync::Mutex;

use crate::store::contract::LeaseStats;

const UNPOISONED: &str = "nothing panics while it holds the numbers";

/// `None` before the first answer.
#[derive(Default)]
pub(super) struct KnownLeases(Mutex<Option<LeaseStats>>);

impl KnownLeases {
    /// The whole store holds so many leases; so many more have expired, and so many more releases were forgotten early.
    pub(super) fn update(&self, held: u64, expired: u64, releases_forgotten: u64) {
        let mut known = self.0.lock().expect(UNPOISONED);
        let known = known.get_or_insert_default();
        known.held = held;
        known.expired_total += expired;
        known.releases_forgotten_total += releases_forgotten;
    }

    pub(super) fn known(&self) -> Option<LeaseStats> {
        *self.0.lock().expect(UNPOISONED)
    }
}
