//! Section e: one lock goes from waiter to waiter over two servers; the same with etcd's lock.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::cycles::{acquire, get, release, size};
use crate::generator::{Answer, Connections, Senders, quoted};
use crate::process::is_installed;
use crate::report::{Reach, percentile};
use crate::servers::{self, Server};

/// The number of waiters for the comparison with etcd.
const FEW: usize = 256;

/// How long it may take until all waiters have had the lock.
const CHAIN_LIMIT: Duration = Duration::from_secs(40);

/// The results of chains of hand-overs, round by round.
#[derive(Default)]
struct Chains {
    per_second: Vec<f64>,
    /// Milliseconds from sending a release until the next waiter has the lock.
    p50: Vec<f64>,
    p99: Vec<f64>,
    out_of_order: usize,
    missing: usize,
}

struct Chain {
    order: Vec<usize>,
    /// Microseconds from sending a release until the next waiter has the lock.
    gaps: Vec<u32>,
    elapsed: Duration,
}

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== e: hand-over of one lock");
    let redis = servers::redis();
    let servers = [Server::on(&redis, &[]), Server::on(&redis, &[])];
    let at = servers.each_ref().map(|server| server.address);
    let directory = servers::in_memory_directory();
    let etcd = is_installed("etcd").then(|| Server::etcd(directory.path()));
    let many = bench.pick(500, 1000);
    let (mut long, mut short, mut theirs) =
        (Chains::default(), Chains::default(), Chains::default());
    for round in 0..bench.pick(2, 5) {
        let key = format!("hand-over-{round}");
        long.add(many, &leasehold_chain(&at, &key, many));
        short.add(FEW, &leasehold_chain(&at, &format!("{key}-few"), FEW));
        if let Some(etcd) = &etcd {
            theirs.add(FEW, &etcd_chain(etcd.address, &key, FEW));
        }
    }
    let name = format!("hand-overs/s, one key, {many} waiters over 2 servers");
    bench
        .report
        .absolute(('e', &name, "/s"), &long.per_second, Reach::AtLeast(3000.0));
    bench.report.absolute(
        ('e', "release to grant, p50", "ms"),
        &long.p50,
        Reach::Nothing,
    );
    bench.report.absolute(
        ('e', "release to grant, p99", "ms"),
        &long.p99,
        Reach::AtMost(5.0),
    );
    let wrong = size(long.out_of_order + short.out_of_order);
    bench.report.absolute(
        ('e', "grants out of order", ""),
        &[wrong],
        Reach::AtMost(0.0),
    );
    let missing = size(long.missing + short.missing);
    bench.report.absolute(
        ('e', "waiters that were not granted the lock", ""),
        &[missing],
        Reach::AtMost(0.0),
    );
    if etcd.is_none() {
        bench
            .report
            .note("etcd is not installed (tests/bench/install): its row is missing");
        return;
    }
    let etcd = "etcd (data in memory, JSON gateway)";
    let name = format!("hand-overs/s, {FEW} waiters");
    bench.report.compare(
        ('e', &name, "/s"),
        &short.per_second,
        (etcd, &theirs.per_second),
        Reach::Nothing,
    );
    let name = format!("release to grant, p50, {FEW} waiters");
    bench.report.compare(
        ('e', &name, "ms"),
        &short.p50,
        (etcd, &theirs.p50),
        Reach::Nothing,
    );
    let name = format!("release to grant, p99, {FEW} waiters");
    bench.report.compare(
        ('e', &name, "ms"),
        &short.p99,
        (etcd, &theirs.p99),
        Reach::Nothing,
    );
    let left = size(theirs.missing);
    bench.report.absolute(
        ('e', "etcd: waiters that were not granted the lock", ""),
        &[left],
        Reach::Nothing,
    );
}

impl Chains {
    fn add(&mut self, waiters: usize, chain: &Chain) {
        let mut gaps = chain.gaps.clone();
        self.per_second
            .push(size(gaps.len()) / chain.elapsed.as_secs_f64());
        self.p50.push(percentile(&mut gaps, 0.5));
        self.p99.push(percentile(&mut gaps, 0.99));
        self.out_of_order += chain
            .order
            .windows(2)
            .filter(|pair| pair[0] > pair[1])
            .count();
        self.missing += waiters - chain.order.len();
    }
}

/// Each waiter joins after the server has counted the previous one, so that their order is known.
fn leasehold_chain(at: &[SocketAddr], key: &str, waiters: usize) -> Chain {
    let mut control = Connections::open(&at[..1], 1).expect("the server listens");
    let (status, lease) = control.ask(0, &acquire(key, "{\"ttl_ms\":60000}"));
    assert_eq!(status, 201, "{lease}");
    let lease_id = quoted(lease.as_bytes(), "\"lease_id\":\"")
        .expect("a lease has an id")
        .to_vec();
    let mut line = Connections::open(at, waiters).expect("the servers listen");
    let wait = acquire(key, "{\"ttl_ms\":60000,\"wait_ms\":50000}");
    for waiter in 0..waiters {
        line.send(waiter, &wait);
        let counted = format!("\"waiters\":{}", waiter + 1);
        park(|| {
            control
                .ask(0, &get(&format!("locks/{key}")))
                .1
                .contains(&counted)
        });
    }
    let first = release(key, &lease_id);
    chain(
        &mut line,
        waiters,
        |_| control.send(0, &first),
        |senders, waiter, answer| {
            let lease_id = quoted(answer.body, "\"lease_id\":\"")?;
            senders.send(waiter, &release(key, lease_id));
            Some(())
        },
    )
}

/// etcd's lock has a lease per waiter and a key per queue entry.
fn etcd_chain(at: SocketAddr, name: &str, waiters: usize) -> Chain {
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!("POST /v3/{path} HTTP/1.1\r\nhost: bench\r\ncontent-length: {length}\r\n\r\n{body}")
            .into_bytes()
    };
    let mut control = Connections::open(&[at], 1).expect("etcd listens");
    let mut line = Connections::open(&[at], waiters).expect("etcd listens");
    let lock = |lease: &str| {
        let name = base64(name.as_bytes());
        post(
            "lock/lock",
            &format!("{{\"name\":\"{name}\",\"lease\":\"{lease}\"}}"),
        )
    };
    let grant = |control: &mut Connections| {
        let (status, body) = control.ask(0, &post("lease/grant", "{\"TTL\":\"120\"}"));
        assert_eq!(status, 200, "{body}");
        let id = quoted(body.as_bytes(), "\"ID\":\"").expect("a lease has an id");
        String::from_utf8_lossy(id).into_owned()
    };
    let unlock = |key: &[u8]| {
        let key = String::from_utf8_lossy(key);
        post("lock/unlock", &format!("{{\"key\":\"{key}\"}}"))
    };
    let lease = grant(&mut control);
    let (status, body) = control.ask(0, &lock(&lease));
    assert_eq!(status, 200, "{body}");
    let held = quoted(body.as_bytes(), "\"key\":\"")
        .expect("a lock has a key")
        .to_vec();
    let (from, to) = (
        base64(format!("{name}/").as_bytes()),
        base64(format!("{name}0").as_bytes()),
    );
    let range = format!("{{\"key\":\"{from}\",\"range_end\":\"{to}\",\"count_only\":true}}");
    for waiter in 0..waiters {
        let lease = grant(&mut control);
        line.send(waiter, &lock(&lease));
        // The holder's key counts as well.
        let counted = format!("\"count\":\"{}\"", waiter + 2);
        park(|| {
            control
                .ask(0, &post("kv/range", &range))
                .1
                .contains(&counted)
        });
    }
    let first = unlock(&held);
    chain(
        &mut line,
        waiters,
        |_| control.send(0, &first),
        |senders, waiter, answer| {
            let key = quoted(answer.body, "\"key\":\"")?;
            senders.send(waiter, &unlock(key));
            Some(())
        },
    )
}

/// Passes the lock through all waiters; `forward` returns `None` if an answer is not a grant.
fn chain(
    line: &mut Connections,
    waiters: usize,
    let_go_first: impl FnOnce(&mut Connections),
    mut forward: impl FnMut(&mut Senders, usize, &Answer) -> Option<()>,
) -> Chain {
    let mut chain = Chain {
        order: Vec::new(),
        gaps: Vec::new(),
        elapsed: Duration::ZERO,
    };
    let_go_first(line);
    let begun = Instant::now();
    let mut let_go_at = begun;
    while chain.order.len() < waiters && begun.elapsed() < CHAIN_LIMIT {
        line.answers(Some(CHAIN_LIMIT / 10), |senders, waiter, answer| {
            let now = Instant::now();
            if forward(senders, waiter, answer).is_some() {
                chain.order.push(waiter);
                chain
                    .gaps
                    .push(u32::try_from((now - let_go_at).as_micros()).unwrap_or(u32::MAX));
                chain.elapsed = now - begun;
                let_go_at = now;
            }
        });
    }
    chain
}

fn park(mut counted: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(10);
    while !counted() {
        assert!(Instant::now() < end, "a waiter did not come into line");
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * at) & 63) as usize];
            text.push(if at <= three.len() {
                char::from(digit)
            } else {
                '='
            });
        }
    }
    text
}
