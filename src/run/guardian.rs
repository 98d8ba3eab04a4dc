//! The guardian: a process that ends the command before its lease is over, also when this program is stopped or dead.
//!
//! It knows no server and no lock: only a process group and a deadline, which this program moves with each renewal.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, setsid};

use crate::client::Moment;

/// The name of the command that is the guardian.
pub const GUARDIAN: &str = "guardian";

/// How often the guardian looks at the clock.
const TICK_MS: u16 = 50;

/// The handle of a guardian.
pub(super) struct Guardian {
    child: Child,
    orders: ChildStdin,
}

impl Guardian {
    /// Starts the guardian, with a first order if there is a group already. Waits until the terminal and its signals no longer
    /// concern it.
    pub(super) fn start(order: Option<&str>) -> io::Result<Self> {
        // The path of the program may lead to a newer one by now.
        let mut child = Command::new("/proc/self/exe")
            .arg0("leasehold")
            .arg(GUARDIAN)
            .args(order)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .current_dir("/")
            .spawn()?;
        let (orders, ready) = (child.stdin.take(), child.stdout.take());
        let (Some(orders), Some(mut ready)) = (orders, ready) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        ready.read_exact(&mut [0])?;
        Ok(Self { child, orders })
    }

    pub(super) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).expect("a process id"))
    }

    /// Gives it an order.
    pub(super) fn watch(&mut self, order: &str) {
        // One write, so that the guardian never waits for the rest of a line. A guardian that has ended is replaced.
        let _ = self.orders.write_all(format!("{order}\n").as_bytes());
    }

    /// The group has ended.
    pub(super) fn dismiss(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The order to kill a group then. If the program ends before, the group may take `kill_after` to end.
pub(super) fn order(group: Pid, kill_at: Moment, kill_after: Duration) -> String {
    let (at, after) = (kill_at.since_start().as_millis(), kill_after.as_millis());
    format!("{group} {at} {after}")
}

/// What to kill, and when.
struct Order {
    group: Pid,
    kill_at: Moment,
    kill_after: Duration,
}

impl Order {
    fn parse(line: &str) -> Option<Self> {
        let mut fields = line.split(' ');
        let group = fields.next()?.parse().ok().filter(|pid| *pid > 1)?;
        let mut millis = || {
            fields
                .next()?
                .trim()
                .parse()
                .ok()
                .map(Duration::from_millis)
        };
        Some(Self {
            group: Pid::from_raw(group),
            kill_at: Moment::at(millis()?),
            kill_after: millis()?,
        })
    }
}

/// The guardian itself: takes orders from stdin until it is killed, or until its program and its group have ended.
///
/// # Errors
/// Its input or output fails.
pub fn guard(order: Option<&str>) -> io::Result<()> {
    setsid()?;
    SigSet::all().thread_block()?;
    // Its program may have been killed already.
    let _ = io::stdout().write_all(b"\n");
    let stdin = io::stdin();
    let mut orders = BufReader::new(stdin.lock());
    let mut order = order.and_then(Order::parse);
    let mut is_alone = false;
    loop {
        if is_alone {
            std::thread::sleep(Duration::from_millis(TICK_MS.into()));
        } else if !orders.buffer().is_empty() || has_input(&stdin)? {
            let mut line = String::new();
            match (orders.read_line(&mut line)?, line.trim_end()) {
                (0, _) => {
                    is_alone = true;
                    if let Some(order) = &mut order {
                        order.kill_at = order.kill_at.min(Moment::now() + order.kill_after);
                        let _ = killpg(order.group, Signal::SIGTERM);
                        let _ = killpg(order.group, Signal::SIGCONT);
                    }
                }
                (_, line) => order = Order::parse(line).or(order),
            }
        }
        match &order {
            None if is_alone => return Ok(()),
            None => {}
            Some(order) => {
                let is_due = order.kill_at.left().is_zero();
                if !is_due && !is_alone {
                    continue;
                }
                let signalled = killpg(order.group, is_due.then_some(Signal::SIGKILL));
                // While the program lives, it says when the group has ended.
                if is_alone && signalled == Err(Errno::ESRCH) {
                    return Ok(());
                }
            }
        }
    }
}

/// Waits for a moment for an order, or the end of the program that gives them.
fn has_input(stdin: &io::Stdin) -> io::Result<bool> {
    let mut input = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
    match poll(&mut input, PollTimeout::from(TICK_MS)) {
        Ok(ready) => Ok(ready > 0),
        Err(Errno::EINTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
