//! Requests that wait for a lock.

use std::io::Write;
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread::{self, JoinHandle, sleep};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::api::Api;
use crate::support::http::Reply;
use crate::support::leasehold::Leasehold;
use crate::support::net::TcpProxy;
use crate::support::redis::RedisServer;
use crate::support::{eventually, poll};

const SLACK: Duration = Duration::from_secs(5);

fn servers() -> Vec<(Leasehold, Option<RedisServer>)> {
    let redis = RedisServer::plain();
    let on_redis = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    on_redis.wait_ready();
    vec![(Leasehold::in_memory(), None), (on_redis, Some(redis))]
}

fn text(reply: &Reply, field: &str) -> String {
    reply.json()[field]
        .as_str()
        .unwrap_or_else(|| panic!("no {field} in {}", reply.body))
        .to_owned()
}

fn token(reply: &Reply) -> u64 {
    reply.json()["fencing_token"]
        .as_u64()
        .unwrap_or_else(|| panic!("no token in {}", reply.body))
}

/// Sends the request in its own thread; returns once the server counts it as waiting.
fn wait_for(api: &Api, key: &str, body: Value, waiters: u64) -> JoinHandle<Reply> {
    let (asking, on) = (api.clone(), key.to_owned());
    let waiting = thread::spawn(move || asking.acquire(&on, body));
    until_waiting(api, key, waiters);
    waiting
}

fn until_waiting(api: &Api, key: &str, waiters: u64) {
    let counted = || api.inspect(key).json()["waiters"] == waiters;
    eventually(SLACK, &format!("{waiters} wait for {key}"), counted);
}

/// The waiter knows of a lease that ends much later.
#[test]
fn waiter_gets_the_lock_when_it_was_held_as_long_as_asked() {
    for (server, _redis) in servers() {
        let api = server.api();
        let held = json!({"ttl_ms": 60_000, "hold_at_least_ms": 1500});
        let asked = Instant::now();
        let first = api.acquire("a", held);
        let waiting = wait_for(&api, "a", json!({"wait_ms": 20_000}), 1);
        assert_eq!(api.release("a", &text(&first, "lease_id")).status, 204);
        let granted = waiting.join().expect("an answer");
        let took = asked.elapsed();
        assert_eq!(granted.status, 201, "{granted:?}");
        let bounds = Duration::from_millis(1500)..Duration::from_millis(1500) + SLACK;
        assert!(bounds.contains(&took), "{took:?}");
    }
}

#[test]
fn waiter_gets_the_lock_when_it_is_released() {
    for (server, _redis) in servers() {
        let api = server.api();
        let first = api.acquire("a", json!({"ttl_ms": 60_000}));
        let waiting = wait_for(&api, "a", json!({"wait_ms": 20_000, "ttl_ms": 5_000}), 1);
        sleep(Duration::from_millis(300));
        assert_eq!(api.release("a", &text(&first, "lease_id")).status, 204);
        let second = waiting.join().expect("an answer");
        assert_eq!(second.status, 201, "{}", second.body);
        assert!(token(&second) > token(&first));
        let waited = second.json()["waited_ms"].as_u64().expect("a number");
        assert!((300..5_000).contains(&waited), "{waited}");
        let left = second.json()["expires_in_ms"].as_u64().expect("a number");
        assert!(
            (4_000..=5_000).contains(&left),
            "{left}: the TTL counts from the grant, not from the request"
        );
    }
}

#[test]
fn waiter_gets_the_lock_when_it_expires_or_is_broken() {
    for (server, _redis) in servers() {
        let api = server.api();
        api.acquire("a", json!({"ttl_ms": 700}));
        let begun = Instant::now();
        assert_eq!(
            api.acquire("a", json!({"wait_ms": 20_000, "ttl_ms": 60_000}))
                .status,
            201
        );
        assert!(begun.elapsed() < SLACK, "{:?}", begun.elapsed());
        let held = api.inspect("a");
        let waiting = wait_for(&api, "a", json!({"wait_ms": 20_000}), 1);
        assert_eq!(api.break_lease("a", token(&held)).status, 204);
        assert_eq!(waiting.join().expect("an answer").status, 201);
    }
}

#[test]
fn wait_ends_in_time_and_says_who_holds_the_lock() {
    for (server, _redis) in servers() {
        let api = server.api();
        let lease = api.acquire("a", json!({"ttl_ms": 60_000, "holder": "me"}));
        let first = wait_for(&api, "a", json!({"wait_ms": 30_000}), 1);
        let begun = Instant::now();
        let refused = api.acquire("a", json!({"wait_ms": 400}));
        assert!(
            (Duration::from_millis(400)..SLACK).contains(&begun.elapsed()),
            "{:?}",
            begun.elapsed()
        );
        assert_eq!(
            (refused.status, text(&refused, "type").as_str()),
            (423, "urn:leasehold:problem:wait-timeout")
        );
        assert_eq!(
            (text(&refused, "holder").as_str(), token(&refused)),
            ("me", token(&lease))
        );
        assert_eq!(refused.json()["position"], 2, "one was ahead");
        assert!(refused.header("retry-after").is_some());
        until_waiting(&api, "a", 1);
        api.release("a", &text(&lease, "lease_id"));
        assert_eq!(first.join().expect("an answer").status, 201);
    }
}

#[test]
fn waiters_are_served_first_come_first_served() {
    for (server, _redis) in servers() {
        let api = server.api();
        let first = api.acquire("a", json!({"ttl_ms": 60_000}));
        let (served, order) = mpsc::channel();
        let waiters: Vec<_> = (1..=8)
            .map(|number: u64| {
                let (api, served) = (api.clone(), served.clone());
                let asking = api.clone();
                let waiting = thread::spawn(move || {
                    let reply = api.acquire("a", json!({"wait_ms": 30_000, "ttl_ms": 60_000}));
                    served
                        .send((number, token(&reply)))
                        .expect("the test listens");
                    assert_eq!(api.release("a", &text(&reply, "lease_id")).status, 204);
                });
                until_waiting(&asking, "a", number);
                waiting
            })
            .collect();
        api.release("a", &text(&first, "lease_id"));
        for waiter in waiters {
            waiter.join().expect("served");
        }
        let mut order: Vec<(u64, u64)> = order.try_iter().collect();
        order.sort_by_key(|(_, token)| *token);
        assert_eq!(
            order.iter().map(|(number, _)| *number).collect::<Vec<_>>(),
            (1..=8).collect::<Vec<_>>()
        );
    }
}

#[test]
fn request_without_a_wait_does_not_jump_the_queue() {
    for (server, _redis) in servers() {
        let api = server.api();
        for round in 0..10 {
            let key = format!("a{round}");
            let first = api.acquire(&key, json!({"ttl_ms": 60_000}));
            let waiting = wait_for(&api, &key, json!({"wait_ms": 30_000, "ttl_ms": 60_000}), 1);
            let (asking, on) = (api.clone(), key.clone());
            let hasty = thread::spawn(move || {
                (0..40)
                    .map(|_| asking.acquire(&on, None))
                    .collect::<Vec<_>>()
            });
            api.release(&key, &text(&first, "lease_id"));
            assert_eq!(waiting.join().expect("an answer").status, 201);
            let answers = hasty.join().expect("answers");
            assert!(
                answers.iter().all(|reply| reply.status == 423),
                "{:?}",
                answers.iter().find(|r| r.status != 423)
            );
        }
    }
}

#[test]
fn client_that_hangs_up_leaves_the_queue() {
    for (server, _redis) in servers() {
        let api = server.api();
        let first = api.acquire("a", json!({"ttl_ms": 60_000}));
        let mut gone = TcpStream::connect(server.addr()).expect("a connection");
        send_acquire(&mut gone, "a", "", r#"{"wait_ms":40000,"ttl_ms":60000}"#);
        until_waiting(&api, "a", 1);
        let behind = wait_for(&api, "a", json!({"wait_ms": 30_000}), 2);
        drop(gone);
        until_waiting(&api, "a", 1);
        api.release("a", &text(&first, "lease_id"));
        assert_eq!(behind.join().expect("an answer").status, 201);
    }
}

#[test]
fn client_that_hangs_up_before_its_answer_leaves_no_grant() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10000".to_owned()),
    ]);
    server.wait_ready();
    let api = server.api();
    api.acquire("warm", None);
    let key = "Idempotency-Key: 0123456789abcdef\r\n";
    for (lock, header) in [("a", ""), ("b", key)] {
        redis.pause();
        let mut gone = TcpStream::connect(server.addr()).expect("a connection");
        send_acquire(&mut gone, lock, header, r#"{"ttl_ms":600000}"#);
        sleep(Duration::from_millis(200));
        drop(gone);
        sleep(Duration::from_millis(200));
        redis.resume();
    }
    eventually(SLACK, "the grant is taken back", || {
        api.inspect("a").json()["held"] == false
    });
    let kept = || {
        api.inspect("b").json()["expires_in_ms"]
            .as_u64()
            .is_some_and(|left| left <= 10_000)
    };
    eventually(
        SLACK,
        "the grant of a client that can come back is cut to ten seconds",
        kept,
    );
    let back = api.acquire_with(
        "b",
        &[("Idempotency-Key", "0123456789abcdef")],
        json!({"ttl_ms": 600_000}),
    );
    assert_eq!(back.status, 200, "{}", back.body);
    assert!(
        back.json()["expires_in_ms"]
            .as_u64()
            .is_some_and(|left| left > 10_000),
        "{}",
        back.body
    );
}

fn send_acquire(stream: &mut TcpStream, key: &str, header: &str, body: &str) {
    let head = format!(
        "POST /locks/{key} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{header}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).expect("sent");
    stream.write_all(body.as_bytes()).expect("sent");
}

#[test]
fn one_acquisition_that_waits_twice_is_granted_once() {
    for (server, _redis) in servers() {
        let api = server.api();
        let first = api.acquire("a", json!({"ttl_ms": 60_000}));
        let ask = |number| {
            let asking = api.clone();
            let body = json!({"wait_ms": 20_000, "ttl_ms": 60_000});
            let waiting = thread::spawn(move || {
                asking.acquire_with("a", &[("Idempotency-Key", "0123456789abcdef")], body)
            });
            until_waiting(&api, "a", number);
            waiting
        };
        let one = ask(1);
        let other = wait_for(&api, "a", json!({"wait_ms": 20_000}), 2);
        // One acquisition has one queue entry.
        let again = ask(2);
        thread::sleep(Duration::from_millis(300));
        api.release("a", &text(&first, "lease_id"));
        let (one, again) = (
            one.join().expect("an answer"),
            again.join().expect("an answer"),
        );
        let mut statuses = [one.status, again.status];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 201], "{} {}", one.body, again.body);
        assert_eq!(text(&one, "lease_id"), text(&again, "lease_id"));
        api.release("a", &text(&one, "lease_id"));
        assert_eq!(other.join().expect("an answer").status, 201);
    }
}

#[test]
fn no_more_may_wait_than_the_limits_say() {
    let server = Leasehold::start([
        ("LEASEHOLD_MAX_WAITERS_PER_KEY", "2"),
        ("LEASEHOLD_MAX_WAITERS", "3"),
    ]);
    let api = server.api();
    let leases = ["a", "b"].map(|key| api.acquire(key, json!({"ttl_ms": 60_000})));
    let waiting = [
        wait_for(&api, "a", json!({"wait_ms": 30_000}), 1),
        wait_for(&api, "a", json!({"wait_ms": 30_000}), 2),
    ];
    let refused = api.acquire("a", json!({"wait_ms": 1000}));
    assert_eq!(
        (refused.status, refused.header("retry-after")),
        (429, Some("1")),
        "{}",
        refused.body
    );
    assert_eq!(
        text(&refused, "type"),
        "urn:leasehold:problem:too-many-waiters"
    );
    let third = wait_for(&api, "b", json!({"wait_ms": 30_000}), 1);
    assert_eq!(api.acquire("b", json!({"wait_ms": 1000})).status, 429);
    assert_eq!(
        api.acquire("a", None).status,
        423,
        "a request that does not wait is not refused"
    );
    assert_eq!(
        api.acquire("c", json!({"wait_ms": 1000})).status,
        201,
        "nor who need not"
    );
    for (key, lease) in ["a", "b"].into_iter().zip(&leases) {
        api.release(key, &text(lease, "lease_id"));
    }
    let [one, two] = waiting.map(|waiting| {
        let reply = waiting.join().expect("an answer");
        api.release("a", &text(&reply, "lease_id"));
        reply
    });
    assert_eq!(
        (
            one.status,
            two.status,
            third.join().expect("an answer").status
        ),
        (201, 201, 201)
    );
}

#[test]
fn replay_needs_no_free_waiter_slot() {
    let server = Leasehold::start([("LEASEHOLD_MAX_WAITERS", "1")]);
    let api = server.api();
    let ask = || {
        let body = json!({"wait_ms": 1000, "ttl_ms": 60_000});
        api.acquire_with("a", &[("Idempotency-Key", "0123456789abcdef")], body)
    };
    let first = ask();
    let waiting = wait_for(&api, "a", json!({"wait_ms": 30_000}), 1);
    let again = ask();
    assert_eq!(again.status, 200, "{}", again.body);
    api.release("a", &text(&first, "lease_id"));
    assert_eq!(waiting.join().expect("an answer").status, 201);
}

#[test]
fn interrupted_replay_shortens_nothing() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "10000".to_owned()),
    ]);
    server.wait_ready();
    let api = server.api();
    let header = "Idempotency-Key: 0123456789abcdef\r\n";
    let body = json!({"ttl_ms": 600_000});
    let lease = api.acquire_with("a", &[("Idempotency-Key", "0123456789abcdef")], body);
    assert_eq!(lease.status, 201);
    redis.pause();
    let mut gone = TcpStream::connect(server.addr()).expect("a connection");
    send_acquire(&mut gone, "a", header, r#"{"ttl_ms":600000}"#);
    sleep(Duration::from_millis(200));
    drop(gone);
    sleep(Duration::from_millis(200));
    redis.resume();
    sleep(Duration::from_millis(1500));
    let left = api.inspect("a").json()["expires_in_ms"].as_u64();
    assert!(
        left > Some(590_000),
        "{left:?} ms are left of a lease whose grant was delivered"
    );
}

#[test]
fn timed_out_waiter_learns_the_current_holder() {
    let redis = RedisServer::plain();
    let servers = [(); 2].map(|()| Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]));
    servers.iter().for_each(Leasehold::wait_ready);
    let [one, two] = [servers[0].api(), servers[1].api()];
    for round in 0..4 {
        let key = format!("a{round}");
        let first = one.acquire(&key, json!({"ttl_ms": 60_000}));
        let ahead = wait_for(&two, &key, json!({"wait_ms": 30_000, "ttl_ms": 60_000}), 1);
        let short = wait_for(&two, &key, json!({"wait_ms": 700}), 2);
        // The other server releases just before this wait ends and before the waiter ahead asks again.
        sleep(Duration::from_millis(550));
        one.release(&key, &text(&first, "lease_id"));
        let refused = short.join().expect("an answer");
        assert_eq!(refused.status, 423, "{}", refused.body);
        assert_eq!(ahead.join().expect("an answer").status, 201);
    }
}

#[test]
fn waiter_on_one_server_gets_what_another_server_released() {
    let redis = RedisServer::plain();
    let servers = [(); 2].map(|()| Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]));
    servers.iter().for_each(Leasehold::wait_ready);
    let [one, two] = [servers[0].api(), servers[1].api()];
    let first = one.acquire("a", json!({"ttl_ms": 60_000}));
    let waiting = wait_for(&two, "a", json!({"wait_ms": 30_000}), 1);
    let released = Instant::now();
    one.release("a", &text(&first, "lease_id"));
    assert_eq!(waiting.join().expect("an answer").status, 201);
    assert!(released.elapsed() < SLACK, "{:?}", released.elapsed());
}

#[test]
fn one_of_a_hundred_contenders_over_two_servers_wins() {
    let redis = RedisServer::plain();
    let servers = [(); 2].map(|()| Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]));
    servers.iter().for_each(Leasehold::wait_ready);
    let contenders: Vec<_> = (0..100)
        .map(|number| {
            let api = servers[number % 2].api();
            thread::spawn(move || api.acquire("a", json!({"ttl_ms": 60_000})).status)
        })
        .collect();
    let statuses: Vec<u16> = contenders
        .into_iter()
        .map(|contender| contender.join().expect("an answer"))
        .collect();
    let won = statuses.iter().filter(|status| **status == 201).count();
    let refused = statuses.iter().filter(|status| **status == 423).count();
    assert_eq!((won, refused), (1, 99), "{statuses:?}");
}

#[test]
fn server_that_ends_answers_its_waiters_and_keeps_leases() {
    let redis = RedisServer::plain();
    let url = [("LEASEHOLD_REDIS_URL", redis.url())];
    let server = Leasehold::start(url.clone());
    server.wait_ready();
    let api = server.api();
    let lease = api.acquire("a", json!({"ttl_ms": 60_000}));
    let waiting = wait_for(&api, "a", json!({"wait_ms": 40_000}), 1);
    let told = Instant::now();
    server.terminate();
    let refused = waiting.join().expect("an answer");
    assert_eq!(
        (refused.status, text(&refused, "type").as_str()),
        (503, "urn:leasehold:problem:shutting-down")
    );
    assert_eq!(
        (
            text(&refused, "outcome").as_str(),
            refused.header("retry-after")
        ),
        ("none", Some("1"))
    );
    assert!(server.wait_exit(SLACK).success());
    assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
    let next = Leasehold::start(url);
    next.wait_ready();
    assert_eq!(
        next.api()
            .renew("a", &text(&lease, "lease_id"), None)
            .status,
        200
    );
}

#[test]
fn waiter_behind_one_that_left_gets_the_lock_when_it_expires() {
    for (server, _redis) in servers() {
        let api = server.api();
        let mut gone = TcpStream::connect(server.addr()).expect("a connection");
        api.acquire("a", json!({"ttl_ms": 2_000}));
        send_acquire(&mut gone, "a", "", r#"{"wait_ms":40000,"ttl_ms":60000}"#);
        until_waiting(&api, "a", 1);
        let begun = Instant::now();
        let behind = wait_for(&api, "a", json!({"wait_ms": 30_000}), 2);
        drop(gone);
        assert_eq!(behind.join().expect("an answer").status, 201);
        assert!(begun.elapsed() < 2 * SLACK, "{:?}", begun.elapsed());
    }
}

#[test]
fn grant_of_unknown_outcome_is_rolled_back() {
    let redis = RedisServer::plain();
    let proxy = TcpProxy::start(&redis.addr());
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", format!("redis://{}", proxy.addr()))]);
    server.wait_ready();
    let api = server.api();
    (0..16).for_each(|number| drop(api.acquire(&format!("warm/{number}"), None)));
    redis.pause();
    let asking = api.clone();
    let asked = thread::spawn(move || asking.acquire("a", json!({"ttl_ms": 600_000})));
    sleep(Duration::from_millis(150));
    // Redis has the command, but its reply cannot reach the server.
    proxy.cut();
    redis.resume();
    let reply = asked.join().expect("an answer");
    assert_eq!(
        (reply.status, text(&reply, "outcome").as_str()),
        (503, "unknown")
    );
    eventually(SLACK, "the grant that may stand is taken back", || {
        api.inspect("a").json()["held"] == false
    });
    sleep(Duration::from_millis(500));
    assert_eq!(api.inspect("a").json()["held"], false, "and stays so");
}

#[test]
fn command_that_reaches_redis_late_does_nothing() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([("LEASEHOLD_REDIS_URL", redis.url())]);
    server.wait_ready();
    let api = server.api();
    let outcomes = (0..10).map(|round| {
        let key = format!("a{round}");
        (0..16).for_each(|number| drop(api.acquire(&format!("warm/{round}/{number}"), None)));
        redis.pause();
        let sent = Instant::now();
        // With an idempotency key the server does not roll back, because the client may come back for the grant.
        let reply = api.acquire_with(
            &key,
            &[("Idempotency-Key", &format!("{round:016}"))],
            json!({"ttl_ms": 600_000}),
        );
        assert_eq!(reply.status, 503, "{}", reply.body);
        sleep(Duration::from_secs(3).saturating_sub(sent.elapsed()));
        redis.resume();
        eventually(SLACK, "Redis answers again", || {
            api.inspect(&key).status == 200
        });
        assert_eq!(api.inspect(&key).json()["held"], false);
        text(&reply, "outcome")
    });
    // The outcome is `none` if no command was sent: the worker had no open connection, despite the other acquisitions.
    assert!(
        outcomes.into_iter().any(|outcome| outcome == "unknown"),
        "no command was sent"
    );
}

#[test]
fn failing_rollback_does_not_delay_the_drain() {
    let redis = RedisServer::plain();
    let server = Leasehold::start([
        ("LEASEHOLD_REDIS_URL", redis.url()),
        ("LEASEHOLD_REDIS_POOL_SIZE", "1".to_owned()),
    ]);
    server.wait_ready();
    let api = server.api();
    // The outcome is unknown only if the command was sent, on a connection that worked a moment ago.
    eventually(
        SLACK * 4,
        "an acquisition is cut off after it was sent",
        || {
            redis.resume();
            api.acquire("warm", None);
            redis.pause();
            text(&api.acquire("a", None), "outcome") == "unknown"
        },
    );
    let told = Instant::now();
    server.terminate();
    assert!(
        server
            .wait_exit(leasehold::server::DRAIN_DEADLINE * 2)
            .success()
    );
    assert!(told.elapsed() < SLACK, "{:?}", told.elapsed());
    redis.resume();
}

/// A server whose commands to Redis a test can hold back, and an unaffected second server.
struct Delayed {
    redis: RedisServer,
    proxy: TcpProxy,
    behind_it: Leasehold,
    other: Leasehold,
}

impl Delayed {
    fn start() -> Self {
        let redis = RedisServer::plain();
        let proxy = TcpProxy::start(&redis.addr());
        let serve = |url: String| {
            let server = Leasehold::start([
                ("LEASEHOLD_REDIS_URL", url.as_str()),
                ("LEASEHOLD_REDIS_POOL_SIZE", "1"),
                ("LEASEHOLD_REDIS_RESPONSE_TIMEOUT_MS", "200"),
                // The largest delay of a command that still executes.
                ("LEASEHOLD_MAX_CLOCK_SKEW_MS", "900"),
            ]);
            server.wait_ready();
            server
        };
        let behind_it = serve(format!("redis://{}", proxy.addr()));
        let other = serve(redis.url());
        Self {
            redis,
            proxy,
            behind_it,
            other,
        }
    }

    /// Requests `key`; Redis receives the first command only after `meanwhile`, which gets the answer. `None` if the
    /// command came too late to execute.
    fn late_command(
        &self,
        key: &str,
        headers: &[(&str, &str)],
        body: Value,
        meanwhile: impl FnOnce(&Reply),
    ) -> Option<Reply> {
        let token = || -> u64 {
            let token = self.redis.cli(&["HGET", "leasehold:locks", "#token"]);
            token.parse().expect("a token")
        };
        self.behind_it.api().acquire("warm", json!({"ttl_ms": 100}));
        self.proxy.hold();
        let reply = self.behind_it.api().acquire_with(key, headers, body);
        meanwhile(&reply);
        let before = token();
        self.proxy.forward();
        let ran = poll(Duration::from_millis(900), || {
            (token() > before).then_some(())
        });
        ran.map(|()| reply)
    }
}

#[test]
fn refused_waiter_leaves_nothing_behind_when_its_first_command_was_late() {
    let world = Delayed::start();
    let api = world.other.api();
    let mut proved = 0;
    for round in 0..20 {
        let key = format!("a{round}");
        let idempotency_key = format!("0123456789abcde{:x}", round % 16);
        let headers = [("Idempotency-Key", idempotency_key.as_str())];
        let headers = if round % 2 == 0 {
            &[][..]
        } else {
            &headers[..]
        };
        let held = api.acquire(&key, json!({"ttl_ms": 60_000}));
        let body = json!({"wait_ms": 250, "ttl_ms": 600_000});
        let refused = world.late_command(&key, headers, body, |refused| {
            assert_eq!(refused.status, 423, "{}", refused.body);
            assert_eq!(api.release(&key, &text(&held, "lease_id")).status, 204);
        });
        if refused.is_none() {
            continue;
        }
        // A client with an idempotency key may find the lock granted for 10 s.
        let kept = if headers.is_empty() { 0 } else { 10_000 };
        let over = || {
            let left = api.inspect(&key).json()["expires_in_ms"].as_u64();
            left.unwrap_or(0) <= kept
        };
        eventually(SLACK, "the grant without a client is rolled back", over);
        proved += 1;
        if proved == 4 {
            return;
        }
    }
    panic!("only {proved} commands were late, but not too late");
}

#[test]
fn late_command_does_not_reacquire_a_released_lock() {
    let world = Delayed::start();
    let api = world.other.api();
    for round in 0..20 {
        let key = format!("a{round}");
        let body = json!({"wait_ms": 20_000, "ttl_ms": 600_000});
        // The first command had no answer, so the delayed server asks again; the lock is free by then.
        let late = world.late_command(&key, &[], body, |granted| {
            assert_eq!(granted.status, 201, "{}", granted.body);
            assert_eq!(api.release(&key, &text(granted, "lease_id")).status, 204);
        });
        assert_eq!(late.map(|reply| reply.body), None, "granted again");
        assert_eq!(api.inspect(&key).json()["held"], false);
    }
}

#[test]
fn waiter_that_hangs_up_during_its_claim_leaves_no_grant() {
    let world = Delayed::start();
    let api = world.other.api();
    for round in 0..4 {
        let key = format!("a{round}");
        let held = api.acquire(&key, json!({"ttl_ms": 60_000}));
        let mut gone = TcpStream::connect(world.behind_it.addr()).expect("a connection");
        send_acquire(&mut gone, &key, "", r#"{"wait_ms":40000,"ttl_ms":600000}"#);
        until_waiting(&api, &key, 1);
        world.proxy.hold();
        assert_eq!(api.release(&key, &text(&held, "lease_id")).status, 204);
        // The waiter's claim is in flight, or it waits for its next attempt.
        sleep(Duration::from_millis(50 + 100 * round));
        drop(gone);
        sleep(Duration::from_millis(50));
        world.proxy.forward();
        let free = || api.inspect(&key).json();
        eventually(SLACK, "the lock is free", || free()["held"] == false);
        sleep(Duration::from_millis(1_500));
        assert_eq!(free()["held"], false, "and stays so");
        assert_eq!(free()["waiters"], 0);
    }
}
