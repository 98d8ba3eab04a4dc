//! A Redis or a Sentinel on a host of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::net::enter;
use crate::process::{Process, log_file};
use crate::shim::ClockFile;
use crate::wait::poll;

pub(crate) const REDIS_PORT: u16 = 6379;
pub(crate) const SENTINEL_PORT: u16 = 26379;
/// How long a node may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(10);

pub(crate) struct RedisNode {
    pub(crate) host: String,
    pub(crate) address: String,
    port: u16,
    dir: PathBuf,
    /// The preload library and the offset it reads; data nodes only.
    clock: Option<(PathBuf, ClockFile)>,
    pub(crate) process: Process,
}

impl RedisNode {
    pub(crate) fn data(
        host: &str,
        address: String,
        dir: &Path,
        shim: &Path,
        master: &str,
    ) -> Result<Self, String> {
        let dir = dir.join(host);
        let io = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(io)?;
        let mut config = format!(
            "port {REDIS_PORT}\nbind 0.0.0.0\nprotected-mode no\ndir {}\nlogfile server.log\n\
             save \"\"\nappendonly yes\nappendfsync everysec\nshutdown-timeout 0\n\
             repl-diskless-sync-delay 0\nrepl-timeout 10\n",
            dir.display()
        );
        if address != master {
            config.extend(["replicaof ", master, " ", &REDIS_PORT.to_string(), "\n"]);
        }
        fs::write(dir.join("node.conf"), config).map_err(io)?;
        let clock = ClockFile::create(dir.join("clock")).map_err(io)?;
        let clock = Some((shim.to_owned(), clock));
        Ok(Self::new(host, address, REDIS_PORT, dir, clock))
    }

    pub(crate) fn sentinel(
        host: &str,
        address: String,
        dir: &Path,
        master: &str,
        options: &str,
    ) -> Result<Self, String> {
        let dir = dir.join(host);
        let io = |error: std::io::Error| format!("{}: {error}", dir.display());
        fs::create_dir_all(&dir).map_err(io)?;
        let config = format!(
            "port {SENTINEL_PORT}\nbind 0.0.0.0\nprotected-mode no\ndir {}\nlogfile server.log\n\
             sentinel monitor mymaster {master} {REDIS_PORT} 2\n{options}",
            dir.display()
        );
        // Sentinel rewrites it: what it learns survives its restarts.
        fs::write(dir.join("node.conf"), config).map_err(io)?;
        Ok(Self::new(host, address, SENTINEL_PORT, dir, None))
    }

    fn new(
        host: &str,
        address: String,
        port: u16,
        dir: PathBuf,
        clock: Option<(PathBuf, ClockFile)>,
    ) -> Self {
        Self {
            host: host.to_owned(),
            address,
            port,
            dir,
            clock,
            process: Process::default(),
        }
    }

    /// Starts it on what its directory holds; returns once it answers.
    pub(crate) fn start(&self) -> Result<(), String> {
        self.launch()?;
        let up = poll(START_LIMIT, || {
            let reply = self.cli(&["PING"]).unwrap_or_default();
            (reply == "PONG" || reply.starts_with("LOADING")).then_some(())
        });
        up.ok_or_else(|| format!("{} does not start\n{}", self.host, self.log_tail()))
    }

    /// Starts it and does not wait.
    pub(crate) fn launch(&self) -> Result<(), String> {
        let mut command = enter(&self.host, "redis-server");
        command.arg(self.dir.join("node.conf"));
        if self.clock.is_none() {
            command.arg("--sentinel");
        }
        if let Some((shim, clock)) = &self.clock {
            command
                .env("LD_PRELOAD", shim)
                .env("FAULTS_CLOCK_FILE", clock.path());
        }
        let log = log_file(&self.dir.join("output.log"))?;
        command.stdin(Stdio::null()).stderr(Stdio::null());
        self.process.start(command.stdout(log))
    }

    /// Removes all data; the node must not run.
    pub(crate) fn wipe(&self) -> Result<(), String> {
        let data = self.dir.join("appendonlydir");
        match fs::remove_dir_all(&data) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(format!("{}: {error}", data.display()))
            }
            _ => {
                // Left by a full synchronisation.
                let _none_there = fs::remove_file(self.dir.join("dump.rdb"));
                Ok(())
            }
        }
    }

    /// Copies its data as they are on the disk.
    pub(crate) fn back_up(&self) -> Result<(), String> {
        let _none_there = fs::remove_dir_all(self.dir.join("backup"));
        self.copy("appendonlydir", "backup")
    }

    /// Puts the backup in the place of its data; the node must not run.
    pub(crate) fn restore(&self) -> Result<(), String> {
        self.wipe()?;
        self.copy("backup", "appendonlydir")
    }

    fn copy(&self, from: &str, to: &str) -> Result<(), String> {
        let (from, to) = (self.dir.join(from), self.dir.join(to));
        let copy = || -> std::io::Result<()> {
            fs::create_dir_all(&to)?;
            for entry in fs::read_dir(&from)? {
                let entry = entry?;
                fs::copy(entry.path(), to.join(entry.file_name()))?;
            }
            Ok(())
        };
        copy().map_err(|error| format!("{}: {error}", from.display()))
    }

    /// What it answers, asked on its own host, so that no cut is in the way.
    pub(crate) fn cli(&self, words: &[&str]) -> Result<String, String> {
        let mut command = enter(&self.host, "timeout");
        command.args(["2", "redis-cli", "-p", &self.port.to_string()]);
        let done = command
            .args(words)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| format!("redis-cli: {error}"))?;
        let text = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        if done.status.success() && !text.is_empty() {
            Ok(text)
        } else {
            Err(format!("{} does not answer", self.host))
        }
    }

    /// A field of `INFO replication`.
    pub(crate) fn replication(&self) -> Result<String, String> {
        self.cli(&["INFO", "replication"])
    }

    /// Its wall clock in milliseconds.
    pub(crate) fn time_ms(&self) -> Option<i64> {
        let told = self.cli(&["TIME"]).ok()?;
        let mut lines = told.lines().map(str::parse::<i64>);
        let (seconds, micros) = (lines.next()?.ok()?, lines.next()?.ok()?);
        Some(seconds * 1000 + micros / 1000)
    }

    pub(crate) fn set_clock_ms(&self, offset_ms: i64) -> Result<(), String> {
        let Some((_, clock)) = &self.clock else {
            return Ok(());
        };
        clock
            .set_ms(offset_ms)
            .map_err(|error| format!("{}: {error}", clock.path().display()))
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = fs::read_to_string(self.dir.join("server.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(15)..];
        format!("== {}\n{}", self.host, tail.join("\n"))
    }
}

/// The value of `name:` in a section of `INFO`.
pub(crate) fn field(info: &str, name: &str) -> Option<String> {
    info.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        (field == name).then(|| value.trim().to_owned())
    })
}
