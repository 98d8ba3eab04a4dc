//! Who waits for a lock, first come, first served.
//!
//! A place is known by its waiter's id and ordered by its ticket. Its request is *present* until its
//! wait is over; one that may be repeated keeps its place a while longer, and is passed over meanwhile.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use crate::lock::lease::Timestamp;
use crate::lock::request::{Acquire, Ticket, WaiterId};

/// How long the place of a request that may be repeated is kept after the request has ended.
pub const ENTRY_KEPT: Duration = Duration::from_secs(10);

/// A place and who has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct QueueEntry {
    pub(super) request: Acquire,
    /// From this moment on its request waits no more.
    pub(super) present_until: Timestamp,
    /// From this moment on the place is nobody's.
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
}

/// The places of one lock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Queue {
    places: BTreeMap<Ticket, QueueEntry>,
    tickets: HashMap<WaiterId, Ticket>,
    /// No place is kept beyond this moment.
    kept_until: Option<Timestamp>,
}

impl Queue {
    /// How many wait, those whose place is kept included.
    pub(super) fn len(&self, now: Timestamp) -> usize {
        let kept = |place: &&QueueEntry| now < place.kept_until;
        self.places.values().filter(kept).count()
    }

    /// Drops places that are nobody's any more.
    pub(super) fn prune(&mut self, now: Timestamp) {
        let over = |(_, place): &(&Ticket, &QueueEntry)| place.kept_until <= now;
        let over: Vec<Ticket> = self
            .places
            .iter()
            .filter(over)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in over {
            self.remove(ticket);
        }
    }

    /// Gives a waiter a place; the one that it had is gone.
    pub(super) fn insert(&mut self, ticket: Ticket, place: QueueEntry) {
        let id = place.request.waiter_id();
        self.kept_until = self.kept_until.max(Some(place.kept_until));
        if let Some(before) = self.tickets.insert(id, ticket) {
            self.places.remove(&before);
        }
        self.places.insert(ticket, place);
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<QueueEntry> {
        let place = self.places.remove(&ticket)?;
        self.tickets.remove(&place.request.waiter_id());
        if self.places.is_empty() {
            self.kept_until = None;
        }
        Some(place)
    }

    /// The place of a waiter, however old.
    pub(super) fn find(&self, id: WaiterId) -> Option<(Ticket, &QueueEntry)> {
        let ticket = self.tickets.get(&id)?;
        Some((*ticket, self.places.get(ticket)?))
    }

    /// How many are ahead of a ticket, whether they are present or not.
    pub(super) fn ahead_of(&self, ticket: Ticket) -> usize {
        self.places.range(..ticket).count()
    }

    /// Takes the first place whose request is present, `asking` being so in any case. Places ahead of it
    /// that are nobody's any more are dropped; those that are kept stay.
    pub(super) fn take_first(
        &mut self,
        asking: Option<WaiterId>,
        now: Timestamp,
    ) -> Option<(Ticket, QueueEntry)> {
        let mut over = Vec::new();
        let mut first = None;
        for (ticket, place) in &self.places {
            if now < place.present_until || Some(place.request.waiter_id()) == asking {
                first = Some(*ticket);
                break;
            }
            if place.kept_until <= now {
                over.push(*ticket);
            }
        }
        for ticket in over {
            self.remove(ticket);
        }
        let first = first?;
        self.remove(first).map(|place| (first, place))
    }

    /// The moment from which every place is nobody's.
    pub(super) fn disposable_from(&self) -> Option<Timestamp> {
        self.kept_until
    }
}
