//! Child processes that cannot outlive their test.

use std::fs;
use std::io::{ErrorKind, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::{eventually, poll};

/// How long the system may need to stop a process.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A child process that is killed and reaped on drop; the handle can start a replacement.
///
/// Signals go only to a child that has not been reaped yet: until then no other process can have its pid.
#[derive(Default)]
pub(crate) struct Process(Mutex<Option<Child>>);

impl Process {
    /// Starts `command`; the error for a missing program names `install`, the package to install.
    pub(crate) fn spawn(command: &mut Command, install: &str) -> Self {
        let process = Self::default();
        let started = process.start(command);
        started.unwrap_or_else(|error| panic!("{error}: install {install} to run these tests"));
        process
    }

    /// Kills the previous process and starts `command` instead.
    pub(crate) fn start(&self, command: &mut Command) -> Result<(), String> {
        self.kill();
        let child = command.spawn().map_err(|error| {
            let program = command.get_program().display();
            match error.kind() {
                ErrorKind::NotFound => format!("{program} not found"),
                _ => format!("cannot start {program}: {error}"),
            }
        })?;
        *self.child() = Some(child);
        Ok(())
    }

    /// The pipes of standard output and standard error. The command must have piped both; only the first call gets
    /// them.
    pub(crate) fn take_pipes(&self) -> (ChildStdout, ChildStderr) {
        let mut child = self.child();
        let child = child.as_mut().expect("it was started");
        let stdout = child.stdout.take().expect("stdout is piped");
        (stdout, child.stderr.take().expect("stderr is piped"))
    }

    /// The process id; it belongs to the child until the child is reaped.
    pub(crate) fn id(&self) -> u32 {
        self.child().as_ref().expect("it was started").id()
    }

    /// Whether the process exists; a stopped process exists.
    pub(crate) fn is_running(&self) -> bool {
        self.child()
            .as_mut()
            .is_some_and(|child| exit_status(child).is_none())
    }

    /// Whether the process exists and is stopped (after `pause`).
    pub(crate) fn is_paused(&self) -> bool {
        self.is_running()
            && proc_file(self.id(), "stat")
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Stops the process with SIGSTOP to simulate a hung machine; returns once the process is stopped.
    pub(crate) fn pause(&self) {
        self.signal(Signal::SIGSTOP);
        eventually(STOP_LIMIT, "the process stands still", || {
            self.is_paused() || !self.is_running()
        });
    }

    /// Resumes the process after `pause`.
    pub(crate) fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Asks the process to stop (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::SIGTERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.child().as_mut()
            && exit_status(child).is_none()
        {
            kill(Pid::from_raw(child.id().cast_signed()), signal)
                .expect("a child can be sent a signal");
        }
    }

    /// Kills with SIGKILL, also a stopped process, and reaps it.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.child().as_mut() {
            // The process may have ended already, and `drop` must not panic.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for the process to exit; `None` if it still runs after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || exit_status(self.child().as_mut()?))
    }

    /// The current memory use of the process, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// The peak memory use of the process, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = proc_file(self.id(), "status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        figure.unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// How many files the process has open.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        fs::read_dir(path).expect("it runs").count()
    }

    /// The child started last, for its pipes. It ignores lock poisoning: `Drop` must kill the child after any panic.
    pub(crate) fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

fn proc_file(pid: u32, name: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/{name}")).unwrap_or_default()
}

fn exit_status(child: &mut Child) -> Option<ExitStatus> {
    child.try_wait().expect("a child can be waited for")
}

/// Runs `command` until it exits and returns its status, standard output and standard error; panics after `limit`.
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

/// The whole output of a pipe as text; invalid UTF-8 becomes replacement characters.
fn read_text(mut pipe: impl Read) -> String {
    let mut bytes = Vec::new();
    // A read error ends the output like the end of the pipe.
    let _ = pipe.read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned()
}
