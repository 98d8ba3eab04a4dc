//! How many leases there are, as Redis last said: it tells all servers with the answer to their heartbeat, so that a
//! scrape asks nobody.

use std::sync::Mutex;

use crate::store::contract::LeaseStats;

const UNPOISONED: &str = "nothing panics while it holds the census";

/// `None` until Redis has said something.
#[derive(Default)]
pub(super) struct KnownLeases(Mutex<Option<LeaseStats>>);

impl KnownLeases {
    /// So many are held now in the whole store, and so many more were found to have run out.
    pub(super) fn held(&self, held: u64, ran_out: u64) {
        let mut known = self.0.lock().expect(UNPOISONED);
        let before = known.map_or(0, |census| census.expired_total);
        *known = Some(LeaseStats {
            held,
            expired_total: before + ran_out,
        });
    }

    /// So many more were found to have run out.
    pub(super) fn ran_out(&self, more: u64) {
        if more > 0 {
            let mut known = self.0.lock().expect(UNPOISONED);
            known.get_or_insert_default().expired_total += more;
        }
    }

    pub(super) fn known(&self) -> Option<LeaseStats> {
        *self.0.lock().expect(UNPOISONED)
    }
}
