//! A future that runs to its end even if its caller drops it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs in the caller's task. If it is dropped before its end, it hands the rest to `orphaned`, which spawns a task.
/// A task for every request would cost more than most requests. A panic reaches the caller and leaves no rest.
pub(super) struct DetachOnDrop<F: Future, O: FnOnce(Pin<Box<F>>) + Unpin> {
    under_way: Option<Pin<Box<F>>>,
    orphaned: Option<O>,
}

impl<F: Future, O: FnOnce(Pin<Box<F>>) + Unpin> DetachOnDrop<F, O> {
    pub(super) fn new(future: F, orphaned: O) -> Self {
        Self {
            under_way: Some(Box::pin(future)),
            orphaned: Some(orphaned),
        }
    }
}

impl<F: Future, O: FnOnce(Pin<Box<F>>) + Unpin> Future for DetachOnDrop<F, O> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // A future that panics is not put back, and so is not detached.
        let mut under_way = self.under_way.take().expect("not polled after its end");
        let polled = under_way.as_mut().poll(context);
        if polled.is_pending() {
            self.under_way = Some(under_way);
        }
        polled
    }
}

impl<F: Future, O: FnOnce(Pin<Box<F>>) + Unpin> Drop for DetachOnDrop<F, O> {
    fn drop(&mut self) {
        if let (Some(rest), Some(orphaned)) = (self.under_way.take(), self.orphaned.take()) {
            orphaned(rest);
        }
    }
}
