//! What the bench asks the system: limits, CPU time, and which programs are there.

use std::env;
use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How many files a server, and the bench itself, should be allowed to have open.
const WANTED_OPEN_FILES: u64 = 65_536;

/// The unit of the times in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// Lets this process, and the servers that it starts from now on, have many files open; gives how many: as many as wanted,
/// or the most that the system grants.
pub(crate) fn raise_open_files() -> usize {
    let hard = getrlimit(Resource::Nofile).maximum;
    let limit = |current: u64, maximum| Rlimit {
        current: Some(current),
        maximum,
    };
    let wanted = hard.map(|hard| hard.max(WANTED_OPEN_FILES));
    let granted = hard.map_or(WANTED_OPEN_FILES, |hard| hard.min(WANTED_OPEN_FILES));
    if setrlimit(Resource::Nofile, limit(WANTED_OPEN_FILES, wanted)).is_ok() {
        return usize::try_from(WANTED_OPEN_FILES).expect("it fits");
    }
    setrlimit(Resource::Nofile, limit(granted, hard)).expect("a limit can rise to the hard one");
    usize::try_from(granted).expect("it fits")
}

/// The CPU time of all threads of a process until now, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs");
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks = fields.split_whitespace().skip(11).take(2);
    let ticks = ticks.map(|ticks| ticks.parse::<f64>().expect("a number of ticks"));
    ticks.sum::<f64>() / TICKS_PER_SECOND
}

/// Whether a program is there.
pub(crate) fn is_installed(program: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
