//! What happened in a run: a line of JSON for each call, access and fault, all on one clock (microseconds).

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The number of the client that probes all keys at the end.
pub(crate) const PROBE_CLIENT: usize = 999;

/// The problem of a call whose client gave up, and whose server closed the connection without a word.
pub(crate) const ABANDONED: &str = "abandoned";

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    Call(Box<Call>),
    Access(Access),
    Fault(Fault),
    Client(ClientNote),
    /// The harness itself did not run for `gap_us` before `at`.
    Stall {
        at: u64,
        gap_us: u64,
    },
}

impl Event {
    /// When it was over.
    pub(crate) fn at(&self) -> u64 {
        match self {
            Self::Call(call) => call.answered_at.unwrap_or(call.sent_at),
            Self::Access(access) => access.at,
            Self::Fault(fault) => fault.at,
            Self::Client(note) => note.at,
            Self::Stall { at, .. } => *at,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Op {
    Acquire,
    Renew,
    Release,
    Break,
    Inspect,
}

/// What a client knows after a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A 2xx that is no replay.
    Done,
    /// 200 with `Idempotency-Replayed`.
    Replayed,
    /// 409 `lease-lost`.
    Lost,
    /// Any other 4xx.
    Refused,
    /// 5xx with `outcome: none`, or no connection.
    NotDone,
    /// No answer, half an answer, or 5xx with `outcome: unknown`.
    #[default]
    Unknown,
}

/// A call and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) client: usize,
    /// Names an acquisition over all its retries; its `holder` too, so that sightings name it.
    pub(crate) attempt: String,
    pub(crate) key: String,
    pub(crate) op: Op,
    pub(crate) server: String,
    pub(crate) sent_at: u64,
    /// When the client stopped to wait: an answer, an error, or its own time-out. Absent if it died.
    pub(crate) answered_at: Option<u64>,
    /// Whether an `Idempotency-Key` went along (one for each attempt).
    pub(crate) idempotent: bool,
    /// The lease that a renewal or release is about.
    pub(crate) lease_id: Option<String>,
    /// The token that a break names.
    pub(crate) break_token: Option<u64>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) wait_ms: u64,
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<u16>,
    /// The problem's name, or the client's own reason.
    pub(crate) problem: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) lease: Option<GrantedLease>,
    /// Whom the answer names as the holder (423 and GET).
    pub(crate) seen: Option<Seen>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GrantedLease {
    pub(crate) lease_id: String,
    pub(crate) token: u64,
    pub(crate) expires_in_ms: u64,
    pub(crate) waited_ms: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Seen {
    pub(crate) holder: Option<String>,
    pub(crate) token: u64,
    pub(crate) held_for_ms: u64,
    /// How long that lease lasts, as the answer says; it says so of every lease.
    #[serde(default)]
    pub(crate) expires_in_ms: Option<u64>,
}

impl Call {
    /// Until when the client may count on the lease that this answer gave it: the contract's rule.
    pub(crate) fn valid_until(&self) -> Option<u64> {
        let lease = self.lease.as_ref()?;
        Some(self.sent_at + (lease.waited_ms + lease.expires_in_ms) * 1000)
    }

    pub(crate) fn succeeded(&self) -> bool {
        matches!(self.outcome, Outcome::Done | Outcome::Replayed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Arm {
    /// Refuses tokens lower than the highest it has seen.
    Fenced,
    /// Takes everything: shows that the run would have done harm.
    Control,
}

/// One access to the resource that a lock protects, in the order in which the resource took it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) arm: Arm,
    pub(crate) token: u64,
    pub(crate) at: u64,
    /// The value that a write builds on; a read has none.
    pub(crate) base: Option<u64>,
    /// What was read, or what the write left.
    pub(crate) value: u64,
    pub(crate) accepted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    Inject,
    Effect,
    /// The effect did not show: the run proves nothing about this fault.
    NoEffect,
    Heal,
    /// Every server grants again.
    Back,
    /// It does not, long after everything was healed: the servers are restarted.
    NotBack,
    /// Something that a reader of the history wants to know.
    Note,
    /// All clients have stopped, and every key is probed.
    Probe,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub(crate) nemesis: String,
    pub(crate) phase: Phase,
    pub(crate) at: u64,
    pub(crate) detail: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientChange {
    Started,
    Killed,
    Paused,
    Resumed,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientNote {
    pub(crate) client: usize,
    pub(crate) change: ClientChange,
    pub(crate) at: u64,
}

/// The file that a run is recorded in.
pub(crate) struct Log {
    path: PathBuf,
    file: Mutex<BufWriter<File>>,
}

impl Log {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = Mutex::new(BufWriter::new(File::create(path)?));
        Ok(Self {
            path: path.to_owned(),
            file,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn write(&self, event: &Event) {
        let line = serde_json::to_string(event).expect("an event is plain data");
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(file, "{line}").expect("the history can be written");
    }

    pub(crate) fn flush(&self) {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        file.flush().expect("the history can be written");
    }
}

/// Reads a recorded history, ordered by time.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Event>> {
    let mut events = Vec::new();
    for line in BufReader::new(File::open(path)?).lines() {
        events.push(serde_json::from_str(&line?)?);
    }
    // Stable: accesses keep the order in which the resource took them.
    events.sort_by_key(Event::at);
    Ok(events)
}
