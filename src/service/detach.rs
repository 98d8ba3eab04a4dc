//! A future that is never dropped half-way.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Runs where it is awaited, and only if it is dropped before its end hands the rest to `orphaned`, which
/// spawns it: a task for each request would cost more than most requests. If it panics the panic is the
/// caller's, and there is no rest.
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
        // Taken out, so that it is gone if it panics.
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
