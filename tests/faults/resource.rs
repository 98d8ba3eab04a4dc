//! The resource behind the locks: a counter per key and arm. The fenced arm rejects every token lower than its highest
//! token so far, for reads and writes; the control arm accepts every access.

use std::collections::HashMap;

use crate::history::Arm;

#[derive(Default)]
pub(crate) struct Resources {
    counters: HashMap<(String, Arm), Counter>,
}

#[derive(Default)]
struct Counter {
    value: u64,
    highest_token: u64,
}

impl Resources {
    /// Reads, or writes the successor of `base`; returns whether the arm accepted the access, and the current value.
    pub(crate) fn access(
        &mut self,
        key: &str,
        arm: Arm,
        token: u64,
        base: Option<u64>,
    ) -> (bool, u64) {
        let counter = self.counters.entry((key.to_owned(), arm)).or_default();
        if arm == Arm::Fenced && token < counter.highest_token {
            return (false, counter.value);
        }
        counter.highest_token = counter.highest_token.max(token);
        if let Some(base) = base {
            counter.value = base + 1;
        }
        (true, counter.value)
    }
}
