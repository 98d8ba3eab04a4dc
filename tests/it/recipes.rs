//! The README's recipes: each shell block runs unchanged beside a server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::thread;
use std::time::Duration;

use crate::support::documents::{README, blocks, resembles, section};
use crate::support::eventually;
use crate::support::leasehold::Leasehold;
use crate::support::net::free_port;

const LIMIT: Duration = Duration::from_secs(20);

/// The recipes, by the first words of their paragraphs; each has tests below.
pub(crate) const RECIPES: [&str; 4] = [
    "Once per night",
    "One at a time",
    "Long work",
    "A `case` over the statuses",
];

/// The shell block of a recipe.
pub(crate) fn recipe(name: &str) -> String {
    let text = section(README, "Recipes");
    let begin = text.find(&format!("**{name}"));
    let begin = begin.unwrap_or_else(|| panic!("no recipe {name:?}"));
    let (language, script) = blocks(&text[begin..]).into_iter().next().expect("a block");
    assert_eq!(language, "sh", "{name}");
    script
}

/// The recipe in its own folder, where this program gets the given name and text; the server has the given address.
fn follow(script: &str, addr: &str, program: (&str, &str)) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    let (name, text) = program;
    write_program(&folder.path().join(name), text);
    Command::new("bash")
        .args(["-euc", &script.replace("127.0.0.1:8080", addr)])
        .current_dir(&folder)
        .output()
        .expect("bash and curl")
}

fn write_program(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/bash\n{text}\n")).expect("the program is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("it can be run");
}

fn printed(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout)
        .expect("UTF-8")
        .trim_end()
}

#[test]
fn nightly_job_runs_on_one_host() {
    let server = Leasehold::in_memory();
    let night = || {
        let report = ("nightly-report", "echo reported");
        follow(&recipe("Once per night"), server.addr(), report)
    };
    assert_eq!(printed(&night()), "reported");
    let second = night();
    assert_eq!(printed(&second), "");
    assert!(!second.status.success());
    let held = server.api().list("prefix=nightly-report/").json();
    let left = held["locks"][0]["expires_in_ms"].as_u64();
    assert!(left > Some(3_500_000), "{held}");
}

#[test]
fn one_at_a_time_releases_at_the_end() {
    let server = Leasehold::in_memory();
    let import = ("import", "echo imported; exit 3");
    let output = follow(&recipe("One at a time"), server.addr(), import);
    assert_eq!(printed(&output), "imported");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(server.api().inspect("import").json()["held"], false);
}

#[test]
fn one_at_a_time_gives_up_while_the_lock_is_held() {
    let server = Leasehold::in_memory();
    assert_eq!(server.api().acquire("import", None).status, 201);
    let script = recipe("One at a time").replace("30000", "100");
    let output = follow(&script, server.addr(), ("import", "echo imported"));
    assert_eq!(printed(&output), "");
    assert_eq!(output.status.code(), Some(75));
    assert_eq!(server.api().inspect("import").json()["held"], true);
}

/// The recipe with a shorter time between renewals.
fn long_work() -> String {
    let script = recipe("Long work");
    assert!(script.contains("sleep 20"));
    script.replace("sleep 20", "sleep 0.1")
}

#[test]
fn long_work_is_renewed_and_released() {
    let server = Leasehold::in_memory();
    let renewed_twice = format!(
        "for _ in $(seq 100); do
           renewals=$(curl -s http://{}/locks/migration | jq .renewals)
           [ \"$renewals\" -ge 2 ] && echo migrated && exit 3
           sleep 0.1
         done",
        server.addr()
    );
    let output = follow(&long_work(), server.addr(), ("migration", &renewed_twice));
    assert_eq!(printed(&output), "migrated");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(server.api().inspect("migration").json()["held"], false);
}

/// The exit status of endless work after this happens to its lease.
fn interrupted(interrupt: impl FnOnce(&Leasehold)) -> Option<i32> {
    let server = Leasehold::in_memory();
    let endless = ("migration", "exec sleep 40");
    thread::scope(|scope| {
        let work = scope.spawn(|| follow(&long_work(), server.addr(), endless));
        eventually(LIMIT, "the work begins", || {
            server.api().inspect("migration").json()["renewals"].as_u64() > Some(0)
        });
        interrupt(&server);
        eventually(LIMIT, "the work is stopped", || work.is_finished());
        work.join().expect("it was followed").status.code()
    })
}

#[test]
fn long_work_ends_with_its_lease() {
    let killed = interrupted(|server| {
        let token = server.api().inspect("migration").fencing_token();
        assert_eq!(server.api().break_lease("migration", token).status, 204);
    });
    assert_eq!(killed, Some(128 + 9));
}

#[test]
fn long_work_ends_when_no_server_answers() {
    assert_eq!(interrupted(Leasehold::kill), Some(128 + 9));
}

#[test]
fn case_tells_the_statuses_apart() {
    let said = |addr: &str| {
        let output = follow(&recipe("A `case`"), addr, ("unused", ""));
        printed(&output).to_owned()
    };
    let server = Leasehold::in_memory();
    let granted = said(server.addr());
    assert!(resembles(&granted, "granted: …"), "{granted}");
    assert_eq!(said(server.addr()), "held by a client without a name");

    let closed = format!("127.0.0.1:{}", free_port());
    assert_eq!(said(&closed), "no lock now (000): try again later");

    let no_redis = format!("redis://{closed}");
    let without_store = Leasehold::start([("LEASEHOLD_REDIS_URL", no_redis)]);
    let unavailable = said(without_store.addr());
    assert_eq!(unavailable, "no lock now (503): try again later");

    let guarded = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", "a-token-of-sixteen-or-more"),
    ]);
    let refused = said(guarded.addr());
    assert!(
        resembles(&refused, "a mistake in the request (401): …"),
        "{refused}"
    );
}
