//! A lock and its waiters, in a known order.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use super::client::{Call, Client, Service};
use super::lease::{acquisition, random_key, release, renew_until};
use super::{ONE_WITHOUT_A_KEY, SURELY_KEPT, Stage, WAITERS_PER_LOCK};

/// The longest wait that servers allow by default.
const WAIT_MS: u64 = 50_000;
/// How long a waiter holds a busy lock.
const BUSY_FOR: Duration = Duration::from_millis(150);
/// How long after its last request arrived a waiter may be skipped: until its request is in the queue.
const UNTIL_QUEUED: Duration = Duration::from_secs(5);

/// When a lock changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// All the time, from the start of the update.
    Busy,
    /// Once the test opens the lock.
    Quiet,
}

pub(super) struct LockQueue {
    state: Arc<State>,
    first: JoinHandle<u64>,
    waiters: JoinHandle<JoinSet<()>>,
}

struct State {
    key: String,
    pace: Pace,
    /// Lets the first holder of a quiet lock release it.
    open: watch::Sender<bool>,
    is_complete: AtomicBool,
    /// Whether the first holder has the lock.
    held: AtomicBool,
    through: AtomicUsize,
    /// In the order in which clients learned of them.
    grants: Mutex<Vec<Grant>>,
}

#[derive(Clone, Debug)]
struct Grant {
    position: usize,
    /// The client has an idempotency key and was back in time.
    keeps_its_entry: bool,
    token: u64,
    /// When the client's last request reached a server.
    came: Instant,
    heard: Instant,
}

impl LockQueue {
    /// The first holder acquires the lock; then the waiters join one by one, alternating between the servers.
    pub(super) fn form(
        service: &Arc<Service>,
        pace: Pace,
        number: usize,
        update: &watch::Sender<Stage>,
        runtime: &Handle,
    ) -> Self {
        let state = Arc::new(State {
            key: format!("{pace:?}/{number}"),
            pace,
            open: watch::channel(false).0,
            is_complete: AtomicBool::new(false),
            held: AtomicBool::new(false),
            through: AtomicUsize::new(0),
            grants: Mutex::default(),
        });
        let holder = Client::new(service, number % 2);
        let first = runtime.spawn(hold(holder, Arc::clone(&state), update.subscribe()));
        let waiters = runtime.spawn(join_queue(Arc::clone(service), Arc::clone(&state), number));
        Self {
            state,
            first,
            waiters,
        }
    }

    pub(super) fn pace(&self) -> Pace {
        self.state.pace
    }

    /// Whether all waiters wait.
    pub(super) fn is_complete(&self) -> bool {
        self.state.is_complete.load(Ordering::SeqCst)
    }

    /// Whether all waiters have had the lock.
    pub(super) fn is_through(&self) -> bool {
        self.state.through.load(Ordering::SeqCst) == WAITERS_PER_LOCK
    }

    pub(super) fn open(&self) {
        self.state.open.send_replace(true);
    }

    /// Waits until all waiters have had the lock, and returns all tokens.
    pub(super) async fn end(self) -> Vec<u64> {
        let waiters = self.waiters.await.expect("a queue");
        waiters.join_all().await;
        let first = self.first.await.expect("a first holder");
        let grants = self.state.grants.lock();
        let grants = grants.unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(grants.len(), WAITERS_PER_LOCK, "{}", self.state.key);
        let mut tokens = vec![first];
        tokens.extend(grants.iter().map(|grant| grant.token));
        assert!(tokens.is_sorted(), "{}: tokens rise", self.state.key);
        check_order(&self.state, &grants);
        tokens
    }
}

/// First come, first served. A waiter with a key whose server stopped is skipped until the next server has its request;
/// this shows when the lock changes hands meanwhile.
fn check_order(state: &State, grants: &[Grant]) {
    let in_order: Vec<_> = grants
        .iter()
        .filter(|grant| grant.keeps_its_entry)
        .collect();
    println!(
        "{}: {} of {} kept their queue entries",
        state.key,
        in_order.len(),
        grants.len()
    );
    // On an overloaded machine some requests come too late.
    assert!(
        in_order.len() * 2 > grants.len(),
        "{}: {grants:?}",
        state.key
    );
    if state.pace == Pace::Quiet {
        let positions: Vec<_> = in_order.iter().map(|grant| grant.position).collect();
        assert!(positions.is_sorted(), "{}: {positions:?}", state.key);
        return;
    }
    for (at, later) in in_order.iter().enumerate() {
        for earlier in &in_order[..at] {
            let was_there = later.came + UNTIL_QUEUED < earlier.heard;
            assert!(
                later.position > earlier.position || !was_there,
                "{}: {later:?} waited when {earlier:?} was served",
                state.key
            );
        }
    }
}

/// The first holder keeps the lock until the hand-overs begin.
async fn hold(mut client: Client, state: Arc<State>, mut update: watch::Receiver<Stage>) -> u64 {
    let lease = client
        .call(&acquisition(&state.key, None, Some(random_key())))
        .await;
    assert_eq!(lease.status, 201, "{}", lease.body);
    state.held.store(true, Ordering::SeqCst);
    let mut open = state.open.subscribe();
    let pace = state.pace;
    let end = async {
        match pace {
            Pace::Busy => drop(update.wait_for(|update| *update >= Stage::Begun).await),
            Pace::Quiet => drop(open.wait_for(|open| *open).await),
        }
    };
    let kept = renew_until(&mut client, &state.key, &lease, end).await;
    state.held.store(false, Ordering::SeqCst);
    release(&mut client, &state.key, &lease.lease_id()).await;
    kept.token
}

/// Each waiter joins once the previous one is seen to wait.
async fn join_queue(service: Arc<Service>, state: Arc<State>, number: usize) -> JoinSet<()> {
    let mut looking = Client::new(&service, number % 2);
    while !state.held.load(Ordering::SeqCst) {
        sleep(Duration::from_millis(2)).await;
    }
    let mut waiters = JoinSet::new();
    for position in 0..WAITERS_PER_LOCK {
        let client = Client::new(&service, (number + position) % 2);
        waiters.spawn(wait(client, Arc::clone(&state), position));
        let look = Call {
            method: "GET",
            path: format!("/locks/{}", state.key),
            header: None,
            body: None,
        };
        while looking.call(&look).await.number("waiters") <= position as u64 {
            sleep(Duration::from_millis(2)).await;
        }
    }
    state.is_complete.store(true, Ordering::SeqCst);
    waiters
}

/// Waits for the lock, holds it for a while, and releases it.
async fn wait(mut client: Client, state: Arc<State>, position: usize) {
    let has_a_key = position % ONE_WITHOUT_A_KEY != ONE_WITHOUT_A_KEY - 1;
    let idempotency_key = has_a_key.then(random_key);
    let acquisition = acquisition(&state.key, Some(WAIT_MS), idempotency_key);
    let mut lease = client.call(&acquisition).await;
    while lease.status == 423 {
        client.service().figures.waited_in_vain();
        lease = client.call(&acquisition).await;
    }
    // A replay, if the answer to the first request was lost with its server.
    assert!(matches!(lease.status, 200 | 201), "{}", lease.body);
    let was_held = state.held.swap(true, Ordering::SeqCst);
    assert!(!was_held, "{} is held twice: {}", state.key, lease.body);
    let heard = Instant::now();
    let came = heard
        .checked_sub(lease.millis("waited_ms"))
        .expect("some time ago");
    let away = lease
        .without_since
        .map(|since| came.saturating_duration_since(since));
    let was_back = away.is_none_or(|away| away < SURELY_KEPT);
    let grant = Grant {
        position,
        keeps_its_entry: has_a_key && was_back,
        token: lease.number("fencing_token"),
        came,
        heard,
    };
    let grants = state.grants.lock();
    grants.unwrap_or_else(PoisonError::into_inner).push(grant);
    if state.pace == Pace::Busy {
        sleep(BUSY_FOR).await;
    }
    state.held.store(false, Ordering::SeqCst);
    release(&mut client, &state.key, &lease.lease_id()).await;
    state.through.fetch_add(1, Ordering::SeqCst);
}
