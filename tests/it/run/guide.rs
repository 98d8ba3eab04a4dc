//! The guide of `leasehold run`: each row of its tables has a test, its defaults are those of the program, and its shell blocks run.

use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::User;
use serde_json::json;
use tempfile::TempDir;

use super::{LIMIT, begins, codes, exits, lost, verbs};
use crate::recipes::follow;
use crate::support::documents::{GUIDE, blocks, section, text_of};
use crate::support::leasehold::Leasehold;
use crate::support::process::Process;
use crate::support::{eventually, poll};

/// The first cell of each row of a table, and the test that shows what the row says.
const ROWS: [(&str, fn()); 26] = [
    (
        "`LEASEHOLD_KEY`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`LEASEHOLD_FENCING_TOKEN`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`LEASEHOLD_EXPIRES_AT`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`LEASEHOLD_LEASE_ID`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`-n`, `--no-wait`",
        codes::lock_that_is_held_is_not_acquired,
    ),
    (
        "`-w`, `--wait DURATION`",
        codes::lock_that_is_held_is_not_acquired,
    ),
    (
        "`--ttl DURATION`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`--at-least DURATION`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`--holder NAME`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`-m`, `--metadata NAME=VALUE`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        r"`--on-lost kill\|warn`",
        lost::warning_leaves_the_command_alone_and_the_code_says_it,
    ),
    (
        "`--kill-after DURATION`",
        lost::command_is_dead_soon_when_its_wrapper_is_killed,
    ),
    (
        "`-E`, `--exit-code NUMBER`",
        codes::lock_that_is_held_is_not_acquired,
    ),
    (
        "`--export-lease-id`",
        codes::command_has_its_environment_and_the_lock_is_held_as_asked,
    ),
    (
        "`--json`",
        lost::warning_leaves_the_command_alone_and_the_code_says_it,
    ),
    ("`--server URL,…`", codes::servers_are_tried_in_turn),
    (
        "`--token SECRET`",
        codes::token_is_sent_and_a_wrong_one_is_77,
    ),
    (
        "`--token-file FILE`",
        codes::token_is_sent_and_a_wrong_one_is_77,
    ),
    (
        "`--ca-file FILE`",
        verbs::https_server_is_trusted_by_its_authority_alone,
    ),
    (
        "that of the command; 128 + N",
        codes::exit_code_is_that_of_the_command,
    ),
    ("64", codes::wrong_arguments_are_64),
    ("69", codes::server_that_does_not_answer_is_69),
    (
        "75, or that of `-E`",
        codes::lock_that_is_held_is_not_acquired,
    ),
    (
        "76",
        lost::command_is_dead_in_time_when_its_server_is_killed,
    ),
    ("77", codes::token_is_sent_and_a_wrong_one_is_77),
    (
        "126, 127",
        codes::command_that_cannot_run_has_the_codes_of_a_shell,
    ),
];

/// The cells of each row of the tables, without their heads.
fn rows() -> Vec<Vec<String>> {
    let text = text_of(GUIDE);
    let lines: Vec<_> = text.lines().collect();
    let is_head = |at: usize| {
        lines
            .get(at + 1)
            .is_some_and(|next| next.starts_with("|---"))
    };
    let is_row = |at: &usize| lines[*at].starts_with("| ") && !is_head(*at);
    let cells = |at: usize| {
        let line = lines[at].trim_matches('|');
        line.split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect()
    };
    (0..lines.len()).filter(is_row).map(cells).collect()
}

#[test]
fn each_row_has_a_test() {
    let written: Vec<_> = rows()
        .into_iter()
        .map(|mut cells| cells.remove(0))
        .collect();
    assert_eq!(written, ROWS.map(|(row, _)| row));
}

#[test]
fn defaults_are_those_of_the_program() {
    let (_, help, _) = exits("http://127.0.0.1:9", &["run", "--help"]);
    let mut with_defaults = 0;
    for cells in rows() {
        let Some(flag) = cells[0].split("`--").nth(1) else {
            continue;
        };
        let name = format!("--{}", flag.split(['`', ' ']).next().expect("a name"));
        let about = help
            .split(&format!("{name} "))
            .nth(1)
            .or(help.split(&format!("{name}\n")).nth(1));
        let about = about.unwrap_or_else(|| panic!("{name} is not in\n{help}"));
        let about = about
            .split("\n  -")
            .next()
            .and_then(|text| text.split("\n      --").next());
        let default = cells[2].trim_matches('`');
        if cells[2].starts_with('`') || default.parse::<u8>().is_ok() {
            let said = format!("[default: {default}]");
            assert!(
                about.expect("text").contains(&said),
                "{name}: {said}\n{help}"
            );
            with_defaults += 1;
        }
    }
    assert!(with_defaults >= 5, "{with_defaults}");
}

#[test]
fn shell_blocks_run() {
    let server = Leasehold::in_memory();
    let text = format!(
        "{}{}",
        text_of(GUIDE).split("\n## ").next().expect("text"),
        section(GUIDE, "Recipes")
    );
    let programs = ["report", "deploy", "import", "psql", "terraform"];
    let said = "echo \"$(basename $0) $* under $LEASEHOLD_KEY\"";
    let mut seen = Vec::new();
    for (_, block) in blocks(&text) {
        if block.contains("elect ") {
            continue;
        }
        let block = format!("PATH=.:$PATH\n{block}");
        let output = follow(&block, server.addr(), &programs, said);
        assert_eq!(output.status.code(), Some(0), "{block}\n{output:?}");
        seen.push(
            String::from_utf8(output.stdout)
                .expect("UTF-8")
                .trim()
                .to_owned(),
        );
    }
    let token = seen[3]
        .split_whitespace()
        .nth(2)
        .expect(&seen[3])
        .to_owned();
    assert_eq!(
        seen,
        [
            "report --yesterday under jobs/report".to_owned(),
            "report  under jobs/report".to_owned(),
            "deploy  under deploy/production".to_owned(),
            format!("import --fencing-token {token} under jobs/import\njobs/import is released"),
            seen[4].clone(),
            "terraform apply -auto-approve -lock=false under tf/production".to_owned(),
        ]
    );
    assert!(token.parse::<u64>().is_ok(), "{token}");
    assert!(
        seen[4].starts_with("psql -v ON_ERROR_STOP=1 -v key=jobs/book -v token="),
        "{}",
        seen[4]
    );
}

/// A PostgreSQL on a socket in a folder of its own.
struct Postgres {
    folder: TempDir,
    _process: Process,
}

impl Postgres {
    fn start() -> Self {
        let folder = TempDir::new().expect("a folder");
        let programs = programs_of_postgres();
        // It refuses to run as root.
        let user = User::from_name("postgres")
            .expect("users")
            .filter(|_| nix::unistd::getuid().is_root());
        if let Some(user) = &user {
            chown(
                folder.path(),
                Some(user.uid.as_raw()),
                Some(user.gid.as_raw()),
            )
            .expect("root may");
        }
        let data = folder.path().join("data");
        let command = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command
                .arg("-D")
                .arg(&data)
                .current_dir(folder.path())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            if let Some(user) = &user {
                command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
            }
            command
        };
        let made = command("initdb")
            .args(["-U", "postgres", "-A", "trust", "--no-sync"])
            .status();
        assert!(made.expect("initdb runs").success());
        let mut server = command("postgres");
        server
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-k"])
            .arg(folder.path());
        let postgres = Self {
            _process: Process::spawn(&mut server, "postgresql"),
            folder,
        };
        eventually(LIMIT, "PostgreSQL answers", || {
            postgres.psql("SELECT 1").is_ok()
        });
        postgres
    }

    fn environment(&self) -> [(&'static str, String); 2] {
        let folder = self.folder.path().display().to_string();
        [("PGHOST", folder), ("PGUSER", "postgres".into())]
    }

    fn psql(&self, sql: &str) -> Result<String, String> {
        let mut command = Command::new(programs_of_postgres().join("psql"));
        let output = command
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", sql])
            .envs(self.environment())
            .output();
        let output = output.expect("psql runs");
        let text = |bytes| String::from_utf8_lossy(bytes).trim().to_owned();
        if output.status.success() {
            Ok(text(&output.stdout))
        } else {
            Err(text(&output.stderr))
        }
    }
}

fn programs_of_postgres() -> PathBuf {
    let versions =
        std::fs::read_dir("/usr/lib/postgresql").expect("install postgresql to run these tests");
    let folders = versions.flatten().map(|version| version.path().join("bin"));
    folders.max().expect("a version of PostgreSQL")
}

/// The first holder writes, loses the lock, and writes once more after the next holder.
#[test]
fn late_write_is_refused_by_the_database() {
    let postgres = Postgres::start();
    let fence = std::fs::read_to_string(Path::new(GUIDE).with_file_name("recipes/fence.sql"))
        .expect("a recipe");
    postgres.psql(&fence).expect("it loads");
    postgres
        .psql("CREATE TABLE account (id int, balance int); INSERT INTO account VALUES (1, 80)")
        .expect("a table");
    let balance = || postgres.psql("SELECT balance FROM account").expect("a row");
    let recipe = section(GUIDE, "Recipes");
    let (_, block) = blocks(&recipe)
        .into_iter()
        .find(|(_, block)| block.contains("fence("))
        .expect("a recipe");
    let sql = block
        .split("<<'SQL'\n")
        .nth(1)
        .and_then(|rest| rest.split("SQL\n").next())
        .expect("statements");
    let write = block
        .split("sh -c '")
        .nth(1)
        .and_then(|rest| rest.split("' <<").next())
        .expect("a command");

    let server = Leasehold::in_memory();
    let folder = postgres.folder.path().to_owned();
    let file = |name: &str| folder.join(name).display().to_string();
    std::fs::write(file("sql"), sql).expect("a file");
    let path = format!(
        "{}:{}",
        programs_of_postgres().display(),
        std::env::var("PATH").expect("a PATH")
    );
    let [host, user] = postgres.environment();
    let write = format!(
        "PATH='{path}' PGHOST='{}' PGUSER={}; export PGHOST PGUSER; {write} <{}",
        host.1,
        user.1,
        file("sql")
    );
    let late = format!(
        "{write}; touch {0}; while [ ! -e {1} ]; do sleep 0.02; done; {write}",
        file("first"),
        file("go")
    );
    let args = [
        "run",
        "--on-lost",
        "warn",
        "jobs/book",
        "--",
        "sh",
        "-c",
        &late,
    ];
    let first = begins(&server.base_url(), &args);
    eventually(LIMIT, "the first write", || {
        Path::new(&file("first")).exists()
    });
    assert_eq!(balance(), "85");
    let token = poll(LIMIT, || {
        server.api().inspect("jobs/book").json()["fencing_token"].as_u64()
    });
    assert_eq!(
        server
            .api()
            .break_lease("jobs/book", token.expect("a lease"))
            .status,
        204
    );
    let (code, stdout, stderr) = exits(
        &server.base_url(),
        &["run", "-n", "jobs/book", "--", "sh", "-c", &write],
    );
    assert_eq!((code, &*stderr), (0, ""), "{stdout}");
    assert_eq!(balance(), "90");
    std::fs::write(file("go"), "").expect("a file");
    let status = first.wait(LIMIT).expect("it ends");
    let said = std::io::read_to_string(first.take_pipes().1).expect("text");
    assert!(said.contains("is too old: stop"), "{said}");
    assert_eq!((status.code(), &*balance()), (Some(76), "90"), "{said}");
    assert_eq!(server.api().acquire("jobs/book", json!({})).status, 201);
}
