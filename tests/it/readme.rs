//! What the README shows is what happens: its shell and SQL blocks are run, its tables compared.

use std::fs;
use std::process::Command;

use crate::support::leasehold::Leasehold;

fn readme() -> String {
    fs::read_to_string("README.md").expect("the README")
}

/// The fenced blocks in their order: language and text.
fn blocks(text: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(language), None) => open = Some((language.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, block))) => {
                block.push_str(line);
                block.push('\n');
            }
            (None, None) => {}
        }
    }
    blocks
}

/// Whether `line` is what `expected` shows, where `…` stands for anything.
fn resembles(line: &str, expected: &str) -> bool {
    let mut parts = expected.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    rest.is_empty() || last == Some("")
}

#[test]
fn shell_lines_do_what_the_readme_shows() {
    let server = Leasehold::in_memory();
    let blocks = blocks(&readme());
    let mut compared = 0;
    for pair in blocks.windows(2).filter(|pair| pair[0].0 == "sh") {
        let [(_, script), (language, expected)] = pair else {
            unreachable!("windows of two")
        };
        assert_eq!(language, "text", "what is the output of\n{script}");
        let script = script.replace("127.0.0.1:8080", server.addr());
        let output = Command::new("bash")
            .args(["-euc", &script])
            .output()
            .expect("bash and curl");
        let printed = String::from_utf8(output.stdout).expect("UTF-8");
        let mut lines = printed.lines();
        for expected in expected.lines() {
            let found = lines.any(|line| resembles(line, expected));
            assert!(
                found,
                "{script}\ndid not print\n{expected}\nbut\n{printed}{}",
                String::from_utf8_lossy(&output.stderr)
            );
            compared += 1;
        }
    }
    assert!(compared >= 10, "only {compared} lines were compared");
}

#[test]
fn stale_fencing_token_changes_no_row() {
    let blocks = blocks(&readme());
    let (_, sql) = blocks
        .iter()
        .find(|(language, _)| language == "sql")
        .expect("an SQL block");
    let program = r"
import sqlite3, sys
connection = sqlite3.connect(':memory:')
sql = '\n'.join(line for line in sys.argv[1].splitlines() if not line.startswith('--'))
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

#[test]
fn settings_table_names_every_setting_and_no_other() {
    let text = readme();
    let table = text
        .split("## Settings")
        .nth(1)
        .expect("the section")
        .split("## ")
        .next()
        .expect("its text");
    let word = |text: &str| {
        text.trim_matches(|c: char| c != '_' && !c.is_ascii_alphanumeric())
            .to_owned()
    };
    let mut named: Vec<String> = table
        .lines()
        .filter(|line| line.starts_with("| `LEASEHOLD_"))
        .filter_map(|line| line.split('|').nth(1))
        .flat_map(|cell| cell.split(',').map(word))
        .collect();
    named.sort();
    let command = leasehold::cli::command();
    let mut known: Vec<String> = command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_str().expect("ASCII").to_owned())
        .collect();
    known.sort();
    assert_eq!(named, known);
}

#[test]
fn limits_are_those_of_the_code() {
    let text = readme();
    for limit in [
        leasehold::lock::key::MAX_KEY_BYTES.to_string(),
        leasehold::lock::lease::Ttl::MIN.as_millis().to_string(),
        leasehold::lock::lease::Holder::MAX_BYTES.to_string(),
        leasehold::lock::lease::Metadata::MAX_PAIRS.to_string(),
        leasehold::lock::lease::Metadata::MAX_BYTES.to_string(),
        format!(
            "{} KiB within {} s",
            leasehold::http::extract::MAX_BODY_BYTES / 1024,
            leasehold::http::extract::BODY_TIMEOUT.as_secs()
        ),
        format!(
            "| head of a request | {} KiB within 10 s",
            leasehold::http::MAX_HEAD_BYTES / 1024
        ),
        format!(
            "| idle connection | {} s",
            leasehold::server::IDLE_TIMEOUT.as_secs()
        ),
        format!(
            "nothing of an answer is taken for {} s",
            leasehold::server::WRITE_TIMEOUT.as_secs()
        ),
        format!(
            "{} more are told so",
            leasehold::server::MAX_REFUSED_CONNECTIONS
        ),
        format!(
            "{} KiB read ahead",
            leasehold::server::MAX_READ_AHEAD_BYTES / 1024
        ),
        format!(
            "| listings at once on a server | {}",
            leasehold::service::MAX_LISTINGS
        ),
        format!(
            "about {} KiB",
            leasehold::store::contract::MAX_PAGE_BYTES / 1024
        ),
        format!(
            "| large answers on their way | {}",
            leasehold::http::MAX_LARGE_ANSWERS
        ),
        format!(
            "one of {} that may wait",
            leasehold::service::WAITERS_PER_KEPT_PLACE
        ),
        format!("at least {} characters", leasehold::config::MIN_TOKEN_BYTES),
        format!(
            "{} ms later",
            leasehold::http::auth::WRONG_TOKEN_DELAY.as_millis()
        ),
        format!("{} at once", leasehold::http::auth::MAX_DELAYED_ANSWERS),
        format!("cut to {} bytes", leasehold::telemetry::MAX_LOGGED_BYTES),
        format!("1 to {}", leasehold::http::wire::MAX_LIST_LIMIT),
        format!(
            "| connections that nobody has taken yet | {}",
            leasehold::server::BACKLOG
        ),
        format!(
            "| lines of the log that wait to be written | {}, and {} MiB",
            leasehold::telemetry::MAX_UNWRITTEN_LINES,
            leasehold::telemetry::MAX_UNWRITTEN_BYTES / 1024 / 1024
        ),
        format!(
            "older than {}.{}",
            leasehold::store::redis::MIN_REDIS_VERSION.0,
            leasehold::store::redis::MIN_REDIS_VERSION.1
        ),
    ] {
        assert!(text.contains(&limit), "{limit}");
    }
}
