//! TLS towards Redis and the Sentinels, with a private authority and client certificates.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, date_time_ymd};

use super::{becomes_ready, says_at_start, with_redis, with_set, works};
use crate::support::leasehold::Leasehold;
use crate::support::net::free_port;
use crate::support::redis::{RedisConfig, RedisServer};
use crate::support::sentinel::SentinelConfig;
use crate::support::tls::TlsFiles;

const CA: &str = "LEASEHOLD_TLS_CA_FILE";
const CERT: &str = "LEASEHOLD_TLS_CERT_FILE";
const KEY: &str = "LEASEHOLD_TLS_KEY_FILE";

/// A server with this URL and these files.
fn server_with(url: &str, files: &[(&str, &Path)]) -> Leasehold {
    let files = files
        .iter()
        .map(|(name, path)| (*name, path.display().to_string()));
    Leasehold::start(files.chain([("LEASEHOLD_REDIS_URL", url.to_owned())]))
}

fn redis_with(files: &Arc<TlsFiles>) -> RedisServer {
    RedisConfig::new().tls(files).start()
}

#[test]
fn private_authority_and_client_certificate_are_used() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let own = [
        (CA, &*files.ca),
        (CERT, &*files.client_cert),
        (KEY, &*files.client_key),
    ];
    becomes_ready(&server_with(&redis.url(), &own));
    let by_name = format!("rediss://localhost:{}", redis.port());
    becomes_ready(&server_with(&by_name, &own));
}

#[test]
fn tls_may_be_asked_for_beside_the_url() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let text = |path: &Path| path.display().to_string();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", format!("redis://{}", redis.addr())),
        ("LEASEHOLD_REDIS_TLS", "true".to_owned()),
        (CA, text(&files.ca)),
        (CERT, text(&files.client_cert)),
        (KEY, text(&files.client_key)),
    ]);
    becomes_ready(&server);
}

#[test]
fn tls_is_spoken_with_sentinels_and_data_nodes() {
    let files = Arc::new(TlsFiles::generate());
    let set = SentinelConfig::new().replicas(1).tls(&files).start();
    let server = with_set(set.env(), &[]);
    server.wait_ready();
    works(&server);
    let old = set.failover();
    set.wait_for_new_master(old);
    becomes_ready(&server);
}

#[test]
fn unknown_authority_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let server = server_with(
        &redis.url(),
        &[
            (CA, &files.stranger_ca),
            (CERT, &files.client_cert),
            (KEY, &files.client_key),
        ],
    );
    let reason = says_at_start(&server, &["certificate", CA]);
    assert!(reason.contains(&redis.addr()), "{reason}");
}

#[test]
fn private_authority_that_was_not_named_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    says_at_start(&with_redis(&redis.url()), &["certificate", CA]);
}

#[test]
fn missing_client_certificate_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let server = server_with(&redis.url(), &[(CA, &files.ca)]);
    says_at_start(&server, &["certificate", CERT, KEY]);
}

#[test]
fn client_certificate_of_another_authority_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let server = server_with(
        &redis.url(),
        &[
            (CA, &files.ca),
            (CERT, &files.stranger_cert),
            (KEY, &files.stranger_key),
        ],
    );
    says_at_start(&server, &["certificate", CERT]);
}

#[test]
fn certificate_for_another_name_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    // A loopback address that is missing from the certificate.
    let redis = RedisConfig::new()
        .tls(&files)
        .line("bind", "127.0.0.1 127.0.0.2")
        .start();
    let url = format!("rediss://127.0.0.2:{}", redis.port());
    let server = server_with(
        &url,
        &[
            (CA, &files.ca),
            (CERT, &files.client_cert),
            (KEY, &files.client_key),
        ],
    );
    let reason = says_at_start(&server, &["certificate", "127.0.0.2"]);
    assert!(reason.contains("name"), "{reason}");
}

#[test]
fn unknown_authority_of_sentinels_is_refused() {
    let files = Arc::new(TlsFiles::generate());
    let set = SentinelConfig::new()
        .replicas(1)
        .sentinels(1)
        .tls(&files)
        .start();
    let stranger = files.stranger_ca.display().to_string();
    let server = with_set(set.env(), &[(CA, &stranger)]);
    says_at_start(&server, &[&set.sentinels(), "certificate", CA]);
}

#[test]
fn redis_without_tls_is_named() {
    let redis = RedisServer::plain();
    let server = with_redis(&format!("rediss://{}", redis.addr()));
    says_at_start(&server, &[&redis.addr(), "TLS", "redis://"]);
}

#[test]
fn redis_with_tls_that_was_not_set_is_named() {
    let files = Arc::new(TlsFiles::generate());
    let redis = redis_with(&files);
    let server = with_redis(&format!("redis://{}", redis.addr()));
    says_at_start(&server, &[&redis.addr(), "TLS", "rediss://"]);
}

/// A Redis with a TLS port that shows this certificate, and the URL of that port at `host`. It has a plain port too, for
/// the test itself.
fn redis_that_shows(
    (certificate, key): &(PathBuf, PathBuf),
    files: &TlsFiles,
    host: &str,
    lines: &[(&str, &str)],
) -> (RedisServer, String) {
    let port = free_port();
    let text = |path: &Path| path.display().to_string();
    let redis = RedisConfig::new()
        .line("tls-port", &port.to_string())
        .line("tls-cert-file", &text(certificate))
        .line("tls-key-file", &text(key))
        .line("tls-ca-cert-file", &text(&files.ca));
    let without_clients = [("tls-auth-clients", "no")];
    let lines = if lines.is_empty() {
        &without_clients[..]
    } else {
        lines
    };
    let redis = lines
        .iter()
        .fold(redis, |redis, (name, value)| redis.line(name, value));
    (redis.start(), format!("rediss://{host}:{port}"))
}

/// Nothing in the reason sends the operator to the network.
fn says(server: &Leasehold, words: &[&str]) {
    let reason = says_at_start(server, words);
    for wrong in ["check that it runs", "network", "cannot be reached"] {
        assert!(!reason.contains(wrong), "{reason}");
    }
}

const NAMES: [&str; 2] = ["127.0.0.1", "localhost"];

#[test]
fn certificate_whose_dates_are_wrong_is_refused() {
    let files = TlsFiles::generate();
    let expired = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    };
    let later = |params: &mut CertificateParams| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2090, 1, 1), date_time_ymd(2091, 1, 1));
    };
    let old = files.signed("old", &NAMES, expired);
    let (redis, url) = redis_that_shows(&old, &files, "127.0.0.1", &[]);
    let server = server_with(&url, &[(CA, &files.ca)]);
    says(&server, &["certificate", "expired", "renew", "clock"]);
    drop((redis, server));
    let new = files.signed("new", &NAMES, later);
    let (_redis, url) = redis_that_shows(&new, &files, "127.0.0.1", &[]);
    let server = server_with(&url, &[(CA, &files.ca)]);
    says(&server, &["certificate", "not valid yet", "clock"]);
}

#[test]
fn certificate_for_a_name_is_refused_at_an_address() {
    let files = TlsFiles::generate();
    let named = files.signed("named", &["localhost"], |_| {});
    let (_redis, url) = redis_that_shows(&named, &files, "127.0.0.1", &[]);
    let server = server_with(&url, &[(CA, &files.ca)]);
    says(
        &server,
        &[
            "does not have the name 127.0.0.1",
            "localhost",
            "subjectAltName",
        ],
    );
}

/// As an authority, as `openssl req -x509` makes it, and as a server. Its name does not matter.
#[test]
fn self_signed_certificate_is_trusted_as_exactly_that_certificate() {
    let files = TlsFiles::generate();
    for (name, is_ca) in [
        ("authority", IsCa::Ca(BasicConstraints::Unconstrained)),
        ("server", IsCa::ExplicitNoCa),
        ("plain", IsCa::NoCa),
    ] {
        let own = files.self_signed(name, &["redis.example.com"], |params| {
            params.is_ca = is_ca;
        });
        let (_redis, url) = redis_that_shows(&own, &files, "127.0.0.1", &[]);
        becomes_ready(&server_with(&url, &[(CA, &own.0)]));
        // Another certificate with the same names is a stranger's.
        let other = files.self_signed(
            &format!("{name}-of-others"),
            &["redis.example.com"],
            |params| {
                params.is_ca = is_ca;
            },
        );
        says(&server_with(&url, &[(CA, &other.0)]), &["certificate"]);
    }
}

#[test]
fn self_signed_certificate_that_has_expired_is_refused() {
    let files = TlsFiles::generate();
    let own = files.self_signed("own", &NAMES, |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    let (_redis, url) = redis_that_shows(&own, &files, "127.0.0.1", &[]);
    says(
        &server_with(&url, &[(CA, &own.0)]),
        &["certificate", "expired"],
    );
}

#[test]
fn ciphers_that_do_not_meet_are_named() {
    let files = TlsFiles::generate();
    let own = files.signed("own", &NAMES, |_| {});
    let old = [
        ("tls-auth-clients", "no"),
        ("tls-protocols", "TLSv1.2"),
        // Without forward secrecy.
        ("tls-ciphers", "AES128-SHA256"),
    ];
    let (_redis, url) = redis_that_shows(&own, &files, "127.0.0.1", &old);
    let server = server_with(&url, &[(CA, &files.ca)]);
    says(
        &server,
        &[
            "no TLS version or cipher in common",
            "tls-protocols",
            "tls-ciphers",
        ],
    );
}

/// TLS 1.2 does not say what a server wants.
#[test]
fn client_certificate_that_is_wanted_is_named_in_tls_12_too() {
    let files = TlsFiles::generate();
    let own = files.signed("own", &NAMES, |_| {});
    let lines = [("tls-auth-clients", "yes"), ("tls-protocols", "TLSv1.2")];
    let (_redis, url) = redis_that_shows(&own, &files, "127.0.0.1", &lines);
    let server = server_with(&url, &[(CA, &files.ca)]);
    says(&server, &["client certificate", CERT, KEY]);
}

#[test]
fn client_certificate_that_has_expired_is_named() {
    let files = TlsFiles::generate();
    let own = files.signed("own", &NAMES, |_| {});
    let client = files.signed("old-client", &["client"], |params| {
        (params.not_before, params.not_after) =
            (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
    });
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let lines = [("tls-auth-clients", "yes"), ("tls-protocols", protocol)];
        let (_redis, url) = redis_that_shows(&own, &files, "127.0.0.1", &lines);
        let own = [(CA, &*files.ca), (CERT, &*client.0), (KEY, &*client.1)];
        says(
            &server_with(&url, &own),
            &["client certificate", "expired", CERT],
        );
    }
}
