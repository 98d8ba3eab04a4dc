//! The history of a run: one line of JSON per call, access and fault, on one clock in microseconds.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// The number of the client that probes all keys at the end.
pub(crate) const PROBE_CLIENT: usize = 999;

/// The `problem` of a call whose client gave up and whose server then closed the connection without an answer.
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
    /// The end of the pause.
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

/// The outcome of a call as its client knows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Outcome {
    /// A 2xx answer that is not a replay.
    Done,
    /// 200 with `Idempotency-Replayed`.
    Replayed,
    /// 409 `lease-lost`.
    Lost,
    /// Any other 4xx.
    Refused,
    /// 5xx with `outcome: none`, or no connection.
    NotDone,
    /// No answer, an incomplete answer, or 5xx with `outcome: unknown`.
    #[default]
    Unknown,
}

/// A call and its answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub(crate) client: usize,
    /// Identifies an acquisition over all its retries. It is also the `holder`, so that sightings identify the
    /// acquisition.
    pub(crate) attempt: String,
    pub(crate) key: String,
    pub(crate) op: Op,
    pub(crate) server: String,
    pub(crate) sent_at: u64,
    /// When the client stopped waiting: an answer, an error, or its own timeout. `None` if the client died.
    pub(crate) answered_at: Option<u64>,
    /// Whether the call sent an `Idempotency-Key` (one per attempt).
    pub(crate) idempotent: bool,
    /// The lease that a renewal or release names.
    pub(crate) lease_id: Option<String>,
    /// The token that a break names.
    pub(crate) break_token: Option<u64>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) wait_ms: u64,
    pub(crate) outcome: Outcome,
    pub(crate) status: Option<u16>,
    /// The name of the problem, or the client's own reason.
    pub(crate) problem: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) lease: Option<GrantedLease>,
    /// The holder that the answer names (423 and GET).
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
    /// The rest of the lease as the answer states it; every answer with a lease states it.
    #[serde(default)]
    pub(crate) expires_in_ms: Option<u64>,
}

impl Call {
    /// Until when the client may rely on the lease in this answer, by the rule of the contract.
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
    /// Rejects tokens lower than the highest token so far.
    Fenced,
    /// Accepts every access: shows whether the run could have done harm without fencing.
    Control,
}

/// One access to the protected resource; the resource defines the order of accesses.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Access {
    pub(crate) client: usize,
    pub(crate) key: String,
    pub(crate) arm: Arm,
    pub(crate) token: u64,
    pub(crate) at: u64,
    /// The value that a write builds on; `None` for a read.
    pub(crate) base: Option<u64>,
    /// The value read, or the value after the write.
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
    /// A server still does not grant long after the repair; the campaign restarts the servers.
    NotBack,
    /// A note for readers of the history.
    Note,
    /// All clients have stopped; the probe of every key begins.
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

/// The file that records a run.
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
    // The sort is stable: accesses keep the resource's order.
    events.sort_by_key(Event::at);
    Ok(events)
}
