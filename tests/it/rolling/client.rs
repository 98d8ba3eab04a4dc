//! A client that repeats its calls by the rules of the contract, at any server that accepts them.

use std::fs;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

use super::SLACK;

/// The pause before the client tries the other server when one is unreachable.
const AFTER_A_FAILURE: Duration = Duration::from_millis(20);
/// How long a request may take to the server's socket on an overloaded machine.
const ON_ITS_WAY: Duration = Duration::from_secs(1);
/// The limit for an answer: longer than the longest wait.
const PATIENCE: Duration = Duration::from_secs(70);

/// The two servers as their clients know them.
pub(super) struct Service {
    addresses: [String; 2],
    /// When the last shutdown of each server began, and when its replacement was ready.
    ends: [Mutex<End>; 2],
    pub(super) figures: Figures,
}

#[derive(Clone, Copy, Default)]
struct End {
    began: Option<Instant>,
    over: Option<Instant>,
}

/// The figures of the clients, printed at the end.
#[derive(Default)]
pub(super) struct Figures {
    refusals: AtomicUsize,
    busy: AtomicUsize,
    unreachable: AtomicUsize,
    cut: AtomicUsize,
    renewals: AtomicUsize,
    repeated_renewals: AtomicUsize,
    waits_in_vain: AtomicUsize,
    without_ms: AtomicU64,
    waiting_without_ms: AtomicU64,
}

/// The request of a client.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: &'static str,
    pub(super) path: String,
    pub(super) header: Option<(&'static str, String)>,
    pub(super) body: Option<Value>,
}

pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: Value,
    retry_after: Option<Duration>,
    /// When the client sent the answered request.
    pub(super) sent: Instant,
    /// How often the client sent the request.
    pub(super) times: usize,
    /// When the client first found no server for the request.
    pub(super) without_since: Option<Instant>,
}

enum Failure {
    /// The server does not listen, or the connection ended before the client sent anything.
    Unreachable,
    /// The client sent the request, and the connection ended without an answer.
    Cut,
}

pub(super) struct Client {
    service: Arc<Service>,
    server: usize,
    connection: Option<Connection>,
}

struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// The port of the client.
    port: u16,
}

impl Service {
    pub(super) fn new(addresses: [String; 2]) -> Self {
        Self {
            addresses,
            ends: Default::default(),
            figures: Figures::default(),
        }
    }

    pub(super) fn address(&self, server: usize) -> &str {
        &self.addresses[server]
    }

    /// This server is about to receive the signal to stop.
    pub(super) fn ends(&self, server: usize) {
        *self.end(server) = End {
            began: Some(Instant::now()),
            over: None,
        };
    }

    /// The replacement is ready.
    pub(super) fn is_back(&self, server: usize) {
        self.end(server).over = Some(Instant::now());
    }

    /// Whether a request sent at this moment may have reached a draining server.
    fn was_ending(&self, server: usize, sent: Instant) -> bool {
        let end = *self.end(server);
        end.began.is_some_and(|began| began <= sent + ON_ITS_WAY)
            && end.over.is_none_or(|over| sent < over)
    }

    fn end(&self, server: usize) -> std::sync::MutexGuard<'_, End> {
        let end = self.ends[server].lock();
        end.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    pub(super) fn new(service: &Arc<Service>, server: usize) -> Self {
        Self {
            service: Arc::clone(service),
            server,
            connection: None,
        }
    }

    pub(super) fn service(&self) -> &Arc<Service> {
        &self.service
    }

    /// Repeats the request until its answer is not 503.
    pub(super) async fn call(&mut self, call: &Call) -> Answer {
        let waits = call
            .body
            .as_ref()
            .is_some_and(|body| body["wait_ms"].is_u64());
        let mut without_since = None;
        for times in 1.. {
            let sent = Instant::now();
            let exchanged = self.exchange(call).await;
            let figures = &self.service.figures;
            let pause = match exchanged {
                Ok(answer) if answer.status == 503 => {
                    figures.refused(&answer);
                    let kind = &answer.body["type"];
                    if *kind == "urn:leasehold:problem:shutting-down" {
                        assert_eq!(answer.body["outcome"], "none");
                        assert_eq!(
                            call.method, "POST",
                            "a draining server renews and releases leases"
                        );
                    }
                    let pause = answer.retry_after.expect("Retry-After");
                    assert!(pause >= Duration::from_secs(1), "{pause:?}");
                    pause
                }
                Ok(answer) => {
                    if let Some(since) = without_since {
                        // A waiter is back when it sends the request that gets the answer, not when the lock is free.
                        let back = if waits { answer.sent } else { Instant::now() };
                        figures.was_without(back - since, waits);
                    }
                    return Answer {
                        times,
                        without_since,
                        ..answer
                    };
                }
                Err(Failure::Unreachable) => {
                    figures.unreachable.fetch_add(1, Ordering::Relaxed);
                    AFTER_A_FAILURE
                }
                Err(Failure::Cut) => {
                    // A server answers all requests that it has received before it exits.
                    let late = self.service.was_ending(self.server, sent);
                    assert!(late, "no answer: {} {}", call.method, call.path);
                    figures.cut.fetch_add(1, Ordering::Relaxed);
                    AFTER_A_FAILURE
                }
            };
            let since = *without_since.get_or_insert_with(Instant::now);
            assert!(
                since.elapsed() < SLACK,
                "no server for {:?}",
                since.elapsed()
            );
            sleep(pause).await;
            self.connection = None;
            self.server = 1 - self.server;
        }
        unreachable!("the loop ends with an answer")
    }

    async fn exchange(&mut self, call: &Call) -> Result<Answer, Failure> {
        let open = self.connection.take();
        let mut connection = match open.filter(|open| !open.requests.is_closed()) {
            Some(open) => open,
            None => connect(self.service.address(self.server)).await?,
        };
        let sent = Instant::now();
        let answered = async {
            let response = connection.requests.send_request(call.request()).await?;
            let status = response.status().as_u16();
            let header = response.headers().get("Retry-After");
            let seconds = header.map(|value| value.to_str().expect("text").parse());
            let retry_after =
                seconds.map(|seconds| Duration::from_secs(seconds.expect("a number")));
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, retry_after, body))
        };
        let answered = timeout(PATIENCE, answered).await;
        let answered = answered.unwrap_or_else(|_| {
            let sockets = sockets(connection.port);
            panic!("{} {}: silence\n{sockets}", call.method, call.path)
        });
        let (status, retry_after, body) = answered.map_err(|error| {
            if error.is_canceled() {
                Failure::Unreachable
            } else {
                Failure::Cut
            }
        })?;
        self.connection = Some(connection);
        let body = match &body[..] {
            [] => Value::Null,
            text => serde_json::from_slice(text).expect("JSON"),
        };
        Ok(Answer {
            status,
            body,
            retry_after,
            sent,
            times: 1,
            without_since: None,
        })
    }
}

impl Call {
    fn request(&self) -> Request<Full<Bytes>> {
        let mut builder = Request::builder()
            .method(self.method)
            .uri(&self.path)
            .header("Host", "localhost");
        if let Some((name, value)) = &self.header {
            builder = builder.header(*name, value);
        }
        if self.body.is_some() {
            builder = builder.header("Content-Type", "application/json");
        }
        let body = self.body.as_ref().map(|body| body.to_string().into());
        builder
            .body(Full::new(body.unwrap_or_default()))
            .expect("a request")
    }
}

impl Answer {
    pub(super) fn number(&self, name: &str) -> u64 {
        let number = self.body[name].as_u64();
        number.unwrap_or_else(|| panic!("no {name}: {} {}", self.status, self.body))
    }

    pub(super) fn millis(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    pub(super) fn lease_id(&self) -> String {
        self.body["lease_id"].as_str().expect("a lease").to_owned()
    }

    /// Until when the client may rely on the lease in the answer.
    pub(super) fn counts_until(&self) -> Instant {
        self.sent + self.millis("waited_ms") + self.millis("expires_in_ms")
    }
}

impl Figures {
    pub(super) fn refusals(&self) -> usize {
        self.refusals.load(Ordering::Relaxed)
    }

    /// The answer comes from a draining server, or Redis was too slow on an overloaded machine.
    fn refused(&self, answer: &Answer) {
        let shuts_down = answer.body["type"] == "urn:leasehold:problem:shutting-down";
        let count = if shuts_down {
            &self.refusals
        } else {
            &self.busy
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn renewed(&self, times: usize) {
        self.renewals.fetch_add(1, Ordering::Relaxed);
        self.repeated_renewals
            .fetch_add(usize::from(times > 1), Ordering::Relaxed);
    }

    /// A wait that ended without the lock; the client starts a new one.
    pub(super) fn waited_in_vain(&self) {
        self.waits_in_vain.fetch_add(1, Ordering::Relaxed);
    }

    fn was_without(&self, how_long: Duration, waits: bool) {
        let longest = if waits {
            &self.waiting_without_ms
        } else {
            &self.without_ms
        };
        let ms = u64::try_from(how_long.as_millis()).expect("seconds");
        longest.fetch_max(ms, Ordering::Relaxed);
    }

    pub(super) fn told(&self) -> String {
        let read = |figure: &AtomicUsize| figure.load(Ordering::Relaxed);
        format!(
            "{} answers 503 shutting-down and {} others, {} connections refused, {} requests cut off while a server ended; {} renewals, {} of \
             them repeated; longest without a server: {} ms for a renewal, {} ms for a waiter (Retry-After included); {} waits of 50 s in vain",
            read(&self.refusals),
            read(&self.busy),
            read(&self.unreachable),
            read(&self.cut),
            read(&self.renewals),
            read(&self.repeated_renewals),
            self.without_ms.load(Ordering::Relaxed),
            self.waiting_without_ms.load(Ordering::Relaxed),
            read(&self.waits_in_vain),
        )
    }
}

async fn connect(address: &str) -> Result<Connection, Failure> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|_| Failure::Unreachable)?;
    stream.set_nodelay(true).map_err(|_| Failure::Unreachable)?;
    let local = stream.local_addr().map_err(|_| Failure::Unreachable)?;
    let shaken = http1::handshake(TokioIo::new(stream)).await;
    let (requests, connection) = shaken.map_err(|_| Failure::Unreachable)?;
    // The task ends with an error whenever the connection is cut.
    tokio::spawn(async { drop(connection.await) });
    Ok(Connection {
        requests,
        port: local.port(),
    })
}

/// Both ends of a connection, as the system sees them. Unread bytes tell which end does not read.
fn sockets(port: u16) -> String {
    let table = fs::read_to_string("/proc/net/tcp").expect("the system's connections");
    let port = format!(":{port:04X} ");
    let lines: Vec<_> = table.lines().filter(|line| line.contains(&port)).collect();
    lines.join("\n")
}
