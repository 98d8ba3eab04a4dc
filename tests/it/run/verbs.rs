//! The commands for scripts.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::{BINARY, LIMIT, exits};
use crate::support::leasehold::Leasehold;
use crate::support::process;
use crate::support::tls::TlsFiles;

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
fn lease_that_cannot_be_printed_is_released() {
    let server = Leasehold::in_memory();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("{BINARY} acquire a >/dev/full")])
        .env("LEASEHOLD_SERVER", server.base_url());
    let (status, _, stderr) = process::run(&mut shell, "sh", LIMIT);
    assert_eq!(status.code(), Some(64), "{stderr}");
    assert_eq!(server.api().inspect("a").json()["held"], false);
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

/// A server behind a proxy that speaks TLS.
async fn behind_tls(listener: TcpListener, files: &TlsFiles, server: String) {
    let certificates = CertificateDer::pem_file_iter(&files.server_cert).expect("a file");
    let certificates = certificates
        .collect::<Result<Vec<_>, _>>()
        .expect("a certificate");
    let key = PrivateKeyDer::from_pem_file(&files.server_key).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(certificates, key)
        .expect("a pair");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (acceptor, server) = (acceptor.clone(), server.clone());
        tokio::spawn(async move {
            // A client that does not trust the certificate ends the handshake.
            let Ok(mut client) = acceptor.accept(stream).await else {
                return;
            };
            let mut server = TcpStream::connect(server).await.expect("a server");
            let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        });
    }
}

#[test]
pub(super) fn https_server_is_trusted_by_its_authority_alone() {
    let files = TlsFiles::generate();
    let server = Leasehold::in_memory();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listener = runtime
        .block_on(TcpListener::bind("127.0.0.1:0"))
        .expect("a port");
    let https = format!("https://{}", listener.local_addr().expect("an address"));
    let (ca, stranger) = (files.ca.clone(), files.stranger_ca.clone());
    let addr = server.addr().to_owned();
    runtime.spawn(async move { behind_tls(listener, &files, addr).await });
    let run = |ca: &Path| {
        let ca = ca.to_str().expect("UTF-8");
        exits(&https, &["run", "-n", "--ca-file", ca, "a", "--", "true"])
    };
    assert_eq!(run(&ca), (0, String::new(), String::new()));
    for (code, _, stderr) in [
        run(&stranger),
        exits(&https, &["run", "-n", "a", "--", "true"]),
    ] {
        assert_eq!(code, 69, "{stderr}");
        assert!(stderr.contains("certificate"), "{stderr}");
    }
    runtime.shutdown_background();
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
