//! The terminal, which the command uses as if this program were not there.

use std::fs::{File, OpenOptions};

use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

/// The controlling terminal of this process.
pub(super) struct Terminal(File);

impl Terminal {
    /// The terminal, if there is one.
    pub(super) fn of_this_process() -> Option<Self> {
        let tty = OpenOptions::new().read(true).write(true).open("/dev/tty");
        // A process in the background that changes the foreground is stopped, unless it blocks this signal. The command does
        // not inherit that.
        let mut blocked = SigSet::empty();
        blocked.add(Signal::SIGTTOU);
        blocked.thread_block().ok()?;
        Some(Self(tty.ok()?))
    }

    /// Whether this group is in the foreground.
    pub(super) fn is_of(&self, group: Pid) -> bool {
        tcgetpgrp(&self.0) == Ok(group)
    }

    /// Puts a group into the foreground, if this process is there.
    pub(super) fn give_to(&self, group: Pid) {
        if self.is_of(getpgrp()) {
            let _ = tcsetpgrp(&self.0, group);
        }
    }

    /// Puts this process into the foreground, if the group is there.
    pub(super) fn take_back(&self, group: Pid) {
        if self.is_of(group) {
            let _ = tcsetpgrp(&self.0, getpgrp());
        }
    }
}
