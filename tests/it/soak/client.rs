//! One of many clients: it acquires locks, waits, disconnects, renews, breaks, and forgets releases.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

use super::ledger::Lease;
use super::{KEYS, MAX_WAIT, SLACK, Soak, count};

/// How often a client repeats a repeatable request before it gives up, and the pause between attempts.
const REPETITIONS: usize = 100;
const REPEAT_AFTER: Duration = Duration::from_millis(100);

pub(super) struct Client {
    soak: Arc<Soak>,
    random: u64,
    /// A connection to each server, opened on first use.
    connections: [Option<Connection>; 2],
}

struct Connection {
    requests: SendRequest<Full<Bytes>>,
    /// Closes the connection, whatever is in progress.
    task: AbortHandle,
}

/// A request for a lock.
struct Ask {
    key: usize,
    server: usize,
    ttl_ms: u64,
    wait_ms: u64,
    idempotency_key: Option<String>,
}

struct Answer {
    status: u16,
    body: Value,
}

impl Client {
    pub(super) fn new(soak: Arc<Soak>, seed: u64) -> Self {
        Self {
            soak,
            random: seed,
            connections: [None, None],
        }
    }

    pub(super) async fn run(mut self) {
        while !self.soak.is_over() {
            // A client that abandons its lease asks for a short one, so that the others need not wait long.
            let careless = self.below(5) == 0;
            let ask = self.think(careless);
            let lease = if careless && self.below(10) < 7 {
                // In the middle of the wait or of the acquisition itself.
                let after = if self.below(2) == 0 { 3 } else { ask.wait_ms };
                let after = self.below(after + 1);
                self.hang_up(ask, Duration::from_millis(after)).await
            } else {
                self.acquire(ask).await
            };
            if let Some(lease) = lease {
                self.work(&lease, careless).await;
            }
        }
    }

    fn think(&mut self, careless: bool) -> Ask {
        let maximum = u64::try_from(MAX_WAIT.as_millis()).expect("seconds");
        let wait_ms = match self.below(10) {
            0..2 => 0,
            2..8 => self.below(500),
            8 => self.below(2_000),
            _ => maximum,
        };
        let idempotency_key = format!("{:016x}", self.next());
        Ask {
            key: usize::try_from(self.below(KEYS as u64)).expect("small"),
            server: self.server(),
            ttl_ms: if careless {
                100 + self.below(200)
            } else {
                500 + self.below(1_000)
            },
            wait_ms,
            idempotency_key: (self.below(2) == 0).then_some(idempotency_key),
        }
    }

    /// Asks for a lock until there is an answer.
    async fn acquire(&mut self, mut ask: Ask) -> Option<Lease> {
        for _ in 0..REPETITIONS {
            if ask.wait_ms > 0 {
                count(&self.soak.figures.waits);
            }
            let sent = Instant::now();
            let (server, request) = ask.request();
            let limit = Duration::from_millis(ask.wait_ms) + SLACK;
            let answer = self.call(server, request, limit).await;
            match answer.status {
                200 | 201 => return self.granted(ask.key, &answer, sent),
                423 => return self.refused(&ask, &answer, sent.elapsed()),
                503 if ask.idempotency_key.is_none() => return None,
                503 => {
                    sleep(REPEAT_AFTER).await;
                    ask.server = self.server();
                }
                other => panic!("an acquisition was answered {other}: {}", answer.body),
            }
        }
        panic!("no answer but 503 to {REPETITIONS} requests");
    }

    fn granted(&self, key: usize, answer: &Answer, sent: Instant) -> Option<Lease> {
        let (lease, until) = answer.lease(key, sent);
        let figures = &self.soak.figures;
        count(if answer.status == 201 {
            &figures.grants
        } else {
            &figures.replays
        });
        self.soak.ledger.holds(&lease, until).then_some(lease)
    }

    fn refused(&self, ask: &Ask, answer: &Answer, took: Duration) -> Option<Lease> {
        let figures = &self.soak.figures;
        if ask.wait_ms > 0 {
            count(&figures.time_outs);
            assert_eq!(answer.body["type"], "urn:leasehold:problem:wait-timeout");
            let waited = took >= Duration::from_millis(ask.wait_ms);
            assert!(waited, "refused after {took:?} of {} ms", ask.wait_ms);
            assert!(
                answer.body["position"].as_u64() >= Some(1),
                "{}",
                answer.body
            );
        } else {
            count(&figures.refusals);
            assert_eq!(answer.body["type"], "urn:leasehold:problem:lock-held");
        }
        None
    }

    /// Sends a request and disconnects before the answer. A client that can come back does so half of the time,
    /// possibly at the other server.
    async fn hang_up(&mut self, mut ask: Ask, after: Duration) -> Option<Lease> {
        let (server, request) = ask.request();
        count(&self.soak.figures.operations);
        count(&self.soak.figures.hang_ups);
        let connection = self.connection(server).await;
        // The server will not answer after this time.
        let _answered = timeout(after, connection.requests.send_request(request)).await;
        connection.task.abort();
        self.connections[server] = None;
        if ask.idempotency_key.is_none() || self.below(2) == 0 {
            return None;
        }
        count(&self.soak.figures.returns);
        sleep(Duration::from_millis(self.below(300))).await;
        ask.server = self.server();
        self.acquire(ask).await
    }

    /// The use of a lock by a client.
    async fn work(&mut self, lease: &Lease, careless: bool) {
        sleep(Duration::from_millis(self.below(4))).await;
        while self.below(4) == 0 {
            self.renew(lease).await;
        }
        if careless && self.below(2) == 0 {
            count(&self.soak.figures.expiries);
        } else {
            let by_force = self.below(20) == 0;
            self.end(lease, by_force).await;
        }
    }

    async fn renew(&mut self, lease: &Lease) {
        count(&self.soak.figures.renewals);
        let sent = Instant::now();
        let path = format!("/locks/soak/{}/lease", lease.key);
        let request = request("PUT", &path, Some(("Lease-Id", &lease.id)), None);
        let server = self.server();
        let answer = self.call(server, request, SLACK).await;
        match answer.status {
            200 => {
                let (renewed, until) = answer.lease(lease.key, sent);
                assert_eq!(renewed, *lease);
                self.soak.ledger.holds(lease, until);
            }
            409 => self.soak.ledger.is_lost(lease),
            503 => {}
            other => panic!("a renewal was answered {other}: {}", answer.body),
        }
    }

    /// Releases a lease, or breaks it as an administrator does.
    async fn end(&mut self, lease: &Lease, by_force: bool) {
        let was_live = self.soak.ledger.lets_go(lease);
        let (key, token) = (lease.key, lease.token);
        for _ in 0..3 {
            let request = if by_force {
                let path = format!("/locks/soak/{key}?force=true&fencing_token={token}");
                request("DELETE", &path, None, None)
            } else {
                let path = format!("/locks/soak/{key}");
                request("DELETE", &path, Some(("Lease-Id", &lease.id)), None)
            };
            if by_force {
                count(&self.soak.figures.breaks);
            }
            let server = self.server();
            match self.call(server, request, SLACK).await.status {
                // The lease may be over by now.
                204 | 409 => return,
                503 => sleep(REPEAT_AFTER).await,
                other => panic!("the end of a lease was answered {other}, live: {was_live}"),
            }
        }
    }

    /// Sends a request; every request has an answer.
    async fn call(
        &mut self,
        server: usize,
        request: Request<Full<Bytes>>,
        limit: Duration,
    ) -> Answer {
        count(&self.soak.figures.operations);
        let what = format!("{} {}", request.method(), request.uri());
        let connection = self.connection(server).await;
        let exchange = async {
            let response = connection.requests.send_request(request).await?;
            let status = response.status().as_u16();
            let body = response.into_body().collect().await?.to_bytes();
            Ok::<_, hyper::Error>((status, body))
        };
        let (status, body) = match timeout(limit, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => panic!("{what}: no answer: {error}"),
            Err(elapsed) => panic!("{what}: no answer within {limit:?}: {elapsed}"),
        };
        let body = match &body[..] {
            [] => Value::Null,
            text => serde_json::from_slice(text).expect("JSON"),
        };
        if status == 503 {
            count(&self.soak.figures.unavailable);
            assert!(["none", "unknown"].contains(&body["outcome"].as_str().expect("an outcome")));
        }
        Answer { status, body }
    }

    async fn connection(&mut self, server: usize) -> &mut Connection {
        let open = self.connections[server].take();
        let open = match open.filter(|open| !open.requests.is_closed()) {
            Some(open) => open,
            None => connect(&self.soak.servers[server]).await,
        };
        self.connections[server].insert(open)
    }

    fn server(&mut self) -> usize {
        usize::from(self.below(2) == 0)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound.max(1)
    }

    /// The next number of splitmix64.
    fn next(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Ask {
    fn request(&self) -> (usize, Request<Full<Bytes>>) {
        let body = json!({"ttl_ms": self.ttl_ms, "wait_ms": self.wait_ms});
        let key = self.idempotency_key.as_deref();
        let header = key.map(|key| ("Idempotency-Key", key));
        let path = format!("/locks/soak/{}", self.key);
        (self.server, request("POST", &path, header, Some(body)))
    }
}

impl Answer {
    /// The lease in the answer, and until when its client may rely on it.
    fn lease(&self, key: usize, sent: Instant) -> (Lease, Instant) {
        let number = |name: &str| self.body[name].as_u64().expect("a number");
        let text = |name: &str| self.body[name].as_str().expect("a text").to_owned();
        let lease = Lease {
            key,
            id: text("lease_id"),
            token: number("fencing_token"),
            acquired_at: text("acquired_at"),
        };
        let counts = Duration::from_millis(number("waited_ms") + number("expires_in_ms"));
        (lease, sent + counts)
    }
}

fn request(
    method: &str,
    path: &str,
    header: Option<(&str, &str)>,
    body: Option<Value>,
) -> Request<Full<Bytes>> {
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header("Host", "localhost");
    if let Some((name, value)) = header {
        builder = builder.header(name, value);
    }
    if body.is_some() {
        builder = builder.header("Content-Type", "application/json");
    }
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    builder.body(Full::new(body)).expect("a request")
}

async fn connect(server: &str) -> Connection {
    let stream = TcpStream::connect(server).await.expect("a connection");
    stream.set_nodelay(true).expect("an open connection");
    let (requests, connection) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    // The reader ends with an error whenever the client disconnects in the middle of an answer.
    let task = tokio::spawn(async { drop(connection.await) }).abort_handle();
    Connection { requests, task }
}
