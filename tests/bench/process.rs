//! Child processes that end with the bench, and what the kernel knows of them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// How long a server may take until it listens.
const START_LIMIT: Duration = Duration::from_secs(15);

/// What a server, and the bench itself, should be allowed to have open.
const WANTED_OPEN_FILES: usize = 65_536;

/// What they are allowed: as many as wanted, or the most that the system grants.
static OPEN_FILES: LazyLock<usize> = LazyLock::new(|| {
    let limit = format!("--nofile={WANTED_OPEN_FILES}:{WANTED_OPEN_FILES}");
    let mut trial = Command::new("prlimit");
    trial.args([&limit, "true"]).stderr(Stdio::null());
    if trial.status().is_ok_and(|status| status.success()) {
        return WANTED_OPEN_FILES;
    }
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let hard = limits.lines().find_map(|line| {
        let numbers = line.strip_prefix("Max open files")?;
        numbers.split_whitespace().nth(1)?.parse().ok()
    });
    hard.unwrap_or(1024)
});

/// Of the times in `/proc/PID/stat`.
const TICKS_PER_SECOND: f64 = 100.0;

/// A child process, killed by its id and reaped when dropped.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a program that may have many files open, its output thrown away.
    pub(crate) fn start(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self(spawn(program, arguments, variables, Stdio::null()))
    }

    /// As `start`, and waits for the address that the program says it listens on.
    pub(crate) fn start_listening(
        program: &str,
        arguments: &[&str],
        variables: &[(&str, &str)],
    ) -> (Self, String) {
        let mut child = spawn(program, arguments, variables, Stdio::piped());
        let stdout = child.stdout.take().expect("standard output is piped");
        let line = BufReader::new(stdout)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| {
                let (_, address) = line.split_once("listening on http://")?;
                Some(address.trim().to_owned())
            });
        let process = Self(child);
        let address = line.unwrap_or_else(|| panic!("{program} did not start: {arguments:?}"));
        (process, address)
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Seconds of CPU time until now, of all threads.
    pub(crate) fn cpu(&self) -> f64 {
        cpu_of(&self.id().to_string())
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident(&self) -> f64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let kib = status.lines().find_map(|line| {
            let rest = line.strip_prefix("VmRSS:")?;
            rest.split_whitespace().next()?.parse::<f64>().ok()
        });
        kib.expect("the process runs") * 1024.0
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _killed = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// Seconds of CPU time until now of a process: its id, or `self`.
pub(crate) fn cpu_of(id: &str) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).expect("the process runs");
    // The name, in parentheses, may hold spaces.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / TICKS_PER_SECOND
}

/// Lets this very process have as many files open as the servers; how many that are.
pub(crate) fn raise_own_limit() -> usize {
    let limit = format!("--nofile={0}:{0}", *OPEN_FILES);
    let id = std::process::id().to_string();
    let raised = Command::new("prlimit")
        .args(["--pid", &id, &limit])
        .status();
    assert!(
        raised.is_ok_and(|status| status.success()),
        "prlimit {limit} failed"
    );
    *OPEN_FILES
}

/// Whether a program is there.
pub(crate) fn is_installed(program: &str) -> bool {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v {program}")])
        .stdout(Stdio::null())
        .status();
    found.is_ok_and(|status| status.success())
}

/// Waits until something holds.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + START_LIMIT;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain for {what}");
        sleep(Duration::from_millis(10));
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("it is bound").port()
}

fn spawn(program: &str, arguments: &[&str], variables: &[(&str, &str)], stdout: Stdio) -> Child {
    // They become the program, so the process id is the program's; it dies with the bench, however that ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "prlimit"]);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("LEASEHOLD_") || name == "RUST_LOG" {
            command.env_remove(name);
        }
    }
    command
        .arg(format!("--nofile={0}:{0}", *OPEN_FILES))
        .arg(program)
        .args(arguments)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(stdout)
        .stderr(Stdio::null());
    command
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {program} under setpriv and prlimit: {error}"))
}
