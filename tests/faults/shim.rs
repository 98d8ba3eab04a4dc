//! A wall clock that can be set for one data node alone.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("shim.c");

/// Builds the preload library in `dir`.
pub(crate) fn build(dir: &Path) -> Result<PathBuf, String> {
    let (source, library) = (dir.join("shim.c"), dir.join("shim.so"));
    fs::write(&source, SOURCE).map_err(|error| format!("{}: {error}", source.display()))?;
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

/// The file that holds the offset of one node's clock.
pub(crate) struct ClockFile {
    path: PathBuf,
}

impl ClockFile {
    pub(crate) fn create(path: PathBuf) -> io::Result<Self> {
        fs::write(&path, 0_i64.to_ne_bytes())?;
        Ok(Self { path })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Written in place, as the process has the file mapped.
    pub(crate) fn set_ms(&self, offset_ms: i64) -> io::Result<()> {
        let file = fs::OpenOptions::new().write(true).open(&self.path)?;
        file.write_all_at(&(offset_ms * 1000).to_ne_bytes(), 0)
    }
}
