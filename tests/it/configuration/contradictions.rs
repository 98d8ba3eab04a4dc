//! Settings that contradict each other.

use super::{accepted, all, refused};
use crate::support::tls::TlsFiles;

const REDIS: (&str, &str) = ("LEASEHOLD_REDIS_URL", "redis://127.0.0.1:1");
const SENTINELS: (&str, &str) = ("LEASEHOLD_SENTINELS", "127.0.0.1:1");

/// Details of Sentinels, then of Redis, that have no meaning on their own.
const SENTINEL_DETAILS: [(&str, &str); 5] = [
    ("LEASEHOLD_SENTINEL_MASTER", "mymaster"),
    ("LEASEHOLD_SENTINEL_USERNAME", "watcher"),
    ("LEASEHOLD_SENTINEL_PASSWORD", "hunter2-hunter2-hunter2"),
    ("LEASEHOLD_SENTINEL_PASSWORD_FILE", "/dev/null"),
    ("LEASEHOLD_SENTINEL_TLS", "true"),
];
const REDIS_DETAILS: [(&str, &str); 8] = [
    ("LEASEHOLD_REDIS_USERNAME", "app"),
    ("LEASEHOLD_REDIS_PASSWORD", "hunter2-hunter2-hunter2"),
    ("LEASEHOLD_REDIS_PASSWORD_FILE", "/dev/null"),
    ("LEASEHOLD_REDIS_DB", "1"),
    ("LEASEHOLD_REDIS_TLS", "true"),
    ("LEASEHOLD_TLS_CA_FILE", "/dev/null"),
    ("LEASEHOLD_TLS_CERT_FILE", "/dev/null"),
    ("LEASEHOLD_TLS_KEY_FILE", "/dev/null"),
];

#[test]
fn store_in_memory_with_a_redis_is_refused() {
    all([REDIS, SENTINELS].map(|redis| {
        refused(
            &[("LEASEHOLD_STORE", "memory"), redis],
            &["LEASEHOLD_STORE", redis.0],
        )
    }));
}

#[test]
fn store_in_redis_without_an_address_is_refused() {
    all([refused(
        &[("LEASEHOLD_STORE", "redis")],
        &[
            "LEASEHOLD_STORE",
            "LEASEHOLD_REDIS_URL",
            "LEASEHOLD_SENTINELS",
        ],
    )]);
}

#[test]
fn one_redis_and_sentinels_are_refused() {
    all([refused(
        &[REDIS, SENTINELS],
        &["LEASEHOLD_REDIS_URL", "LEASEHOLD_SENTINELS"],
    )]);
}

#[test]
fn details_of_sentinels_without_sentinels_are_refused() {
    all(SENTINEL_DETAILS
        .map(|detail| refused(&[REDIS, detail], &[detail.0, "LEASEHOLD_SENTINELS"])));
    all(SENTINEL_DETAILS.map(|detail| refused(&[detail], &[detail.0, "LEASEHOLD_SENTINELS"])));
}

#[test]
fn details_of_redis_without_redis_are_refused() {
    all(REDIS_DETAILS.map(|detail| refused(&[detail], &[detail.0, "LEASEHOLD_REDIS_URL"])));
}

#[test]
fn details_of_redis_are_refused_also_where_memory_was_asked_for() {
    all(REDIS_DETAILS.map(|detail| refused(&[("LEASEHOLD_STORE", "memory"), detail], &[detail.0])));
}

#[test]
fn login_in_the_url_and_beside_it_is_refused() {
    let url = ("LEASEHOLD_REDIS_URL", "redis://app:hunter2@127.0.0.1:1");
    all([
        ("LEASEHOLD_REDIS_PASSWORD", "hunter2-hunter2-hunter2"),
        ("LEASEHOLD_REDIS_USERNAME", "app"),
    ]
    .map(|setting| refused(&[url, setting], &[setting.0, "LEASEHOLD_REDIS_URL"])));
}

#[test]
fn user_without_a_password_is_refused() {
    // Without a password, the client library would ignore the name and log in as the default user.
    all([
        refused(
            &[REDIS, ("LEASEHOLD_REDIS_USERNAME", "app")],
            &["LEASEHOLD_REDIS_USERNAME", "LEASEHOLD_REDIS_PASSWORD"],
        ),
        refused(
            &[SENTINELS, ("LEASEHOLD_SENTINEL_USERNAME", "watcher")],
            &["LEASEHOLD_SENTINEL_USERNAME", "LEASEHOLD_SENTINEL_PASSWORD"],
        ),
    ]);
}

#[test]
fn two_database_numbers_are_refused() {
    let both = &["LEASEHOLD_REDIS_DB", "LEASEHOLD_REDIS_URL"];
    let url = |url| ("LEASEHOLD_REDIS_URL", url);
    let (none, zero, three) = (url("redis://h"), url("redis://h/0"), url("redis://h/3"));
    let beside = |number| ("LEASEHOLD_REDIS_DB", number);
    all([
        refused(&[three, beside("4")], both),
        refused(&[three, beside("0")], both),
        refused(&[zero, beside("4")], both),
        accepted(&[three, beside("3")]),
        accepted(&[none, beside("3")]),
    ]);
}

#[test]
fn url_with_tls_and_a_setting_against_it_are_refused() {
    let url = ("LEASEHOLD_REDIS_URL", "rediss://127.0.0.1:1");
    all([
        refused(
            &[url, ("LEASEHOLD_REDIS_TLS", "false")],
            &["LEASEHOLD_REDIS_TLS", "LEASEHOLD_REDIS_URL"],
        ),
        accepted(&[url, ("LEASEHOLD_REDIS_TLS", "true")]),
    ]);
}

#[test]
fn tls_without_verification_is_refused() {
    all([refused(
        &[("LEASEHOLD_REDIS_URL", "rediss://127.0.0.1:1/#insecure")],
        &["LEASEHOLD_REDIS_URL", "insecure"],
    )]);
}

#[test]
fn tls_files_without_tls_are_refused() {
    let files = TlsFiles::generate();
    let ca = files.ca.display().to_string();
    for redis in [REDIS, SENTINELS] {
        all([refused(
            &[redis, ("LEASEHOLD_TLS_CA_FILE", &ca)],
            &["LEASEHOLD_TLS_", "LEASEHOLD_REDIS_TLS"],
        )]);
    }
    all([accepted(&[
        SENTINELS,
        ("LEASEHOLD_SENTINEL_TLS", "true"),
        ("LEASEHOLD_TLS_CA_FILE", &ca),
    ])]);
}

#[test]
fn client_certificate_without_its_key_is_refused() {
    let files = TlsFiles::generate();
    let url = ("LEASEHOLD_REDIS_URL", "rediss://127.0.0.1:1");
    let (cert, key) = (
        files.client_cert.display().to_string(),
        files.client_key.display().to_string(),
    );
    let both = &["LEASEHOLD_TLS_CERT_FILE", "LEASEHOLD_TLS_KEY_FILE"];
    let (cert, key) = (
        ("LEASEHOLD_TLS_CERT_FILE", &*cert),
        ("LEASEHOLD_TLS_KEY_FILE", &*key),
    );
    all([
        refused(&[url, cert], both),
        refused(&[url, key], both),
        accepted(&[url, cert, key]),
    ]);
}

#[test]
fn key_of_another_certificate_is_refused() {
    let files = TlsFiles::generate();
    let url = ("LEASEHOLD_REDIS_URL", "rediss://127.0.0.1:1");
    let cert = files.client_cert.display().to_string();
    let key = files.stranger_key.display().to_string();
    all([refused(
        &[
            url,
            ("LEASEHOLD_TLS_CERT_FILE", &cert),
            ("LEASEHOLD_TLS_KEY_FILE", &key),
        ],
        &[
            "LEASEHOLD_TLS_KEY_FILE",
            "does not belong to the certificate",
            "LEASEHOLD_TLS_CERT_FILE",
        ],
    )]);
}

#[test]
fn tls_file_that_cannot_be_used_is_refused_by_its_setting() {
    let files = TlsFiles::generate();
    let url = ("LEASEHOLD_REDIS_URL", "rediss://127.0.0.1:1");
    let cert = files.client_cert.display().to_string();
    let key = files.client_key.display().to_string();
    let garbage = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(garbage.path(), "this is no PEM\n").expect("a writable temporary file");
    let garbage = garbage.path().display().to_string();
    let cert = ("LEASEHOLD_TLS_CERT_FILE", &*cert);
    let key = ("LEASEHOLD_TLS_KEY_FILE", &*key);
    let mut results = Vec::new();
    for bad in ["/no/such/file.pem", &garbage] {
        let bad = |name| (name, bad);
        let (no_ca, no_cert, no_key) = (
            bad("LEASEHOLD_TLS_CA_FILE"),
            bad("LEASEHOLD_TLS_CERT_FILE"),
            bad("LEASEHOLD_TLS_KEY_FILE"),
        );
        results.push(refused(&[url, no_ca], &[no_ca.0, no_ca.1]));
        results.push(refused(&[url, no_cert, key], &[no_cert.0, no_cert.1]));
        results.push(refused(&[url, cert, no_key], &[no_key.0, no_key.1]));
    }
    all(results);
}

#[test]
fn same_token_for_all_and_for_breaking_is_refused() {
    all([refused(
        &[
            ("LEASEHOLD_TOKEN", "hunter2-hunter2-hunter2"),
            ("LEASEHOLD_BREAK_TOKEN", "hunter2-hunter2-hunter2"),
        ],
        &["LEASEHOLD_TOKEN", "LEASEHOLD_BREAK_TOKEN"],
    )]);
}

#[test]
fn server_that_others_reach_is_open_only_if_that_is_asked_for() {
    let redis = ("LEASEHOLD_REDIS_URL", "redis://127.0.0.1:1");
    let words = [
        "LEASEHOLD_TOKEN",
        "LEASEHOLD_AUTH_FILE",
        "LEASEHOLD_INSECURE_OPEN=true",
    ];
    let breaker = ("LEASEHOLD_BREAK_TOKEN", "hunter2-hunter2-hunter2");
    for listen in ["0.0.0.0:0", "[::]:0"] {
        let at = ("LEASEHOLD_LISTEN", listen);
        all([
            refused(&[at, redis], &[&words[..], &[listen]].concat()),
            refused(&[at, redis, ("LEASEHOLD_INSECURE_OPEN", "false")], &words),
            refused(&[at, redis, ("LEASEHOLD_INSECURE_OPEN", "")], &words),
            // Everyone could acquire.
            refused(&[at, redis, breaker], &words),
        ]);
    }
}

#[test]
fn memory_off_loopback_must_be_asked_for() {
    for listen in ["0.0.0.0:0", "[::]:0"] {
        all([refused(
            &[("LEASEHOLD_LISTEN", listen)],
            &[
                "LEASEHOLD_SENTINELS",
                "LEASEHOLD_REDIS_URL",
                "LEASEHOLD_STORE=memory",
                listen,
            ],
        )]);
    }
}
