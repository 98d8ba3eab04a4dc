//! The README's recipes: each shell block runs unchanged beside a server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::documents::{README, blocks, resembles, section};
use crate::support::leasehold::Leasehold;
use crate::support::net::free_port;

/// The recipes, by the first words of their paragraphs; each has tests below.
pub(crate) const RECIPES: [&str; 2] = ["A command under a lock", "A `case` over the statuses"];

/// The shell block of a recipe.
pub(crate) fn recipe(name: &str) -> String {
    let text = section(README, "Recipes");
    let begin = text.find(&format!("**{name}"));
    let begin = begin.unwrap_or_else(|| panic!("no recipe {name:?}"));
    let (language, script) = blocks(&text[begin..]).into_iter().next().expect("a block");
    assert_eq!(language, "sh", "{name}");
    script
}

/// The recipe in its own folder with these programs, which have this text; the server has the given address.
pub(crate) fn follow(script: &str, addr: &str, programs: &[&str], text: &str) -> Output {
    let folder = tempfile::tempdir().expect("a folder");
    for name in programs {
        write_program(&folder.path().join(name), text);
    }
    let binary = Path::new(env!("CARGO_BIN_EXE_leasehold"));
    let path = std::env::var("PATH").expect("a PATH");
    let path = format!("{}:{path}", binary.parent().expect("a folder").display());
    Command::new("bash")
        .args(["-euc", &script.replace("127.0.0.1:8080", addr)])
        .env("PATH", path)
        .env("LEASEHOLD_SERVER", format!("http://{addr}"))
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
fn commands_run_under_their_locks() {
    let server = Leasehold::in_memory();
    let programs = ["import", "deploy", "report", "nightly"];
    let text = "echo \"$(basename $0) $LEASEHOLD_KEY\"";
    let output = follow(&recipe("A command"), server.addr(), &programs, text);
    let lines: Vec<_> = printed(&output).lines().collect();
    assert_eq!(
        lines[..3],
        [
            "import jobs/import",
            "deploy deploy/production",
            "report jobs/report"
        ],
        "{output:?}"
    );
    assert!(lines[3].starts_with("nightly nightly/20"), "{lines:?}");
    let second = follow(&recipe("A command"), server.addr(), &programs, text);
    assert_eq!(second.status.code(), Some(75), "{second:?}");
    assert_eq!(printed(&second).lines().count(), 2, "{second:?}");
}

#[test]
fn case_tells_the_statuses_apart() {
    let said = |addr: &str| {
        let output = follow(&recipe("A `case`"), addr, &[], "");
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
