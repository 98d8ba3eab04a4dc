//! How many leases Redis last said there are: it tells all servers with the answer to their heartbeat, so that a
//! scrape asks nobody.

use std::sync::Mutex;

use crate::store::contract::Census;

const UNPOISONED: &str = "nothing panics while it holds the census";

/// `None` until Redis has said something.
#[derive(Default)]
pub(super) struct LastCensus(Mutex<Option<Census>>);

impl LastCensus {
    /// Redis said so just now.
    pub(super) fn heard(&self, census: Census) {
        *self.0.lock().expect(UNPOISONED) = Some(census);
    }

    /// What it said last.
    pub(super) fn last(&self) -> Option<Census> {
        *self.0.lock().expect(UNPOISONED)
    }
}
