//! Child processes that cannot outlive their test.

use std::io::{ErrorKind, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::poll;

/// A child process, killed and reaped when dropped.
///
/// Signals go only to a child that has not been reaped yet: until then its pid cannot belong to anybody else.
pub(crate) struct Process {
    child: Mutex<Child>,
}

impl Process {
    /// Starts `command`; `install` tells the reader what to install when the program is missing.
    pub(crate) fn spawn(command: &mut Command, install: &str) -> Self {
        let child = command.spawn().unwrap_or_else(|error| {
            let program = command.get_program().display();
            match error.kind() {
                ErrorKind::NotFound => {
                    panic!("{program} not found: install {install} to run these tests")
                }
                _ => panic!("cannot start {program}: {error}"),
            }
        });
        Self {
            child: Mutex::new(child),
        }
    }

    /// Its standard output and standard error; the command must have piped both, and this takes them once.
    pub(crate) fn take_pipes(&self) -> (ChildStdout, ChildStderr) {
        let mut child = self.child();
        let stdout = child.stdout.take().expect("stdout is piped");
        (stdout, child.stderr.take().expect("stderr is piped"))
    }

    /// The process id, which stays the child's until the child is reaped.
    pub(crate) fn id(&self) -> u32 {
        self.child().id()
    }

    /// Whether the process exists; a stopped one does.
    pub(crate) fn is_running(&self) -> bool {
        self.exit_status().is_none()
    }

    /// How the process ended, or `None` while it runs.
    pub(crate) fn exit_status(&self) -> Option<ExitStatus> {
        self.child().try_wait().expect("a child can be waited for")
    }

    /// Sends a signal by name (`TERM`, `STOP`, `CONT`), and does nothing to a process that has ended.
    pub(crate) fn signal(&self, name: &str) {
        let mut child = self.child();
        if child
            .try_wait()
            .expect("a child can be waited for")
            .is_some()
        {
            return;
        }
        // The shell's own `kill`: minimal images have no other.
        let sent = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", child.id())])
            .status();
        assert!(
            sent.is_ok_and(|status| status.success()),
            "cannot send SIG{name} to {}",
            child.id()
        );
    }

    /// Kills with SIGKILL, also a stopped process, and reaps it.
    pub(crate) fn kill(&self) {
        let mut child = self.child();
        child.kill().expect("a child can be killed");
        child.wait().expect("a killed child can be reaped");
    }

    /// Waits for the end of the process; `None` when it still runs after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || self.exit_status())
    }

    /// The child, also after a panic in another thread: `Drop` must still kill it.
    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let mut child = self.child();
        // A panic here would abort the whole test run, so a failure to kill is left to the operating system.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// Runs `command` to its end and returns its status, standard output and standard error; panics when it takes longer
/// than `limit`.
pub(crate) fn run(
    command: &mut Command,
    install: &str,
    limit: Duration,
) -> (ExitStatus, String, String) {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let process = Process::spawn(command, install);
    let (stdout, stderr) = process.take_pipes();
    let stdout = thread::spawn(move || read_text(stdout));
    let stderr = thread::spawn(move || read_text(stderr));
    let Some(status) = process.wait(limit) else {
        process.kill();
        panic!(
            "{command:?} still ran after {limit:?}\n{}{}",
            stdout.join().expect("a reader does not panic"),
            stderr.join().expect("a reader does not panic")
        );
    };
    (
        status,
        stdout.join().expect("a reader does not panic"),
        stderr.join().expect("a reader does not panic"),
    )
}

/// All of a pipe as text; what is not UTF-8 is shown as replacement characters.
fn read_text(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // A pipe that breaks has said all it will.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
