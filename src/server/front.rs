//! Accepts connections, up to a limit, and serves them.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::sleep;
use tracing::warn;

use super::client::{Client, Timeouts};
use super::connection::{self, Purpose};
use super::connections::{Admission, Connections};
use crate::config::Config;
use crate::http::{App, HttpService};
use crate::telemetry::{Limit, LogInterval};

/// How long a write to a client may make no progress.
pub const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How many connections the server accepts beyond the limit. On them it answers health checks and metrics, and refuses
/// other requests.
pub const MAX_REFUSED_CONNECTIONS: usize = 8;

/// The timeout of a connection beyond the limit, for each of its activities.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);

/// The pause after the system refuses to accept a connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts connections and serves them.
pub(super) struct Front {
    app: App,
    http: HttpService,
    timeouts: Timeouts,
    max: usize,
    connections: Connections,
    /// The connections beyond the limit.
    refused: Connections,
    not_accepted: LogInterval,
    too_many: LogInterval,
}

impl Front {
    pub(super) fn new(config: &Config, app: App) -> Self {
        let timeouts = Timeouts {
            idle: config.idle_timeout,
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
            not_accepted: LogInterval::default(),
            too_many: LogInterval::default(),
        }
    }

    /// A copy without connections, for those that arrive during the drain. The others still count for its limit.
    pub(super) fn anew(&self) -> Self {
        let left = self.max.saturating_sub(self.connections.count()).max(1);
        Self::with(self.app.clone(), self.timeouts, left)
    }

    /// Accepts connections until the caller drops the future.
    pub(super) async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => self.take(stream),
                Err(error) => {
                    if let Some(others) = self.not_accepted.due() {
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
    pub(super) async fn accept_rest(&self, listener: &TcpListener) {
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
            let closing = connections.closing.clone();
            let served = connection::serve(
                client.clone(),
                self.http.clone(),
                purpose,
                timeouts,
                closing,
            );
            (client, served)
        })
    }

    pub(super) async fn end(&self) {
        tokio::join!(self.refused.end(), self.connections.end());
    }
}
