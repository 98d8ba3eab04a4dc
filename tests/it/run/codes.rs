//! Exit codes, the environment, and what a command has besides.

use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;

use super::{BINARY, LIMIT, client, exits};
use crate::support::host::Host;
use crate::support::leasehold::{Leasehold, command_on};
use crate::support::net::free_port;
use crate::support::process;

#[test]
pub(super) fn exit_code_is_that_of_the_command() {
    let server = Leasehold::in_memory();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 3", 3),
        ("kill -9 $$", 137),
        ("kill -15 $$", 143),
        // A real-time signal.
        ("kill -34 $$", 162),
    ] {
        let (got, stdout, stderr) =
            exits(&server.base_url(), &["run", "a", "--", "sh", "-c", script]);
        assert_eq!((got, &*stdout, &*stderr), (code, "", ""), "{script}");
    }
    assert_eq!(server.api().inspect("a").json()["held"], false);
}

#[test]
pub(super) fn command_that_cannot_run_has_the_codes_of_a_shell() {
    let server = Leasehold::in_memory();
    for (command, code, said) in [
        ("/no/such/command", 127, "No such file"),
        ("no-such-command", 127, "No such file"),
        ("/etc/passwd", 126, "Permission denied"),
        ("/etc", 126, "Permission denied"),
    ] {
        let (got, _, stderr) = exits(&server.base_url(), &["run", "a", "--", command]);
        assert_eq!(got, code, "{stderr}");
        assert!(
            stderr.contains(command) && stderr.contains(said),
            "{stderr}"
        );
        assert_eq!(server.api().inspect("a").json()["held"], false, "{command}");
    }
}

#[test]
pub(super) fn lock_that_is_held_is_not_acquired() {
    let server = Leasehold::in_memory();
    let url = server.base_url();
    server.api().acquire("a", json!({"holder": "somebody"}));
    for (args, code) in [
        (&["run", "-n", "a", "--", "true"][..], 75),
        (&["run", "-w", "300ms", "a", "--", "true"], 75),
        (&["run", "-n", "-E", "0", "a", "--", "true"], 0),
        (&["run", "-n", "-E", "9", "a", "--", "true"], 9),
        (&["acquire", "-n", "a"], 75),
    ] {
        let (got, stdout, stderr) = exits(&url, args);
        assert_eq!((got, &*stdout), (code, ""), "{args:?}");
        assert!(stderr.contains("a is held by somebody for"), "{stderr}");
    }
}

#[test]
pub(super) fn wrong_arguments_are_64() {
    for args in [
        &["run"][..],
        &["run", "a"],
        &["run", "a", "true"],
        &["run", "-n", "-w", "3s", "a", "--", "true"],
        &["run", "-w", "soon", "a", "--", "true"],
        &["run", "--ttl", "-5s", "a", "--", "true"],
        &["run", "--metadata", "pair", "a", "--", "true"],
        &["run", "--bogus", "a", "--", "true"],
        &["run", "--server", "ftp://x", "a", "--", "true"],
        &["run", "--server", "127.0.0.1:8080", "a", "--", "true"],
        &["show"],
        &["break", "a"],
    ] {
        let (code, stdout, stderr) = exits("http://127.0.0.1:9", args);
        assert_eq!((code, &*stdout), (64, ""), "{args:?}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    let server = Leasehold::in_memory();
    for args in [
        &["run", "not a key", "--", "true"][..],
        &["run", "--ttl", "1ms", "a", "--", "true"],
        &["run", "--at-least", "2h", "a", "--", "true"],
    ] {
        let (code, _, stderr) = exits(&server.base_url(), args);
        assert_eq!(code, 64, "{args:?}: {stderr}");
    }
}

#[test]
pub(super) fn server_that_does_not_answer_is_69() {
    let nobody = format!("http://127.0.0.1:{}", free_port());
    for args in [
        &["run", "-n", "a", "--", "true"][..],
        &["run", "-w", "1s", "a", "--", "true"],
        &["acquire", "-n", "a"],
        &["show", "a"],
        &["ls"],
    ] {
        let (code, _, stderr) = exits(&nobody, args);
        assert_eq!(code, 69, "{args:?}: {stderr}");
        assert!(stderr.contains(&nobody), "{stderr}");
    }
    let broken = Leasehold::start([(
        "LEASEHOLD_REDIS_URL",
        format!("redis://127.0.0.1:{}", free_port()),
    )]);
    let (code, _, stderr) = exits(&broken.base_url(), &["run", "-n", "a", "--", "true"]);
    assert_eq!(code, 69, "{stderr}");
}

#[test]
pub(super) fn servers_are_tried_in_turn() {
    let server = Leasehold::in_memory();
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let both = format!("{nobody},{}", server.base_url());
    let (code, _, stderr) = exits(&both, &["run", "-n", "a", "--", "true"]);
    assert_eq!((code, &*stderr), (0, ""));
}

#[test]
pub(super) fn token_is_sent_and_a_wrong_one_is_77() {
    let token = "0123456789abcdef";
    let server = Leasehold::start([("LEASEHOLD_STORE", "memory"), ("LEASEHOLD_TOKEN", token)]);
    let url = server.base_url();
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("token");
    // The second line is the token of before.
    std::fs::write(&file, format!("{token}\nthe-token-of-before\n")).expect("a file");
    let with = |name: &str, value: &str, args: &[&str]| {
        let mut command = client(&url, args);
        command.env(name, value);
        let (status, _, stderr) = process::run(&mut command, "leasehold", LIMIT);
        (status.code(), stderr)
    };
    let run = ["run", "-n", "a", "--", "true"];
    assert_eq!(exits(&url, &run).0, 77);
    assert_eq!(exits(&url, &["ls"]).0, 77);
    assert_eq!(
        with("LEASEHOLD_TOKEN", "another-token-xx", &run).0,
        Some(77)
    );
    assert_eq!(
        with("LEASEHOLD_TOKEN", token, &run),
        (Some(0), String::new())
    );
    let path = file.to_str().expect("UTF-8");
    let code =
        |flag: &str, value: &str| exits(&url, &["run", "-n", flag, value, "a", "--", "true"]).0;
    assert_eq!(code("--token", token), 0);
    assert_eq!(code("--token", "another-token-xx"), 77);
    assert_eq!(code("--token-file", path), 0);
    assert_eq!(
        with("LEASEHOLD_TOKEN_FILE", path, &run),
        (Some(0), String::new())
    );
    let (code, stderr) = with("LEASEHOLD_TOKEN", "", &run);
    assert_eq!(code, Some(64));
    assert!(stderr.contains("LEASEHOLD_TOKEN"), "{stderr}");
}

#[test]
pub(super) fn command_has_its_environment_and_the_lock_is_held_as_asked() {
    let server = Leasehold::in_memory();
    let (url, api) = (server.base_url(), server.api());
    let print = "env | grep ^LEASEHOLD_ | grep -v SERVER | sort";
    let (code, stdout, _) = exits(&url, &["run", "a/b", "--", "sh", "-c", print]);
    assert_eq!(code, 0);
    let names: Vec<_> = stdout
        .lines()
        .filter_map(|line| line.split('=').next())
        .collect();
    assert_eq!(
        names,
        [
            "LEASEHOLD_EXPIRES_AT",
            "LEASEHOLD_FENCING_TOKEN",
            "LEASEHOLD_KEY"
        ]
    );
    assert!(stdout.contains("LEASEHOLD_KEY=a/b\n"), "{stdout}");
    let leased = [
        "run",
        "--export-lease-id",
        "a",
        "--",
        "sh",
        "-c",
        "echo $LEASEHOLD_LEASE_ID",
    ];
    assert_eq!(exits(&url, &leased).1.trim().len(), 32);
    let show = format!("{BINARY} show --json a");
    let args = [
        "run",
        "--ttl",
        "7s",
        "--holder",
        "me",
        "-m",
        "job=42",
        "--at-least",
        "5m",
        "a",
        "--",
        "sh",
        "-c",
        &show,
    ];
    let (_, stdout, stderr) = exits(&url, &args);
    let seen: serde_json::Value = serde_json::from_str(&stdout).expect(&stderr);
    assert_eq!(
        (&seen["holder"], &seen["metadata"]),
        (&json!("me"), &json!({"job": "42"}))
    );
    let left = seen["expires_in_ms"].as_u64();
    assert!(left > Some(290_000) && left <= Some(300_000), "{seen}");
    let (_, stdout, _) = exits(
        &url,
        &[
            "run", "--ttl", "7s", "c", "--", BINARY, "show", "--json", "c",
        ],
    );
    let seen: serde_json::Value = serde_json::from_str(&stdout).expect(&stdout);
    let left = seen["expires_in_ms"].as_u64();
    assert!(left > Some(5000) && left <= Some(7000), "{seen}");
    let after = api.inspect("a").json();
    assert_eq!(
        (&after["released"], &after["holder"]),
        (&json!(true), &json!(null))
    );
    assert!(after["expires_in_ms"].as_u64() > Some(290_000), "{after}");
    let (_, stdout, _) = exits(&url, &["run", "b", "--", BINARY, "show", "b"]);
    let host = nix::unistd::gethostname().expect("a name");
    let user = nix::unistd::User::from_uid(nix::unistd::getuid()).expect("users");
    let user = user.expect("a user").name;
    let holder = format!("{user}@{}:", host.to_string_lossy());
    assert!(stdout.contains(&holder), "{stdout}");
}

/// A server may be the command of `run`, and its settings stand beside those of clients.
#[test]
fn variables_of_clients_and_servers_do_not_meet() {
    let server = Leasehold::in_memory();
    let mut command = client(&server.base_url(), &["run", "a", "--", "true"]);
    command.envs([
        ("LEASEHOLD_LISTEN", "nonsense"),
        ("LEASEHOLD_SENTINEL", "misspelt"),
        ("LEASEHOLD_REDIS_POOL_SIZE", "many"),
    ]);
    let (status, _, stderr) = process::run(&mut command, "leasehold", LIMIT);
    assert_eq!((status.code(), &*stderr), (Some(0), ""));
    let other = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_SERVER", "http://127.0.0.1:1"),
        ("LEASEHOLD_CA_FILE", "/nowhere"),
        ("LEASEHOLD_KEY", "a"),
        ("LEASEHOLD_FENCING_TOKEN", "1"),
        ("LEASEHOLD_EXPIRES_AT", "2026-01-01T00:00:00Z"),
        ("LEASEHOLD_LEASE_ID", "0"),
    ]);
    other.wait_ready();
}

#[test]
fn output_of_any_size_passes_and_a_closed_input_is_no_matter() {
    const SIZE: u64 = 4 << 30;
    let server = Leasehold::in_memory();
    let mut command = client(
        &server.base_url(),
        &["run", "a", "--", "head", "-c", "4G", "/dev/zero"],
    );
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut output = child.stdout.take().expect("a pipe");
    let (mut buffer, mut total) = (vec![0; 1 << 20], 0);
    loop {
        match output.read(&mut buffer).expect("output") {
            0 => break,
            read => total += u64::try_from(read).expect("small"),
        }
    }
    assert_eq!(total, SIZE);
    assert!(child.wait().expect("a status").success());
    let closed = format!(
        "LEASEHOLD_SERVER={} {BINARY} run a -- echo done <&-",
        server.base_url()
    );
    let mut shell = command_on(&Host::default(), "sh", &["-c", &closed], [("A", "")]);
    let (status, stdout, stderr) = process::run(&mut shell, "sh", LIMIT);
    assert_eq!((status.code(), &*stdout, &*stderr), (Some(0), "done\n", ""));
}

#[test]
fn contenders_run_one_at_a_time_and_soon_after_each_other() {
    const CONTENDERS: usize = 100;
    let server = Leasehold::in_memory();
    let dir = TempDir::new().expect("a folder");
    let log = dir.path().join("log");
    let script = format!(
        "echo begin $$ >>{0}; sleep 0.01; echo end $$ >>{0}",
        log.display()
    );
    let url = server.base_url();
    let args = ["run", "--ttl", "20s", "a", "--", "sh", "-c", &script];
    let children: Vec<_> = (0..CONTENDERS)
        .map(|_| {
            let mut command = client(&url, &args);
            command.stdin(Stdio::null()).spawn().expect("it starts")
        })
        .collect();
    for mut child in children {
        assert!(child.wait().expect("a status").success());
    }
    let text = std::fs::read_to_string(&log).expect("a log");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 2 * CONTENDERS);
    for pair in lines.chunks(2) {
        let id = pair[0].strip_prefix("begin ").expect(pair[0]);
        assert_eq!(pair[1], format!("end {id}"), "two ran at once");
    }
    // Others report half a minute for this.
    let begun = Instant::now();
    let eight: Vec<_> = (0..8)
        .map(|_| {
            client(&url, &["run", "b", "--", "date"])
                .stdout(Stdio::null())
                .spawn()
                .expect("it starts")
        })
        .collect();
    for mut child in eight {
        assert!(child.wait().expect("a status").success());
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "{:?}",
        begun.elapsed()
    );
}
