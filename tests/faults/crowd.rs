//! The campaign's handle on its clients: start, record, pause and kill.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::clock::now_us;
use crate::history::{
    Access, Call, ClientChange, ClientNote, Event, Log, Op, Outcome, PROBE_CLIENT,
};
use crate::protocol::{ClientConfig, FromClient, ToClient};
use crate::resource::Resources;
use crate::support::host::Host;
use crate::support::process::Process;
use crate::wait::{is_stopped, poll};

/// How many answers to keep for faults that look for their effect.
const RECENT: usize = 4000;
/// How long clients may take to finish.
const STOP_LIMIT: Duration = Duration::from_secs(4);

pub(crate) struct Crowd {
    clients: Vec<Arc<Slot>>,
    shared: Arc<Shared>,
    ending: Arc<AtomicBool>,
}

struct Shared {
    log: Arc<Log>,
    resources: Mutex<Resources>,
    recent: Mutex<VecDeque<Call>>,
}

struct Slot {
    host: Host,
    config: ClientConfig,
    life: AtomicU32,
    process: Process,
    stdin: Mutex<Option<ChildStdin>>,
    /// When the client last sent a line.
    heard_at: AtomicU64,
    /// The call in progress.
    pending: Mutex<Option<Call>>,
    dies_when_granted: AtomicBool,
}

impl Crowd {
    pub(crate) fn start(
        log: &Arc<Log>,
        clients: Vec<(Host, ClientConfig)>,
    ) -> Result<Self, String> {
        let shared = Arc::new(Shared {
            log: Arc::clone(log),
            resources: Mutex::default(),
            recent: Mutex::default(),
        });
        let ending = Arc::new(AtomicBool::new(false));
        let mut crowd = Self {
            clients: Vec::new(),
            shared,
            ending,
        };
        for (host, config) in clients {
            let slot = Arc::new(Slot {
                host,
                config,
                life: AtomicU32::new(0),
                process: Process::default(),
                stdin: Mutex::default(),
                heard_at: AtomicU64::new(0),
                pending: Mutex::default(),
                dies_when_granted: AtomicBool::new(false),
            });
            launch(&slot, &crowd.shared, &crowd.ending)?;
            crowd.clients.push(slot);
        }
        Ok(crowd)
    }

    pub(crate) fn count(&self) -> usize {
        self.clients.len()
    }

    /// Stops a client at an arbitrary moment.
    pub(crate) fn pause(&self, client: usize) {
        self.clients[client].process.pause();
        self.note(client, ClientChange::Paused);
    }

    /// The time since the client's last line, in microseconds.
    pub(crate) fn silence(&self, client: usize) -> u64 {
        now_us().saturating_sub(self.clients[client].heard_at.load(Ordering::SeqCst))
    }

    pub(crate) fn resume(&self, client: usize) {
        self.clients[client].process.resume();
        self.note(client, ClientChange::Resumed);
    }

    pub(crate) fn resume_all(&self) {
        for slot in &self.clients {
            slot.process.resume();
        }
    }

    /// Kills a client that has waited in a queue for a while; the campaign restarts it. Returns whether it found one.
    pub(crate) fn kill_a_waiter(&self) -> bool {
        let waited = |slot: &&Arc<Slot>| {
            let pending = lock(&slot.pending);
            let since = now_us().saturating_sub(100_000);
            pending.as_ref().is_some_and(|call| {
                call.op == Op::Acquire && call.wait_ms > 0 && call.sent_at < since
            })
        };
        let found = self.clients.iter().find(waited);
        if let Some(slot) = found {
            slot.process.kill();
        }
        found.is_some()
    }

    /// Kills this client at its next grant.
    pub(crate) fn kill_when_granted(&self, client: usize) {
        self.clients[client]
            .dies_when_granted
            .store(true, Ordering::SeqCst);
    }

    /// Whether `kill_when_granted` is still pending.
    pub(crate) fn is_doomed(&self, client: usize) -> bool {
        self.clients[client]
            .dies_when_granted
            .load(Ordering::SeqCst)
    }

    /// Whether an answer that matches `wanted` arrived after `since`.
    pub(crate) fn has_seen(&self, since: u64, wanted: impl Fn(&Call) -> bool) -> bool {
        let recent = lock(&self.shared.recent);
        recent
            .iter()
            .rev()
            .take_while(|call| call.answered_at.is_some_and(|at| at >= since))
            .any(wanted)
    }

    /// Whether a call has been pending for this long.
    pub(crate) fn has_pending_for(&self, us: u64, wanted: impl Fn(&Call) -> bool) -> bool {
        let now = now_us();
        self.clients.iter().any(|slot| {
            let pending = lock(&slot.pending);
            pending
                .as_ref()
                .is_some_and(|call| now.saturating_sub(call.sent_at) >= us && wanted(call))
        })
    }

    /// Asks all clients to end.
    pub(crate) fn stop(&self) {
        self.ending.store(true, Ordering::SeqCst);
        self.resume_all();
        for slot in &self.clients {
            tell(slot, &ToClient::Stop);
        }
        poll(STOP_LIMIT, || {
            let running = |slot: &Arc<Slot>| slot.process.is_running();
            (!self.clients.iter().any(running)).then_some(())
        });
        for slot in &self.clients {
            slot.process.kill();
        }
        // The last lines of the clients are still in their pipes.
        thread::sleep(Duration::from_millis(200));
    }

    /// Runs a client that acquires each key once; returns whether it ended by itself within `limit`.
    pub(crate) fn probe(
        log: &Arc<Log>,
        host: &Host,
        config: ClientConfig,
        limit: Duration,
    ) -> Result<bool, String> {
        let config = ClientConfig {
            client: PROBE_CLIENT,
            probe: true,
            ..config
        };
        let crowd = Self::start(log, vec![(host.clone(), config)])?;
        crowd.ending.store(true, Ordering::SeqCst);
        let ended = poll(limit, || {
            (!crowd.clients[0].process.is_running()).then_some(())
        });
        crowd.stop();
        Ok(ended.is_some())
    }

    fn note(&self, client: usize, change: ClientChange) {
        let at = now_us();
        self.shared
            .log
            .write(&Event::Client(ClientNote { client, change, at }));
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        for slot in &self.clients {
            slot.process.kill();
        }
    }
}

fn launch(slot: &Arc<Slot>, shared: &Arc<Shared>, ending: &Arc<AtomicBool>) -> Result<(), String> {
    let life = slot.life.fetch_add(1, Ordering::SeqCst);
    let config = ClientConfig {
        life,
        seed: slot.config.seed.wrapping_add(u64::from(life) * 7919),
        ..slot.config.clone()
    };
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = slot.host.command(program);
    command
        .arg("client")
        .arg(serde_json::to_string(&config).expect("a configuration is plain data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let begun = now_us();
    slot.process.start(&mut command)?;
    let stdout = slot.process.child().as_mut().and_then(|child| {
        *lock(&slot.stdin) = child.stdin.take();
        child.stdout.take()
    });
    let stdout = stdout.expect("stdout is piped");
    let (slot, shared, ending) = (Arc::clone(slot), Arc::clone(shared), Arc::clone(ending));
    thread::spawn(move || {
        listen(&slot, &shared, stdout, begun);
        finish(&slot, &shared);
        if !ending.load(Ordering::SeqCst) && !is_stopped() {
            let started = launch(&slot, &shared, &ending);
            started.expect("a client that died can be started again");
        }
    });
    Ok(())
}

/// Records the client's lines until it ends.
fn listen(slot: &Slot, shared: &Shared, stdout: ChildStdout, begun: u64) {
    let client = slot.config.client;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        slot.heard_at.store(now_us(), Ordering::SeqCst);
        // A killed client may leave an incomplete line.
        let Ok(said) = serde_json::from_str(&line) else {
            continue;
        };
        match said {
            FromClient::Hello { at } => {
                assert!(
                    (begun..=now_us()).contains(&at),
                    "the processes' clocks differ"
                );
                let change = ClientChange::Started;
                shared
                    .log
                    .write(&Event::Client(ClientNote { client, change, at }));
            }
            FromClient::Sent(call) => *lock(&slot.pending) = Some(*call),
            FromClient::Answered(call) => {
                *lock(&slot.pending) = None;
                let granted = call.op == Op::Acquire && call.succeeded();
                if granted && slot.dies_when_granted.swap(false, Ordering::SeqCst) {
                    slot.process.kill();
                }
                shared.log.write(&Event::Call(call.clone()));
                let mut recent = lock(&shared.recent);
                recent.push_back(*call);
                if recent.len() > RECENT {
                    recent.pop_front();
                }
            }
            FromClient::Access {
                key,
                arm,
                token,
                base,
            } => {
                // This happens under the lock, so that the history has the resource's own order.
                let mut resources = lock(&shared.resources);
                let (accepted, value) = resources.access(&key, arm, token, base);
                let at = now_us();
                shared.log.write(&Event::Access(Access {
                    client,
                    key,
                    arm,
                    token,
                    at,
                    base,
                    value,
                    accepted,
                }));
                drop(resources);
                tell(slot, &ToClient::Accessed { accepted, value });
            }
        }
    }
}

/// Records the end of a client's process and of its pending call.
fn finish(slot: &Slot, shared: &Shared) {
    slot.process.kill();
    let client = slot.config.client;
    if let Some(mut call) = lock(&slot.pending).take() {
        call.outcome = Outcome::Unknown;
        call.problem = Some("the client died".to_owned());
        shared.log.write(&Event::Call(Box::new(call)));
    }
    let (change, at) = (ClientChange::Killed, now_us());
    shared
        .log
        .write(&Event::Client(ClientNote { client, change, at }));
}

fn tell(slot: &Slot, what: &ToClient) {
    let line = serde_json::to_string(what).expect("a message is plain data") + "\n";
    if let Some(stdin) = lock(&slot.stdin).as_mut() {
        // The client may have died meanwhile.
        let _ = stdin.write_all(line.as_bytes());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many grants each server has answered since a moment.
pub(crate) fn grants_by_server(crowd: &Crowd, since: u64) -> HashMap<String, usize> {
    let mut grants = HashMap::new();
    for call in lock(&crowd.shared.recent).iter() {
        if call.op == Op::Acquire && call.succeeded() && call.sent_at >= since {
            *grants.entry(call.server.clone()).or_default() += 1;
        }
    }
    grants
}
