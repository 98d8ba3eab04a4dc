//! Faults of a data node's storage: its files and its wall clock.

use std::fs;
use std::io::{ErrorKind, Result};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::redis::{RedisConfig, RedisServer};

const SHIM: &str = include_str!("shim.c");
/// A file in the directory of a node: the offset of its clock in microseconds, for the preload library.
const CLOCK: &str = "clock";
const DATA: &str = "appendonlydir";
const BACKUP: &str = "backup";

/// Builds the preload library, which sets the wall clock of a single data node.
pub(crate) fn build_shim(dir: &Path) -> std::result::Result<PathBuf, String> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    fs::write(&source, SHIM).map_err(|error| format!("{}: {error}", source.display()))?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-shared", "-fPIC", "-o"])
        .arg(&library)
        .arg(&source);
    match cc.output() {
        Ok(done) if done.status.success() => Ok(library),
        Ok(done) => Err(format!("cc: {}", String::from_utf8_lossy(&done.stderr))),
        Err(error) => Err(format!("cc: {error}; install gcc")),
    }
}

/// A node with its data in `dir` and an adjustable wall clock.
pub(crate) fn config(dir: &Path, shim: &Path) -> Result<RedisConfig> {
    fs::create_dir_all(dir)?;
    fs::write(dir.join(CLOCK), 0_i64.to_ne_bytes())?;
    let mut config = RedisConfig::new()
        .line("appendonly", "yes")
        .line("appendfsync", "everysec")
        .line("repl-timeout", "10");
    config.env = vec![
        ("LD_PRELOAD", shim.to_owned()),
        ("FAULTS_CLOCK_FILE", dir.join(CLOCK)),
    ];
    Ok(config)
}

/// Sets the clock to the machine's time plus this offset. The write keeps the inode, because the process has the file
/// mapped.
pub(crate) fn set_clock_ms(node: &RedisServer, offset_ms: i64) -> Result<()> {
    let file = fs::OpenOptions::new()
        .write(true)
        .open(node.dir.join(CLOCK))?;
    file.write_all_at(&(offset_ms * 1000).to_ne_bytes(), 0)
}

/// The node's wall clock in milliseconds.
pub(crate) fn time_ms(node: &RedisServer) -> Option<i64> {
    let told = node.try_cli(&["TIME"]).ok()?;
    let mut lines = told.lines().map(str::parse::<i64>);
    let (seconds, micros) = (lines.next()?.ok()?, lines.next()?.ok()?);
    Some(seconds * 1000 + micros / 1000)
}

/// Removes all data; the node must not run.
pub(crate) fn wipe(node: &RedisServer) -> Result<()> {
    // A full synchronisation leaves the second file.
    remove(&node.dir.join(DATA)).and(remove(&node.dir.join("dump.rdb")))
}

/// Copies the files from the disk.
pub(crate) fn back_up(node: &RedisServer) -> Result<()> {
    remove(&node.dir.join(BACKUP))?;
    copy(&node.dir.join(DATA), &node.dir.join(BACKUP))
}

/// Replaces the data with the backup; the node must not run.
pub(crate) fn restore(node: &RedisServer) -> Result<()> {
    wipe(node)?;
    copy(&node.dir.join(BACKUP), &node.dir.join(DATA))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.or_else(|error| match error.kind() {
        ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        fs::copy(entry.path(), to.join(entry.file_name()))?;
    }
    Ok(())
}
