//! Secrets come from variables or files, and never appear in output.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use leasehold::http::auth::{MAX_DELAYED_ANSWERS, WRONG_TOKEN_DELAY};
use serde_json::json;
use tempfile::TempDir;

use super::{accepted, all, refused};
use crate::support::eventually;
use crate::support::leasehold::{Leasehold, run_to_exit};
use crate::support::redis::RedisConfig;

const SECRETS: [(&str, &str); 4] = [
    ("LEASEHOLD_TOKEN", "LEASEHOLD_TOKEN_FILE"),
    ("LEASEHOLD_BREAK_TOKEN", "LEASEHOLD_BREAK_TOKEN_FILE"),
    ("LEASEHOLD_REDIS_PASSWORD", "LEASEHOLD_REDIS_PASSWORD_FILE"),
    (
        "LEASEHOLD_SENTINEL_PASSWORD",
        "LEASEHOLD_SENTINEL_PASSWORD_FILE",
    ),
];
const SENTINELS: (&str, &str) = ("LEASEHOLD_SENTINELS", "127.0.0.1:1");

/// A file with this text, removed with its directory.
fn file(dir: &TempDir, name: &str, text: &str) -> String {
    let path = dir.path().join(name);
    fs::write(&path, text).expect("a writable temporary directory");
    path.display().to_string()
}

#[test]
fn secret_and_its_file_are_refused_together() {
    let dir = TempDir::new().expect("a temporary directory");
    let path = file(&dir, "secret", "hunter2");
    all(SECRETS.map(|(setting, setting_file)| {
        let env = [SENTINELS, (setting, "hunter2"), (setting_file, &path)];
        refused(&env, &[setting, setting_file])
    }));
}

#[test]
fn empty_secret_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let (empty, line) = (file(&dir, "empty", ""), file(&dir, "line", "\n"));
    for (setting, setting_file) in SECRETS {
        all([
            refused(&[SENTINELS, (setting, "")], &[setting, "empty"]),
            refused(&[SENTINELS, (setting_file, &empty)], &[setting, "empty"]),
            refused(&[SENTINELS, (setting_file, &line)], &[setting, "empty"]),
        ]);
    }
}

#[test]
fn file_of_a_secret_that_cannot_be_read_is_named() {
    let dir = TempDir::new().expect("a temporary directory");
    let directory = dir.path().display().to_string();
    for path in ["/no/such/file", &directory] {
        all(SECRETS.map(|(_, setting)| refused(&[SENTINELS, (setting, path)], &[setting, path])));
    }
}

#[test]
fn token_file_may_end_with_a_line_feed() {
    let dir = TempDir::new().expect("a temporary directory");
    for (name, end) in [("none", ""), ("unix", "\n"), ("dos", "\r\n")] {
        let path = file(&dir, name, &format!("hunter2-hunter2-hunter2{end}"));
        let breaking = file(
            &dir,
            &format!("break-{name}"),
            &format!("hunter3-hunter3-hunter3{end}"),
        );
        let server = Leasehold::start([
            ("LEASEHOLD_TOKEN_FILE", &path),
            ("LEASEHOLD_BREAK_TOKEN_FILE", &breaking),
        ]);
        let with = |token: &str| {
            server
                .api()
                .with_header("Authorization", &format!("Bearer {token}"))
        };
        assert_eq!(server.api().acquire("k", None).status, 401, "{name}");
        let lease = with("hunter2-hunter2-hunter2").acquire("k", None);
        assert_eq!(lease.status, 201, "{name}: {lease:?}");
        let token = lease.json()["fencing_token"].as_u64().expect("a number");
        assert_eq!(
            with("hunter2-hunter2-hunter2")
                .break_lease("k", token)
                .status,
            403,
            "{name}"
        );
        assert_eq!(
            with("hunter3-hunter3-hunter3")
                .break_lease("k", token)
                .status,
            204,
            "{name}"
        );
    }
}

#[test]
fn password_file_of_redis_may_end_with_a_line_feed() {
    let dir = TempDir::new().expect("a temporary directory");
    let redis = RedisConfig::new().password("hunter2").start();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", format!("redis://{}", redis.addr())),
        (
            "LEASEHOLD_REDIS_PASSWORD_FILE",
            file(&dir, "secret", "hunter2\n"),
        ),
    ]);
    server.wait_ready();
}

#[test]
fn help_shows_no_secret() {
    let mut env = SECRETS.map(|(setting, _)| (setting, "hunter2")).to_vec();
    env.push(("LEASEHOLD_REDIS_URL", "redis://:hunter2@redis.example"));
    let (status, stdout, stderr) = run_to_exit(&["--help"], env);
    assert!(status.success(), "{stderr}");
    assert!(!(stdout + &stderr).contains("hunter2"));
}

#[test]
fn refusal_shows_no_secret() {
    let url = (
        "LEASEHOLD_REDIS_URL",
        "redis://app:hunter2@127.0.0.1/nonsense",
    );
    let both = ("LEASEHOLD_REDIS_PASSWORD", "hunter2");
    let right = ("LEASEHOLD_REDIS_URL", "redis://app:hunter2@127.0.0.1");
    for env in [
        vec![url],
        vec![right, both],
        vec![("LEASEHOLD_SENTINELS", "app:hunter2@host:1")],
    ] {
        let (status, _, stderr) = run_to_exit(&[], env);
        assert!(!status.success());
        assert!(!stderr.contains("hunter2"), "{stderr}");
    }
}

#[test]
fn secrets_never_appear_in_the_output() {
    never_in_the_output("info");
}

#[test]
fn secrets_never_appear_in_the_output_however_much_is_logged() {
    never_in_the_output("trace");
}

/// Requests of all kinds, with a Redis outage in between; afterwards the output contains no secret.
fn never_in_the_output(level: &str) {
    let redis = RedisConfig::new().password("pass-of-redis").start();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_TOKEN", "token-for-all-locks".to_owned()),
        ("LEASEHOLD_BREAK_TOKEN", "token-for-breaks".to_owned()),
        ("RUST_LOG", level.to_owned()),
    ]);
    server.wait_ready();
    let api = server
        .api()
        .with_header("Authorization", "Bearer token-for-all-locks");
    let key = "idempotency-key-0123456789";
    let lease = api.acquire_with("k", &[("Idempotency-Key", key)], json!({"ttl_ms": 60_000}));
    assert_eq!(lease.status, 201, "{lease:?}");
    let id = lease.json()["lease_id"]
        .as_str()
        .expect("a text")
        .to_owned();
    let mut replies = vec![
        server
            .api()
            .with_header("Authorization", "Bearer token-of-a-stranger")
            .acquire("k", None),
        api.acquire("k", None),
        api.inspect("k"),
        api.list(""),
        api.release("other", &id),
        api.renew("k", &id, json!({"ttl_ms": 1})),
        api.renew("k", "lease-id-of-a-stranger", None),
        api.call("DELETE", &format!("/locks/k?lease_id={id}"), &[], None),
    ];
    redis.kill();
    replies.push(api.renew("k", &id, None));
    replies.push(api.release("k", &id));
    eventually(Duration::from_secs(10), "trouble in the log", || {
        server.stderr().contains("cannot be reached")
    });
    server.terminate();
    server.wait_exit(Duration::from_secs(20));
    let output = server.stdout() + &server.stderr();
    let tokens = [
        "pass-of-redis",
        "token-for-all-locks",
        "token-for-breaks",
        "token-of-a-stranger",
    ];
    for secret in tokens
        .into_iter()
        .chain([&*id, key, "lease-id-of-a-stranger"])
    {
        let line = output.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret} is in the output");
    }
    for reply in replies {
        assert!(
            reply.status >= 200 && !reply.body.contains(&id),
            "{reply:?}"
        );
        assert!(
            !tokens.iter().any(|token| reply.body.contains(token)),
            "{reply:?}"
        );
    }
}

#[test]
fn token_that_can_be_guessed_is_refused() {
    let dir = TempDir::new().expect("a temporary directory");
    let (short, enough) = ("x".repeat(15), "x".repeat(16));
    let short_file = file(&dir, "short", &format!("{short}\n"));
    for (setting, setting_file) in &SECRETS[..2] {
        all([
            refused(&[(setting, &short)], &[setting, "at least 16"]),
            refused(&[(setting_file, &short_file)], &[setting, "at least 16"]),
        ]);
        let server = Leasehold::start([(setting, &enough)]);
        assert_eq!(server.readiness().status, 200);
    }
}

#[test]
fn wrong_token_is_refused_late_and_a_right_one_is_not_held_up_by_others() {
    let token = "a-token-of-a-client";
    let server = Leasehold::start([("LEASEHOLD_TOKEN", token)]);
    let with = |token: &str| {
        let value = format!("Bearer {token}");
        server.api().with_header("Authorization", &value)
    };
    let asked = Instant::now();
    assert_eq!(with("a-token-of-a-stranger").inspect("a").status, 401);
    assert!(
        asked.elapsed() >= WRONG_TOKEN_DELAY,
        "{:?}",
        asked.elapsed()
    );
    // More than the server delays at once: the others are answered at once.
    let guesses: Vec<_> = (0..MAX_DELAYED_ANSWERS + 50)
        .map(|number| {
            let api = with(&format!("guess-number-{number:09}"));
            thread::spawn(move || api.inspect("a").status)
        })
        .collect();
    assert_eq!(with(token).inspect("a").status, 200);
    for guess in guesses {
        assert_eq!(guess.join().expect("an answer"), 401);
    }
}

#[test]
fn secret_with_a_line_break_or_a_byte_order_mark_is_diagnosed() {
    let dir = TempDir::new().expect("a temporary directory");
    let marked = file(&dir, "marked", "\u{feff}hunter2-hunter2-hunter2");
    let lines = file(&dir, "lines", "hunter2-hunter2\nhunter2\n");
    for (setting, setting_file) in SECRETS {
        let of = |name: &'static str, value: &str, word: &str| {
            refused(&[SENTINELS, (name, value)], &[setting, word])
        };
        // A file of tokens has one in each line.
        let second_line = if setting.ends_with("_TOKEN") {
            "15 characters"
        } else {
            "line break"
        };
        all([
            of(setting, "hunter2-hunter2-hunter2\n", "line break"),
            of(setting, "hunter2-hunter2-hunter2\r\n", "line break"),
            of(setting_file, &lines, second_line),
            of(setting_file, &marked, "byte order mark"),
        ]);
    }
    let pem = file(&dir, "pem", "\u{feff}-----BEGIN CERTIFICATE-----\n");
    let env = [
        SENTINELS,
        ("LEASEHOLD_SENTINEL_TLS", "true"),
        ("LEASEHOLD_TLS_CA_FILE", &pem),
    ];
    all([refused(&env, &["LEASEHOLD_TLS_CA_FILE", "byte order mark"])]);
}

#[test]
fn password_in_a_url_that_needs_percent_encoding_is_refused_with_that_advice() {
    all([
        "pa/ss", "pa#ss", "pa?ss", "50%", "5%2", "p%zzq", "/", "a@b/c",
    ]
    .map(|password| {
        let url = format!("redis://:{password}@127.0.0.1:1/0");
        refused(
            &[("LEASEHOLD_REDIS_URL", &url)],
            &["LEASEHOLD_REDIS_URL", "percent-encoded", "%2F"],
        )
    }));
    all(["pa%2Fss", "50%25", "p@ss", "a:b"].map(|password| {
        let url = format!("redis://:{password}@127.0.0.1:1/0");
        accepted(&[("LEASEHOLD_REDIS_URL", &url)])
    }));
}
