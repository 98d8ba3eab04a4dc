//! The program's own output: the lines at its start, and the commands that do not serve.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::support::leasehold::{Leasehold, run_to_exit};
use crate::support::net::free_port;
use crate::support::process::{self, Process};
use crate::support::redis::RedisServer;

const NONE: [(&str, &str); 0] = [];
const BINARY: &str = env!("CARGO_BIN_EXE_leasehold");

/// Settings whose names users rely on.
const SETTINGS: [&str; 32] = [
    "LEASEHOLD_LISTEN",
    "LEASEHOLD_STORE",
    "LEASEHOLD_REDIS_URL",
    "LEASEHOLD_SENTINELS",
    "LEASEHOLD_SENTINEL_MASTER",
    "LEASEHOLD_REDIS_USERNAME",
    "LEASEHOLD_REDIS_PASSWORD",
    "LEASEHOLD_REDIS_PASSWORD_FILE",
    "LEASEHOLD_REDIS_DB",
    "LEASEHOLD_SENTINEL_USERNAME",
    "LEASEHOLD_SENTINEL_PASSWORD",
    "LEASEHOLD_SENTINEL_PASSWORD_FILE",
    "LEASEHOLD_REDIS_TLS",
    "LEASEHOLD_SENTINEL_TLS",
    "LEASEHOLD_TLS_CA_FILE",
    "LEASEHOLD_TLS_CERT_FILE",
    "LEASEHOLD_TLS_KEY_FILE",
    "LEASEHOLD_REDIS_POOL_SIZE",
    "LEASEHOLD_REDIS_CONNECT_TIMEOUT_MS",
    "LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS",
    "LEASEHOLD_REPLICA_ACKS",
    "LEASEHOLD_KEY_PREFIX",
    "LEASEHOLD_MAX_TTL_MS",
    "LEASEHOLD_MAX_WAIT_MS",
    "LEASEHOLD_MAX_CLOCK_SKEW_MS",
    "LEASEHOLD_MAX_RECOVERY_MS",
    "LEASEHOLD_MAX_WAITERS",
    "LEASEHOLD_MAX_WAITERS_PER_KEY",
    "LEASEHOLD_TOKEN",
    "LEASEHOLD_TOKEN_FILE",
    "LEASEHOLD_BREAK_TOKEN",
    "LEASEHOLD_BREAK_TOKEN_FILE",
];

#[test]
fn help_names_every_setting_with_its_flag() {
    for args in [&["--help"][..], &["serve", "--help"]] {
        let (status, stdout, stderr) = run_to_exit(args, NONE);
        assert!(status.success() && stderr.is_empty(), "{stderr}");
        for setting in SETTINGS {
            // The line omits the value of a secret.
            let forms = [format!("{setting}]"), format!("{setting}=]")];
            assert!(
                forms.iter().any(|form| stdout.contains(form)),
                "{setting} is missing\n{stdout}"
            );
            let name = setting.trim_start_matches("LEASEHOLD_");
            let flag = format!("--{}", name.to_ascii_lowercase().replace('_', "-"));
            assert!(
                stdout.contains(&format!("{flag} ")),
                "{flag} is missing\n{stdout}"
            );
        }
    }
}

#[test]
fn version_is_printed() {
    let (status, stdout, stderr) = run_to_exit(&["--version"], NONE);
    assert!(status.success() && stderr.is_empty());
    assert_eq!(stdout, format!("leasehold {}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn openapi_prints_the_document() {
    let (status, stdout, stderr) = run_to_exit(&["openapi"], NONE);
    assert!(status.success() && stderr.is_empty());
    let printed: Value = serde_json::from_str(&stdout).expect("JSON");
    assert!(printed["openapi"].is_string());
    assert!(stdout == leasehold::http::openapi());
}

#[test]
fn openapi_into_a_pipe_that_was_closed_ends_quietly() {
    // Like `leasehold openapi | head`, with a reader that has certainly closed the pipe.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("(sleep 0.3; {BINARY} openapi) | true")]);
    let (_, _, stderr) = process::run(&mut command, "sh", Duration::from_secs(10));
    assert_eq!(stderr, "");
}

#[test]
fn healthcheck_of_a_ready_server_succeeds_in_silence() {
    let server = Leasehold::in_memory();
    for url in [server.base_url(), server.base_url() + "/"] {
        let (status, stdout, stderr) = run_to_exit(&["healthcheck", "--url", &url], NONE);
        assert_eq!(
            (status.code(), &*stdout, &*stderr),
            (Some(0), "", ""),
            "{url}"
        );
    }
}

#[test]
fn healthcheck_uses_the_address_of_the_setting() {
    // In an image both commands run with the same variables.
    let server = Leasehold::in_memory();
    let port = server.addr().rsplit(':').next().expect("a port").to_owned();
    for listen in [server.addr().to_owned(), format!("0.0.0.0:{port}")] {
        let env = [
            ("LEASEHOLD_LISTEN", &*listen),
            ("LEASEHOLD_STORE", "memory"),
        ];
        let (status, _, stderr) = run_to_exit(&["healthcheck"], env);
        assert_eq!(status.code(), Some(0), "{listen}: {stderr}");
    }
}

#[test]
fn healthcheck_fails_in_one_line_without_a_server() {
    let server = Leasehold::in_memory();
    server.kill();
    let (status, stdout, stderr) = run_to_exit(&["healthcheck", "--url", &server.base_url()], NONE);
    assert_eq!((status.code(), &*stdout), (Some(1), ""));
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
}

#[test]
fn healthcheck_fails_when_the_server_is_not_ready() {
    let unreachable = format!("redis://127.0.0.1:{}", free_port());
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", unreachable)]);
    let (status, stdout, stderr) = run_to_exit(&["healthcheck", "--url", &server.base_url()], NONE);
    assert_eq!((status.code(), &*stdout), (Some(1), ""));
    assert!(stderr.contains("not ready"), "{stderr}");
}

#[test]
fn healthcheck_fails_when_the_server_hangs() {
    // The listener accepts and stays silent, as the system does for a stopped process.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let (status, _, stderr) = run_to_exit(&["healthcheck", "--url", &url], NONE);
    assert_eq!(
        (status.code(), stderr.lines().count()),
        (Some(1), 1),
        "{stderr}"
    );
}

#[test]
fn healthcheck_of_no_http_address_is_refused() {
    for url in ["localhost:8080", "https://localhost:8080", "ftp://x", ""] {
        let (status, _, stderr) = run_to_exit(&["healthcheck", "--url", url], NONE);
        assert_ne!(status.code(), Some(0), "{url}");
        assert_eq!(stderr.lines().count(), 1, "{url}: {stderr}");
    }
}

#[test]
fn banner_names_the_address_the_loss_at_a_restart_and_a_call_that_works() {
    let server = Leasehold::in_memory();
    let (stdout, base) = (first_lines(&server), server.base_url());
    let lines: Vec<&str> = stdout.lines().collect();
    assert!(lines.len() <= 5, "a newcomer reads no page: {stdout}");
    assert!(
        lines[0].contains(&base) && lines[0].contains(env!("CARGO_PKG_VERSION")),
        "{stdout}"
    );
    assert!(
        stdout.contains("memory") && stdout.contains("forgets"),
        "{stdout}"
    );
    assert!(stdout.contains(&format!("{base}/docs")), "{stdout}");
    let reply = curl(&stdout);
    assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
    assert!(!server.stderr().contains("WARN"), "nothing to warn of");
}

#[test]
fn banner_names_the_redis_and_not_its_password() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let stdout = first_lines(&server);
    assert!(
        stdout.contains(&redis.addr()) && !stdout.contains("forgets"),
        "{stdout}"
    );
    assert!(curl(&stdout).starts_with("HTTP/1.1 201 "));
}

#[test]
fn banner_shows_a_call_with_a_token_where_one_is_required() {
    let server = Leasehold::start([("LEASEHOLD_TOKEN", "hunter2-hunter2-hunter2")]);
    let stdout = first_lines(&server);
    assert!(!stdout.contains("hunter2"), "{stdout}");
    let reply = curl(&stdout.replace('…', "hunter2-hunter2-hunter2"));
    assert!(reply.starts_with("HTTP/1.1 201 "), "{reply}");
}

#[test]
fn listening_off_loopback_without_a_token_is_warned_of() {
    let (_, stderr) = start_and_stop(&[
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_INSECURE_OPEN", "true"),
    ]);
    let warnings: Vec<_> = stderr
        .lines()
        .filter(|line| line.contains("\"WARN\""))
        .collect();
    assert_eq!(warnings.len(), 1, "{stderr}");
    assert!(warnings[0].contains("LEASEHOLD_TOKEN"), "{stderr}");
}

#[test]
fn listening_off_loopback_with_tokens_is_not_warned_of() {
    let (stdout, stderr) = start_and_stop(&[
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_TOKEN", "token-for-the-locks"),
        ("LEASEHOLD_BREAK_TOKEN", "token-for-the-breaks"),
    ]);
    assert!(stdout.contains("forgets"), "{stdout}");
    assert!(!stderr.contains("WARN"), "{stderr}");
}

/// The server's standard output, once it is complete.
fn first_lines(server: &Leasehold) -> String {
    crate::support::eventually(Duration::from_secs(5), "the first lines", || {
        server.stdout().contains("curl ")
    });
    server.stdout()
}

/// Runs the call from the first lines.
fn curl(first_lines: &str) -> String {
    let line = first_lines
        .lines()
        .find_map(|line| line.split_once("curl "));
    let (_, arguments) = line.expect("a line with a call of curl");
    let mut command = Command::new("sh");
    command.args(["-c", &format!("curl -s {arguments}")]);
    process::run(&mut command, "curl", Duration::from_secs(10)).1
}

/// Starts the server off loopback and stops it after it has printed its address; returns its whole output.
fn start_and_stop(env: &[(&str, &str)]) -> (String, String) {
    let mut command = Command::new(BINARY);
    command
        .args(["--listen", "0.0.0.0:0"])
        .env_remove("LEASEHOLD_TEST_BINARY")
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let server = Process::spawn(&mut command, "leasehold");
    let (stdout, mut stderr) = server.take_pipes();
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    let mut head: Vec<String> = Vec::new();
    while !head.last().is_some_and(|line| line.contains("curl ")) {
        head.push(
            lines
                .next()
                .expect("more lines until the one with the call"),
        );
    }
    // The same task logs the warning after the lines and before the drain.
    server.terminate();
    assert!(server.wait(Duration::from_secs(20)).is_some());
    let mut logs = String::new();
    stderr.read_to_string(&mut logs).expect("text");
    (head.join("\n"), logs)
}
