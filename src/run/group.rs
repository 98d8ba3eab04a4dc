//! The process group of the command.

use std::ffi::OsString;
use std::io::{self, IsTerminal};
use std::os::unix::process::{CommandExt, ExitStatusExt, parent_id};
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::prctl::{set_child_subreaper, set_pdeathsig};
use nix::sys::signal::{Signal, killpg, raise};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;
use rustix_libc_wrappers::process::SignalExt;

use super::signals::Number;
use super::terminal::Terminal;

/// The name of the command that becomes another one.
pub const BECOME: &str = "become";

/// Stops this process until its program lets it go on, and then executes the command in its place. Returns the error that
/// prevents that.
#[must_use]
pub fn become_command(program: u32, command: &[OsString]) -> io::Error {
    match wait_for(program) {
        Ok(()) => Command::new(&command[0]).args(&command[1..]).exec(),
        Err(error) => error.into(),
    }
}

/// Waits until the program lets this process go on. If the program ends before, so does this process; if it ends after, the
/// command gets SIGTERM, because the guardian may have been killed at the same time.
fn wait_for(program: u32) -> nix::Result<()> {
    set_pdeathsig(Signal::SIGKILL)?;
    if parent_id() != program {
        return Err(Errno::ESRCH);
    }
    raise(Signal::SIGSTOP)?;
    set_pdeathsig(Signal::SIGTERM)
}

/// The command and its descendants in the same group.
pub(super) struct Group {
    leader: Pid,
    child: Child,
    /// The signal that ended the command.
    signal: Option<i32>,
    /// The exit code of the command, once it has ended.
    code: Option<u8>,
    /// Whether no process of the group is left.
    ended: bool,
    terminal: Option<Terminal>,
    /// Input and output are the terminal, so no other process of a pipeline uses it. Otherwise the command gets it when it asks.
    is_alone: bool,
}

/// What happened to a child process.
pub(super) enum Change {
    /// The command was stopped, as by Ctrl-Z, or because it used the terminal in the background.
    Stopped { by_terminal: bool },
    /// A process that is not the command has ended.
    OtherEnded(Pid),
}

impl Group {
    /// Makes a process that will be the command, in a group of its own, and that waits for [`Group::begin`]: the guardian must
    /// know the group before the command does anything.
    pub(super) fn new(
        command: &[OsString],
        environment: &[(&'static str, String)],
    ) -> io::Result<Self> {
        // The descendants of a command that ends become children of this process, so that it can wait for them. It also is
        // what the first process of a container must do.
        set_child_subreaper(true)?;
        let mut child = Command::new("/proc/self/exe");
        child
            .arg0("leasehold")
            .args([BECOME, &std::process::id().to_string(), "--"])
            .args(command)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .process_group(0);
        let child = child.spawn()?;
        let leader = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        // It stops itself, unless it is ended before. Its end is for `reap`.
        let either = WaitPidFlag::WEXITED | WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        let mut state = Err(Errno::EINTR);
        while state == Err(Errno::EINTR) {
            state = waitid(Id::Pid(leader), either);
        }
        if let Ok(WaitStatus::Stopped(..)) = state {
            let _ = waitpid(leader, Some(WaitPidFlag::WUNTRACED));
        }
        Ok(Self {
            leader,
            child,
            signal: None,
            code: None,
            ended: false,
            terminal: Terminal::of_this_process(),
            is_alone: io::stdin().is_terminal() && io::stdout().is_terminal(),
        })
    }

    /// Starts the command, with the terminal if this process has it for itself.
    pub(super) fn begin(&self) {
        self.pass_on_foreground();
        self.signal(Signal::SIGCONT);
    }

    /// Puts the command into the foreground if this process has come there. The shell's `fg` sends no signal to a job that runs.
    pub(super) fn pass_on_foreground(&self) {
        if let (true, None, Some(terminal)) = (self.is_alone, self.code, &self.terminal) {
            terminal.give_to(self.leader);
        }
    }

    pub(super) const fn id(&self) -> Pid {
        self.leader
    }

    pub(super) const fn has_ended(&self) -> bool {
        self.ended
    }

    pub(super) const fn leader_has_ended(&self) -> bool {
        self.code.is_some()
    }

    pub(super) fn exit_code(&self) -> u8 {
        self.code.unwrap_or(0)
    }

    /// Sends a signal to all processes of the group. A group without a process stays as it is.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.ended {
            let _ = killpg(self.leader, signal);
        }
    }

    /// Passes on a signal that this process has received.
    pub(super) fn forward(&self, number: Number) {
        let group = rustix::process::Pid::from_raw(self.leader.as_raw());
        if let (false, Some(group), Some(signal)) =
            (self.ended, group, rustix::process::Signal::from_raw(number))
        {
            let _ = rustix::process::kill_process_group(group, signal);
        }
    }

    /// Collects what happened to the children of this process.
    pub(super) fn reap(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        // It knows all signals, unlike the loop below.
        if let Ok(Some(status)) = self.child.try_wait() {
            self.ended_with(status.code(), status.signal());
        }
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    self.ended_with(Some(code), None);
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    self.ended_with(None, Some(signal as i32));
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    changes.push(Change::OtherEnded(pid));
                }
                Ok(WaitStatus::Stopped(pid, signal)) if pid == self.leader => {
                    let by_terminal = matches!(signal, Signal::SIGTTIN | Signal::SIGTTOU);
                    match &self.terminal {
                        // It used the terminal before it had it.
                        Some(_) if by_terminal && self.has_terminal() => self.resume(),
                        Some(_) => changes.push(Change::Stopped { by_terminal }),
                        None => {}
                    }
                }
                Ok(WaitStatus::StillAlive) => break,
                // The library does not know real-time signals, by which a process may have ended.
                Ok(_) | Err(Errno::EINTR | Errno::EINVAL) => {}
                Err(_) => break,
            }
        }
        if self.code.is_some() && !self.ended && self.is_empty() {
            self.ended = true;
            if let Some(terminal) = &self.terminal {
                terminal.take_back(self.leader);
            }
        }
        changes
    }

    /// Whether no process of the group is left.
    fn is_empty(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let none_of_ours = waitid(Id::PGid(self.leader), flags) == Err(Errno::ECHILD);
        none_of_ours && !self.has_live_member()
    }

    /// Whether a process of the group runs, whatever its parent is. A zombie does not count.
    fn has_live_member(&self) -> bool {
        if killpg(self.leader, None) == Err(Errno::ESRCH) {
            return false;
        }
        let Ok(processes) = std::fs::read_dir("/proc") else {
            return false;
        };
        processes.flatten().any(|process| {
            let stat = std::fs::read_to_string(process.path().join("stat")).unwrap_or_default();
            // Behind the name: state, parent, group.
            let mut fields = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let (state, group) = (fields.next().unwrap_or("Z"), fields.nth(1));
            !matches!(state, "Z" | "X") && group == Some(&self.leader.to_string())
        })
    }

    fn ended_with(&mut self, code: Option<i32>, signal: Option<i32>) {
        let number = code.or(signal.map(|signal| 128 + signal)).unwrap_or(0);
        self.code = u8::try_from(number & 0xff).ok();
        self.signal = signal;
    }

    /// A key that interrupts the command interrupts all of the job, as a loop of a script around it.
    pub(super) fn pass_on_interrupt(&self) {
        let interrupts = [Signal::SIGINT, Signal::SIGQUIT];
        let signal = interrupts
            .iter()
            .find(|signal| self.signal == Some(**signal as i32));
        if let (Some(terminal), Some(signal)) = (&self.terminal, signal)
            && terminal.is_of(nix::unistd::getpgrp())
        {
            let _ = killpg(nix::unistd::getpgrp(), *signal);
        }
    }

    /// Whether the command, or this process, has the terminal.
    pub(super) fn has_terminal(&self) -> bool {
        self.terminal.as_ref().is_some_and(|terminal| {
            terminal.is_of(self.leader) || terminal.is_of(nix::unistd::getpgrp())
        })
    }

    /// Stops this process with the command, as the shell expects of a job. Returns when the shell resumes it.
    pub(super) fn stop_with_it(&self) {
        if let Some(terminal) = &self.terminal {
            terminal.take_back(self.leader);
            // The system ignores this signal where no shell could resume the job.
            let _ = killpg(nix::unistd::getpgrp(), Signal::SIGTSTP);
        }
    }

    /// Resumes the command, in the foreground if this process is there.
    pub(super) fn resume(&self) {
        if let Some(terminal) = &self.terminal
            && terminal.is_of(nix::unistd::getpgrp())
        {
            terminal.give_to(self.leader);
        }
        self.signal(Signal::SIGCONT);
    }
}
