//! The replies of the scripts, decoded once.

use std::time::Duration;

use redis::Value;

use crate::lock::key::LockKey;
use crate::lock::lease::{FencingToken, Holder, LeaseId, Metadata, Timestamp, Ttl};
use crate::lock::request::Ticket;
use crate::lock::rules::{Lease, LeaseInfo, Loss};

/// What an operation came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Granted(Lease),
    Replayed(Lease),
    Renewed(Lease),
    /// The lock is held, or reserved for another waiter.
    Held {
        waiters: usize,
        position: Option<usize>,
        info: LeaseInfo,
    },
    Queued {
        waiters: usize,
        ticket: Ticket,
        info: LeaseInfo,
    },
    Free {
        waiters: usize,
    },
    Ended {
        held_for: Option<Duration>,
    },
    Lost(Loss),
    TooManyWaiters,
    KeyReused,
    AlreadyReleased,
    /// No new grants for this time.
    Recovering(Duration),
    RolledBack(bool),
    Swept {
        more: bool,
    },
    Page(ScanStep),
    /// The index of leases is being rebuilt.
    Rebuilding,
    /// New grants no longer pause; they would have paused for so long.
    Resumed(Duration),
}

/// One step of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ScanStep {
    /// Marks the index that the cursor belongs to.
    pub(crate) mark: String,
    /// The cursor of the next step.
    pub(crate) end: String,
    pub(crate) locks: Vec<(LockKey, LeaseInfo, usize)>,
    /// Whether the same step has more, behind the last of these.
    pub(crate) is_cut: bool,
}

/// Why an operation has no reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The node has another life than its record: it must be activated.
    Inactive,
    /// The command came late, or the clock stepped.
    Clock,
    /// Too few replicas are online.
    Replicas,
    /// Redis failed a command. `done`: a part of the effects may remain.
    Failed { done: bool, said: String },
}

/// The clock of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReadAt {
    pub(crate) now: Timestamp,
    /// How far the clock by which leases end is behind it, after a step of the clock.
    pub(crate) behind: Duration,
}

/// What one operation of a batch was answered; `None` for an unexpected reply.
pub(crate) fn decode(value: &Value, at: ReadAt) -> Option<Result<Reply, Refusal>> {
    if let Value::Array(values) = value {
        return Some(Ok(Reply::Page(page(values, at)?)));
    }
    let (outcome, rest) = match text(value)?.split_once('\t') {
        Some((outcome, rest)) => (outcome, rest),
        None => (text(value)?, ""),
    };
    let fields: Vec<&str> = rest.split('\t').collect();
    Some(Ok(match (outcome, &fields[..]) {
        ("granted", fields) => Reply::Granted(lease(fields, at)?),
        ("replayed", fields) => Reply::Replayed(lease(fields, at)?),
        ("renewed", fields) => Reply::Renewed(lease(fields, at)?),
        ("held", fields) => {
            let (waiters, own, info) = held(fields, at)?;
            let position = own.parse().ok();
            Reply::Held {
                waiters,
                position,
                info,
            }
        }
        ("queued", fields) => {
            let (waiters, own, info) = held(fields, at)?;
            let ticket = Ticket(own.parse().ok()?);
            Reply::Queued {
                waiters,
                ticket,
                info,
            }
        }
        ("free", [waiters]) => Reply::Free {
            waiters: waiters.parse().ok()?,
        },
        ("ended", [""]) => Reply::Ended { held_for: None },
        ("ended", [acquired]) => Reply::Ended {
            held_for: Some(at.now.since(moment(acquired)?)),
        },
        ("lost", ["not_held"]) => Reply::Lost(Loss::NotHeld),
        ("lost", ["held_by_other"]) => Reply::Lost(Loss::HeldByOther),
        ("lost", ["released"]) => Reply::Lost(Loss::Released),
        ("too_many_waiters", _) => Reply::TooManyWaiters,
        ("key_reused", _) => Reply::KeyReused,
        ("already_released", _) => Reply::AlreadyReleased,
        ("recovering", [pause]) => Reply::Recovering(duration(pause)?),
        ("rolled_back", _) => Reply::RolledBack(true),
        ("unchanged", _) => Reply::RolledBack(false),
        ("swept", [more]) => Reply::Swept {
            more: !more.is_empty(),
        },
        ("rebuilding", _) => Reply::Rebuilding,
        ("resumed", [left]) => Reply::Resumed(duration(left)?),
        ("refused", ["inactive"]) => return Some(Err(Refusal::Inactive)),
        ("refused", ["clock"]) => return Some(Err(Refusal::Clock)),
        ("refused", ["replicas"]) => return Some(Err(Refusal::Replicas)),
        ("error", [outcome, said @ ..]) => {
            return Some(Err(Refusal::Failed {
                done: *outcome != "none",
                said: said.join(" "),
            }));
        }
        _ => return None,
    }))
}

impl Reply {
    /// Whether a client counts on the answer: a lease, and also that a lock is held or a lease lost. A master that was cut
    /// off and deposed considers itself healthy; only its replicas know. The end of a lease waits for no replica, and lists
    /// may be stale.
    pub(crate) const fn needs_confirmation(&self) -> bool {
        match self {
            Self::Granted(_)
            | Self::Replayed(_)
            | Self::Renewed(_)
            | Self::Held { .. }
            | Self::Free { .. }
            | Self::Lost(_)
            | Self::KeyReused
            | Self::AlreadyReleased => true,
            Self::Queued { .. }
            | Self::Ended { .. }
            | Self::TooManyWaiters
            | Self::Recovering(_)
            | Self::RolledBack(_)
            | Self::Swept { .. }
            | Self::Page(_)
            | Self::Rebuilding
            | Self::Resumed(_) => false,
        }
    }

    /// The lease that a client counts on after this answer.
    pub(crate) const fn lease(&self) -> Option<&Lease> {
        match self {
            Self::Granted(lease) | Self::Replayed(lease) | Self::Renewed(lease) => Some(lease),
            _ => None,
        }
    }
}

fn page(values: &[Value], at: ReadAt) -> Option<ScanStep> {
    let [kind, mark, end, is_cut, entries @ ..] = values else {
        return None;
    };
    if text(kind)? != "page" {
        return None;
    }
    let mut locks = Vec::with_capacity(entries.len() / 2);
    for entry in entries.chunks_exact(2) {
        let key = LockKey::parse(text(&entry[0])?).ok()?;
        match decode(&entry[1], at)? {
            Ok(Reply::Held { waiters, info, .. }) => locks.push((key, info, waiters)),
            _ => return None,
        }
    }
    Some(ScanStep {
        mark: text(mark)?.to_owned(),
        end: text(end)?.to_owned(),
        locks,
        is_cut: text(is_cut)? == "cut",
    })
}

/// How many wait, a ticket or position, and the lease, which ends when others can have the lock.
fn held<'a>(fields: &[&'a str], at: ReadAt) -> Option<(usize, &'a str, LeaseInfo)> {
    let [waiters, own, line @ ..] = fields else {
        return None;
    };
    let stored = line_of(line, at)?;
    let own_end = stored.info.deadline.after(stored.grace).after(at.behind);
    let info = match stored.kind {
        Kind::Reserved | Kind::Shortened => LeaseInfo {
            deadline: own_end,
            ..stored.info
        },
        Kind::Leased | Kind::Released => {
            let held_until = stored.info.acquired_at.after(stored.info.hold_at_least);
            let held_until = held_until.after(stored.grace).after(at.behind);
            LeaseInfo {
                deadline: own_end.max(held_until),
                ..stored.info
            }
        }
    };
    let released = stored.kind == Kind::Released || own_end <= at.now;
    let info = LeaseInfo {
        holder: info.holder.filter(|_| !released),
        released,
        ..info
    };
    Some((waiters.parse().ok()?, *own, info))
}

/// A lease for its holder.
fn lease(fields: &[&str], at: ReadAt) -> Option<Lease> {
    let Stored { lease_id, info, .. } = line_of(fields, at)?;
    let lease_id = LeaseId::parse(lease_id)?;
    Some(Lease { lease_id, info })
}

/// A lease as a lock stores it, see `batch.lua`.
struct Stored<'a> {
    kind: Kind,
    lease_id: &'a str,
    info: LeaseInfo,
    grace: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Reserved,
    Leased,
    Shortened,
    Released,
}

fn line_of<'a>(fields: &[&'a str], at: ReadAt) -> Option<Stored<'a>> {
    let [
        kind,
        token,
        acquired,
        deadline,
        grace,
        ttl,
        renewals,
        _attempt,
        lease_id,
        _idempotency_key,
        _fingerprint,
        holder,
        metadata,
    ] = fields
    else {
        return None;
    };
    let kind = match *kind {
        "L" => Kind::Leased,
        "S" => Kind::Shortened,
        "H" => Kind::Released,
        reserved if reserved.starts_with("R ") => Kind::Reserved,
        _ => return None,
    };
    let (ttl, hold) = ttl.split_once('+').unwrap_or((ttl, "0"));
    let holder = match *holder {
        "" => None,
        text => Some(Holder::new(text.to_owned())?),
    };
    let info = LeaseInfo {
        holder,
        metadata: match *metadata {
            "" => Metadata::default(),
            json => Metadata::stored(serde_json::from_str(json).ok()?),
        },
        fencing_token: FencingToken::new(token.parse().ok()?)?,
        ttl: Ttl::stored(duration(ttl)?),
        acquired_at: moment(acquired)?,
        deadline: moment(deadline)?,
        renewals: renewals.parse().ok()?,
        hold_at_least: duration(hold)?,
        released: false,
        read_at: at.now,
    };
    Some(Stored {
        kind,
        lease_id,
        info,
        grace: duration(grace)?,
    })
}

fn moment(micros: &str) -> Option<Timestamp> {
    micros.parse().ok().map(Timestamp::from_micros)
}

fn duration(micros: &str) -> Option<Duration> {
    micros.parse().ok().map(Duration::from_micros)
}

/// A text, if the reply is one.
pub(crate) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

/// A list of texts, if the reply is one.
pub(crate) fn texts(value: &Value) -> Option<Vec<&str>> {
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: ReadAt = ReadAt {
        now: Timestamp::from_micros(5_000_000),
        behind: Duration::from_secs(2),
    };

    fn reply(text: &str) -> Option<Result<Reply, Refusal>> {
        decode(&Value::BulkString(text.as_bytes().to_vec()), AT)
    }

    fn line() -> String {
        let lease_id = "0".repeat(32);
        format!("L\t7\t4000000\t6000000\t500000\t2000000\t1\t9\t{lease_id}\t\t\tme\t")
    }

    #[test]
    fn lease_ends_for_its_holder_at_the_deadline() {
        let Some(Ok(Reply::Granted(lease))) = reply(&format!("granted\t{}", line())) else {
            panic!("no grant");
        };
        assert_eq!(lease.info.deadline, Timestamp::from_micros(6_000_000));
    }

    #[test]
    fn lock_is_held_for_others_until_the_grace_is_over_on_the_clock_that_is_behind() {
        let Some(Ok(Reply::Held { info, .. })) = reply(&format!("held\t0\t\t{}", line())) else {
            panic!("not held");
        };
        assert_eq!(info.deadline, Timestamp::from_micros(8_500_000));
    }

    #[test]
    fn line_with_a_field_too_few_is_unexpected() {
        let (short, _) = line()
            .rsplit_once('\t')
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("fields");
        assert_eq!(reply(&format!("granted\t{short}")), None);
    }
}
