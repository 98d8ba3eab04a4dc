//! Large answers: permits bound how many the server sends at once.
//!
//! The answer of a client that does not read stays in memory until the write times out. So the server hands a large
//! body to its connection in parts, and the body keeps its permit until the connection has received the last part.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many large answers the server sends at once.
pub const MAX_LARGE_ANSWERS: usize = 32;

/// The size of the parts in which a connection receives a large body.
const PART_BYTES: usize = 16 * 1024;

/// The permits for large answers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LargeAnswers(Arc<Semaphore>);

impl LargeAnswers {
    /// Returns a permit, or `None` at the limit.
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
    /// The bytes of the current frame that the connection has not received yet.
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
