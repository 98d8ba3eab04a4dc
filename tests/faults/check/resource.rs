//! Acknowledged updates that a client overwrote without having seen them.

use std::collections::HashMap;

use super::Violation;
use crate::history::{Access, Arm, Event};

/// The fenced resource loses no update.
pub(super) fn fenced(events: &[Event]) -> Vec<Violation> {
    lost_updates(events, Arm::Fenced)
        .into_iter()
        .map(|(overwritten, by)| Violation {
            rule: "fenced-resource",
            at: by.at,
            text: format!(
                "{}: the write of client {} (token {}) to {} was overwritten by client {} (token {})",
                by.key, overwritten.client, overwritten.token, overwritten.value, by.client, by.token
            ),
            evidence: vec![
                Event::Access(overwritten.clone()),
                Event::Access(by.clone()),
            ],
            promised_at: None,
            nemesis: String::new(),
            excused: false,
        })
        .collect()
}

/// How many updates the unfenced arm lost; without any loss the run could not have shown harm.
pub(super) fn lost_by_control(events: &[Event]) -> usize {
    lost_updates(events, Arm::Control).len()
}

/// Accepted writes based on a value older than the last accepted write, together with that write.
fn lost_updates(events: &[Event], arm: Arm) -> Vec<(&Access, &Access)> {
    let mut last: HashMap<&str, &Access> = HashMap::new();
    let mut found = Vec::new();
    for event in events {
        let Event::Access(access) = event else {
            continue;
        };
        let (true, Some(base)) = (access.arm == arm && access.accepted, access.base) else {
            continue;
        };
        if let Some(before) = last.insert(&access.key, access)
            && before.value != base
        {
            found.push((before, access));
        }
    }
    found
}
