//! A network namespace for every host, around one router. The router can drop packets from one host to another, in each
//! direction separately.
//!
//! Everything lies in the campaign's own namespaces. The machine's network stays untouched, hosts reach only the
//! router, and the namespaces disappear with the campaign.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::unistd::geteuid;

use crate::support::host::Host;

/// The advice for a system that does not allow namespaces.
const REFUSED: &str = "
Run the campaign as root, for example with sudo. Or let users make namespaces: `sysctl user.max_user_namespaces` must be
above 0, and where they exist, `kernel.unprivileged_userns_clone` 1 (Debian) and
`kernel.apparmor_restrict_unprivileged_userns` 0 (Ubuntu). A container needs the capability SYS_ADMIN and a /proc without
masked paths. The programs unshare and nsenter are in util-linux, ip in iproute2.";

pub(crate) struct Network {
    hosts: Vec<String>,
    /// Rules of the router: their preferences and the dropped traffic.
    cuts: Mutex<BTreeMap<u32, (String, String)>>,
    next_cut: AtomicU32,
}

impl Network {
    /// Makes the hosts.
    pub(crate) fn create(hosts: Vec<String>) -> Result<Self, String> {
        let network = Self {
            hosts,
            cuts: Mutex::default(),
            next_cut: AtomicU32::new(100),
        };
        let mut lines = "netns add router\n".to_owned();
        lines.extend(network.hosts.iter().enumerate().map(|(index, host)| {
            let link = format!("netns {host} type veth peer name h{index} netns router");
            format!("netns add {host}\nlink add eth0 {link}\n")
        }));
        batch(None, &lines)?;
        let mut lines = "link set lo up\n".to_owned();
        for (index, host) in network.hosts.iter().enumerate() {
            lines.extend([
                format!("addr add 10.77.{index}.1/24 dev h{index}\n"),
                format!("link set h{index} up\n"),
            ]);
            batch(
                Some(host),
                &format!(
                    "link set lo up\naddr add 10.77.{index}.2/24 dev eth0\nlink set eth0 up\n\
                     route add default via 10.77.{index}.1\n"
                ),
            )?;
        }
        batch(Some("router"), &lines)?;
        let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
        let [nsenter, namespace] = enter("router");
        run(
            Command::new(nsenter).args([&namespace, "sh", "-c", forward]),
            "",
        )?;
        Ok(network)
    }

    pub(crate) fn host(&self, name: &str) -> Host {
        Host {
            name: name.to_owned(),
            address: self.address(name),
            prefix: enter(name).to_vec(),
        }
    }

    fn address(&self, host: &str) -> String {
        let index = self.hosts.iter().position(|name| name == host);
        format!("10.77.{}.2", index.expect("a host of this network"))
    }

    /// Drops all packets from `from` to `to`; packets in the other direction still arrive.
    pub(crate) fn cut(&self, from: &str, to: &str) -> Result<u32, String> {
        let preference = self.next_cut.fetch_add(1, Ordering::Relaxed);
        let (source, target) = (self.address(from), self.address(to));
        batch(
            Some("router"),
            &format!("rule add from {source} to {target} blackhole pref {preference}\n"),
        )?;
        self.cuts()
            .insert(preference, (from.to_owned(), to.to_owned()));
        Ok(preference)
    }

    /// Drops all packets between the two hosts.
    pub(crate) fn cut_both(&self, one: &str, other: &str) -> Result<[u32; 2], String> {
        Ok([self.cut(one, other)?, self.cut(other, one)?])
    }

    /// Removes these cuts; a cut that no longer exists is not an error.
    pub(crate) fn mend(&self, preferences: &[u32]) -> Result<(), String> {
        let mut cuts = self.cuts();
        let mut lines = String::new();
        for preference in preferences {
            if cuts.remove(preference).is_some() {
                lines.extend(["rule del pref ", &preference.to_string(), "\n"]);
            }
        }
        batch(Some("router"), &lines)
    }

    pub(crate) fn mend_all(&self) -> Result<(), String> {
        let all: Vec<u32> = self.cuts().keys().copied().collect();
        self.mend(&all)
    }

    fn cuts(&self) -> MutexGuard<'_, BTreeMap<u32, (String, String)>> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The command prefix that starts a program on a host.
fn enter(host: &str) -> [String; 2] {
    ["nsenter".to_owned(), format!("--net=/run/netns/{host}")]
}

/// Starts this program again as the first process of new namespaces, with the word `isolated` before its arguments.
/// Returns its exit status.
///
/// The kernel ends all processes in the namespaces together with that process. Its standard input closes with this
/// process. A user other than root becomes the root of a user namespace.
pub(crate) fn isolate() -> Result<ExitCode, String> {
    let unshare = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["--net", "--pid", "--mount-proc", "--kill-child"]);
        if !geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["sh", "-c", &format!("mount -t tmpfs none /run && {script}")]);
        command
    };
    // This check comes before the run, whose exit status has another meaning.
    run(&mut unshare("true"), "")
        .map_err(|error| format!("the system refuses network namespaces ({error}).{REFUSED}"))?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = unshare("exec \"$0\" \"$@\"");
    command
        .arg(program)
        .arg("isolated")
        .args(std::env::args_os().skip(1))
        .stdin(Stdio::piped());
    let failed = |error| format!("unshare: {error}");
    let mut child = command.spawn().map_err(failed)?;
    let _open = child.stdin.take();
    let status = child.wait().map_err(failed)?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    code.map(ExitCode::from)
        .ok_or_else(|| format!("unshare: {status}"))
}

/// Runs lines of `ip`, on a host or on the router.
fn batch(host: Option<&str>, lines: &str) -> Result<(), String> {
    let mut command = Command::new("ip");
    command.args(host.iter().flat_map(|host| ["-n", host]));
    let done = run(command.args(["-batch", "-"]), lines);
    done.map_err(|error| format!("{error} in\n{lines}"))
}

/// Runs a command with this input; the error holds the command's own message.
fn run(command: &mut Command, input: &str) -> Result<(), String> {
    let program = command.get_program().display().to_string();
    let mut run = || -> io::Result<Output> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().expect("stdin is piped");
        stdin.write_all(input.as_bytes())?;
        drop(stdin);
        child.wait_with_output()
    };
    match run() {
        Ok(done) if done.status.success() => Ok(()),
        Ok(done) => Err(format!(
            "{program}: {}",
            String::from_utf8_lossy(&done.stderr).trim()
        )),
        Err(error) => Err(format!("{program}: {error}")),
    }
}
