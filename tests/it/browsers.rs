//! The limits of a web page's access to a server.

use serde_json::json;

use crate::support::http::{Reply, http, raw};
use crate::support::leasehold::{Leasehold, run_to_exit};
use crate::support::redis::RedisServer;

const REFUSED: u16 = 403;
const MISDIRECTED: u16 = 421;

/// A request with exactly these headers, hence without an automatic `Host`.
fn ask(server: &Leasehold, method: &str, path: &str, headers: &[String]) -> Reply {
    let lines = [
        &[
            format!("{method} {path} HTTP/1.1"),
            "Connection: close".to_owned(),
        ],
        headers,
    ]
    .concat();
    let request = lines.join("\r\n") + "\r\n\r\n";
    let mut replies = raw(server.addr(), request.as_bytes());
    assert_eq!(replies.len(), 1, "{request}: {replies:?}");
    replies.remove(0)
}

fn problem(reply: &Reply) -> String {
    let body = reply.json();
    let kind = body["type"].as_str().unwrap_or_default();
    kind.rsplit(':').next().unwrap_or_default().to_owned()
}

#[test]
fn page_of_another_origin_changes_nothing() {
    let redis = RedisServer::plain();
    for server in [Leasehold::in_memory(), Leasehold::on(&redis)] {
        let host = server.addr().to_owned();
        let port = host.rsplit(':').next().expect("a port").to_owned();
        let own = [
            vec![],
            vec![format!("Origin: http://{host}")],
            vec!["Sec-Fetch-Site: same-origin".to_owned()],
            vec!["Sec-Fetch-Site: none".to_owned()],
            // A proxy rewrote Host, but the browser states that the request comes from the page's own origin.
            vec![
                "Sec-Fetch-Site: same-origin".to_owned(),
                "Origin: https://locks.example.com".to_owned(),
            ],
        ];
        let foreign = [
            vec!["Sec-Fetch-Site: cross-site".to_owned()],
            vec!["Sec-Fetch-Site: same-site".to_owned()],
            vec!["Sec-Fetch-Site: Same-Origin".to_owned()],
            vec!["Sec-Fetch-Site:".to_owned()],
            vec![
                "Sec-Fetch-Site: cross-site".to_owned(),
                format!("Origin: http://{host}"),
            ],
            vec![
                "Sec-Fetch-Site: none".to_owned(),
                "Sec-Fetch-Site: none".to_owned(),
            ],
            vec!["Origin: http://evil.example".to_owned()],
            vec![format!("Origin: http://evil.example:{port}")],
            vec!["Origin: http://127.0.0.1".to_owned()],
            vec!["Origin: http://127.0.0.1:1".to_owned()],
            vec![format!("Origin: http://localhost:{port}")],
            vec!["Origin: null".to_owned()],
            vec!["Origin:".to_owned()],
            vec![
                format!("Origin: http://{host}"),
                format!("Origin: http://{host}"),
            ],
        ];
        let with_host =
            |headers: &[String]| [vec![format!("Host: {host}")], headers.to_vec()].concat();
        for headers in &foreign {
            let headers = with_host(headers);
            for (method, path) in [
                ("POST", "/locks/a"),
                ("POST", "/locks/a%2Fb"),
                ("PUT", "/locks/a/lease"),
                ("DELETE", "/locks/a"),
                ("DELETE", "/locks/a?force=true&fencing_token=1"),
            ] {
                let reply = ask(&server, method, path, &headers);
                assert_eq!(
                    reply.status, REFUSED,
                    "{method} {path} {headers:?}: {reply:?}"
                );
                assert_eq!(problem(&reply), "forbidden");
            }
            let form = [
                headers.clone(),
                vec![
                    "Content-Type: application/x-www-form-urlencoded".to_owned(),
                    "Content-Length: 0".to_owned(),
                ],
            ]
            .concat();
            assert_eq!(ask(&server, "POST", "/locks/a", &form).status, REFUSED);
            // A read is allowed, because the browser does not show the answer to the page.
            let seen = ask(&server, "GET", "/locks/a", &headers);
            assert_eq!((seen.status, &seen.json()["held"]), (200, &json!(false)));
        }
        for headers in &own {
            let headers = with_host(headers);
            let reply = ask(&server, "POST", "/locks/own", &headers);
            assert_eq!(reply.status, 201, "{headers:?}: {reply:?}");
            let lease = format!("Lease-Id: {}", reply.lease_id());
            let headers = [headers, vec![lease]].concat();
            assert_eq!(
                ask(&server, "PUT", "/locks/own/lease", &headers).status,
                200
            );
            assert_eq!(ask(&server, "DELETE", "/locks/own", &headers).status, 204);
        }
    }
}

#[test]
fn origins_are_compared_with_the_default_port_of_their_scheme() {
    let server = Leasehold::in_memory();
    for (host, origin, status) in [
        ("localhost", "http://localhost", 201),
        ("localhost:80", "http://localhost", 201),
        ("localhost", "http://localhost:80", 201),
        ("localhost", "https://localhost", 201),
        ("localhost:443", "https://localhost", 201),
        ("LOCALHOST", "http://localhost", 201),
        ("[::1]:8080", "http://[::1]:8080", 201),
        ("localhost:443", "http://localhost", REFUSED),
        ("localhost:80", "https://localhost", REFUSED),
        ("localhost", "http://localhost:8080", REFUSED),
        ("localhost", "ftp://localhost", REFUSED),
        ("localhost", "http://localhost/", REFUSED),
        ("localhost", "localhost", REFUSED),
    ] {
        let headers = [format!("Host: {host}"), format!("Origin: {origin}")];
        let reply = ask(&server, "POST", "/locks/a", &headers);
        assert_eq!(reply.status, status, "{headers:?}: {reply:?}");
        if status == 201 {
            server.api().release("a", &reply.lease_id());
        }
    }
}

#[test]
fn origins_that_are_allowed_may_change_locks() {
    let origins = "https://locks.example.com, http://10.1.2.3:8080";
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory"),
        ("LEASEHOLD_ALLOWED_ORIGINS", origins),
    ]);
    for (origin, status) in [
        ("https://locks.example.com", 201),
        ("https://locks.example.com:443", 201),
        ("https://LOCKS.example.com", 201),
        ("http://10.1.2.3:8080", 201),
        ("http://locks.example.com", REFUSED),
        ("https://locks.example.com:8443", REFUSED),
        ("http://10.1.2.3", REFUSED),
    ] {
        let headers = [
            "Host: localhost".to_owned(),
            format!("Origin: {origin}"),
            "Sec-Fetch-Site: cross-site".to_owned(),
        ];
        let reply = ask(&server, "POST", "/locks/a", &headers);
        assert_eq!(reply.status, status, "{origin}: {reply:?}");
        if status == 201 {
            server.api().release("a", &reply.lease_id());
        }
    }
}

#[test]
fn server_on_loopback_answers_to_loopback_names_only() {
    let server = Leasehold::in_memory();
    let loopback = [
        "localhost",
        "localhost:8080",
        "LocalHost.",
        "127.0.0.1",
        "127.0.0.1:1",
        "127.1.2.3",
        "[::1]",
        "[::1]:8080",
        "[::ffff:127.0.0.1]",
    ];
    let foreign = [
        "evil.example",
        "evil.example:8080",
        "localhost.evil.example",
        "127.0.0.1.evil.example",
        "128.0.0.1",
        "0.0.0.0",
        "[::2]",
        "10.0.0.1",
    ];
    let paths = [
        "/locks",
        "/locks/a",
        "/metrics",
        "/docs/",
        "/openapi.json",
        "/nowhere",
    ];
    for host in loopback {
        for path in paths {
            let reply = ask(&server, "GET", path, &[format!("Host: {host}")]);
            assert_ne!(reply.status, MISDIRECTED, "{host} {path}");
        }
        let reply = ask(&server, "POST", "/locks/a", &[format!("Host: {host}")]);
        assert_eq!(reply.status, 201, "{host}: {reply:?}");
        server.api().release("a", &reply.lease_id());
    }
    for host in foreign {
        let host = [format!("Host: {host}")];
        for path in paths {
            let reply = ask(&server, "GET", path, &host);
            assert_eq!(reply.status, MISDIRECTED, "{host:?} {path}");
            assert_eq!(problem(&reply), "misdirected-request");
        }
        let reply = ask(&server, "POST", "/locks/a", &host);
        assert_eq!(reply.status, MISDIRECTED, "{host:?}");
        // Probes of a kubelet or a load balancer may use any name.
        for probe in ["/livez", "/readyz"] {
            assert_eq!(
                ask(&server, "GET", probe, &host).status,
                200,
                "{host:?} {probe}"
            );
        }
        // In absolute form the request line also contains the name.
        let absolute = format!("http://{}/locks/a", &host[0]["Host: ".len()..]);
        let reply = ask(&server, "POST", &absolute, &["Host: localhost".to_owned()]);
        assert_eq!(reply.status, MISDIRECTED, "{absolute}");
    }
    let old = raw(server.addr(), b"POST /locks/old HTTP/1.0\r\n\r\n");
    assert_eq!(old[0].status, 201, "{old:?}");
    assert_eq!(server.api().inspect("a").json()["held"], false);
}

#[test]
fn names_that_are_allowed_are_answered_to() {
    let allowed = ("LEASEHOLD_ALLOWED_HOSTS", "locks.example.com, 10.1.2.3,::2");
    let hosts = [
        ("locks.example.com", 201),
        ("Locks.Example.com:8080", 201),
        ("10.1.2.3:80", 201),
        ("[::2]:80", 201),
        ("localhost", 201),
        ("example.com", MISDIRECTED),
        ("evil.locks.example.com", MISDIRECTED),
    ];
    let on_loopback = Leasehold::start([("LEASEHOLD_STORE", "memory"), allowed]);
    let open = ("LEASEHOLD_INSECURE_OPEN", "true");
    let memory = ("LEASEHOLD_STORE", "memory");
    let off_loopback = Leasehold::start_at("0.0.0.0:0", [memory, allowed, open]);
    for server in [on_loopback, off_loopback] {
        for (host, status) in hosts {
            let reply = ask(&server, "POST", "/locks/a", &[format!("Host: {host}")]);
            assert_eq!(reply.status, status, "{host}: {reply:?}");
            if status == 201 {
                let addr = server.addr().replace("0.0.0.0", "127.0.0.1");
                let lease = reply.lease_id();
                http(&addr, "DELETE", "/locks/a", &[("Lease-Id", &lease)], None);
            }
        }
    }
}

#[test]
fn server_off_loopback_answers_to_any_name() {
    let open = ("LEASEHOLD_INSECURE_OPEN", "true");
    let server = Leasehold::start_at("0.0.0.0:0", [("LEASEHOLD_STORE", "memory"), open]);
    let reply = ask(
        &server,
        "POST",
        "/locks/a",
        &["Host: locks.example.com".to_owned()],
    );
    assert_eq!(reply.status, 201, "{reply:?}");
}

#[test]
fn names_and_origins_that_are_none_are_refused_at_the_start() {
    for (setting, value) in [
        ("LEASEHOLD_ALLOWED_HOSTS", "http://a"),
        ("LEASEHOLD_ALLOWED_HOSTS", "a:80"),
        ("LEASEHOLD_ALLOWED_HOSTS", "a/b"),
        ("LEASEHOLD_ALLOWED_HOSTS", "a,,b"),
        ("LEASEHOLD_ALLOWED_HOSTS", "*.a"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "a"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "http://a/"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "https://a?b"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "https://user@a"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "null"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "https://a:99999"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "https://a:b"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "https://a:"),
        ("LEASEHOLD_ALLOWED_ORIGINS", "*"),
    ] {
        let (status, _, stderr) = run_to_exit(&[], [(setting, value)]);
        assert_eq!(status.code(), Some(2), "{setting}={value}: {stderr}");
        assert!(stderr.contains(setting), "{setting}={value}: {stderr}");
    }
}
