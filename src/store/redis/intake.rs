//! What waits to be put into a batch.
//!
//! Two queues, so that those who wait for a lock never starve those who work under one: when thousands of
//! waiters ask at once, a renewal still goes with the next batch.

use tokio::sync::mpsc::{self, Receiver, Sender};

/// The most operations of one batch: Redis serves nobody else meanwhile (about 1 ms).
pub(super) const MAX_BATCH: usize = 64;

/// How much of a batch is left to those who wait, however much work there is.
const WAITERS_SHARE: usize = 16;

/// The most that each of the two queues holds; more is refused.
const MAX_QUEUED: usize = 16_384;

/// How soon an operation must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Somebody counts on it.
    Work,
    /// It waits for a lock anyway, or lets go of a place.
    Waiting,
}

/// Where operations are put.
pub(super) struct Intake<T> {
    work: Sender<T>,
    waiting: Sender<T>,
}

/// Where lanes take them from.
pub(super) struct Outlet<T> {
    work: Receiver<T>,
    waiting: Receiver<T>,
}

pub(super) fn queues<T>() -> (Intake<T>, Outlet<T>) {
    let (work, work_outlet) = mpsc::channel(MAX_QUEUED);
    let (waiting, waiting_outlet) = mpsc::channel(MAX_QUEUED);
    let outlet = Outlet {
        work: work_outlet,
        waiting: waiting_outlet,
    };
    (Intake { work, waiting }, outlet)
}

impl<T> Intake<T> {
    /// Puts one in; false if there is no room, or nobody to take it out.
    pub(super) fn put(&self, operation: T, urgency: Urgency) -> bool {
        let queue = match urgency {
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
        take_up_to(MAX_BATCH - WAITERS_SHARE, &mut self.work, batch);
        take_up_to(MAX_BATCH, &mut self.waiting, batch);
        take_up_to(MAX_BATCH, &mut self.work, batch);
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
    async fn work_goes_with_the_next_batch_however_many_wait() {
        let (intake, mut outlet) = queues();
        for _ in 0..1000 {
            assert!(intake.put("waiter", Urgency::Waiting));
        }
        for _ in 0..100 {
            assert!(intake.put("work", Urgency::Work));
        }
        let mut batch = Vec::new();
        outlet.fill(&mut batch, async {}).await;
        let work = batch.iter().filter(|what| **what == "work").count();
        assert_eq!((batch.len(), work), (MAX_BATCH, MAX_BATCH - WAITERS_SHARE));
    }

    #[tokio::test]
    async fn room_that_one_leaves_is_the_other_ones() {
        for (urgency, number) in [(Urgency::Work, 100), (Urgency::Waiting, 100)] {
            let (intake, mut outlet) = queues();
            for _ in 0..number {
                assert!(intake.put((), urgency));
            }
            let mut batch = Vec::new();
            outlet.fill(&mut batch, async {}).await;
            assert_eq!(batch.len(), MAX_BATCH, "{urgency:?}");
        }
    }

    #[tokio::test]
    async fn full_queue_refuses_and_leaves_room_in_the_other() {
        let (intake, _outlet) = queues();
        while intake.put((), Urgency::Waiting) {}
        assert!(intake.put((), Urgency::Work));
    }
}
