//! The machine and the versions behind the figures.

use std::fs;
use std::process::Command;
use std::thread::available_parallelism;

pub(crate) fn describe() -> serde_json::Value {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let profile = if cfg!(debug_assertions) {
        "with debug assertions: no figure counts"
    } else {
        "bench (release)"
    };
    serde_json::json!({
        "cores": available_parallelism().map_or(0, std::num::NonZero::get),
        "cpu": model.unwrap_or("unknown"),
        "kernel": kernel.trim(),
        "redis": version("redis-server", "v="),
        "profile": profile,
        "leasehold": env!("CARGO_PKG_VERSION"),
    })
}

/// The word after `before` in a program's version text.
fn version(program: &str, before: &str) -> String {
    let output = Command::new(program).arg("--version").output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let word = text
        .split_once(before)
        .and_then(|(_, rest)| rest.split_whitespace().next());
    word.unwrap_or("unknown").to_owned()
}
