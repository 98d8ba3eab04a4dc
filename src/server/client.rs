//! The socket of a client's connection, with the state that hyper does not keep.
//!
//! hyper detects the end of a stream only while it has no unread bytes. It has no timeout for a blocked write, and only
//! one timeout for both an idle connection and an incomplete head. So this socket records its own activity for the
//! timeouts, and reads ahead during a request to detect that the client hangs up.
//!
//! A client that closes only its sending side while it waits for a lease counts as gone: TCP shows no difference.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::head::Head;
use crate::http::MAX_HEAD_BYTES;

/// The most bytes that the server reads ahead during a request. When a client sends more, the server closes the
/// connection unless the request ends within a second: unread bytes hide the end of the stream.
pub const MAX_READ_AHEAD_BYTES: usize = 16 * 1024;

/// See [`MAX_READ_AHEAD_BYTES`].
const READ_AHEAD_GRACE: Duration = Duration::from_secs(1);

/// The size of one read ahead, in bytes.
const READ_AHEAD_STEP: usize = 1024;

/// A handle to a connection; clones share it. hyper, the request under way and the timeouts run in one task, so one
/// waker serves all reads.
#[derive(Clone, Debug)]
pub(super) struct Client(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    stream: TcpStream,
    activity: Activity,
    /// The next head so far, without the bytes that arrived during the request before it.
    head: Head,
    /// Bytes from reading ahead that hyper has not read yet.
    read_ahead: Vec<u8>,
    /// Since when the read-ahead buffer is full.
    read_ahead_full_since: Option<Instant>,
    /// Since when writes make no progress.
    write_blocked_since: Option<Instant>,
}

/// The current activity of a connection.
#[derive(Clone, Copy, Debug)]
enum Activity {
    /// No byte of a next request has arrived since then.
    Idle { since: Instant },
    /// A part of a head has arrived: its first byte at `begun`. Before it the connection was idle from `idle_since`.
    Head { begun: Instant, idle_since: Instant },
    /// A request is under way.
    Request,
    /// The server closes the connection.
    Closing,
}

/// The longest times that a connection may remain in one activity.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timeouts {
    /// Without a request.
    pub(super) idle: Duration,
    /// From the first byte of a head to its last.
    pub(super) head: Duration,
    /// Without progress of a write.
    pub(super) write: Duration,
}

/// A request under way: dropped when the answer is ready.
pub(super) struct UnderWay {
    client: Client,
    /// The head of the request.
    pub(super) head: Head,
}

impl Client {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self(Arc::new(Mutex::new(State {
            stream,
            activity: Activity::Idle {
                since: Instant::now(),
            },
            head: Head::default(),
            read_ahead: Vec::new(),
            read_ahead_full_since: None,
            write_blocked_since: None,
        })))
    }

    /// Marks that the head of a request is complete. Returns `None` if the server is closing the connection.
    pub(super) fn begin_request(&self) -> Option<UnderWay> {
        let mut state = self.state();
        if matches!(state.activity, Activity::Closing) {
            return None;
        }
        state.activity = Activity::Request;
        Some(UnderWay {
            client: self.clone(),
            head: std::mem::take(&mut state.head),
        })
    }

    /// Waits until the client of the request under way hangs up.
    pub(super) async fn hung_up(&self) {
        std::future::poll_fn(|context| self.state().poll_hung_up(context)).await;
    }

    /// Since when the connection has no request under way; `None` while it has one.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        match self.state().activity {
            Activity::Idle { since } => Some(since),
            Activity::Head { idle_since, .. } => Some(idle_since),
            Activity::Request | Activity::Closing => None,
        }
    }

    /// Prevents further requests if none is under way. Returns whether it did.
    pub(super) fn close_if_idle(&self) -> bool {
        let mut state = self.state();
        let idle = matches!(
            state.activity,
            Activity::Idle { .. } | Activity::Head { .. }
        );
        if idle {
            state.activity = Activity::Closing;
        }
        idle
    }

    /// Whether the bytes of an incomplete head exceed the limit.
    pub(super) fn head_is_too_large(&self) -> bool {
        self.state().head_is_too_large()
    }

    /// The moment at which the connection times out unless its state changes before.
    pub(super) fn deadline(&self, timeouts: &Timeouts) -> Option<Instant> {
        let state = self.state();
        let waiting = match state.activity {
            Activity::Idle { since } => Some(since + timeouts.idle),
            Activity::Head { begun, .. } => Some(begun + timeouts.head),
            Activity::Request => state
                .read_ahead_full_since
                .map(|since| since + READ_AHEAD_GRACE),
            Activity::Closing => None,
        };
        let blocked = state
            .write_blocked_since
            .map(|since| since + timeouts.write);
        waiting.into_iter().chain(blocked).min()
    }

    /// Makes the system discard unacknowledged bytes when the connection closes, instead of keeping them in memory.
    pub(super) fn discard_unsent(&self) {
        if let Err(error) = self.state().stream.set_zero_linger() {
            tracing::debug!(
                "the system keeps the unsent bytes of a closed connection for a while: {error}"
            );
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0
            .lock()
            .expect("nothing panics while it holds a connection")
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let mut state = self.client.state();
        if matches!(state.activity, Activity::Request) {
            state.activity = Activity::Idle {
                since: Instant::now(),
            };
        }
    }
}

impl State {
    fn head_is_too_large(&self) -> bool {
        self.head.bytes() > MAX_HEAD_BYTES
    }

    /// Records the bytes that hyper reads.
    fn was_read(&mut self, bytes: &[u8]) {
        match self.activity {
            _ if bytes.is_empty() => return,
            Activity::Idle { since } => {
                self.activity = Activity::Head {
                    begun: Instant::now(),
                    idle_since: since,
                };
            }
            Activity::Head { .. } => {}
            Activity::Request | Activity::Closing => return,
        }
        self.head.add(bytes);
    }

    fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        if !self.read_ahead.is_empty() {
            let length = into.remaining().min(self.read_ahead.len());
            into.put_slice(&self.read_ahead[..length]);
            self.read_ahead.drain(..length);
            self.read_ahead_full_since = None;
        } else if self.head_is_too_large() {
            // The connection's task closes the connection as soon as hyper's poll returns.
            return Poll::Pending;
        } else {
            ready!(Pin::new(&mut self.stream).poll_read(context, into))?;
        }
        self.was_read(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }

    /// Reads ahead until the stream ends or the buffer is full.
    fn poll_hung_up(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let mut some = false;
        let ended = loop {
            let free = MAX_READ_AHEAD_BYTES - self.read_ahead.len();
            if free == 0 {
                self.read_ahead_full_since.get_or_insert_with(Instant::now);
                break false;
            }
            let mut step = [0; READ_AHEAD_STEP];
            let mut step = ReadBuf::new(&mut step[..free.min(READ_AHEAD_STEP)]);
            match Pin::new(&mut self.stream).poll_read(context, &mut step) {
                Poll::Ready(Ok(())) if !step.filled().is_empty() => {
                    self.read_ahead.extend_from_slice(step.filled());
                    some = true;
                }
                Poll::Ready(_) => break true,
                // The runtime may not know yet: it learns of the end and of the free lock at once, in any order.
                Poll::Pending => break self.has_ended(),
            }
        };
        if ended {
            return Poll::Ready(());
        }
        if some {
            // hyper may wait for these bytes, and must poll the buffer again.
            context.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Whether the end of the stream is next in the system's buffer.
    fn has_ended(&self) -> bool {
        let mut byte = [MaybeUninit::uninit()];
        match SockRef::from(&self.stream).peek(&mut byte) {
            Ok(read) => read == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }

    /// Records since when writes make no progress.
    fn wrote(&mut self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => {
                self.write_blocked_since.get_or_insert_with(Instant::now);
            }
            Poll::Ready(_) => self.write_blocked_since = None,
        }
        written
    }
}

impl AsyncRead for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.state().poll_read(context, into)
    }
}

impl AsyncWrite for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        let written = Pin::new(&mut state.stream).poll_write(context, bytes);
        state.wrote(written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.state();
        let written = Pin::new(&mut state.stream).poll_write_vectored(context, bytes);
        state.wrote(written)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// The system sends without a flush.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.state().stream).poll_shutdown(context)
    }
}
