//! The README's examples work: this module runs its shell and SQL blocks. The recipes have tests in [`crate::recipes`],
//! and `crate::tutorial` runs the rest on every store.

use std::process::Command;

use crate::recipes::{RECIPES, recipe};
use crate::support::documents::{CHART, OPENAPI, README, blocks, resembles, text_of};

#[test]
fn readme_is_short() {
    let text = text_of(README);
    let lines = text.lines().count();
    assert!(lines <= 250, "{lines} lines");
    for document in [README, CHART, OPENAPI] {
        let text = text_of(document);
        let is_long = |line: &&str| line.chars().count() > 120;
        // A row of a table and a command of redis-cli cannot be wrapped; the README has none that would need it.
        let whole = ["|", "ACL SETUSER "];
        let mut long = text.lines().filter(is_long);
        let wrong = long
            .find(|line| document == README || !whole.iter().any(|start| line.starts_with(start)));
        assert_eq!(
            wrong, None,
            "{document} has a line of more than 120 characters"
        );
    }
}

/// Runs the shell blocks that the README shows with their output, against the server at `addr`.
pub(crate) fn check_shell_blocks(addr: &str) {
    let blocks = blocks(&text_of(README));
    let shown = blocks
        .windows(2)
        .filter(|pair| pair[0].0 == "sh" && pair[1].0 == "text");
    let mut compared = 0;
    for pair in shown {
        let script = pair[0].1.replace("127.0.0.1:8080", addr);
        let output = Command::new("bash")
            .args(["-euc", &script])
            .output()
            .expect("bash and curl");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        let mut lines = printed.lines();
        for expected in pair[1].1.lines() {
            let found = lines.any(|line| resembles(line, expected));
            assert!(
                found,
                "{script}\ndid not print\n{expected}\nbut\n{printed}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            compared += 1;
        }
    }
    assert!(compared >= 5, "only {compared} lines were compared");
}

#[test]
fn each_shell_block_of_the_readme_is_run() {
    let all = blocks(&text_of(README));
    let scripts = all.iter().filter(|(language, _)| language == "sh").count();
    let compared = all
        .windows(2)
        .filter(|pair| pair[0].0 == "sh" && pair[1].0 == "text")
        .count();
    assert_eq!(scripts, compared + RECIPES.len());
    for name in RECIPES {
        recipe(name);
    }
}

#[test]
fn stale_fencing_token_changes_no_row() {
    let blocks = blocks(&text_of(README));
    let (_, sql) = blocks
        .iter()
        .find(|(language, _)| language == "sql")
        .expect("an SQL block");
    let program = r"
import sqlite3, sys
connection = sqlite3.connect(':memory:')
sql = '\n'.join(line.partition('--')[0] for line in sys.argv[1].splitlines())
changed = [connection.execute(s).rowcount for s in sql.split(';') if s.strip()]
print(changed, connection.execute('SELECT balance, fencing_token FROM account').fetchone())
";
    let output = Command::new("python3")
        .args(["-c", program, sql])
        .output()
        .expect("python3");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(
        printed.trim(),
        "[-1, 1, 1, 1, 0] (80, 42)",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
