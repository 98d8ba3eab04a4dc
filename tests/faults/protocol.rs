//! Messages between the campaign and its client processes: lines of JSON over pipes, which network faults do not reach.

use serde::{Deserialize, Serialize};

use crate::history::{Arm, Call};

/// The configuration of a client process, passed as its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    pub(crate) client: usize,
    /// How often the campaign has started this client before.
    pub(crate) life: u32,
    pub(crate) seed: u64,
    /// `address:port` of each server, as seen by this client.
    pub(crate) servers: Vec<String>,
    pub(crate) keys: Vec<String>,
    /// The lock for the client's meetings, and the client's number in its group.
    pub(crate) meeting: String,
    pub(crate) member: u64,
    /// Acquire each key once, then end.
    pub(crate) probe: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum FromClient {
    Hello {
        at: u64,
    },
    /// Sent before the call itself, so that the history also has the call of a client that dies.
    Sent(Box<Call>),
    Answered(Box<Call>),
    Access {
        key: String,
        arm: Arm,
        token: u64,
        /// The value that a write builds on.
        base: Option<u64>,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum ToClient {
    Accessed { accepted: bool, value: u64 },
    Stop,
}
