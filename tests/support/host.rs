//! The host of a server: loopback, or a network namespace with its own address.

use std::ffi::OsStr;
use std::process::Command;

/// A host: its name, its address, and the command prefix that starts a program there.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) address: String,
    /// The command prefix. It must `exec` the program so that the pid stays the same.
    pub(crate) prefix: Vec<String>,
}

impl Default for Host {
    fn default() -> Self {
        Self {
            name: "localhost".to_owned(),
            address: "127.0.0.1".to_owned(),
            prefix: Vec::new(),
        }
    }
}

impl Host {
    /// Loopback, with this command prefix.
    pub(crate) fn with_prefix(words: &[&str]) -> Self {
        Self {
            prefix: words.iter().map(ToString::to_string).collect(),
            ..Self::default()
        }
    }

    /// A command that runs on this host.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut words = self
            .prefix
            .iter()
            .map(AsRef::as_ref)
            .chain([program.as_ref()]);
        let mut command = Command::new(words.next().expect("at least the program"));
        command.args(words);
        command
    }
}
