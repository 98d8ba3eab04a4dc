//! Principals: what their grants permit, what they reveal, and files that change while the server runs.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use leasehold::auth::MAX_TOKENS;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

use crate::support::api::Api;
use crate::support::http::Reply;
use crate::support::leasehold::{Leasehold, run_to_exit};
use crate::support::redis::RedisServer;
use crate::support::{eventually, poll, process};

/// How long the server takes to notice a change of a file, and much more.
const LIMIT: Duration = Duration::from_secs(30);

const TOKENS: [&str; 6] = [
    "nobody",
    "acquirer",
    "reader",
    "break-only",
    "all",
    "all-of-ci",
];

fn entry(id: &str, tokens: &[&str], grants: &str) -> String {
    let digests: Vec<_> = tokens
        .iter()
        .map(|token| {
            let digest = Sha256::digest(token.as_bytes());
            let hex = digest
                .iter()
                .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
            format!("\"sha256:{hex}\"")
        })
        .collect();
    format!(
        "[[principals]]\nid = \"{id}\"\ntokens = [{}]\ngrants = [{grants}]\n",
        digests.join(", ")
    )
}

fn grant(prefix: &str, verbs: &str) -> String {
    format!("{{ prefix = \"{prefix}\", verbs = [{verbs}] }}")
}

/// A file with a principal for each of [`TOKENS`].
fn principals() -> String {
    [
        entry(
            "nobody",
            &["nobody"],
            &grant("elsewhere", "\"acquire\", \"read\", \"break\""),
        ),
        entry("acquirer", &["acquirer"], &grant("ci", "\"acquire\"")),
        entry("reader", &["reader"], &grant("ci", "\"read\"")),
        entry("break-only", &["break-only"], &grant("ci", "\"break\"")),
        entry(
            "all",
            &["all"],
            &grant("", "\"acquire\", \"read\", \"break\""),
        ),
        entry(
            "all-of-ci",
            &["all-of-ci"],
            &grant("ci/", "\"acquire\", \"read\", \"break\""),
        ),
    ]
    .concat()
}

struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    fn new(text: &str) -> Self {
        let folder = TempDir::new().expect("a folder");
        let path = folder.path().join("auth.toml");
        let file = Self {
            _folder: folder,
            path,
        };
        file.write(text);
        file
    }

    /// Replaces the file at once, as Kubernetes does.
    fn write(&self, text: &str) {
        let new = self.path.with_extension("new");
        std::fs::write(&new, text).expect("a file");
        std::fs::rename(&new, &self.path).expect("a file");
    }

    fn path(&self) -> String {
        self.path.display().to_string()
    }
}

fn as_principal(server: &Leasehold, token: &str) -> Api {
    server
        .api()
        .with_header("Authorization", &format!("Bearer {token}"))
}

/// The two stores, with these principals.
fn servers(file: &File, redis: &RedisServer) -> [Leasehold; 2] {
    let memory = [
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_AUTH_FILE", file.path()),
    ];
    let on_redis = [
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_AUTH_FILE", file.path()),
    ];
    [memory, on_redis].map(|settings| {
        let server = Leasehold::start(settings);
        server.wait_ready();
        server
    })
}

/// A call about this key.
type Call = fn(&Api, &str) -> Reply;

/// One call of each route that concerns a lock.
const CALLS: [(&str, Call); 6] = [
    ("acquire", |api, key| api.acquire(key, None)),
    ("renew", |api, key| api.renew(key, &"0".repeat(32), None)),
    ("release", |api, key| api.release(key, &"0".repeat(32))),
    ("inspect", |api, key| api.inspect(key)),
    ("break", |api, key| api.break_lease(key, 1)),
    ("list", |api, key| api.list(&format!("prefix={key}"))),
];

/// Which calls a principal may make on a key; the recovery besides.
const PERMITTED: [(&str, &str, &[&str]); 14] = [
    ("nobody", "ci", &[]),
    ("nobody", "ci/a", &[]),
    (
        "nobody",
        "elsewhere/a",
        &["acquire", "renew", "release", "inspect", "break", "list"],
    ),
    ("acquirer", "ci", &["acquire", "renew", "release"]),
    ("acquirer", "ci/a", &["acquire", "renew", "release"]),
    ("acquirer", "cia", &[]),
    ("reader", "ci/a", &["inspect", "list"]),
    ("reader", "cia", &[]),
    ("break-only", "ci/a", &["break"]),
    ("break-only", "ci-b", &[]),
    (
        "all",
        "ci/a",
        &["acquire", "renew", "release", "inspect", "break", "list"],
    ),
    (
        "all",
        "b",
        &["acquire", "renew", "release", "inspect", "break", "list"],
    ),
    (
        "all-of-ci",
        "ci/a",
        &["acquire", "renew", "release", "inspect", "break", "list"],
    ),
    // A listing of what begins with `ci` would have `ci` and `cia` too.
    ("all-of-ci", "ci", &[]),
];

#[test]
fn each_route_is_permitted_as_the_grants_say() {
    let (file, redis) = (File::new(&principals()), RedisServer::plain());
    for server in servers(&file, &redis) {
        for (token, key, permitted) in PERMITTED {
            let api = as_principal(&server, token);
            for (name, call) in CALLS {
                let reply = call(&api, key);
                let is_permitted = permitted.contains(&name);
                assert_eq!(
                    reply.status != 403,
                    is_permitted,
                    "{token} {name} {key}: {reply:?}"
                );
                assert_ne!(reply.status, 401, "{token} {name} {key}");
                if !is_permitted {
                    assert_eq!(reply.json()["type"], "urn:leasehold:problem:forbidden");
                }
            }
        }
        for token in TOKENS {
            let status = as_principal(&server, token).end_recovery().status;
            assert_eq!(status, if token == "all" { 204 } else { 403 }, "{token}");
        }
        // Without a token, and with another one.
        for (_, call) in CALLS {
            assert_eq!(call(&server.api(), "ci/a").status, 401);
        }
        assert_eq!(
            as_principal(&server, "other").acquire("ci/a", None).status,
            401
        );
        assert_eq!(server.api().end_recovery().status, 401);
    }
}

#[test]
fn refusal_reveals_nothing_to_who_may_not_read() {
    let (file, redis) = (File::new(&principals()), RedisServer::plain());
    for server in servers(&file, &redis) {
        let body =
            json!({"holder": "secret-holder", "metadata": {"a": "secret-value"}, "ttl_ms": 60_000});
        assert_eq!(
            as_principal(&server, "all").acquire("ci/a", body).status,
            201
        );
        for wait in [0, 300] {
            let names = |token| {
                let refused =
                    as_principal(&server, token).acquire("ci/a", json!({"wait_ms": wait}));
                assert_eq!(refused.status, 423, "{refused:?}");
                let body = refused.json();
                assert!(body["expires_in_ms"].as_u64() > Some(50_000), "{body}");
                let fields = body.as_object().expect("an object").keys().cloned();
                fields.collect::<Vec<_>>()
            };
            let mut known = vec![
                "detail",
                "expires_in_ms",
                "request_id",
                "status",
                "title",
                "type",
            ];
            let mut seen = names("acquirer");
            seen.sort_unstable();
            known.sort_unstable();
            assert_eq!(seen, known);
            assert!(names("all").contains(&"holder".to_owned()));
        }
    }
}

#[test]
fn listing_shows_only_what_may_be_read() {
    let (file, redis) = (File::new(&principals()), RedisServer::plain());
    for server in servers(&file, &redis) {
        for key in ["ci", "ci/a", "ci/b", "cia", "b"] {
            assert_eq!(as_principal(&server, "all").acquire(key, None).status, 201);
        }
        let keys = |token, query| {
            let page = as_principal(&server, token).list(query).json();
            let locks = page["locks"].as_array().expect("locks").iter();
            let mut keys: Vec<_> = locks
                .filter_map(|lock| lock["key"].as_str().map(str::to_owned))
                .collect();
            keys.sort();
            keys
        };
        assert_eq!(keys("all", ""), ["b", "ci", "ci/a", "ci/b", "cia"]);
        for token in ["reader", "all-of-ci"] {
            assert_eq!(keys(token, "prefix=ci/"), ["ci/a", "ci/b"]);
            assert_eq!(keys(token, "prefix=ci/b"), ["ci/b"]);
            // Pages and cursors would tell of the locks between those that may be read.
            for query in [
                "",
                "limit=1",
                "prefix=c",
                "prefix=ci",
                "prefix=d",
                "cursor=cia",
            ] {
                let refused = as_principal(&server, token).list(query);
                assert_eq!(refused.status, 403, "{token} {query}: {refused:?}");
            }
        }
        assert_eq!(
            as_principal(&server, "acquirer").list("prefix=ci/").status,
            403
        );
    }
}

#[test]
fn idempotency_keys_are_those_of_a_principal() {
    let (file, redis) = (File::new(&principals()), RedisServer::plain());
    for server in servers(&file, &redis) {
        let key = [("Idempotency-Key", "0123456789abcdef")];
        let acquire = |token| {
            as_principal(&server, token)
                .acquire_with("ci/a", &key, None)
                .status
        };
        assert_eq!(acquire("all"), 201);
        assert_eq!(acquire("all"), 200);
        assert_eq!(acquire("acquirer"), 423);
    }
}

#[test]
fn files_are_read_again_and_a_bad_one_changes_nothing() {
    let file = File::new(&entry(
        "ci",
        &["first"],
        &grant("", "\"acquire\", \"read\""),
    ));
    let tokens = File::new("token-of-the-first-line\n");
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_AUTH_FILE", file.path()),
        ("LEASEHOLD_TOKEN_FILE", tokens.path()),
    ]);
    let status = |token: &str| as_principal(&server, token).inspect("a").status;
    let becomes = |token: &str, expected| {
        eventually(LIMIT, token, || status(token) == expected);
    };
    assert_eq!((status("first"), status("second")), (200, 401));
    // Rotation: at each moment one of the two is good, and the principal stays the same.
    file.write(&entry(
        "ci",
        &["first", "second"],
        &grant("", "\"acquire\", \"read\""),
    ));
    becomes("second", 200);
    assert_eq!(status("first"), 200);
    file.write(&entry(
        "ci",
        &["second"],
        &grant("", "\"acquire\", \"read\""),
    ));
    becomes("first", 401);
    assert_eq!(status("second"), 200);
    tokens.write("token-of-the-first-line\ntoken-of-the-second-line\n");
    becomes("token-of-the-second-line", 200);
    assert_eq!(status("token-of-the-first-line"), 200);

    let problem = || server.readiness().json()["auth_problem"].clone();
    assert_eq!(problem(), Value::Null);
    // Whatever is wrong, everyone may see that it is, and the log shows no value: it may be a token.
    let good = entry("ci", &["second"], &grant("", "\"read\""));
    for bad in [
        good.replace("tokens = [", "tokens = \"lh_written_\" #"),
        "# nothing\n".to_owned(),
    ] {
        file.write(&bad);
        let said = poll(LIMIT, || problem().as_str().map(str::to_owned)).expect(&bad);
        assert!(
            said.contains("the log says why") && !said.contains("written"),
            "{said}"
        );
        assert_eq!(
            (status("second"), status("token-of-the-second-line")),
            (200, 200),
            "{bad}"
        );
        file.write(&good);
        eventually(LIMIT, "it is mended", || problem() == Value::Null);
    }
    file.write(&entry("ci", &["third"], &grant("", "\"read\"")));
    becomes("third", 200);
    assert_eq!(problem(), Value::Null);
    let log = server.stderr();
    assert!(
        log.contains("the tokens of before stay: LEASEHOLD_AUTH_FILE"),
        "{log}"
    );
    assert!(
        !log.contains("lh_written") && !log.contains("lh written"),
        "{log}"
    );
}

/// The check at the arrival of a request is not enough for one that waits.
#[test]
fn waiter_whose_token_ends_gets_no_lease() {
    let both = [
        entry("holder", &["holder"], &grant("", "\"acquire\", \"read\"")),
        entry("waiter", &["waiter"], &grant("", "\"acquire\"")),
    ];
    let redis = RedisServer::plain();
    for store in [
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_REDIS_URL", redis.url()),
    ] {
        let file = File::new(&both.concat());
        let server = Leasehold::start([store, ("LEASEHOLD_AUTH_FILE", file.path())]);
        server.wait_ready();
        let holder = as_principal(&server, "holder");
        let lease = holder.acquire("a", json!({"ttl_ms": 60_000}));
        assert_eq!(lease.status, 201, "{lease:?}");
        let waiter = as_principal(&server, "waiter");
        let waiting = thread::spawn(move || waiter.acquire("a", json!({"wait_ms": 40_000})));
        eventually(LIMIT, "it waits", || {
            holder.inspect("a").json()["waiters"] == 1
        });
        file.write(&both[0]);
        eventually(LIMIT, "it is gone", || {
            as_principal(&server, "waiter").inspect("a").status == 401
        });
        assert_eq!(holder.release("a", &lease.lease_id()).status, 204);
        let refused = waiting.join().expect("an answer");
        assert_eq!(refused.status, 401, "{refused:?}");
        eventually(LIMIT, "it is free", || {
            holder.inspect("a").json()["held"] == false
        });
    }
}

#[test]
fn token_expires() {
    let soon = jiff::Timestamp::now() + Duration::from_secs(3);
    let with_end =
        |text: &str, end: &str| text.replace("grants", &format!("expires = {end}\ngrants"));
    let text = [
        with_end(
            &entry("ends", &["ends"], &grant("", "\"read\"")),
            &soon.to_string(),
        ),
        with_end(
            &entry("over", &["over"], &grant("", "\"read\"")),
            "2020-02-29",
        ),
        with_end(
            &entry("later", &["later"], &grant("", "\"read\"")),
            "2099-01-01T00:00:00+02:00",
        ),
    ];
    let file = File::new(&text.concat());
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_AUTH_FILE", file.path()),
    ]);
    let inspect = |token: &str| as_principal(&server, token).inspect("a");
    assert_eq!(
        (inspect("ends").status, inspect("later").status),
        (200, 200)
    );
    assert_eq!(inspect("over").status, 401);
    eventually(LIMIT, "it expires", || inspect("ends").status == 401);
    assert!(jiff::Timestamp::now() >= soon);
    assert_eq!(
        inspect("ends").json()["detail"],
        "the bearer token has expired"
    );
}

/// A principal with so many tokens.
fn many_tokens(count: usize) -> String {
    let tokens: Vec<_> = (0..count).map(|at| format!("token-{at}")).collect();
    let tokens: Vec<_> = tokens.iter().map(String::as_str).collect();
    entry("ci", &tokens, &grant("ci", "\"read\""))
}

#[test]
fn file_that_cannot_be_used_ends_the_start() {
    let good = entry("ci", &["first"], &grant("ci", "\"read\""));
    for (text, said) in [
        ("principals = 3".to_owned(), "line 1"),
        (good.replace("read", "write"), "line 4"),
        (good.replace("\"ci\", verbs", "\"/ci\", verbs"), "line 4"),
        (good.replace("tokens", "secrets"), "line"),
        (
            good.replace("sha256:", ""),
            "must be sha256: and 64 hex digits",
        ),
        (
            good.replace("\"ci\"\n", "\"c i\"\n"),
            "principal number 1: the id must be",
        ),
        (
            good.replace("\"ci\"\n", "\"client\"\n"),
            "is a name of the server itself",
        ),
        (format!("{good}{good}"), "stands twice"),
        (
            format!("{good}{}", good.replace("\"ci\"\n", "\"cd\"\n")),
            "a token of \"cd\" stands twice",
        ),
        (
            good.replace("grants", "expires = 12:00:00\ngrants"),
            "expires is 12:00:00",
        ),
        (good.replace("[\"read\"]", "[]"), "can do nothing"),
        (String::new(), "it has no principals"),
        (
            entry("ci", &[], &grant("ci", "\"read\"")),
            "tokens is empty",
        ),
        (many_tokens(MAX_TOKENS + 1), "at most 1000"),
    ] {
        let file = File::new(&text);
        let env = vec![
            ("LEASEHOLD_STORE", "memory".to_owned()),
            ("LEASEHOLD_AUTH_FILE", file.path()),
        ];
        let (status, _, stderr) = run_to_exit(&[], env);
        assert_eq!(status.code(), Some(2), "{text}\n{stderr}");
        assert!(
            stderr.contains("LEASEHOLD_AUTH_FILE") || stderr.contains("tokens"),
            "{stderr}"
        );
        assert!(stderr.contains(said), "{said}: {stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    // No value is shown: it may be a token.
    for bad in [
        good.replace("sha256:", "lh_written_"),
        good.replace("id = \"ci\"", "id = \"lh written_\""),
        good.replace("\"read\"", "\"lh_written_\""),
        good.replace("grants", "lh_written_"),
        good.replace("grants", "expires = \"lh_written_\"\ngrants"),
        good[..good.len() - 9].to_owned(),
    ] {
        let file = File::new(&bad);
        let (status, _, stderr) = run_to_exit(&[], vec![("LEASEHOLD_AUTH_FILE", file.path())]);
        assert_eq!(status.code(), Some(2), "{bad}");
        assert!(!stderr.contains("written"), "{stderr}");
    }
    let large_file = File::new(&"#".repeat((1 << 20) + 1));
    let large = large_file.path();
    for (path, said) in [
        ("/no/such/file", "No such file"),
        ("/dev/zero", "no regular file"),
        (&large, "more than 1048576 bytes"),
    ] {
        for setting in ["LEASEHOLD_AUTH_FILE", "LEASEHOLD_TOKEN_FILE"] {
            let (status, _, stderr) = run_to_exit(&[], vec![(setting, path)]);
            assert_eq!(status.code(), Some(2), "{stderr}");
            assert!(stderr.contains(path) && stderr.contains(said), "{stderr}");
        }
    }
}

#[test]
fn new_token_is_one_that_the_server_takes() {
    let token = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_leasehold"));
        process::run(command.arg("token").args(args), "leasehold", LIMIT)
    };
    let grants = ["--grant", "ci/:acquire,read", "--grant", "a:b:break"];
    let (status, stdout, stderr) = token(&[&["new", "--id", "ci"][..], &grants].concat());
    assert!(status.success(), "{stderr}");
    let (secret, entry) = stdout.split_once("\n\n").expect(&stdout);
    let secret = secret.strip_prefix("secret: ").expect(secret);
    assert!(secret.len() >= 32 && !entry.contains(secret), "{stdout}");
    let file = File::new(entry);
    let server = Leasehold::start([
        ("LEASEHOLD_STORE", "memory".to_owned()),
        ("LEASEHOLD_AUTH_FILE", file.path()),
    ]);
    let api = as_principal(&server, secret);
    assert_eq!(api.acquire("ci/a", None).status, 201);
    assert_eq!(api.acquire("a:b", None).status, 403);
    assert_eq!(api.break_lease("a:b", 1).status, 204);
    for wrong in [
        &["new", "--id", "ci"][..],
        &["new", "--id", "c i", "--grant", "ci/:read"],
        &["new", "--id", "ci", "--grant", "ci/:write"],
        &["new", "--id", "ci", "--grant", "ci"],
    ] {
        let (status, stdout, _) = token(wrong);
        assert_eq!((status.code(), &*stdout), (Some(2), ""), "{wrong:?}");
    }
}

#[test]
fn documents_name_the_limits() {
    let guide = std::fs::read_to_string(Path::new("src/auth/README.md")).expect("a guide");
    let seconds = leasehold::server::tokens::INTERVAL.as_secs();
    assert!(guide.contains(&format!("every {seconds} s")), "{guide}");
    assert!(
        guide.contains(&format!("At most {MAX_TOKENS} tokens")),
        "{guide}"
    );
}
