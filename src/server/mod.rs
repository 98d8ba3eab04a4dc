//! The server: builds the service from the configuration, serves it, and shuts down gracefully.

mod client;
mod connection;
mod connections;
mod head;

use std::future::poll_fn;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::yield_now;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use self::client::{Client, Timeouts};
use self::connection::Purpose;
use self::connections::{Admission, Connections};
use crate::config::{Config, StoreConfig};
use crate::http::{App, AppState, Auth, Browsers, HttpService, LargeAnswers};
use crate::secret::Secret;
use crate::service::LockService;
use crate::store::contract::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::redis::options::Discovery;
use crate::telemetry::{Limit, LogInterval, Metrics};

pub use self::client::MAX_READ_AHEAD_BYTES;

/// How long a connection may be idle.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// How long a write to a client may make no progress.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections the server accepts beyond the limit. On them it answers health checks and metrics, and refuses
/// other requests.
pub const MAX_REFUSED_CONNECTIONS: usize = 8;

/// The timeout of a connection beyond the limit, for each of its activities.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The first TCP keepalive probe goes out after this time of silence. The system drops a connection after the last
/// probe without an answer, so a waiter on a dead machine leaves the queue after 30 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// How long a graceful shutdown may take.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

/// The send buffer of a connection, in bytes; Linux doubles the value. The buffer counts as memory of this process'
/// control group, and without a bound a client that does not read can fill some megabytes.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// The listen backlog. Clients of a draining server all reconnect at once; clients beyond the backlog retry only after
/// 1 s, then after 3 s.
pub const BACKLOG: u32 = 4096;

/// The pause after the system refuses to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server could not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens on the address.
    #[error(
        "another program listens on {0}: stop it, or choose another address with --listen or LEASEHOLD_LISTEN"
    )]
    AddressInUse(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The system refuses signal handlers.
    #[error("cannot install the handlers of SIGTERM and SIGINT: {0}")]
    Signals(io::Error),
}

impl ServeError {
    fn listen(at: SocketAddr, error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::AddrInUse => Self::AddressInUse(at),
            _ => Self::Listen(at, error),
        }
    }
}

/// Serves until the process is told to end (SIGTERM or SIGINT), then shuts down gracefully.
///
/// # Errors
/// [`ServeError`], before the server accepts the first connection.
pub async fn serve(config: Config) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let listener =
        listen(config.listen).map_err(|error| ServeError::listen(config.listen, error))?;
    let at = listener
        .local_addr()
        .map_err(|error| ServeError::listen(config.listen, error))?;
    let app = build(&config, at);
    print_banner(&config, at);
    let front = Front::new(&config, app.clone());
    tokio::select! {
        () = front.accept(&listener) => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    info!("draining");
    app.service.drain();
    // A client that connects now learns that the server drains, and can renew and release while other requests run.
    let late = front.anew();
    let graceful = async {
        tokio::select! {
            () = late.accept(&listener) => {}
            () = front.end() => {}
        }
        late.accept_rest(&listener).await;
        drop(listener);
        late.end().await;
        app.service.close().await;
    };
    if timeout(DRAIN_DEADLINE, graceful).await.is_err() {
        warn!(
            "requests are still in progress after {} s: the server stops without answering them",
            DRAIN_DEADLINE.as_secs()
        );
    }
    info!("stopped");
    Ok(())
}

fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restarted server can use the address while the system still closes connections of the previous one.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the options of the listening socket.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )?;
    // Keepalive does not probe while sent bytes lack an acknowledgement. Without this bound the system retries for
    // minutes.
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(
        KEEPALIVE_TIME + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES,
    ))?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn build(config: &Config, at: SocketAddr) -> App {
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
    App::new(AppState {
        service: LockService::new(store, config.wait_limits, metrics.locks.clone()),
        limits: config.limits,
        auth,
        browsers: Browsers::new(at.ip(), &config.allowed_hosts, &config.allowed_origins),
        large_answers: LargeAnswers::default(),
        metrics,
    })
}

/// Prints the address, the store and a first command to try.
fn print_banner(config: &Config, at: SocketAddr) {
    let store = match &config.store {
        StoreConfig::Memory => {
            "memory; a restart forgets all leases, and only one server may run with it".to_owned()
        }
        StoreConfig::Redis(options) => match &options.discovery {
            Discovery::Direct(address) => format!("Redis at {address}"),
            Discovery::Sentinel {
                sentinels, master, ..
            } => {
                let names: Vec<String> = sentinels.iter().map(ToString::to_string).collect();
                format!(
                    "Redis, master set {master:?} of the Sentinels at {}",
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
    // The server works without a standard output.
    let _written = io::stdout().write_all(introduction.as_bytes());
    if config.token.is_none() && !at.ip().is_loopback() {
        warn!(
            "LEASEHOLD_TOKEN is not set: every client that reaches {at} can acquire locks; set it, and \
             LEASEHOLD_BREAK_TOKEN for breaking"
        );
    }
}

/// Accepts connections and serves them.
struct Front {
    app: App,
    http: HttpService,
    timeouts: Timeouts,
    max: usize,
    connections: Connections,
    /// The connections beyond the limit.
    refused: Connections,
    not_taken: LogInterval,
    too_many: LogInterval,
}

impl Front {
    fn new(config: &Config, app: App) -> Self {
        let timeouts = Timeouts {
            idle: IDLE_TIMEOUT,
            head: config.header_timeout,
            write: WRITE_TIMEOUT,
        };
        Self::with(app, timeouts, config.max_connections)
    }

    fn with(app: App, timeouts: Timeouts, max: usize) -> Self {
        Self {
            http: HttpService::new(app.clone()),
            app,
            timeouts,
            max,
            connections: Connections::new(max),
            refused: Connections::new(MAX_REFUSED_CONNECTIONS),
            not_taken: LogInterval::default(),
            too_many: LogInterval::default(),
        }
    }

    /// A copy without connections, for those that arrive during the drain. The others still count for its limit.
    fn anew(&self) -> Self {
        let room = self.max.saturating_sub(self.connections.count()).max(1);
        Self::with(self.app.clone(), self.timeouts, room)
    }

    /// Accepts connections until the caller drops the future.
    async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.take(stream),
                Err(error) => {
                    if let Some(others) = self.not_taken.due() {
                        warn!(
                            "cannot accept a connection: {error} ({others} more such errors since the last log line)"
                        );
                    }
                    // The process may be out of file descriptors: closing an idle connection frees one.
                    self.connections.close_longest_idle();
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Accepts the connections of the listen backlog: their requests must get an answer too.
    async fn accept_rest(&self, listener: &TcpListener) {
        loop {
            let mut none = true;
            // The yield lets the runtime learn about new connections from the system.
            yield_now().await;
            while let Poll::Ready(Ok((stream, _))) =
                poll_fn(|context| Poll::Ready(listener.poll_accept(context))).await
            {
                none = false;
                self.take(stream);
            }
            if none {
                return;
            }
        }
    }

    fn take(&self, stream: TcpStream) {
        // With Nagle's algorithm, small answers wait for the client's acknowledgement. A failure only delays them.
        let _set = stream.set_nodelay(true);
        let admission = self.admit_to(&self.connections, stream, Purpose::Serve, self.timeouts);
        if matches!(admission, Admission::Admitted) {
            return;
        }
        self.app.metrics.locks.limits.count(Limit::Connections);
        if let Some(others) = self.too_many.due() {
            warn!(
                "the limit of {} connections (LEASEHOLD_MAX_CONNECTIONS) is reached: a new connection replaces the one that \
                 is idle longest, or gets a 503 if none is idle ({others} more such connections since the last log line)",
                self.max
            );
        }
        if let Admission::Refused(stream) = admission {
            let timeouts = Timeouts {
                idle: REFUSAL_TIMEOUT,
                head: REFUSAL_TIMEOUT,
                write: REFUSAL_TIMEOUT,
            };
            // Beyond this second limit the connection closes without an answer.
            let _admission = self.admit_to(&self.refused, stream, Purpose::Refuse, timeouts);
        }
    }

    fn admit_to(
        &self,
        connections: &Connections,
        stream: TcpStream,
        purpose: Purpose,
        timeouts: Timeouts,
    ) -> Admission {
        connections.admit(stream, |stream| {
            let client = Client::new(stream);
            let ending = connections.ending.clone();
            let served =
                connection::serve(client.clone(), self.http.clone(), purpose, timeouts, ending);
            (client, served)
        })
    }

    async fn end(&self) {
        tokio::join!(self.refused.end(), self.connections.end());
    }
}
