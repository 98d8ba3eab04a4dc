//! The server: builds the service out of the configuration, serves it, and ends in order.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, StoreConfig};
use crate::http::{App, Auth, Door, Parts};
use crate::service::LockService;
use crate::store::contract::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::redis::options::{Discovery, Secret};
use crate::telemetry::Metrics;

/// How long the head of a request may take to arrive, and a connection may be idle.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);

/// The largest head of a request, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;

/// How long an end in order may take.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// How many connections may have been made that nobody has taken: when a server ends, all who waited there come to
/// another one at once, and those for whom there is no room try again after a second, then after three.
pub const BACKLOG: u32 = 4096;

/// How long to wait when the system has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server could not start.
#[derive(Debug)]
pub enum ServeError {
    /// The address cannot be listened on.
    Listen(SocketAddr, io::Error),
    /// The system refuses signal handlers.
    Signals(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listen(at, error) if error.kind() == io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "{at} is taken by another program: stop it, or listen elsewhere with --listen or LEASEHOLD_LISTEN"
                )
            }
            Self::Listen(at, error) => write!(f, "cannot listen on {at}: {error}"),
            Self::Signals(error) => write!(f, "cannot receive signals: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

/// Serves until the process is told to end (SIGTERM or SIGINT), then ends in order.
///
/// # Errors
/// [`ServeError`], before the first request was taken.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let listener =
        listen(config.listen).map_err(|error| ServeError::Listen(config.listen, error))?;
    let at = listener
        .local_addr()
        .map_err(|error| ServeError::Listen(config.listen, error))?;
    let app = build(&config);
    introduce(&config, at);
    let connections = Connections::default();
    let door = Door::new(app.clone());
    tokio::select! {
        () = accept(&listener, &door, &connections) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("draining");
    app.service.drain();
    // Whoever comes now is told so, and can still renew and release, for as long as others are under way.
    let late = Connections::default();
    let in_order = async {
        tokio::select! {
            () = accept(&listener, &door, &late) => {}
            () = connections.end() => {}
        }
        accept_rest(&listener, &door, &late).await;
        drop(listener);
        late.end().await;
        app.service.close().await;
    };
    if timeout(DRAIN_DEADLINE, in_order).await.is_err() {
        warn!(
            "requests were still under way after {} s; ending without them",
            DRAIN_DEADLINE.as_secs()
        );
    }
    info!("ended");
    Ok(())
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // The address is free although connections of the server before are still being closed.
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn build(config: &Config) -> App {
    let metrics = Metrics::new();
    let store: Arc<dyn Store> = match &config.store {
        StoreConfig::Memory => Arc::new(MemoryStore::new()),
        StoreConfig::Redis(options) => {
            Arc::new(RedisStore::start((**options).clone(), metrics.redis()))
        }
    };
    let expose = |secret: &Option<Secret>| secret.as_ref().map(|s| s.expose().to_owned());
    let auth = Auth::new(
        expose(&config.token).as_deref(),
        expose(&config.break_token).as_deref(),
    );
    App::new(Parts {
        service: LockService::new(store, config.wait_limits, metrics.locks.clone()),
        limits: config.limits,
        auth,
        metrics,
    })
}

/// Says in a few lines what a newcomer needs to know.
fn introduce(config: &Config, at: SocketAddr) {
    let store = match &config.store {
        StoreConfig::Memory => {
            "memory, embedded: it forgets all leases on restart, and is for one server alone"
                .to_owned()
        }
        StoreConfig::Redis(options) => match &options.discovery {
            Discovery::Direct(address) => format!("Redis at {address}"),
            Discovery::Sentinel {
                sentinels, master, ..
            } => {
                let names: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
                format!(
                    "Redis, the master of {master:?} by the Sentinels at {}",
                    names.join(", ")
                )
            }
        },
    };
    let bearer = if config.token.is_some() {
        " -H 'Authorization: Bearer …'"
    } else {
        ""
    };
    let introduction = format!(
        "Leasehold {} listening on http://{at}\nStore: {store}\nDocs:  http://{at}/docs\n\
         Try:   curl -i -X POST http://{at}/locks/my_lock{bearer}\n",
        env!("CARGO_PKG_VERSION")
    );
    // Nobody has to read it.
    let _written = io::stdout().write_all(introduction.as_bytes());
    if config.token.is_none() && !at.ip().is_loopback() {
        warn!(
            "anybody who reaches {at} may take and break locks: set LEASEHOLD_TOKEN and LEASEHOLD_BREAK_TOKEN"
        );
    }
}

/// Connections that end together.
#[derive(Default)]
struct Connections {
    ending: CancellationToken,
    tasks: TaskTracker,
}

impl Connections {
    /// Ends them when what is under way on them has been answered.
    async fn end(&self) {
        self.ending.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Takes connections for as long as it is polled.
async fn accept(listener: &TcpListener, door: &Door, connections: &Connections) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => serve_connection(stream, door.clone(), connections),
            Err(error) => {
                warn!("a connection could not be taken: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Takes the connections that the system has made and nobody has taken, as requests may have come on them.
async fn accept_rest(listener: &TcpListener, door: &Door, connections: &Connections) {
    loop {
        let mut none = true;
        // What has come is known after the runtime has looked.
        yield_now().await;
        while let Poll::Ready(Ok((stream, _))) =
            poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await
        {
            none = false;
            serve_connection(stream, door.clone(), connections);
        }
        if none {
            return;
        }
    }
}

fn serve_connection(stream: TcpStream, door: Door, connections: &Connections) {
    // Without it small answers would wait for the client's acknowledgement; if it fails they do.
    let _set = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(MAX_HEAD_BYTES)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(
            TokioIo::new(stream),
            service_fn(move |request| door.answer(request)),
        );
    let ending = connections.ending.clone();
    // Ended by the drain, or cut by the end of the process after its deadline.
    connections.tasks.spawn(async move {
        let mut connection = pin!(connection);
        let mut ended = tokio::select! {
            ended = connection.as_mut() => Poll::Ready(ended),
            () = ending.cancelled() => Poll::Pending,
        };
        if ended.is_pending() {
            // hyper closes at once where it has read nothing, also if there is a request: it has to read first, and the
            // runtime to look what has come before that.
            yield_now().await;
            ended = poll_fn(|context| Poll::Ready(connection.as_mut().poll(context))).await;
        }
        let ended = match ended {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!("a connection broke off: {error}");
        }
    });
}
