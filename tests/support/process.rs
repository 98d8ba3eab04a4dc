//! Child processes that cannot outlive their test.

use std::fs;
use std::io::{ErrorKind, Read};
use std::process::{Child, ChildStderr, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::{eventually, poll};

/// How long the system may take to stop a process.
const STOP_LIMIT: Duration = Duration::from_secs(5);

/// A child process, killed and reaped when dropped; another one can be started in its place.
///
/// Signals go only to a child that has not been reaped yet: until then no other process can have its pid.
#[derive(Default)]
pub(crate) struct Process(Mutex<Option<Child>>);

impl Process {
    /// Starts `command`; `install` tells the reader what to install when the program is missing.
    pub(crate) fn spawn(command: &mut Command, install: &str) -> Self {
        let process = Self::default();
        let started = process.start(command);
        started.unwrap_or_else(|error| panic!("{error}: install {install} to run these tests"));
        process
    }

    /// Starts `command` in place of what ran before, which is killed.
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

    /// Its standard output and standard error; the command must have piped both, and this takes them once.
    pub(crate) fn take_pipes(&self) -> (ChildStdout, ChildStderr) {
        let mut child = self.child();
        let child = child.as_mut().expect("it was started");
        let stdout = child.stdout.take().expect("stdout is piped");
        (stdout, child.stderr.take().expect("stderr is piped"))
    }

    /// The process id, which stays the child's until the child is reaped.
    pub(crate) fn id(&self) -> u32 {
        self.child().as_ref().expect("it was started").id()
    }

    /// Whether the process exists; a stopped one does.
    pub(crate) fn is_running(&self) -> bool {
        self.child()
            .as_mut()
            .is_some_and(|child| exit_status(child).is_none())
    }

    /// Whether the process exists and stands still after `pause`.
    pub(crate) fn is_paused(&self) -> bool {
        self.is_running()
            && proc_file(self.id(), "stat")
                .rsplit_once(") ")
                .is_some_and(|(_, rest)| rest.starts_with('T'))
    }

    /// Stops the process with SIGSTOP, as a machine that hangs; returns once it stands still.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        eventually(STOP_LIMIT, "the process stands still", || {
            self.is_paused() || !self.is_running()
        });
    }

    /// Lets the process go on after `pause`.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Asks the process to stop (SIGTERM).
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = self.child().as_mut()
            && exit_status(child).is_none()
        {
            kill_process(Pid::from_child(child), signal).expect("a child can be sent a signal");
        }
    }

    /// Kills with SIGKILL, also a stopped process, and reaps it.
    pub(crate) fn kill(&self) {
        if let Some(child) = self.child().as_mut() {
            // A process that has ended by itself is as wanted, and `drop` must not panic.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Waits for the end of the process; `None` when it still runs after `limit`.
    pub(crate) fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        poll(limit, || exit_status(self.child().as_mut()?))
    }

    /// The memory that the process has in use now, in KiB.
    pub(crate) fn resident_kib(&self) -> u64 {
        self.status_kib("VmRSS")
    }

    /// The most memory that the process had in use until now, in KiB.
    pub(crate) fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM")
    }

    fn status_kib(&self, name: &str) -> u64 {
        let status = proc_file(self.id(), "status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let figure = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
        figure.unwrap_or_else(|| panic!("no {name} in {status}"))
    }

    /// How many files the process has open now.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.id());
        fs::read_dir(path).expect("it runs").count()
    }

    /// The child that was started last, for its pipes; also after a panic in another thread: `Drop` must still kill it.
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
