//! What waits to be put into a batch.
//!
//! Three queues, so that those who want a lock never starve those who have one: when thousands of waiters ask at once, or
//! Redis is slow, a renewal still goes with the next batch.

use tokio::sync::mpsc::{self, Receiver, Sender};

/// The most operations of one batch: Redis serves nobody else meanwhile (about 1 ms).
pub(super) const MAX_BATCH: usize = 64;

/// How much of a batch is left to those who wait, however much else there is.
const WAITERS_SHARE: usize = 16;

/// How much is left to other acquisitions and to reads, however many leases are renewed and released.
const ACQUISITIONS_SHARE: usize = 8;

/// The most that each of the queues holds; more is refused.
const MAX_QUEUED: usize = 16_384;

/// How soon an operation must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// A lease depends on it: a renewal or a release.
    Lease,
    /// Its client waits for the answer.
    Work,
    /// It waits for a lock anyway, or lets go of a place.
    Waiting,
}

/// Where operations are put.
pub(super) struct Intake<T> {
    lease: Sender<T>,
    work: Sender<T>,
    waiting: Sender<T>,
}

/// Where lanes take them from.
pub(super) struct Outlet<T> {
    lease: Receiver<T>,
    work: Receiver<T>,
    waiting: Receiver<T>,
    max_batch: usize,
}

/// Queues whose operations go in batches of at most `max_batch`.
pub(super) fn queues<T>(max_batch: usize) -> (Intake<T>, Outlet<T>) {
    let (lease, lease_outlet) = mpsc::channel(MAX_QUEUED);
    let (work, work_outlet) = mpsc::channel(MAX_QUEUED);
    let (waiting, waiting_outlet) = mpsc::channel(MAX_QUEUED);
    let outlet = Outlet {
        lease: lease_outlet,
        work: work_outlet,
        waiting: waiting_outlet,
        max_batch,
    };
    let intake = Intake {
        lease,
        work,
        waiting,
    };
    (intake, outlet)
}

impl<T> Intake<T> {
    /// Puts one in; false if there is no room, or nobody to take it out.
    pub(super) fn put(&self, operation: T, urgency: Urgency) -> bool {
        let queue = match urgency {
            Urgency::Lease => &self.lease,
            Urgency::Work => &self.work,
            Urgency::Waiting => &self.waiting,
        };
        queue.try_send(operation).is_ok()
    }
}

impl<T> Outlet<T> {
    /// Waits until there is something, then for `ready`, and fills `batch` with what there is by then. It stays
    /// empty if there will be nothing any more. What was taken is in `batch` if the future is dropped.
    pub(super) async fn fill<R>(
        &mut self,
        batch: &mut Vec<T>,
        ready: impl Future<Output = R>,
    ) -> R {
        let first = tokio::select! {
            biased;
            Some(first) = self.lease.recv() => Some(first),
            Some(first) = self.work.recv() => Some(first),
            Some(first) = self.waiting.recv() => Some(first),
            else => None,
        };
        batch.extend(first);
        let ready = ready.await;
        self.take(batch);
        ready
    }

    fn take(&mut self, batch: &mut Vec<T>) {
        let max = self.max_batch;
        let without_waiters = max.saturating_sub(WAITERS_SHARE);
        let leases_alone = without_waiters.saturating_sub(ACQUISITIONS_SHARE);
        take_up_to(leases_alone, &mut self.lease, batch);
        take_up_to(without_waiters, &mut self.work, batch);
        take_up_to(max, &mut self.waiting, batch);
        take_up_to(max, &mut self.lease, batch);
        take_up_to(max, &mut self.work, batch);
    }
}

fn take_up_to<T>(length: usize, from: &mut Receiver<T>, batch: &mut Vec<T>) {
    while batch.len() < length
        && let Ok(next) = from.try_recv()
    {
        batch.push(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn leases_go_with_the_next_batch_and_leave_a_share_to_the_others() {
        let (intake, mut outlet) = queues(MAX_BATCH);
        for _ in 0..1000 {
            assert!(intake.put(Urgency::Waiting, Urgency::Waiting));
            assert!(intake.put(Urgency::Work, Urgency::Work));
        }
        for _ in 0..100 {
            assert!(intake.put(Urgency::Lease, Urgency::Lease));
        }
        let mut batch = Vec::new();
        outlet.fill(&mut batch, async {}).await;
        let of = |urgency| batch.iter().filter(|other| **other == urgency).count();
        let leases = MAX_BATCH - WAITERS_SHARE - ACQUISITIONS_SHARE;
        assert_eq!(of(Urgency::Lease), leases);
        assert_eq!(of(Urgency::Work), ACQUISITIONS_SHARE);
        assert_eq!(of(Urgency::Waiting), WAITERS_SHARE);
    }

    #[tokio::test]
    async fn batch_of_one_is_of_one() {
        let (intake, mut outlet) = queues(1);
        assert!(intake.put(1, Urgency::Work) && intake.put(2, Urgency::Work));
        let mut batch = Vec::new();
        outlet.fill(&mut batch, async {}).await;
        assert_eq!(batch, [1]);
    }

    #[tokio::test]
    async fn room_that_one_leaves_is_the_other_ones() {
        for urgency in [Urgency::Lease, Urgency::Work, Urgency::Waiting] {
            let (intake, mut outlet) = queues(MAX_BATCH);
            for _ in 0..100 {
                assert!(intake.put((), urgency));
            }
            let mut batch = Vec::new();
            outlet.fill(&mut batch, async {}).await;
            assert_eq!(batch.len(), MAX_BATCH, "{urgency:?}");
        }
    }

    #[tokio::test]
    async fn full_queue_refuses_and_leaves_room_in_the_other() {
        let (intake, _outlet) = queues(MAX_BATCH);
        while intake.put((), Urgency::Waiting) {}
        while intake.put((), Urgency::Work) {}
        assert!(intake.put((), Urgency::Lease));
    }
}
