//! The process group of the command.

use std::ffi::OsString;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid, waitpid};
use nix::unistd::Pid;

use super::terminal::Terminal;

/// The command and its descendants in the same group.
pub(super) struct Group {
    leader: Pid,
    /// The exit code of the command, once it has ended.
    code: Option<u8>,
    /// Whether no process of the group is left.
    ended: bool,
    terminal: Option<Terminal>,
}

/// What happened to a child process.
pub(super) enum Change {
    /// The command was stopped, as by Ctrl-Z.
    Stopped,
    /// A process that is not the command has ended.
    OtherEnded(Pid),
}

impl Group {
    /// Starts the command in a group of its own, and gives it the terminal if this process has it.
    pub(super) fn start(
        command: &[OsString],
        environment: &[(&'static str, String)],
    ) -> io::Result<Self> {
        // The descendants of a command that ends become children of this process, so that it can wait for them. It also is
        // what the first process of a container must do.
        nix::sys::prctl::set_child_subreaper(true)?;
        let terminal = Terminal::of_this_process();
        let mut child = Command::new(&command[0]);
        child.args(&command[1..]).process_group(0);
        child.envs(environment.iter().map(|(name, value)| (name, value)));
        let child = child.spawn()?;
        let leader = Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        if let Some(terminal) = &terminal {
            terminal.give_to(leader);
        }
        Ok(Self {
            leader,
            code: None,
            ended: false,
            terminal,
        })
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

    /// Collects what happened to the children of this process.
    pub(super) fn reap(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let flags = WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED;
        loop {
            match waitpid(None, Some(flags)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == self.leader => {
                    self.code = u8::try_from(code & 0xff).ok();
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == self.leader => {
                    self.code = Some(128 + super::signal_number(signal));
                }
                Ok(WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..)) => {
                    changes.push(Change::OtherEnded(pid));
                }
                Ok(WaitStatus::Stopped(pid, signal)) if pid == self.leader => {
                    match (&self.terminal, signal) {
                        // It used the terminal before it had it.
                        (Some(terminal), Signal::SIGTTIN | Signal::SIGTTOU)
                            if terminal.is_of(self.leader) =>
                        {
                            self.signal(Signal::SIGCONT);
                        }
                        (Some(_), _) => changes.push(Change::Stopped),
                        (None, _) => {}
                    }
                }
                Ok(WaitStatus::StillAlive) => break,
                Ok(_) | Err(Errno::EINTR) => {}
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

    /// Whether no child of this process is in the group. A process whose parent is outside the group and lives is none.
    fn is_empty(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let none_of_ours = waitid(Id::PGid(self.leader), flags) == Err(Errno::ECHILD);
        none_of_ours && killpg(self.leader, None) == Err(Errno::ESRCH)
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
