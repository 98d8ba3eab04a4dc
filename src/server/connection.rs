//! Serves the requests of one connection, and closes it.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::http::header::TRANSFER_ENCODING;
use axum::http::{Method, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{HttpService as HyperService, service_fn};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::yield_now;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::client::{Client, Timeouts};
use crate::http::{AtCapacity, BothLengths, HttpService};

/// The size of hyper's buffers for reading and for writing, in bytes. It exceeds the limit of a head, so that this
/// server and not hyper refuses a head that is too large.
const MAX_BUFFER_BYTES: usize = 32 * 1024;

/// How long the server may take to refuse a head and discard further bytes. An immediate close would reset the
/// connection, and the client could lose the refusal.
const LINGER: Duration = Duration::from_secs(1);

/// The timeouts of a connection while the server drains.
const DRAIN_TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(1),
    head: Duration::from_secs(1),
    write: Duration::from_secs(1),
};

/// The purpose of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The server answers all its requests.
    Serve,
    /// The connection exceeds the limit. The server answers health checks and metrics, and refuses other requests.
    Refuse,
}

/// Why a connection ends.
enum End {
    /// hyper ended it.
    Hyper(hyper::Result<()>),
    /// It timed out.
    Expired,
    /// The head exceeds the limit.
    HeadTooLarge,
}

/// The client hung up during its request.
#[derive(Debug, thiserror::Error)]
#[error("the client hung up")]
struct HungUp;

/// Serves a connection until it ends. Once `closing` is cancelled, it ends after the answers to the requests under way.
pub(super) async fn serve(
    client: Client,
    http: HttpService,
    purpose: Purpose,
    timeouts: Timeouts,
    closing: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| answer(&client, &http, purpose, request));
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        // `answer` handles the end of the stream: hyper would close the connection.
        .half_close(true)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(client.clone()), service);
    let end = {
        let mut connection = pin!(connection);
        let end = closing
            .run_until_cancelled(watched(connection.as_mut(), &client, timeouts))
            .await;
        match end {
            Some(end) => end,
            None => finish(connection, &client).await,
        }
    };
    match end {
        End::Hyper(Ok(())) => {}
        End::Hyper(Err(error)) => tracing::debug!("a connection failed: {error}"),
        End::Expired => {
            tracing::debug!("closed a connection because its client was too slow");
            client.discard_unsent();
        }
        End::HeadTooLarge => {
            let refused = timeout(LINGER, refuse_head(client, &http)).await;
            if let Ok(Err(error)) = refused {
                tracing::debug!("could not answer a request whose head is too large: {error}");
            }
        }
    }
}

async fn answer(
    client: &Client,
    http: &HttpService,
    purpose: Purpose,
    mut request: Request<Incoming>,
) -> Result<axum::response::Response, HungUp> {
    let under_way = client.begin_request().ok_or(HungUp)?;
    if request.headers().contains_key(TRANSFER_ENCODING)
        && under_way.head.may_name_length(request.method().as_str())
    {
        request.extensions_mut().insert(BothLengths);
    }
    if purpose == Purpose::Refuse {
        request.extensions_mut().insert(AtCapacity);
    }
    // A client that hung up must not get a lease after a wait. Answers that need no wait still go to a client that has
    // closed only its sending side.
    let may_lease = request.method() == Method::POST;
    let mut answer = pin!(http.answer(request));
    let at_once = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
    if let Poll::Ready(Ok(response)) = at_once {
        return Ok(response);
    }
    // From here on the check for the end of the stream comes first: the client may hang up as the lock becomes free.
    tokio::select! {
        biased;
        () = client.hung_up(), if may_lease => Err(HungUp),
        Ok(response) = answer => Ok(response),
    }
}

/// Drives a connection until it ends, times out or sends a head that is too large.
async fn watched<C>(mut connection: Pin<&mut C>, client: &Client, timeouts: Timeouts) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    let expiry = client.deadline(&timeouts);
    let mut timer =
        pin!(sleep_until(expiry.unwrap_or_else(|| {
            tokio::time::Instant::now() + timeouts.idle
        })));
    poll_fn(move |context| {
        if let Poll::Ready(ended) = connection.as_mut().poll(context) {
            return Poll::Ready(End::Hyper(ended));
        }
        if client.head_is_too_large() {
            return Poll::Ready(End::HeadTooLarge);
        }
        // The timer keeps an earlier deadline and checks again when it fires: so a request does not reset it.
        if let Some(deadline) = client.deadline(&timeouts)
            && deadline < timer.deadline()
        {
            timer.as_mut().reset(deadline);
        }
        while timer.as_mut().poll(context).is_ready() {
            let now = tokio::time::Instant::now();
            let next = client.deadline(&timeouts);
            if next.is_some_and(|deadline| deadline <= now) {
                return Poll::Ready(End::Expired);
            }
            timer.as_mut().reset(next.unwrap_or(now + timeouts.idle));
        }
        Poll::Pending
    })
    .await
}

/// Closes a connection gracefully: it answers the request under way, or one that hyper has not read yet, first.
async fn finish<S>(
    mut connection: Pin<&mut http1::Connection<TokioIo<Client>, S>>,
    client: &Client,
) -> End
where
    S: HyperService<Incoming, ResBody = axum::body::Body>,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // hyper closes at once where it has read nothing, also if there is a request: it has to read first, and the
    // runtime to look what has come before that.
    yield_now().await;
    let polled = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context))).await;
    if let Poll::Ready(ended) = polled {
        return End::Hyper(ended);
    }
    connection.as_mut().graceful_shutdown();
    watched(connection, client, DRAIN_TIMEOUTS).await
}

/// Answers a head that is too large, and discards further bytes until the client closes its side.
async fn refuse_head(mut client: Client, http: &HttpService) -> io::Result<()> {
    let _under_way = client.begin_request();
    client.write_all(&http.refuse_head()).await?;
    client.shutdown().await?;
    // A buffer on the heap: an array would be part of every connection's task, and enlarge all of them.
    let mut unread = vec![0; 4096];
    while client.read(&mut unread).await? > 0 {}
    Ok(())
}
