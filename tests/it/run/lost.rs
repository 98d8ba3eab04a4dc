//! A command never outlives its lease, whatever happens to the server, the network, this program or the machine.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BINARY, LIMIT, acquired_at, beats, begins, client, exits, last_beat, until_it_beats};
use crate::support::api::Api;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::process::Process;
use crate::support::redis::RedisServer;
use crate::support::{eventually, poll};

const TTL: &str = "3s";

/// By how much others wait longer than the TTL on Redis.
const SKEW_MS: u64 = 500;

struct Scene {
    _dir: TempDir,
    file: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = TempDir::new().expect("a folder");
        let file = dir.path().join("beat");
        Self { _dir: dir, file }
    }

    /// A command that ignores SIGTERM, under a lease of the lock `a`.
    fn run(&self, server: &str, more: &[&str]) -> Process {
        let script = beats(&self.file);
        let mut args = vec!["run", "--ttl", TTL, "--json"];
        args.extend(more);
        args.extend(["a", "--", "sh", "-c", &script]);
        let process = begins(server, &args);
        until_it_beats(&self.file);
        process
    }

    /// The command was dead before the next holder got the lock.
    fn is_dead_before(&self, next: &Value, grace_ms: u64, what: &str) {
        let last = last_beat(&self.file).expect("it has run");
        let deadline = acquired_at(next) - grace_ms;
        assert!(
            last < deadline,
            "{what}: it ran {} ms too long",
            last - deadline
        );
        println!("{what}: dead {} ms before the deadline", deadline - last);
        self.stays_dead();
    }

    fn stays_dead(&self) {
        let last = last_beat(&self.file);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(last_beat(&self.file), last, "it still runs");
    }
}

/// A client that gets the lock next.
fn next(api: &Api) -> JoinHandle<Value> {
    let api = api.clone();
    thread::spawn(move || {
        let granted = api.acquire("a", json!({"wait_ms": 20_000}));
        assert_eq!(granted.status, 201, "{granted:?}");
        granted.json()
    })
}

fn signal(process: &Process, signal: Signal) {
    let pid = Pid::from_raw(process.id().cast_signed());
    kill(pid, signal).expect("it runs");
}

fn code(process: &Process) -> Option<i32> {
    process.wait(LIMIT).expect("it ends").code()
}

#[test]
fn command_is_dead_in_time_when_the_network_is_cut() {
    for cut in [TcpProxy::blackhole, TcpProxy::refuse] {
        let server = Leasehold::in_memory();
        let way = TcpProxy::start(server.addr());
        let scene = Scene::new();
        let run = scene.run(&format!("http://{}", way.addr()), &[]);
        let next = next(&server.api());
        cut(&way);
        way.cut();
        let next = next.join().expect("a lease");
        assert_eq!(code(&run), Some(76));
        scene.is_dead_before(&next, 0, "network cut");
    }
}

#[test]
pub(super) fn command_is_dead_in_time_when_its_server_is_killed() {
    let redis = RedisServer::plain();
    let (server, other) = (Leasehold::on(&redis), Leasehold::on(&redis));
    let scene = Scene::new();
    let run = scene.run(&server.base_url(), &[]);
    server.kill();
    let next = next(&other.api()).join().expect("a lease");
    assert_eq!(code(&run), Some(76));
    scene.is_dead_before(&next, SKEW_MS, "server killed");
}

#[test]
fn command_goes_on_when_another_server_answers() {
    let redis = RedisServer::plain();
    let (server, other) = (Leasehold::on(&redis), Leasehold::on(&redis));
    let scene = Scene::new();
    let both = format!("{},{}", server.base_url(), other.base_url());
    let run = scene.run(&both, &[]);
    server.kill();
    thread::sleep(Duration::from_secs(5));
    assert_eq!(other.api().acquire("a", None).status, 423);
    let before = last_beat(&scene.file);
    eventually(LIMIT, "it still runs", || last_beat(&scene.file) > before);
    signal(&run, Signal::SIGKILL);
}

#[test]
fn command_is_dead_in_time_when_its_wrapper_is_stopped() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    let run = scene.run(&server.base_url(), &[]);
    let next = next(&server.api());
    run.pause();
    let next = next.join().expect("a lease");
    scene.is_dead_before(&next, 0, "wrapper stopped");
    run.resume();
    assert_eq!(code(&run), Some(76));
}

#[test]
pub(super) fn command_is_dead_soon_when_its_wrapper_is_killed() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    let run = scene.run(&server.base_url(), &["--kill-after", "300ms"]);
    let next = next(&server.api());
    signal(&run, Signal::SIGKILL);
    let killed = Instant::now();
    let last = || last_beat(&scene.file);
    let before = last();
    eventually(LIMIT, "it is dead", || {
        let then = last();
        thread::sleep(Duration::from_millis(200));
        then == last()
    });
    assert!(
        killed.elapsed() < Duration::from_millis(2500),
        "{:?}",
        killed.elapsed()
    );
    assert!(last() >= before);
    scene.is_dead_before(&next.join().expect("a lease"), 0, "wrapper killed");
}

/// As a shell does with `kill -9 %1`.
#[test]
fn command_is_dead_soon_when_the_job_of_its_wrapper_is_killed() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    let script = beats(&scene.file);
    let args = [
        "run",
        "--kill-after",
        "300ms",
        "a",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut command = client(&server.base_url(), &args);
    let run = Process::spawn(command.process_group(0), "leasehold");
    until_it_beats(&scene.file);
    killpg(Pid::from_raw(run.id().cast_signed()), Signal::SIGKILL).expect("it runs");
    eventually(LIMIT, "it is dead", || {
        last_beat(&scene.file).is_some_and(|last| now_ms() > last + 500)
    });
    scene.stays_dead();
}

#[test]
fn command_is_killed_at_once_when_its_lease_is_broken() {
    let server = Leasehold::in_memory();
    let (api, scene) = (server.api(), Scene::new());
    let run = scene.run(&server.base_url(), &["--kill-after", "20s"]);
    let token = api.inspect("a").json()["fencing_token"]
        .as_u64()
        .expect("a token");
    assert_eq!(api.break_lease("a", token).status, 204);
    assert_eq!(code(&run), Some(76));
    scene.stays_dead();
}

/// The clock of the program jumps, as that of a machine which wakes.
#[test]
fn command_is_killed_without_grace_after_a_suspension() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    let ahead = scene.file.with_extension("ahead");
    std::fs::write(&ahead, "0").expect("a file");
    let script = beats(&scene.file);
    let args = [
        "run",
        "--ttl",
        "1h",
        "--kill-after",
        "10m",
        "a",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let mut command = client(&server.base_url(), &args);
    command.env("CLOCK_AHEAD_UNDER_TEST", &ahead);
    let run = Process::spawn(&mut command, "leasehold");
    until_it_beats(&scene.file);
    for wrapper_is_stopped in [false, true] {
        if wrapper_is_stopped {
            run.pause();
        }
        // A suspension shorter than the lease changes nothing.
        replace(&ahead, if wrapper_is_stopped { "7200" } else { "600" });
        let woken = Instant::now();
        if wrapper_is_stopped {
            let dead = || last_beat(&scene.file).is_some_and(|last| now_ms() > last + 300);
            eventually(LIMIT, "it is dead", dead);
            let took = woken.elapsed();
            println!(
                "suspension: dead {} ms after waking",
                took.as_millis().saturating_sub(300)
            );
            assert!(took < Duration::from_millis(1300 + 1000), "{took:?}");
        } else {
            thread::sleep(Duration::from_millis(500));
            let last = last_beat(&scene.file).expect("it runs");
            assert!(now_ms() < last + 5000);
        }
    }
    run.resume();
    assert_eq!(code(&run), Some(76));
    scene.stays_dead();
}

/// Whoever is first, the guardian or this program.
#[test]
fn exit_code_after_a_suspension_says_that_the_lease_was_lost() {
    let server = Leasehold::in_memory();
    for _ in 0..5 {
        let scene = Scene::new();
        let ahead = scene.file.with_extension("ahead");
        std::fs::write(&ahead, "0").expect("a file");
        let script = beats(&scene.file);
        let args = ["run", "--ttl", "1h", "a", "--", "sh", "-c", &script];
        let mut command = client(&server.base_url(), &args);
        command.env("CLOCK_AHEAD_UNDER_TEST", &ahead);
        let run = Process::spawn(&mut command, "leasehold");
        until_it_beats(&scene.file);
        replace(&ahead, "7200");
        assert_eq!(code(&run), Some(76));
        scene.stays_dead();
    }
}

/// The children of a process with this word in their command lines.
fn children(process: &Process, word: &str) -> Vec<i32> {
    let path = format!("/proc/{0}/task/{0}/children", process.id());
    let text = std::fs::read_to_string(path).expect("it runs");
    let has_word = |pid: &&str| {
        std::fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.contains(word))
    };
    let pids = text.split_whitespace().filter(has_word);
    pids.map(|pid| pid.parse().expect("a number")).collect()
}

#[test]
fn guardian_that_is_killed_is_replaced_and_ignores_what_can_be_ignored() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    let run = scene.run(&server.base_url(), &["--kill-after", "300ms"]);
    let guardian = || children(&run, "guardian");
    let first = guardian();
    assert_eq!(first.len(), 1);
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        kill(Pid::from_raw(first[0]), signal).expect("it runs");
    }
    thread::sleep(Duration::from_millis(300));
    assert_eq!(guardian(), first);
    kill(Pid::from_raw(first[0]), Signal::SIGKILL).expect("it runs");
    eventually(LIMIT, "another guardian", || {
        let now = guardian();
        now.len() == 1 && now != first
    });
    let next = next(&server.api());
    signal(&run, Signal::SIGKILL);
    scene.is_dead_before(
        &next.join().expect("a lease"),
        0,
        "wrapper killed after its guardian",
    );
}

#[test]
fn lease_that_is_lost_before_the_command_ends_is_lost_whatever_its_code() {
    let server = Leasehold::in_memory();
    let script = format!("{BINARY} break a --fencing-token $LEASEHOLD_FENCING_TOKEN; exit 3");
    let (code, _, stderr) = exits(&server.base_url(), &["run", "a", "--", "sh", "-c", &script]);
    assert_eq!(code, 76, "{stderr}");
    assert!(stderr.contains("the lease of a is lost"), "{stderr}");
}

/// Nobody is left who could kill the command.
#[test]
fn command_whose_wrapper_and_guardian_are_killed_is_told_to_end() {
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    let pid = dir.path().join("pid");
    let script = format!("echo $$ >{}; exec sleep 60", pid.display());
    let args = ["run", "a", "--", "sh", "-c", &script];
    let run = begins(&server.base_url(), &args);
    let text = || std::fs::read_to_string(&pid).ok();
    let leader = poll(LIMIT, || text()?.trim().parse().ok().map(Pid::from_raw)).expect("it runs");
    let guardian = children(&run, "guardian");
    // A stopped wrapper replaces no guardian.
    run.pause();
    kill(Pid::from_raw(guardian[0]), Signal::SIGKILL).expect("it runs");
    assert!(kill(leader, None).is_ok());
    signal(&run, Signal::SIGKILL);
    eventually(LIMIT, "it has ended", || kill(leader, None).is_err());
}

#[test]
pub(super) fn warning_leaves_the_command_alone_and_the_code_says_it() {
    let server = Leasehold::in_memory();
    let api = server.api();
    let scene = Scene::new();
    let script = format!(
        "while [ ! -e {}.end ]; do sleep 0.05; done",
        scene.file.display()
    );
    let args = [
        "run",
        "--ttl",
        "1s",
        "--on-lost",
        "warn",
        "--json",
        "a",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let run = begins(&server.base_url(), &args);
    let token = poll(LIMIT, || api.inspect("a").json()["fencing_token"].as_u64());
    assert_eq!(api.break_lease("a", token.expect("a lease")).status, 204);
    thread::sleep(Duration::from_secs(2));
    assert!(run.is_running());
    std::fs::write(scene.file.with_extension("end"), "").expect("a file");
    assert_eq!(code(&run), Some(76));
    let (_, stderr) = run.take_pipes();
    let text = std::io::read_to_string(stderr).expect("events");
    let events: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let names: Vec<_> = events
        .iter()
        .filter_map(|event| event["event"].as_str())
        .collect();
    assert_eq!(names.first(), Some(&"acquired"), "{text}");
    assert_eq!(
        names.iter().filter(|name| **name == "lost").count(),
        1,
        "{text}"
    );
    assert!(!names.contains(&"killed"), "{text}");
}

#[test]
fn lease_is_renewed_while_the_command_runs() {
    let server = Leasehold::in_memory();
    let args = ["run", "--ttl", "1s", "--json", "a", "--", "sleep", "3"];
    let (code, _, stderr) = exits(&server.base_url(), &args);
    assert_eq!(code, 0, "{stderr}");
    let renewals = stderr.matches(r#""event":"renewed""#).count();
    assert!((5..=12).contains(&renewals), "{renewals}: {stderr}");
    assert!(
        stderr.ends_with("\"event\":\"released\",\"key\":\"a\"}\n"),
        "{stderr}"
    );
}

/// What the command has left in the background ends before the release, and all of it is reaped.
#[test]
fn rest_of_the_group_ends_before_the_release() {
    let server = Leasehold::in_memory();
    let scene = Scene::new();
    // The second child is forked twice.
    let script = format!(
        "sh -c '{0}' >/dev/null 2>&1 & (sh -c '{0}' >/dev/null 2>&1 &) ; while [ ! -e {1} ]; do sleep 0.02; done; exit 4",
        beats(&scene.file).replace('\'', r"'\''"),
        scene.file.display()
    );
    let args = [
        "run",
        "--kill-after",
        "300ms",
        "a",
        "--",
        "sh",
        "-c",
        &script,
    ];
    let (code, _, stderr) = exits(&server.base_url(), &args);
    assert_eq!((code, &*stderr), (4, ""));
    scene.stays_dead();
    assert_eq!(server.api().inspect("a").json()["held"], false);
}

fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("a file");
    std::fs::rename(new, path).expect("a file");
}

fn now_ms() -> u64 {
    u64::try_from(jiff::Timestamp::now().as_millisecond()).expect("after 1970")
}
