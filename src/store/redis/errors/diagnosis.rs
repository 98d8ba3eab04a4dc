//! Explains errors of Redis to the operator, in one line for the log and for `GET /readyz`.
//!
//! The error of a driver names a symptom. A diagnosis names the node, the cause, and the setting to check.

use std::fmt;

use redis::{ErrorKind, RedisError};

use super::refusals::{self, Refusal};
use super::target::{Refused, Target};
use crate::store::redis::options::Address;

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Diagnosis {
    pub(crate) text: String,
    /// Whether the server must send no further operations to the node. A node that is only unreachable may be back for
    /// the next one.
    pub(crate) disqualifies: bool,
    /// The peer closed the connection without a reason. A reason that it gave before says more.
    pub(crate) hung_up: bool,
}

impl Diagnosis {
    /// The server must send no further operations to the node.
    pub(crate) fn disqualifying(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: true,
            hung_up: false,
        }
    }

    /// The node may be usable for the next operation.
    pub(crate) fn passing(text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            disqualifies: false,
            hung_up: false,
        }
    }
}

impl fmt::Display for Diagnosis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Target {
    /// Explains an error of the node at `at`.
    pub(crate) fn explain(&self, at: &Address, error: &RedisError) -> Diagnosis {
        let said = said(error);
        match refusals::find(&said) {
            Some(refusal) => self.refused(at, refusal, &said),
            None if error.code().is_some() => self.other(at, &said),
            None => self.unreachable(at, &one_line(&said)),
        }
    }

    /// Explains a refusal inside a script; `said` is the error that the script received.
    pub(crate) fn explain_operation(&self, at: &Address, said: &str) -> Diagnosis {
        match refusals::find(said) {
            Some(refusal) => self.refused(at, refusal, said),
            None => self.other(at, said),
        }
    }

    fn refused(&self, at: &Address, refusal: &Refusal, said: &str) -> Diagnosis {
        let refused = Refused {
            target: self,
            at,
            said: one_line(said),
        };
        Diagnosis {
            text: (refusal.sentence)(&refused),
            disqualifies: refusal.disqualifies,
            hung_up: false,
        }
    }

    /// The node answered, but not with a known refusal.
    #[expect(clippy::unused_self, reason = "like the other explanations")]
    fn other(&self, at: &Address, said: &str) -> Diagnosis {
        Diagnosis::passing(format!(
            "{at} rejects operations ({}): see its log",
            one_line(said)
        ))
    }

    fn unreachable(&self, at: &Address, said: &str) -> Diagnosis {
        let (tls, address) = (self.tls_setting, self.address_setting);
        let timed_out = said.to_ascii_lowercase().contains("timed out");
        let hung_up = said.contains("reset by peer") || said.contains("end of file");
        Diagnosis::passing(match self.tls {
            true if timed_out => format!(
                "{at} did not answer the TLS handshake in time: if it does not use TLS, use redis:// and leave {tls} unset; \
                 otherwise check that the network allows the connection, and {address}"
            ),
            false if hung_up => format!(
                "{at} cannot be reached ({said}): if it requires TLS, use rediss:// or set {tls}; otherwise check that it \
                 runs, and {address}"
            ),
            _ => format!(
                "{at} cannot be reached ({said}): check that it runs, that the network allows the connection, and {address}"
            ),
        })
    }
}

/// The diagnosis of a Sentinel at the address of a data node.
pub(crate) fn sentinel(at: &Address) -> Diagnosis {
    Diagnosis::disqualifying(refusals::sentinel(at))
}

/// The diagnosis of a node of a Redis Cluster.
pub(crate) fn cluster(at: &Address) -> Diagnosis {
    Diagnosis::disqualifying(refusals::cluster(at))
}

/// The diagnosis of a master whose replicas do not suffice: `have` of the `needed` ones are online, or have confirmed.
pub(crate) fn too_few_replicas(at: &Address, have: usize, needed: usize, what: &str) -> Diagnosis {
    Diagnosis::passing(format!(
        "{have} of {needed} needed replicas {what} at {at}: grants, renewals and reads fail with 503 replication-unconfirmed, \
         and releases continue; a failover or a replica that restarts ends this: act only if this outlasts \
         down-after-milliseconds + 10 s, and start the replicas then"
    ))
}

/// An error as Redis said it: its code, and then its text. An error of the driver has the driver's text.
pub(crate) fn said(error: &RedisError) -> String {
    match error.code() {
        Some(code) => format!("{code} {}", error.detail().unwrap_or_default()),
        None if error.kind() == ErrorKind::Parse => format!("PROTOCOL {error}"),
        None => error.to_string(),
    }
}

/// The start of an error text without control characters: it may contain line feeds and text of the peer.
fn one_line(text: &str) -> String {
    const LONGEST: usize = 200;
    let plain = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    plain.take(LONGEST).collect()
}
