//! One connection: its requests one after the other, and its end.

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

/// The most bytes that hyper keeps of what it reads, and of what it is to write: more than a head, so that a head that
/// is too large is known as one.
const MAX_BUFFER_BYTES: usize = 32 * 1024;

/// How long a refusal is left to a client that still sends; closed at once, the refusal could be lost with the
/// connection.
const LINGER: Duration = Duration::from_secs(1);

/// How long a client may take once the server is about to end, where it took its time before.
const DRAIN_TIMEOUTS: Timeouts = Timeouts {
    idle: Duration::from_secs(1),
    head: Duration::from_secs(1),
    write: Duration::from_secs(1),
};

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Requests.
    Serve,
    /// One request, and an answer only if it asks for the server's health: there are too many connections.
    Refuse,
}

/// Why a connection ends.
enum End {
    /// By itself.
    Hyper(hyper::Result<()>),
    /// It stayed as it was for too long.
    Expired,
    /// A head without an end.
    HeadTooLarge,
}

/// The client of a request is gone.
#[derive(Debug, thiserror::Error)]
#[error("the client hung up")]
struct HungUp;

/// Serves a connection until its end, or until what is under way is answered once `ending` is cancelled.
pub(super) async fn serve(
    client: Client,
    http: HttpService,
    purpose: Purpose,
    timeouts: Timeouts,
    ending: CancellationToken,
) {
    let service = service_fn(|request: Request<Incoming>| answer(&client, &http, purpose, request));
    let connection = http1::Builder::new()
        .header_read_timeout(None)
        // What the end of the stream means is decided here and not by hyper, see `answer`.
        .half_close(true)
        .max_buf_size(MAX_BUFFER_BYTES)
        .serve_connection(TokioIo::new(client.clone()), service);
    let end = {
        let mut connection = pin!(connection);
        let end = ending
            .run_until_cancelled(watched(connection.as_mut(), &client, timeouts))
            .await;
        match end {
            Some(end) => end,
            None => finish(connection, &client).await,
        }
    };
    match end {
        End::Hyper(Ok(())) => {}
        End::Hyper(Err(error)) => tracing::debug!("a connection broke off: {error}"),
        End::Expired => {
            tracing::debug!("a connection was closed: its client took too long");
            client.discard_unsent();
        }
        End::HeadTooLarge => {
            let refused = timeout(LINGER, refuse_head(client, &http)).await;
            if let Ok(Err(error)) = refused {
                tracing::debug!("a head that is too large was not answered: {error}");
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
    // A lease must not go to a client that is gone. Other requests are answered soon, so a client that has closed only
    // its sending side gets their answers, as it gets a lease that is granted at once.
    let may_lease = request.method() == Method::POST;
    let mut answer = pin!(http.answer(request));
    let at_once = poll_fn(|context| Poll::Ready(answer.as_mut().poll(context))).await;
    if let Poll::Ready(Ok(response)) = at_once {
        return Ok(response);
    }
    // From here on the end of the stream comes first: it may be there as the lock is released.
    tokio::select! {
        biased;
        () = client.hung_up(), if may_lease => Err(HungUp),
        Ok(response) = answer => Ok(response),
    }
}

/// Drives a connection to its end, however long its client takes.
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
        // The timer is left alone while its deadline only moves away: so a request costs it nothing.
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

/// Lets a connection end: what is under way, or has come before hyper could read it, is answered first.
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

/// Answers a head that is too large, and reads on for a while.
async fn refuse_head(mut client: Client, http: &HttpService) -> io::Result<()> {
    let _under_way = client.begin_request();
    client.write_all(&http.refuse_head()).await?;
    client.shutdown().await?;
    // On the heap: each connection's task has room for what may be on its stack here.
    let mut unread = vec![0; 4096];
    while client.read(&mut unread).await? > 0 {}
    Ok(())
}
