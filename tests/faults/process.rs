//! A process on a host, which can be killed, stopped, and started again.

use std::fs::{File, OpenOptions};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Signals go only to a child that was not reaped yet: until then its pid is nobody else's.
#[derive(Default)]
pub(crate) struct Process {
    child: Mutex<Option<Child>>,
}

impl Process {
    /// Takes over a child that was started elsewhere, in place of what ran before, which is killed.
    pub(crate) fn adopt(&self, child: Child) {
        self.kill();
        *self.child() = Some(child);
    }

    /// Starts `command` in place of what ran before, which is killed.
    pub(crate) fn start(&self, command: &mut Command) -> Result<(), String> {
        self.kill();
        let child = command
            .spawn()
            .map_err(|error| format!("{command:?}: {error}"))?;
        self.adopt(child);
        Ok(())
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child()
            .as_mut()
            .is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Kills with SIGKILL, also a stopped process, and reaps it.
    pub(crate) fn kill(&self) {
        if let Some(mut child) = self.child().take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    pub(crate) fn stop(&self) {
        self.signal("STOP");
    }

    pub(crate) fn resume(&self) {
        self.signal("CONT");
    }

    /// Whether the system says that it is stopped.
    pub(crate) fn is_stopped(&self) -> bool {
        let Some(pid) = self.child().as_ref().map(Child::id) else {
            return false;
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ")
            .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    fn signal(&self, name: &str) {
        let mut child = self.child();
        let Some(child) = child.as_mut() else { return };
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        let _ended_meanwhile = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", child.id())])
            .stderr(Stdio::null())
            .status();
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A log file that a process appends to over all its lives.
pub(crate) fn log_file(path: &PathBuf) -> Result<File, String> {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .map_err(|error| format!("{}: {error}", path.display()))
}
