//! What the locks protect: a counter for each key and arm. The fenced one refuses every token lower than the highest
//! that it has seen, on reads as well as on writes; the control arm takes everything.

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
    /// Reads, or writes what follows `base`; gives whether it was accepted, and the value now.
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
