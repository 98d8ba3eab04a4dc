//! What the campaign and its client processes tell each other, a line of JSON each, over pipes: outside of the
//! network that is broken on purpose.

use serde::{Deserialize, Serialize};

use crate::history::{Arm, Call};

/// What a client process is started with, as its argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ClientConfig {
    pub(crate) client: usize,
    /// How often this client was started before.
    pub(crate) life: u32,
    pub(crate) seed: u64,
    /// `address:port` of each server, as this client reaches it.
    pub(crate) servers: Vec<String>,
    pub(crate) keys: Vec<String>,
    /// The lock that this client meets others at, and its number among them.
    pub(crate) meeting: String,
    pub(crate) member: u64,
    /// Take each key once, and end.
    pub(crate) probe: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub(crate) enum FromClient {
    Hello {
        at: u64,
    },
    /// Before the call is sent: a client that dies in it has still made it.
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
