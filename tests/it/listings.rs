//! Listings have limits in bytes and number, and cost no lease.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use leasehold::store::contract::MAX_PAGE_BYTES;
use serde_json::{Map, Value, json};

use crate::support::api::Api;
use crate::support::eventually;
use crate::support::http::http_on;
use crate::support::leasehold::Leasehold;
use crate::support::redis::{RedisConfig, RedisServer};

/// More than fits into a page, and into a scan step.
const LOCKS: usize = 300;

fn servers() -> Vec<(Leasehold, Option<RedisServer>)> {
    let redis = RedisServer::plain();
    let on_redis = Leasehold::on(&redis);
    vec![(Leasehold::in_memory(), None), (on_redis, Some(redis))]
}

/// The maximum metadata of a lease.
fn metadata() -> Map<String, Value> {
    (0..32)
        .map(|n| (format!("{n:02}"), json!("x".repeat(126))))
        .collect()
}

fn hold_large(api: &Api, prefix: &str, count: usize) -> BTreeSet<String> {
    let keys = (0..count).map(|number| format!("{prefix}/{number}"));
    keys.inspect(|key| {
        let body = json!({"ttl_ms": 600_000, "metadata": metadata()});
        let reply = api.acquire(key, body);
        assert_eq!(reply.status, 201, "{reply:?}");
    })
    .collect()
}

/// All keys of a listing, and the size of its largest page in bytes.
fn walk(api: &Api, query: &str) -> (Vec<String>, usize) {
    let (mut keys, mut largest, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = api.list(&format!("{query}{cursor}"));
        assert_eq!(page.status, 200, "{page:?}");
        largest = largest.max(page.body.len());
        let page = page.json();
        let locks = page["locks"].as_array().expect("locks").iter();
        keys.extend(locks.map(|lock| lock["key"].as_str().expect("a key").to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={}", next.replace('/', "%2F")),
            None => return (keys, largest),
        }
    }
}

#[test]
fn page_is_bounded_in_bytes_and_skips_no_lock() {
    for (server, _redis) in servers() {
        let api = server.api();
        let held = hold_large(&api, "large", LOCKS);
        // Locks with another prefix.
        hold_large(&api, "other", 10);
        for limit in [1000, 70, 7] {
            let (keys, largest) = walk(&api, &format!("prefix=large/&limit={limit}"));
            assert_eq!(keys.iter().cloned().collect::<BTreeSet<_>>(), held);
            assert_eq!(keys.len(), LOCKS, "some twice");
            // A page ends with the lock that exceeds the limit.
            assert!(largest < MAX_PAGE_BYTES + 16 * 1024, "{largest} bytes");
            assert!(
                limit < 70 || largest > MAX_PAGE_BYTES / 2,
                "{largest} bytes"
            );
        }
    }
}

/// Lease operations wait for one scan step, not for a whole page.
#[test]
fn large_page_is_read_in_steps_of_64_kib() {
    let redis = RedisServer::plain();
    let server = Leasehold::on(&redis);
    let api = server.api();
    hold_large(&api, "large", LOCKS);
    let calls = || {
        let stats = redis.cli(&["INFO", "commandstats"]);
        let scripts = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        let calls = scripts.and_then(|figures| figures.split(',').next());
        calls
            .and_then(|calls| calls.parse::<u64>().ok())
            .expect("calls of scripts")
    };
    let before = calls();
    let page = api.list("prefix=large/&limit=1000");
    assert!(
        page.body.len() > MAX_PAGE_BYTES / 2,
        "{} bytes",
        page.body.len()
    );
    // 256 KiB in steps of 64 KiB, each including the lock that exceeds it; heartbeats are calls as well.
    let steps = calls() - before;
    assert!(steps >= 4, "{steps} steps");
}

#[test]
fn page_of_small_locks_is_as_long_as_it_was_asked_for() {
    for (server, _redis) in servers() {
        let api = server.api();
        for number in 0..500 {
            let reply = api.acquire(&format!("small/{number}"), json!({"ttl_ms": 600_000}));
            assert_eq!(reply.status, 201, "{reply:?}");
        }
        let page = api.list("limit=400").json();
        assert_eq!(page["locks"].as_array().map(Vec::len), Some(400));
        assert_eq!(walk(&api, "limit=1000").0.len(), 500);
    }
}

#[test]
fn listing_runs_in_steps_beside_the_operations_of_leases() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10000".to_owned()),
        // A step that reaches Redis later than this is refused.
        ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "10000".to_owned()),
    ]);
    server.wait_ready();
    let api = server.api();
    hold_large(&api, "large", 5);
    redis.pause();
    let listings: Vec<_> = (0..4)
        .map(|_| {
            let api = server.api();
            thread::spawn(move || api.list(""))
        })
        .collect();
    // One scan step is in Redis, and the other listings wait for it: a fifth exceeds the limit.
    thread::sleep(Duration::from_millis(500));
    eventually(Duration::from_secs(5), "too many", || {
        api.list("").status == 429
    });
    let refused = api.list("");
    assert_eq!(refused.status, 429);
    assert_eq!(
        refused.json()["type"],
        "urn:leasehold:problem:too-many-listings"
    );
    assert_eq!(refused.header("retry-after"), Some("1"));
    redis.resume();
    for listing in listings {
        let page = listing.join().expect("an answer");
        assert_eq!(page.json()["locks"].as_array().map(Vec::len), Some(5));
    }
    let hits = server.metric("leasehold_limits_hit_total{limit=\"listings\"}");
    assert!(hits > Some(0), "{hits:?}");
}

#[test]
fn listing_of_a_disconnected_client_frees_its_slot() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10000".to_owned()),
    ]);
    server.wait_ready();
    hold_large(&server.api(), "large", 5);
    redis.pause();
    for _ in 0..20 {
        drop(http_on(server.addr(), "GET", "/locks", &[], None));
    }
    redis.resume();
    eventually(Duration::from_secs(5), "a page", || {
        server.api().list("").status == 200
    });
}

/// Loops of listings must neither cause refused renewals of a 2 s lease nor stall other programs on the same Redis.
#[test]
fn leases_are_renewed_beside_loops_of_listings() {
    const LOOPS: usize = 16;
    // Longer than the TTL.
    const RENEWED_FOR: Duration = Duration::from_secs(3);
    for (server, redis) in servers() {
        let api = server.api();
        hold_large(&api, "large", LOCKS);
        let (stop, pages, refused) = (
            AtomicBool::new(false),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        thread::scope(|scope| {
            for _ in 0..LOOPS {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        match server.api().list("limit=1000").status {
                            200 => pages.fetch_add(1, Ordering::Relaxed),
                            429 => refused.fetch_add(1, Ordering::Relaxed),
                            status => panic!("a listing was answered {status}"),
                        };
                    }
                });
            }
            let lease = api.acquire("mine", json!({"ttl_ms": 2000}));
            let begun = Instant::now();
            let mut renewals = 0;
            let mut statuses = BTreeSet::new();
            while begun.elapsed() < RENEWED_FOR {
                statuses.insert(api.renew("mine", &lease.lease_id(), None).status);
                if let Some(redis) = &redis {
                    assert_eq!(redis.cli(&["PING"]), "PONG");
                }
                renewals += 1;
                thread::sleep(Duration::from_millis(50));
            }
            stop.store(true, Ordering::Relaxed);
            assert_eq!(statuses, BTreeSet::from([200]), "of {renewals} renewals");
        });
        let pages = pages.into_inner();
        assert!(pages > 5, "{pages} pages");
        if redis.is_some() {
            let refused = refused.into_inner();
            assert!(refused > 0, "16 loops at once found {pages} pages");
        }
    }
}

/// After a resize of its table, Redis returns other keys for the same cursor, and more of them after a shrink.
#[test]
fn listing_skips_no_lock_when_redis_shrinks_its_table() {
    let redis = RedisConfig::new()
        .line("enable-debug-command", "local")
        .start();
    let server = Leasehold::on(&redis);
    let api = server.api();
    let held: BTreeSet<String> = (0..300).map(|number| format!("held/{number}")).collect();
    for key in &held {
        assert_eq!(api.acquire(key, json!({"ttl_ms": 600_000})).status, 201);
    }
    let fillers = |commands: &str| {
        let script = format!("for i = 1, 60000 do local key = 'filler/' .. i {commands} end");
        redis.cli(&["EVAL", &script, "0"]);
    };
    // Locks without content, in the index too.
    fillers(
        "redis.call('HSET', 'leasehold:locks', key, 'x') redis.call('ZADD', 'leasehold:leases', 9e15, key)",
    );
    let (mut seen, mut query) = (BTreeSet::new(), "limit=1".to_owned());
    let mut add = |query: &str| {
        let page = api.list(query);
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        let locks = page["locks"].as_array().expect("locks").iter();
        seen.extend(locks.map(|lock| lock["key"].as_str().expect("a key").to_owned()));
        page["next_cursor"]
            .as_str()
            .map(|next| next.replace('/', "%2F"))
    };
    // Repeats until a page ends within a scan step: then the cursor contains a key.
    loop {
        let next = add(&query).expect("more pages");
        query = format!("limit=1&cursor={next}");
        if next.contains("held%2F") {
            break;
        }
    }
    let buckets = || {
        let stats = redis.cli(&["DEBUG", "HTSTATS-KEY", "leasehold:leases"]);
        let line = stats
            .lines()
            .find_map(|line| line.trim().strip_prefix("table size: "));
        line.and_then(|size| size.parse::<u64>().ok())
            .expect("a size")
    };
    let before = buckets();
    fillers(
        "redis.call('HDEL', 'leasehold:locks', key) redis.call('ZREM', 'leasehold:leases', key)",
    );
    eventually(Duration::from_secs(20), "a smaller table", || {
        // Redis moves a part of the table with each look-up.
        fillers("redis.call('ZSCORE', 'leasehold:leases', key)");
        let stats = redis.cli(&["DEBUG", "HTSTATS-KEY", "leasehold:leases"]);
        buckets() < before && !stats.contains("rehashing target")
    });
    let mut rest = query.replace("limit=1&", "limit=1000&");
    while let Some(next) = add(&rest) {
        rest = format!("limit=1000&cursor={next}");
    }
    assert_eq!(seen, held, "passed over {:?}", held.difference(&seen));
}
