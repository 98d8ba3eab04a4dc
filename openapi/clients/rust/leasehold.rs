//! A client for Leasehold in one file: copy it. It needs `reqwest` (with a TLS feature for https), `serde_json`,
//! `tokio` (features `macros`, `rt`, `time`) and `tokio-util`. Numbers are milliseconds.
//!
//!     let lease = Locks::new(None, None).acquire("reports/nightly", Options::default()).await?;
//!     for part in parts {
//!         lease.check()?;
//!         write(part, lease.fencing_token).await;
//!     }
//!     lease.release().await?; // a lease that is dropped is released in the background, while the runtime lives
use reqwest::{Client, Method, Url};
use serde_json::{Map, Value, json};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};
use std::{collections::hash_map::RandomState, env, fmt, hash::BuildHasher};
use tokio::{select, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

const POLL: u64 = 20_000; // how long one request waits: a longer wait is made of several
const PATIENCE: u64 = 10_000; // how long calls are repeated at least while no server can serve
const ANSWER: u64 = 5000; // a healthy server answers sooner, apart from the wait
const FOREVER: Duration = Duration::from_secs(1 << 40);

/// Status 423: another client holds the lock; 409: the lease is lost, stop the work; 503: no server can serve.
#[derive(Clone, Debug)]
pub struct Error {
    pub status: u16,
    pub problem: Value,
}

impl std::error::Error for Error {}
impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}: {}", self.status, self.problem["type"], self.problem["detail"])
    }
}

#[derive(Clone, Debug, Default)]
pub struct Options {
    pub ttl: Option<Duration>,      // 30 s if `None`
    pub wait: Option<Duration>,     // without limit if `None`; zero: do not wait
    pub max_hold: Option<Duration>, // after so long the lease is renewed no more, and counts as lost
    pub hold_at_least: Duration,    // the lock stays held for so long, also when it is released sooner
    pub fields: Value,              // what others see: {"holder": "me", "metadata": {"job": "42"}}
}

/// The servers of one service, tried in turn: addresses with commas between them.
#[derive(Clone)]
pub struct Locks(Client, Vec<Url>, Option<String>, Arc<AtomicUsize>);

impl Locks {
    pub fn new(servers: Option<&str>, token: Option<&str>) -> Self {
        let setting = |name, value: Option<&str>| value.map(String::from).or_else(|| env::var(name).ok());
        let servers = setting("LEASEHOLD_SERVER", servers).unwrap_or("http://127.0.0.1:8080".into());
        let servers = servers.split(',').map(|text| text.trim().parse().expect("an address")).collect();
        let client = Client::builder().connect_timeout(Duration::from_secs(2)).no_proxy().build();
        Self(client.expect("a TLS library"), servers, setting("LEASEHOLD_TOKEN", token), Arc::default())
    }

    /// Waits for the lock, and returns a lease that is renewed until it is released.
    pub async fn acquire(&self, key: &str, options: Options) -> Result<Lease, Error> {
        let id = format!("{:016x}{:016x}", random(), random()); // one acquisition, one place in the queue
        let ms = |time: Option<Duration>| time.unwrap_or(FOREVER).as_millis() as u64;
        let (ttl, wait) = (options.ttl.map_or(30_000, |ttl| ms(Some(ttl))), ms(options.wait));
        let mut body = options.fields;
        (body["ttl_ms"], body["hold_at_least_ms"]) = (ttl.into(), ms(Some(options.hold_at_least)).into());
        let (begun, mut patience, mut attempt) = (now(), options.wait.map_or(0, |_| wait).max(PATIENCE), 0);
        loop {
            let sent = now();
            let poll = (begun + wait).saturating_sub(sent).min(POLL);
            body["wait_ms"] = poll.into();
            // An answer that comes a TTL after the wait is of no use, because its lease is over.
            let (header, limit) = (("Idempotency-Key", &*id), poll + ttl.min(ANSWER));
            let error = match self.call(Method::POST, &[key], header, body.to_string(), limit).await {
                Ok(grant) => return Lease::new(self.clone(), key.into(), grant, sent, ms(options.max_hold)),
                Err(error) => error,
            };
            let mut pause = backoff(attempt).max(number(&error.problem, "retry_after") * 1000);
            if error.status == 423 && now() < begun + wait {
                (attempt, patience, pause) = (0, patience.max(wait), (sent + 250).saturating_sub(now())); // ask on
            } else if error.status < 500 && ![408, 429].contains(&error.status) || now() + pause >= begun + patience {
                return Err(error);
            }
            sleep(pause).await;
            attempt += 1;
        }
    }

    /// One attempt at the server that answered last. After a failure the next attempt goes to the next server.
    async fn call(&self, how: Method, path: &[&str], id: (&str, &str), body: String, ms: u64) -> Result<Value, Error> {
        let Self(client, servers, token, current) = self;
        let at = current.load(SeqCst);
        let mut url = servers[at % servers.len()].clone();
        url.path_segments_mut().expect("http").pop_if_empty().push("locks").extend(path); // slashes become %2F
        let request = client.request(how, url).timeout(Duration::from_millis(ms)).header(id.0, id.1);
        let request = token.iter().fold(request, |request, token| request.bearer_auth(token));
        let answer = async {
            let response = request.header("Content-Type", "application/json").body(body).send().await?;
            let (status, retry_after) = (response.status().as_u16(), response.headers().get("Retry-After").cloned());
            let seconds = retry_after.and_then(|text| text.to_str().ok()?.parse::<u32>().ok());
            let answer = serde_json::from_slice::<Map<_, _>>(&response.bytes().await?); // a proxy answers otherwise
            let mut answer = answer.unwrap_or_default();
            answer.insert("retry_after".into(), seconds.into());
            Ok::<_, reqwest::Error>((status, answer.into()))
        };
        let no_answer = |error| (503, json!({ "type": "no-answer", "detail": format!("{error:?}") }));
        match answer.await.unwrap_or_else(no_answer) {
            (204, problem) => Ok(problem),
            (200..300, problem) if problem["lease_id"].is_string() => Ok(problem),
            (status @ 300..500, problem) => Err(Error { status, problem }),
            (status, problem) => {
                current.store(at + 1, SeqCst);
                Err(Error { status: status.max(503), problem })
            }
        }
    }
}

/// A lock that is held.
pub struct Lease {
    pub fencing_token: u64,
    state: Arc<State>,
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Lease {
    fn new(locks: Locks, key: String, grant: Value, sent: u64, max_hold: u64) -> Result<Self, Error> {
        let (ends, fencing_token) = (sent + number(&grant, "waited_ms") + max_hold, number(&grant, "fencing_token"));
        let (lost, stop) = (CancellationToken::new(), CancellationToken::new());
        let state = Arc::new(State { until: AtomicU64::new(0), ends, lost });
        let due = state.extend(&grant, sent);
        state.check()?;
        let task = tokio::spawn(keep(locks, key, grant, due, state.clone(), stop.clone()));
        Ok(Self { fencing_token, state, stop: stop.drop_guard(), task })
    }

    /// For how long the work can go on without a further renewal.
    pub fn left(&self) -> Duration {
        Duration::from_millis(self.state.left())
    }

    /// Fails if the lock may be another client's soon. Call it before each step of the work.
    pub fn check(&self) -> Result<(), Error> {
        self.state.check()
    }

    /// It is cancelled before the lock may be another client's.
    pub fn lost(&self) -> CancellationToken {
        self.state.lost.clone()
    }

    /// Frees the lock, and fails if the lease was lost before. Without an answer it is free when the lease is over.
    pub async fn release(self) -> Result<(), Error> {
        let held = self.check(); // what was done was not protected to its end
        drop(self.stop);
        let _ = self.task.await;
        held
    }
}

/// Renews the lease, watches over it, and frees the lock when the program stops.
async fn keep(locks: Locks, key: String, grant: Value, mut due: u64, state: Arc<State>, stop: CancellationToken) {
    let (ttl, id) = (number(&grant, "ttl_ms"), ("Lease-Id", grant["lease_id"].as_str().unwrap_or_default()));
    let call = async |how, path: &[&str], ms| locks.call(how, path, id, String::new(), ANSWER.min(ms)).await;
    let watch = async {
        while state.check().is_ok() {
            sleep(state.left().min(ttl / 20).min(500)).await; // a timer does not count suspensions
        }
    };
    let renew = async {
        loop {
            while now() < due {
                sleep((due - now()).min(500)).await;
            }
            let sent = now();
            due = match call(Method::PUT, &[&*key, "lease"], ttl / 6).await {
                Ok(grant) if state.check().is_ok() => state.extend(&grant, sent), // too late, it revives nothing
                Err(error) if error.status == 409 => return state.lost.cancel(),
                _ => now() + (ttl / 20).min(1000),
            }
        }
    };
    select! { () = watch => {}, () = renew => {}, () = stop.cancelled() => {} }
    stop.cancelled().await;
    for (attempt, begun) in (0..).zip(std::iter::repeat(now())) {
        match call(Method::DELETE, &[&*key], ttl / 3).await {
            Err(error) if error.status >= 500 && state.left() > 0 && now() < begun + PATIENCE => {}
            _ => return,
        }
        sleep(backoff(attempt)).await;
    }
}

struct State {
    until: AtomicU64,
    ends: u64,
    lost: CancellationToken,
}

impl State {
    /// The lease counts from the sending, and ends a little before others can have it. Returns when to renew.
    fn extend(&self, grant: &Value, sent: u64) -> u64 {
        let (granted, ttl) = (sent + number(grant, "waited_ms"), number(grant, "ttl_ms"));
        self.until.store(granted + number(grant, "expires_in_ms") - (ttl / 10).min(1000), SeqCst);
        granted + ttl / 3
    }

    fn left(&self) -> u64 {
        self.until.load(SeqCst).min(self.ends).saturating_sub(now())
    }

    fn check(&self) -> Result<(), Error> {
        let detail = match self.left() {
            0 if now() >= self.ends => "it was held for as long as it may be",
            0 => "it was not renewed in time",
            _ if self.lost.is_cancelled() => "it was broken",
            _ => return Ok(()),
        };
        self.lost.cancel();
        Err(Error { status: 409, problem: json!({ "type": "lease-lost", "detail": detail }) })
    }
}

fn number(answer: &Value, field: &str) -> u64 {
    answer[field].as_u64().unwrap_or(0)
}

/// A time on two clocks, the one that is ahead: one may stand still during a suspension, the other may be set back.
fn now() -> u64 {
    static START: LazyLock<(Instant, SystemTime)> = LazyLock::new(|| (Instant::now(), SystemTime::now()));
    START.0.elapsed().max(START.1.elapsed().unwrap_or_default()).as_millis() as u64
}

async fn sleep(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}

/// The standard library seeds these hashers with random numbers of the system.
fn random() -> u64 {
    RandomState::new().hash_one(Instant::now())
}

/// Pauses double from 0.1 to 2 s. The random part keeps clients apart that fail at the same moment.
fn backoff(attempt: u32) -> u64 {
    let longest = (100 << attempt.min(5)).min(2000);
    longest - random() % (longest / 2)
}
