//! The commands for scripts.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{BINARY, LIMIT, exits};
use crate::support::leasehold::Leasehold;
use crate::support::process;

#[test]
fn lease_of_a_script_is_acquired_renewed_and_released() {
    let server = Leasehold::in_memory();
    let script = format!(
        "set -e; eval \"$({BINARY} acquire --ttl 10s a)\"; {BINARY} show a; {BINARY} renew --ttl 20s; \
         {BINARY} release; {BINARY} release; {BINARY} show a; {BINARY} renew || echo code $?"
    );
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &script])
        .env("LEASEHOLD_SERVER", server.base_url());
    let (status, stdout, stderr) = process::run(&mut shell, "sh", LIMIT);
    assert!(status.success(), "{stdout}{stderr}");
    let lines: Vec<_> = stdout.lines().collect();
    assert!(
        lines[0].starts_with("a is held by ") && lines[0].contains(", fencing token "),
        "{stdout}"
    );
    assert!(lines[1].starts_with("a is renewed until "), "{stdout}");
    assert_eq!(
        lines[2..],
        ["a is released", "a is released", "a is free", "code 76"]
    );
    assert!(stderr.contains("no client holds the lock"), "{stderr}");
}

#[test]
fn json_is_for_programs() {
    let server = Leasehold::in_memory();
    let url = server.base_url();
    let json = |args: &[&str]| -> Value {
        let (code, stdout, stderr) = exits(&url, args);
        assert_eq!((code, &*stderr), (0, ""), "{args:?}");
        serde_json::from_str(&stdout).expect("JSON")
    };
    let lease = json(&["acquire", "--json", "--holder", "me", "a"]);
    let id = lease["lease_id"].as_str().expect("an id");
    assert_eq!(
        (&lease["key"], &lease["ttl_ms"]),
        (&json!("a"), &json!(30_000))
    );
    assert!(lease["expires_in_ms"].as_u64() > Some(25_000), "{lease}");
    let renewed = json(&["renew", "--json", "a", "--lease-id", id]);
    assert_eq!(renewed["fencing_token"], lease["fencing_token"]);
    let status = json(&["show", "--json", "a"]);
    assert_eq!(
        (&status["holder"], &status["renewals"]),
        (&json!("me"), &json!(1))
    );
    assert_eq!(status.get("lease_id"), None);
    let token = lease["fencing_token"].to_string();
    let wrong = exits(&url, &["break", "a", "--fencing-token", "1"]);
    assert_eq!(wrong.0, 76, "{wrong:?}");
    assert_eq!(
        json(&["break", "--json", "a", "--fencing-token", &token]),
        json!({"key": "a", "broken": true})
    );
    assert_eq!(exits(&url, &["show", "a"]).1, "a is free\n");
}

#[test]
fn list_has_all_pages() {
    const LOCKS: usize = 1100;
    let server = Leasehold::in_memory();
    let api = server.api();
    for number in 0..LOCKS {
        let granted = api.acquire(&format!("jobs/{number}"), json!({"holder": "me"}));
        assert_eq!(granted.status, 201);
    }
    api.acquire("other", None);
    let url = server.base_url();
    let (_, words, _) = exits(&url, &["ls", "jobs/"]);
    assert_eq!(words.lines().count(), LOCKS);
    assert!(
        words
            .lines()
            .all(|line| line.starts_with("jobs/") && line.contains("held by me for"))
    );
    let (_, lines, _) = exits(&url, &["ls", "--json"]);
    assert_eq!(lines.lines().count(), LOCKS + 1);
    for line in lines.lines() {
        let status: Value = serde_json::from_str(line).expect(line);
        assert_eq!(status["held"], true);
    }
}

#[test]
fn shells_and_man_learn_the_commands() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = exits("http://127.0.0.1:1", &["completion", shell]);
        assert!(code == 0 && script.contains("at-least"), "{shell}");
    }
    let (code, page, _) = exits("http://127.0.0.1:1", &["man"]);
    assert!(code == 0 && page.contains(".TH leasehold 1"), "{page}");
    let dir = TempDir::new().expect("a folder");
    let folder = dir.path().to_str().expect("UTF-8");
    assert_eq!(exits("http://127.0.0.1:1", &["man", folder]).0, 0);
    let page = std::fs::read_to_string(dir.path().join("leasehold-run.1")).expect("a page");
    assert!(page.contains("at\\-least"), "{page}");
    assert!(!dir.path().join("leasehold-guardian.1").exists());
}

#[test]
fn https_needs_a_certificate_that_is_trusted() {
    // Nothing speaks TLS at this address: the client must not fall back to plain HTTP.
    let server = Leasehold::in_memory();
    let https = server.base_url().replace("http://", "https://");
    let (code, _, stderr) = exits(&https, &["show", "a"]);
    assert_eq!(code, 69, "{stderr}");
    let dir = TempDir::new().expect("a folder");
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, "nothing").expect("a file");
    let path = file.to_str().expect("UTF-8");
    let (code, _, stderr) = exits(&https, &["show", "a", "--ca-file", path]);
    assert_eq!(code, 64, "{stderr}");
}
