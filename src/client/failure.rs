//! Why a client command fails, and its exit code.

use std::fmt;

/// The exit codes of client commands, besides those of a command that `run` runs. They follow `sysexits.h`.
pub mod exit {
    /// Wrong arguments, or a request that the server refuses as wrong.
    pub const USAGE: u8 = 64;
    /// No server answers, or none can serve.
    pub const UNAVAILABLE: u8 = 69;
    /// The lock is held, or too many wait for it.
    pub const NOT_ACQUIRED: u8 = 75;
    /// The lease is lost.
    pub const LOST: u8 = 76;
    /// The token is missing, wrong, or allows something else.
    pub const NOT_PERMITTED: u8 = 77;
    /// The command cannot be executed.
    pub const NOT_EXECUTABLE: u8 = 126;
    /// There is no such command.
    pub const NOT_FOUND: u8 = 127;
}

/// See the module. The texts are for the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The request is wrong.
    Usage(String),
    /// No server answers, or none can serve.
    Unavailable(String),
    /// The lock is held, or too many wait for it.
    NotAcquired(String),
    /// The lease is lost.
    Lost(String),
    /// The token is missing, wrong, or allows something else.
    NotPermitted(String),
}

impl Failure {
    /// The exit code.
    #[must_use]
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => exit::USAGE,
            Self::Unavailable(_) => exit::UNAVAILABLE,
            Self::NotAcquired(_) => exit::NOT_ACQUIRED,
            Self::Lost(_) => exit::LOST,
            Self::NotPermitted(_) => exit::NOT_PERMITTED,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text)
        | Self::Unavailable(text)
        | Self::NotAcquired(text)
        | Self::Lost(text)
        | Self::NotPermitted(text)) = self;
        f.write_str(text)
    }
}
