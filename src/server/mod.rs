//! The server: builds the service from the configuration, serves it, and shuts down gracefully.

mod client;
mod connection;
mod connections;
mod front;
mod head;
mod listener;
pub mod tokens;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tracing::{info, warn};

use self::front::Front;
use self::listener::listen;
use crate::config::{Config, StoreConfig};
use crate::http::{App, AppState, Auth, Browsers, LargeAnswers};
use crate::service::LockService;
use crate::store::contract::Store;
use crate::store::memory::MemoryStore;
use crate::store::redis::RedisStore;
use crate::store::redis::options::Discovery;
use crate::telemetry::Metrics;

pub use self::client::MAX_READ_AHEAD_BYTES;
pub use self::front::{MAX_REFUSED_CONNECTIONS, WRITE_TIMEOUT};
pub use self::listener::BACKLOG;

/// How long a graceful shutdown may take.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(10);

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
    let _reloads = config.tokens.have_files().then(|| {
        let (sources, credentials) = (config.tokens.clone(), Arc::clone(&config.credentials));
        AbortOnDropHandle::new(tokio::spawn(tokens::reload(sources, credentials)))
    });
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

fn build(config: &Config, at: SocketAddr) -> App {
    let metrics = Metrics::new();
    let store: Arc<dyn Store> = match &config.store {
        StoreConfig::Memory => Arc::new(MemoryStore::new()),
        StoreConfig::Redis(options) => {
            Arc::new(RedisStore::start((**options).clone(), metrics.redis()))
        }
    };
    App::new(AppState {
        service: LockService::new(store, config.wait_limits, metrics.locks.clone()),
        limits: config.limits,
        auth: Auth::new(Arc::clone(&config.credentials)),
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
    let is_open = config.credentials.directory().admits_anyone();
    let bearer = if is_open {
        ""
    } else {
        " -H 'Authorization: Bearer …'"
    };
    let introduction = format!(
        "Leasehold {} listening on http://{at}\nStore: {store}\nDocs:  http://{at}/docs\n\
         Try:   curl -i -X POST http://{at}/locks/my_lock{bearer}\n",
        env!("CARGO_PKG_VERSION")
    );
    // The server works without a standard output.
    let _written = io::stdout().write_all(introduction.as_bytes());
    if is_open && !at.ip().is_loopback() {
        warn!(
            "LEASEHOLD_TOKEN is not set: every client that reaches {at} can acquire locks; set it, and \
             LEASEHOLD_BREAK_TOKEN for breaking"
        );
    }
}
