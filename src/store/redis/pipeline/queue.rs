//! The operations that wait for a batch.
//!
//! Each urgency has its own queue, so that acquisitions never delay holders. A renewal goes with the next batch even
//! when thousands of waiters ask at once, or when Redis is slow.

use tokio::sync::mpsc::{self, Receiver, Sender};

/// The most operations of one batch. Redis takes about 1 ms for them, and other commands wait meanwhile.
pub(crate) const MAX_BATCH: usize = 64;

/// How many operations of a full batch are left to waiters, however many others are queued.
const WAITERS_SHARE: usize = 16;

/// How many operations of a full batch are left to other acquisitions and to reads, however many renewals and releases
/// are queued.
const ACQUISITIONS_SHARE: usize = 8;

/// The most operations in each of the queues. Further ones are refused.
const MAX_QUEUED: usize = 16_384;

/// How soon an operation must run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Urgency {
    /// A lease depends on it: a renewal or a release.
    Lease,
    /// A client waits for the answer.
    Work,
    /// A waiter acquires, and can wait for longer; or the server rolls an acquisition back.
    Waiting,
}

/// The end of the queues that accepts operations.
pub(crate) struct SubmissionQueue<T> {
    lease: Sender<T>,
    work: Sender<T>,
    waiting: Sender<T>,
}

/// The end of the queues from which workers take batches.
pub(crate) struct BatchSource<T> {
    lease: Receiver<T>,
    work: Receiver<T>,
    waiting: Receiver<T>,
    max_batch: usize,
}

/// Creates queues with batches of at most `max_batch` operations.
pub(crate) fn queues<T>(max_batch: usize) -> (SubmissionQueue<T>, BatchSource<T>) {
    let (lease, lease_source) = mpsc::channel(MAX_QUEUED);
    let (work, work_source) = mpsc::channel(MAX_QUEUED);
    let (waiting, waiting_source) = mpsc::channel(MAX_QUEUED);
    let source = BatchSource {
        lease: lease_source,
        work: work_source,
        waiting: waiting_source,
        max_batch,
    };
    let queue = SubmissionQueue {
        lease,
        work,
        waiting,
    };
    (queue, source)
}

impl<T> SubmissionQueue<T> {
    /// Queues an operation. Returns false if the queue is full, or if all workers have ended.
    pub(crate) fn put(&self, operation: T, urgency: Urgency) -> bool {
        let queue = match urgency {
            Urgency::Lease => &self.lease,
            Urgency::Work => &self.work,
            Urgency::Waiting => &self.waiting,
        };
        queue.try_send(operation).is_ok()
    }
}

impl<T> BatchSource<T> {
    /// Waits for an operation, then for `ready`, and fills `batch` with the operations that are queued by then. The
    /// batch stays empty if the other end of the queues is gone. If the future is dropped, `batch` has the operations
    /// that it took.
    pub(crate) async fn fill<R>(
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

    /// Fills the batch up to each limit in turn. The last two lines use the shares that waiters and acquisitions left.
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
        let (queue, mut source) = queues(MAX_BATCH);
        for _ in 0..1000 {
            assert!(queue.put(Urgency::Waiting, Urgency::Waiting));
            assert!(queue.put(Urgency::Work, Urgency::Work));
        }
        for _ in 0..100 {
            assert!(queue.put(Urgency::Lease, Urgency::Lease));
        }
        let mut batch = Vec::new();
        source.fill(&mut batch, async {}).await;
        let of = |urgency| batch.iter().filter(|other| **other == urgency).count();
        let leases = MAX_BATCH - WAITERS_SHARE - ACQUISITIONS_SHARE;
        assert_eq!(of(Urgency::Lease), leases);
        assert_eq!(of(Urgency::Work), ACQUISITIONS_SHARE);
        assert_eq!(of(Urgency::Waiting), WAITERS_SHARE);
    }

    #[tokio::test]
    async fn batch_has_at_most_max_batch_operations() {
        let (queue, mut source) = queues(1);
        assert!(queue.put(1, Urgency::Work) && queue.put(2, Urgency::Work));
        let mut batch = Vec::new();
        source.fill(&mut batch, async {}).await;
        assert_eq!(batch, [1]);
    }

    #[tokio::test]
    async fn unused_share_goes_to_the_other_queues() {
        for urgency in [Urgency::Lease, Urgency::Work, Urgency::Waiting] {
            let (queue, mut source) = queues(MAX_BATCH);
            for _ in 0..100 {
                assert!(queue.put((), urgency));
            }
            let mut batch = Vec::new();
            source.fill(&mut batch, async {}).await;
            assert_eq!(batch.len(), MAX_BATCH, "{urgency:?}");
        }
    }

    #[tokio::test]
    async fn full_queue_does_not_fill_the_others() {
        let (queue, _source) = queues(MAX_BATCH);
        while queue.put((), Urgency::Waiting) {}
        while queue.put((), Urgency::Work) {}
        assert!(queue.put((), Urgency::Lease));
    }
}
