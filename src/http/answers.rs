//! Large answers: a bounded number of them is on its way at any moment.
//!
//! A client that asks and does not read costs what its answer holds, until the write times out. So a large body is
//! handed to its connection in parts, and keeps its permit until the last part is taken.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many large answers may be on their way.
pub const MAX_LARGE_ANSWERS: usize = 32;

/// How much of a large body a connection is handed at once.
const PART_BYTES: usize = 16 * 1024;

/// The permits for large answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LargeAnswers(Arc<Semaphore>);

impl LargeAnswers {
    /// A permit, if one is left.
    pub(super) fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.0).try_acquire_owned().ok()
    }
}

impl Default for LargeAnswers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_LARGE_ANSWERS)))
    }
}

/// A body in parts, under a permit.
pub(super) struct LargeBody {
    body: Body,
    /// What came of the body and was not handed over yet.
    rest: Bytes,
    _permit: OwnedSemaphorePermit,
}

impl LargeBody {
    pub(super) fn new(body: Body, permit: OwnedSemaphorePermit) -> Self {
        Self {
            body,
            rest: Bytes::new(),
            _permit: permit,
        }
    }
}

impl HttpBody for LargeBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        let length = self.rest.len().min(PART_BYTES);
        let part = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = u64::try_from(self.rest.len()).unwrap_or(u64::MAX);
        let body = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(body.lower() + rest);
        hint
    }
}
