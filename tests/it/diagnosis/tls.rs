//! TLS towards Redis and the Sentinels, with a private authority and client certificates.

use std::path::Path;
use std::sync::Arc;

use super::{becomes_ready, says_at_start, with_redis, with_set, works};
use crate::support::leasehold::Leasehold;
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
