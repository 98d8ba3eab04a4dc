//! The queue of a lock: first come, first served.
//!
//! A waiter id identifies an entry, and a ticket orders it. The request of an entry is *present* until its wait is over.
//! The entry of a request that may be repeated is kept a while longer, and is passed over meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::lock::lease::{Moment, Timestamp};
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// How long the entry of a request that may be repeated is kept after the request has ended.
pub const ENTRY_KEPT: Duration = Duration::from_secs(10);

/// A waiter in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueEntry {
    pub(super) request: Acquire,
    /// From this moment on the request no longer waits.
    pub(super) present_until: Timestamp,
    /// From this moment on the entry does not count.
    pub(super) kept_until: Timestamp,
}

impl QueueEntry {
    pub(super) fn new(request: Acquire, present_until: Timestamp) -> Self {
        let kept = request.idempotency.map_or(Duration::ZERO, |_| ENTRY_KEPT);
        Self {
            request,
            present_until,
            kept_until: present_until.after(kept),
        }
    }

    /// The entry of a request that is over, kept for its repetition. The request counts as over for as long as the
    /// grace already, so that a step back of the clock does not make it present again.
    pub(super) fn kept(request: Acquire, moment: Moment) -> Self {
        Self {
            present_until: moment.now.before(moment.grace),
            ..Self::new(request, moment.now)
        }
    }
}

/// The queue entries of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    entries: BTreeMap<Ticket, QueueEntry>,
    tickets: HashMap<WaiterId, Ticket>,
    /// No entry is kept beyond this moment.
    kept_until: Option<Timestamp>,
}

impl Queue {
    /// The number of waiters, kept entries included.
    pub(super) fn len(&self, now: Timestamp) -> usize {
        let kept = |entry: &&QueueEntry| now < entry.kept_until;
        self.entries.values().filter(kept).count()
    }

    /// Drops the entries that no longer count.
    pub(super) fn prune(&mut self, now: Timestamp) {
        let over = |(_, entry): &(&Ticket, &QueueEntry)| entry.kept_until <= now;
        let over: Vec<Ticket> = self
            .entries
            .iter()
            .filter(over)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in over {
            self.remove(ticket);
        }
    }

    /// Inserts the entry of a waiter, in place of its earlier one.
    pub(super) fn insert(&mut self, ticket: Ticket, entry: QueueEntry) {
        let id = entry.request.waiter_id();
        self.kept_until = self.kept_until.max(Some(entry.kept_until));
        if let Some(before) = self.tickets.insert(id, ticket) {
            self.entries.remove(&before);
        }
        self.entries.insert(ticket, entry);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<QueueEntry> {
        let entry = self.entries.remove(&ticket)?;
        self.tickets.remove(&entry.request.waiter_id());
        if self.entries.is_empty() {
            self.kept_until = None;
        }
        Some(entry)
    }

    /// The entry of a waiter, even if it no longer counts.
    pub(super) fn find(&self, id: WaiterId) -> Option<(Ticket, &QueueEntry)> {
        let ticket = self.tickets.get(&id)?;
        Some((*ticket, self.entries.get(ticket)?))
    }

    /// The number of entries ahead of a ticket, present or not.
    pub(super) fn ahead_of(&self, ticket: Ticket) -> usize {
        self.entries.range(..ticket).count()
    }

    /// Takes the first entry whose request is present; `asking` counts as present. Drops the entries ahead of it that no
    /// longer count; kept entries stay.
    pub(super) fn take_first(
        &mut self,
        asking: Option<WaiterId>,
        now: Timestamp,
    ) -> Option<(Ticket, QueueEntry)> {
        let mut over = Vec::new();
        let mut first = None;
        for (ticket, entry) in &self.entries {
            if now < entry.present_until || Some(entry.request.waiter_id()) == asking {
                first = Some(*ticket);
                break;
            }
            if entry.kept_until <= now {
                over.push(*ticket);
            }
        }
        for ticket in over {
            self.remove(ticket);
        }
        let first = first?;
        self.remove(first).map(|entry| (first, entry))
    }

    /// The moment from which no entry counts.
    pub(super) fn disposable_from(&self) -> Option<Timestamp> {
        self.kept_until
    }
}
