//! Section i: lease operations beside continuous listings, and listings beside the keys of other programs.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::Bench;
use crate::cycles::{self, acquire, count, get};
use crate::generator::Connections;
use crate::parked::{Times, work};
use crate::report::{Reach, percentile};
use crate::servers::{self, Server};

/// Loops that request pages, each on its own connection.
const LOOPS: usize = 16;

/// The number of listed locks, each with 4 KB of metadata.
const LOCKS: usize = 1000;
const PAIRS: usize = 32;
const VALUE_BYTES: usize = 126;

pub(crate) fn run(bench: &mut Bench) {
    println!("\n== i: listings");
    let redis = servers::redis();
    let server = Server::on(&redis, &[]);
    hold(&server);
    let (mut beside, mut alone) = (Times::default(), Times::default());
    let (mut pages, time) = (Vec::new(), Duration::from_millis(700));
    for _ in 0..bench.pick(3, 7) {
        alone.add(work(&server, time));
        let (times, listed) = beside_listings(&server, time);
        beside.add(times);
        pages.push(count(listed) / time.as_secs_f64());
    }
    for (at, what) in ["renew", "release", "/readyz"].iter().enumerate() {
        let name = format!("{what} p99 beside {LOOPS} loops of listings");
        bench.report.compare(
            ('i', &name, "ms"),
            &beside.0[at],
            ("no listing", &alone.0[at]),
            Reach::Nothing,
        );
    }
    let name = format!("pages a second that {LOOPS} loops are given");
    bench
        .report
        .absolute(('i', &name, "1/s"), &pages, Reach::Nothing);
    beside_foreign_keys(bench);
}

/// The number of listed locks beside other keys, and of those keys.
const FEW_LOCKS: usize = 100;
const FOREIGN: usize = 1_000_000;

/// Writes keys of another program.
const WRITE_FOREIGN: &str =
    "for key = ARGV[1], ARGV[2] do redis.call('SET', 'foreign:' .. key, 'x') end";

fn beside_foreign_keys(bench: &mut Bench) {
    let redis = servers::redis();
    let server = Server::on(&redis, &[]);
    assert_eq!(cycles::hold(server.address, 0, FEW_LOCKS, 600_000), 0);
    let foreign = bench.pick(FOREIGN / 10, FOREIGN);
    let mut connection = Connections::open(&[server.address], 1).expect("the server listens");
    let mut list = |rounds| {
        let mut times = |_| {
            let mut times: Vec<u32> = (0..30).map(|_| timed_page(&mut connection)).collect();
            percentile(&mut times, 0.5)
        };
        (0..rounds).map(&mut times).collect::<Vec<_>>()
    };
    let rounds = bench.pick(3, 9);
    let without = list(rounds);
    let mut writer = servers::connect(&redis);
    for from in (1..=foreign).step_by(50_000) {
        let mut write = redis::cmd("EVAL");
        let write = write.arg(WRITE_FOREIGN).arg(0).arg(from).arg(from + 49_999);
        write.exec(&mut writer).expect("Redis writes");
    }
    let beside = list(rounds);
    let name = format!("listing of {FEW_LOCKS} locks, p50, beside {foreign} foreign keys");
    bench.report.compare(
        ('i', &name, "ms"),
        &beside,
        ("without them", &without),
        Reach::AtMost(2.0),
    );
}

/// Microseconds until a page with all locks has arrived.
fn timed_page(connection: &mut Connections) -> u32 {
    let asked = Instant::now();
    let (status, page) = connection.ask(0, &get("locks?limit=1000"));
    assert_eq!(status, 200, "{page}");
    assert_eq!(page.matches("\"key\"").count(), FEW_LOCKS, "{page}");
    u32::try_from(asked.elapsed().as_micros()).unwrap_or(u32::MAX)
}

fn hold(server: &Server) {
    let value = "x".repeat(VALUE_BYTES);
    let pairs: Vec<_> = (0..PAIRS)
        .map(|pair| format!("\"{pair:02}\":\"{value}\""))
        .collect();
    let body = format!(
        "{{\"ttl_ms\":3600000,\"metadata\":{{{}}}}}",
        pairs.join(",")
    );
    let mut connection = Connections::open(&[server.address], 1).expect("the server listens");
    for lock in 0..LOCKS {
        let (status, body) = connection.ask(0, &acquire(&format!("large-{lock}"), &body));
        assert_eq!(status, 201, "{body}");
    }
}

/// The latencies of lease operations, and the number of pages answered meanwhile.
fn beside_listings(server: &Server, time: Duration) -> ([Vec<u32>; 3], u64) {
    let (over, pages) = (AtomicBool::new(false), AtomicU64::new(0));
    let times = thread::scope(|scope| {
        for _ in 0..LOOPS {
            scope.spawn(|| {
                let mut connection =
                    Connections::open(&[server.address], 1).expect("the server listens");
                while !over.load(Ordering::Relaxed) {
                    let (status, _) = connection.ask(0, &get("locks?limit=1000"));
                    assert!(matches!(status, 200 | 429), "answered {status}");
                    pages.fetch_add(u64::from(status == 200), Ordering::Relaxed);
                }
            });
        }
        let times = work(server, time);
        over.store(true, Ordering::Relaxed);
        times
    });
    (times, pages.into_inner())
}
