//! Hosts of their own for every part: network namespaces around one router, which can drop what one host sends to
//! another, in one direction at a time.
//!
//! Nothing here touches the machine's own network; no host has a way out of the router.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio, id};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the names of all namespaces begin with, before the process id.
const PREFIX: &str = "lhfault";

pub(crate) struct Network {
    hosts: Vec<String>,
    /// Rules of the router: preference and what it drops.
    cuts: Mutex<BTreeMap<u32, (String, String)>>,
    next_cut: AtomicU32,
}

impl Network {
    /// Makes the hosts; what is half made is removed again.
    pub(crate) fn create(hosts: Vec<String>) -> Result<Self, String> {
        let network = Self {
            hosts,
            cuts: Mutex::default(),
            next_cut: AtomicU32::new(100),
        };
        let router = namespace("router");
        let mut lines = format!("netns add {router}\n");
        let add = |(index, host)| {
            let host = namespace(host);
            let link = format!("netns {host} type veth peer name h{index} netns {router}");
            format!("netns add {host}\nlink add eth0 {link}\n")
        };
        lines.extend(
            network
                .hosts
                .iter()
                .map(String::as_str)
                .enumerate()
                .map(add),
        );
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
        let mut forward = enter("router", "sh");
        forward.args(["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]);
        run(&mut forward)?;
        Ok(network)
    }

    pub(crate) fn address(&self, host: &str) -> String {
        let index = self.hosts.iter().position(|name| name == host);
        format!("10.77.{}.2", index.expect("a host of this network"))
    }

    /// Drops all that `from` sends to `to`; what `to` sends still arrives.
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

    /// Drops what the two send each other.
    pub(crate) fn cut_both(&self, one: &str, other: &str) -> Result<[u32; 2], String> {
        Ok([self.cut(one, other)?, self.cut(other, one)?])
    }

    /// Undoes these cuts; one that is gone already is as wanted.
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

impl Drop for Network {
    fn drop(&mut self) {
        for host in self.hosts.iter().map(String::as_str).chain(["router"]) {
            remove(&namespace(host));
        }
    }
}

/// A command that will run on a host.
pub(crate) fn enter(host: &str, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{}", namespace(host)));
    command.arg("--").arg(program);
    command
}

/// Removes what runs that were killed outright have left, with the processes in it.
pub(crate) fn sweep() {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let Some((pid, _)) = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split_once('-'))
        else {
            continue;
        };
        if pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists() {
            remove(&name);
        }
    }
}

fn namespace(host: &str) -> String {
    format!("{PREFIX}{}-{host}", id())
}

fn remove(namespace: &str) {
    let pids = Command::new("ip")
        .args(["netns", "pids", namespace])
        .output();
    if let Ok(pids) = pids {
        for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace() {
            let _gone_already = Command::new("sh")
                .args(["-c", &format!("kill -KILL {pid}")])
                .stderr(Stdio::null())
                .status();
        }
    }
    let _never_made = Command::new("ip")
        .args(["netns", "del", namespace])
        .stderr(Stdio::null())
        .status();
}

/// Runs lines of `ip`, in a host or outside.
fn batch(host: Option<&str>, lines: &str) -> Result<(), String> {
    if lines.is_empty() {
        return Ok(());
    }
    let mut command = Command::new("ip");
    if let Some(host) = host {
        command.args(["-n", &namespace(host)]);
    }
    command
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| format!("ip: {error}"))?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin
        .write_all(lines.as_bytes())
        .map_err(|error| format!("ip: {error}"))?;
    drop(stdin);
    let done = child
        .wait_with_output()
        .map_err(|error| format!("ip: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!(
            "ip: {} in\n{lines}",
            String::from_utf8_lossy(&done.stderr)
        ))
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let done = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if done.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        ))
    }
}
