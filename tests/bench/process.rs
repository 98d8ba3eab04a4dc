//! The bench's questions to the system: limits, CPU time, and installed programs.

use std::env;
use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The desired limit of open files for a server and for the bench itself.
const WANTED_OPEN_FILES: u64 = 65_536;

/// The unit of the times in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Raises the limit of open files for this process and for the servers that it starts later. Returns the new limit: the
/// desired one, or the system's maximum.
pub(crate) fn raise_open_files() -> usize {
    let files = Resource::RLIMIT_NOFILE;
    let (_, hard) = getrlimit(files).expect("a limit");
    if setrlimit(files, WANTED_OPEN_FILES, hard.max(WANTED_OPEN_FILES)).is_ok() {
        return usize::try_from(WANTED_OPEN_FILES).expect("it fits");
    }
    let granted = hard.min(WANTED_OPEN_FILES);
    setrlimit(files, granted, hard).expect("a limit can rise to the hard one");
    usize::try_from(granted).expect("it fits")
}

/// The CPU time that all threads of a process have used, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name in parentheses may contain spaces.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|ticks| ticks.parse::<f64>().expect("a number of ticks"));
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// Whether a program is installed.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
