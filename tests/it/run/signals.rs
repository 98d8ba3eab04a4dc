//! Signals, and life as the first process of a container.

use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BINARY, LIMIT, begins};
use crate::support::leasehold::Leasehold;
use crate::support::process::{self, Process};
use crate::support::{eventually, poll};

fn send(process: &Process, signal: Signal) {
    kill(Pid::from_raw(process.id().cast_signed()), signal).expect("it runs");
}

#[test]
fn signals_go_to_the_whole_group() {
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    for signal in [
        Signal::SIGHUP,
        Signal::SIGINT,
        Signal::SIGQUIT,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGTERM,
        Signal::SIGWINCH,
        Signal::SIGALRM,
    ] {
        let name = signal.as_str().trim_start_matches("SIG");
        let file = dir.path().join(name);
        // An interactive shell alone reacts to INT and QUIT in the background, so the inner shell is in the foreground.
        let inner = format!(
            "trap \"echo inner >>{0}; exit\" {name}; echo ready >>{0}; while :; do sleep 0.02; done",
            file.display()
        );
        let script = format!(
            "trap 'echo outer >>{}; exit 7' {name}; sh -c '{inner}'; sleep 5",
            file.display()
        );
        let run = begins(&server.base_url(), &["run", "a", "--", "sh", "-c", &script]);
        let text = || std::fs::read_to_string(&file).unwrap_or_default();
        eventually(LIMIT, "it is ready", || text().contains("ready"));
        send(&run, signal);
        let status = run.wait(LIMIT).expect("it ends");
        assert_eq!(status.code(), Some(7), "{name}: {}", text());
        assert!(
            text().contains("inner") && text().contains("outer"),
            "{name}: {}",
            text()
        );
    }
}

#[test]
fn real_time_signals_go_to_the_command() {
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    let ready = dir.path().join("ready");
    for number in [35, 40, 64] {
        let script = format!(
            "trap 'exit 7' {number}; touch {}; while :; do sleep 0.02; done",
            ready.display()
        );
        let run = begins(&server.base_url(), &["run", "a", "--", "sh", "-c", &script]);
        eventually(LIMIT, "it is ready", || ready.exists());
        let mut send = Command::new("sh");
        send.args(["-c", &format!("kill -{number} {}", run.id())]);
        assert!(send.status().expect("sh").success());
        assert_eq!(
            run.wait(LIMIT).expect("it ends").code(),
            Some(7),
            "{number}"
        );
        std::fs::remove_file(&ready).expect("a file");
    }
}

#[test]
fn signal_during_the_wait_ends_it() {
    let server = Leasehold::in_memory();
    let api = server.api();
    api.acquire("a", json!({"ttl_ms": 60_000}));
    for (signal, code) in [
        (Signal::SIGINT, 130),
        (Signal::SIGTERM, 143),
        (Signal::SIGHUP, 129),
    ] {
        let run = begins(&server.base_url(), &["run", "a", "--", "true"]);
        eventually(LIMIT, "it waits", || {
            server.metric("leasehold_waiters") == Some(1)
        });
        send(&run, signal);
        assert_eq!(run.wait(LIMIT).expect("it ends").code(), Some(code));
        eventually(LIMIT, "it waits no longer", || {
            server.metric("leasehold_waiters") == Some(0)
        });
    }
}

#[test]
fn waiter_keeps_its_place_over_many_requests() {
    // The server lets no request wait for longer than a second.
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_MAX_WAIT_MS", "1000"),
    ]);
    let api = server.api();
    let held = api.acquire("a", json!({"ttl_ms": 60_000}));
    let mut runs = Vec::new();
    for number in 1..=3 {
        let args = ["run", "-w", "1m", "--json", "a", "--", "true"];
        runs.push(begins(&server.base_url(), &args));
        eventually(LIMIT, "it waits", || {
            api.inspect("a").json()["waiters"] == number
        });
    }
    sleep(Duration::from_secs(4));
    assert_eq!(api.release("a", &held.lease_id()).status, 204);
    for (run, number) in runs.iter().zip(1..) {
        assert!(run.wait(LIMIT).expect("it ends").success());
        let (_, stderr) = run.take_pipes();
        let events = std::io::read_to_string(stderr).expect("events");
        let events = events
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).expect(line));
        let positions: Vec<_> = events
            .filter_map(|event| event["position"].as_u64())
            .collect();
        assert!(positions.len() >= 4, "{positions:?}");
        assert!(
            positions[..4].iter().all(|position| *position == number),
            "{number}: {positions:?}"
        );
    }
}

/// A signal that `nohup` ignores stays ignored.
#[test]
fn ignored_signal_stays_ignored() {
    let server = Leasehold::in_memory();
    let mut command = Command::new("nohup");
    command
        .args([
            BINARY,
            "run",
            "a",
            "--",
            "sh",
            "-c",
            "sleep 1; echo survived",
        ])
        .env("LEASEHOLD_SERVER", server.base_url())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let run = Process::spawn(&mut command, "coreutils");
    let held = poll(LIMIT, || {
        (server.api().inspect("a").json()["held"] == true).then_some(())
    });
    held.expect("it runs");
    send(&run, Signal::SIGHUP);
    assert!(run.wait(LIMIT).expect("it ends").success());
    let (stdout, _) = run.take_pipes();
    assert_eq!(
        std::io::read_to_string(stdout).expect("output"),
        "survived\n"
    );
}

/// The namespace has no other process that could reap the orphans.
#[test]
fn first_process_of_a_container_reaps_all() {
    let server = Leasehold::in_memory();
    // Orphans outside the group become children of the first process.
    let script = "for i in 1 2 3 4 5; do (setsid sh -c 'sleep 0.1' &); done; sleep 1; \
                  cat /proc/[0-9]*/stat | grep -c ' Z ' || true";
    let args = [
        "--pid",
        "--fork",
        "--mount-proc",
        BINARY,
        "run",
        "a",
        "--",
        "sh",
        "-c",
        script,
    ];
    let mut command = Command::new("unshare");
    command
        .args(args)
        .env("LEASEHOLD_SERVER", server.base_url());
    let (status, stdout, stderr) = process::run(&mut command, "util-linux", LIMIT);
    assert_eq!(status.code(), Some(0), "{stdout}{stderr}");
    let zombies = stdout.lines().next().expect("a number");
    assert_eq!(zombies, "0", "{stdout}");
}
