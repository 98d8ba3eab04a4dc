//! Redis against the pure rules: random sequences of operations must give the same answers on both.
//!
//! The scripts read the time from a key, so the test moves it to just before, exactly onto and just after the
//! deadlines, where mistakes are likely. Each sequence also checks invariants of any lock service, in case rules and
//! scripts share a mistake.

use std::collections::HashMap;
use std::time::Duration;

use leasehold::lock::key::LockKey;
use leasehold::lock::lease::{Attempt, FencingToken, Holder, LeaseId, Metadata, Moment, Timestamp};
use leasehold::lock::releases::Releases;
use leasehold::lock::request::{Acquire, Ticket, Wait};
use leasehold::lock::rules::{Acquisition, Context, EndOutcome, Lease, LeaseInfo, Lock, Renewal};
use leasehold::store::contract::ListQuery;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

use crate::support::redis::RedisServer;
use crate::support::stores::{Subject, idempotency, key, ttl};

/// The minimum number of sequences; `LEASEHOLD_TEST_SEQUENCES` raises it.
const SEQUENCES: u32 = 2000;

/// The maximum number of operations in a sequence.
const LONGEST: usize = 40;

const KEYS: [&str; 3] = ["a", "b", "a/b"];

/// How long leases outlast their deadlines.
const GRACE: Duration = Duration::from_millis(500);

#[derive(Clone, Debug)]
enum Op {
    Acquire {
        ttl_ms: u64,
        idempotency: Option<(u8, u8)>,
        wait_ms: Option<u64>,
        hold_ms: u64,
        words: bool,
    },
    /// A waiter asks for its state and claims a lock that is reserved for it.
    AskAgain {
        which: Index,
        wait_ms: Option<u64>,
        ticket: bool,
    },
    /// A waiter gives up its queue entry.
    Leave {
        which: Index,
        keep: bool,
    },
    Decline {
        which: Index,
    },
    Renew {
        which: Index,
        ttl_ms: Option<u64>,
    },
    Release {
        which: Index,
    },
    Break {
        which: Index,
    },
    Abandon {
        which: Index,
        own_attempt: bool,
        keep_ms: Option<u64>,
    },
    Inspect,
    List,
    Pass {
        micros: u64,
    },
    /// Moves to `offset` microseconds after the next deadline.
    PassToEdge {
        offset: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![Just(100_u64), Just(1000), Just(5000), 100..20_000_u64];
    let hold = prop_oneof![2 => Just(0_u64), 1 => 1..3_000_u64, 1 => 3_000..30_000_u64];
    let idempotency = proptest::option::weighted(0.5, (1..3_u8, 1..3_u8));
    prop_oneof![
        6 => (ttl.clone(), idempotency, proptest::option::weighted(0.6, 0..8_000_u64), hold, any::<bool>())
            .prop_map(|(ttl_ms, idempotency, wait_ms, hold_ms, words)| Op::Acquire { ttl_ms, idempotency, wait_ms, hold_ms, words }),
        4 => (any::<Index>(), proptest::option::weighted(0.7, 0..8_000_u64), any::<bool>())
            .prop_map(|(which, wait_ms, ticket)| Op::AskAgain { which, wait_ms, ticket }),
        1 => (any::<Index>(), any::<bool>()).prop_map(|(which, keep)| Op::Leave { which, keep }),
        1 => any::<Index>().prop_map(|which| Op::Decline { which }),
        3 => (any::<Index>(), proptest::option::of(ttl)).prop_map(|(which, ttl_ms)| Op::Renew { which, ttl_ms }),
        3 => any::<Index>().prop_map(|which| Op::Release { which }),
        1 => any::<Index>().prop_map(|which| Op::Break { which }),
        2 => (any::<Index>(), proptest::bool::weighted(0.7), proptest::option::of(0..12_000_u64))
            .prop_map(|(which, own_attempt, keep_ms)| Op::Abandon { which, own_attempt, keep_ms }),
        1 => Just(Op::Inspect),
        1 => Just(Op::List),
        2 => prop_oneof![Just(1_u64), 1..2_000_000_u64, Just(10_000_000)].prop_map(|micros| Op::Pass { micros }),
        3 => (-1..=1_i64).prop_map(|offset| Op::PassToEdge { offset }),
    ]
}

/// A client's knowledge of an answered acquisition.
#[derive(Clone, Debug)]
struct Known {
    request: Acquire,
    lease_id: LeaseId,
    attempt: Attempt,
    token: FencingToken,
    /// Until when the lock is held at least.
    held_until: Timestamp,
}

/// The rules, and the invariants that hold independently of the rules.
struct Model {
    locks: HashMap<LockKey, Lock>,
    releases: Releases,
    now: Timestamp,
    last_token: u64,
    /// The highest answered token of each key.
    newest: HashMap<LockKey, u64>,
    known: Vec<Known>,
    /// The valid lease of each key and its deadline, by the answers.
    valid: HashMap<LockKey, (LeaseId, Timestamp)>,
    /// Until when no other client gets the lock, by the answers.
    held: HashMap<LockKey, (LeaseId, Timestamp)>,
    lost: Vec<(LockKey, LeaseId)>,
    minted: u64,
    /// Waiting requests, including former ones, with their tickets.
    waiting: Vec<(LockKey, Acquire, Ticket)>,
}

struct Run<'a> {
    subject: &'a Subject,
    prefix: String,
    model: Model,
}

impl Run<'_> {
    async fn step(&mut self, on: usize, op: &Op) -> TestCaseResult {
        let key = key(&format!("{}{}", self.prefix, KEYS[on]));
        match op {
            Op::Acquire { .. } | Op::AskAgain { .. } | Op::Leave { .. } => self.ask(&key, op).await,
            Op::Decline { which } => {
                let Some((key, request, _)) = self.model.pick_waiting(*which) else {
                    return Ok(());
                };
                let waiter = request.waiter_id();
                let expected = self
                    .model
                    .change(&key, |lock, ctx| lock.decline(waiter, ctx));
                let got = self.subject.store.decline(&key, waiter).await;
                prop_assert_eq!(got, Ok(expected));
                Ok(())
            }
            Op::Renew { which, ttl_ms } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let ttl = ttl_ms.map(ttl);
                let expected = self.model.change(&key, |lock, ctx| {
                    lock.renew(known.lease_id, ttl, ctx.moment)
                });
                let got = self.subject.store.renew(&key, known.lease_id, ttl).await;
                let got = got.map(|timed| timed.value);
                prop_assert_eq!(got.as_ref(), Ok(&expected));
                match expected {
                    Renewal::Renewed(lease) => {
                        self.model.hold(&key, &lease);
                        self.model.holds(&key, lease.lease_id, lease.info.deadline)
                    }
                    Renewal::Lost(_) => self.model.loses(&key, known.lease_id),
                }
            }
            Op::Release { which } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let expected = self
                    .model
                    .change(&key, |lock, ctx| lock.release(known.lease_id, ctx));
                let got = self.subject.store.release(&key, known.lease_id).await;
                prop_assert_eq!(got, Ok(expected));
                self.model.releases(&key, &known, expected)
            }
            Op::Break { which } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let expected = self
                    .model
                    .change(&key, |lock, ctx| lock.break_lease(known.token, ctx));
                let got = self.subject.store.break_lease(&key, known.token).await;
                prop_assert_eq!(got, Ok(expected));
                if let EndOutcome::Ended { .. } = expected {
                    self.model.valid.remove(&key);
                    self.model.held.remove(&key);
                }
                Ok(())
            }
            Op::Abandon {
                which,
                own_attempt,
                keep_ms,
            } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let attempt = if *own_attempt {
                    known.attempt
                } else {
                    Attempt(known.attempt.0 + 1_000_000)
                };
                let keep = keep_ms.map(Duration::from_millis);
                self.rollback(&key, &known.request, known.lease_id, attempt, keep)
                    .await
            }
            Op::Inspect => {
                let got = self.subject.store.inspect(&key).await;
                let moment = self.model.moment();
                let lock = self.model.lock(&key);
                prop_assert_eq!(got, Ok((lock.lease_info(moment), lock.waiters(moment))));
                Ok(())
            }
            Op::List => self.list().await,
            Op::Pass { micros } => {
                self.pass(*micros).await;
                Ok(())
            }
            Op::PassToEdge { offset } => {
                if let Some(micros) = self.model.next_edge(*offset) {
                    self.pass(micros).await;
                }
                Ok(())
            }
        }
    }

    /// An acquisition, with or without a wait.
    async fn ask(&mut self, key: &LockKey, op: &Op) -> TestCaseResult {
        match op {
            Op::Acquire {
                ttl_ms,
                idempotency,
                wait_ms,
                hold_ms,
                words,
            } => {
                let wait = wait_ms.map(|wait_ms| wait(wait_ms, None));
                let request = Acquire {
                    hold_at_least: Duration::from_millis(*hold_ms),
                    ..self.model.request(*ttl_ms, *idempotency, wait, *words)
                };
                self.acquire(key, request).await
            }
            Op::AskAgain {
                which,
                wait_ms,
                ticket,
            } => {
                let Some((key, request, given)) = self.model.pick_waiting(*which) else {
                    return Ok(());
                };
                let ticket = ticket.then_some(given);
                let wait = wait_ms.map(|wait_ms| wait(wait_ms, ticket));
                self.acquire(&key, Acquire { wait, ..request }).await
            }
            Op::Leave { which, keep } => {
                let Some((key, request, _)) = self.model.pick_waiting(*which) else {
                    return Ok(());
                };
                let keep = keep.then_some(Duration::from_secs(10));
                self.rollback(&key, &request, request.lease_id, request.attempt, keep)
                    .await
            }
            _ => Ok(()),
        }
    }

    async fn rollback(
        &mut self,
        key: &LockKey,
        request: &Acquire,
        lease_id: LeaseId,
        attempt: Attempt,
        keep: Option<Duration>,
    ) -> TestCaseResult {
        let waiter = request.waiter_id();
        let expected = self.model.change(key, |lock, ctx| {
            lock.rollback(waiter, lease_id, attempt, keep, ctx)
        });
        let got = self
            .subject
            .store
            .rollback(key, waiter, lease_id, attempt, keep)
            .await;
        prop_assert_eq!(got, Ok(expected));
        if expected
            && self
                .model
                .held
                .get(key)
                .is_some_and(|(id, _)| *id == lease_id)
        {
            self.model.held.remove(key);
        }
        if expected
            && self
                .model
                .valid
                .get(key)
                .is_some_and(|(id, _)| *id == lease_id)
        {
            self.model.gives_up(key, keep);
        }
        Ok(())
    }

    async fn acquire(&mut self, key: &LockKey, request: Acquire) -> TestCaseResult {
        let now = self.model.now;
        let expected = self
            .model
            .change(key, |lock, ctx| lock.acquire(request.clone(), ctx));
        let got = self.subject.store.acquire(key, request.clone()).await;
        let got = got.map(|timed| timed.value);
        prop_assert_eq!(got.as_ref(), Ok(&expected));
        if !matches!(expected, Acquisition::Queued { .. }) {
            // An answered request asks no more.
            let answered = request.lease_id;
            self.model
                .waiting
                .retain(|(_, request, _)| request.lease_id != answered);
        }
        match expected {
            Acquisition::Granted(lease) => {
                let before = self.model.valid.get(key);
                prop_assert!(
                    before.is_none_or(|(id, until)| *until <= now || *id == lease.lease_id),
                    "two leases are valid at once: {:?}",
                    before
                );
                let held = self.model.held.get(key);
                prop_assert!(
                    held.is_none_or(|(id, until)| *until <= now || *id == lease.lease_id),
                    "a lock was granted that is held: {:?}",
                    held
                );
                let token = lease.info.fencing_token;
                let newest = self.model.newest.entry(key.clone()).or_default();
                let again = self
                    .model
                    .known
                    .iter()
                    .any(|k| k.lease_id == lease.lease_id);
                prop_assert!(again || token.get() > *newest, "a token did not rise");
                *newest = token.get().max(*newest);
                self.model.known.push(Known {
                    request: request.clone(),
                    lease_id: lease.lease_id,
                    attempt: request.attempt,
                    token,
                    held_until: lease.info.acquired_at.after(lease.info.hold_at_least),
                });
                self.model.hold(key, &lease);
                self.model.holds(key, lease.lease_id, lease.info.deadline)
            }
            Acquisition::Replayed(lease) => {
                let token = lease.info.fencing_token;
                self.model.known.push(Known {
                    request: request.clone(),
                    lease_id: lease.lease_id,
                    attempt: request.attempt,
                    token,
                    held_until: lease.info.acquired_at.after(lease.info.hold_at_least),
                });
                self.model.hold(key, &lease);
                self.model.holds(key, lease.lease_id, lease.info.deadline)
            }
            Acquisition::Queued { ticket, .. } => {
                self.model.waiting.push((key.clone(), request, ticket));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn list(&mut self) -> TestCaseResult {
        let mut got = Vec::new();
        let mut cursor = None;
        loop {
            let query = ListQuery {
                prefix: self.prefix.clone(),
                limit: 2,
                cursor,
            };
            let page = self.subject.store.list(&query).await.expect("a page");
            got.extend(page.locks);
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        let moment = self.model.moment();
        let held = self.model.locks.iter().filter_map(|(key, lock)| {
            Some((key.clone(), lock.lease_info(moment)?, lock.waiters(moment)))
        });
        let mut expected: Vec<(LockKey, LeaseInfo, usize)> = held.collect();
        let by_key =
            |a: &(LockKey, LeaseInfo, usize), b: &(LockKey, LeaseInfo, usize)| a.0.cmp(&b.0);
        expected.sort_by(by_key);
        got.sort_by(by_key);
        got.dedup();
        prop_assert_eq!(got, expected);
        Ok(())
    }

    /// The index has each lock, at the moment of its next end or earlier; and the count of leases includes each live one.
    fn check_indexed(&self, server: &RedisServer) -> TestCaseResult {
        let set = server.cli(&["ZRANGE", "leasehold:leases", "0", "-1", "WITHSCORES"]);
        let words: Vec<&str> = set.lines().collect();
        let indexed: HashMap<_, _> = words
            .chunks_exact(2)
            .map(|entry| (entry[0], entry[1].parse::<u64>().expect("microseconds")))
            .collect();
        let fields = server.cli(&["HKEYS", "leasehold:locks"]);
        let stored: Vec<&str> = fields
            .lines()
            .filter(|field| !field.starts_with('#'))
            .collect();
        prop_assert_eq!(indexed.len(), stored.len());
        let moment = self.model.moment();
        for (key, lock) in &self.model.locks {
            let ends = indexed.get(key.as_str()).copied();
            let Some(info) = lock.lease_info(moment) else {
                continue;
            };
            prop_assert!(
                ends.is_some_and(|ends| ends <= info.deadline.as_micros()),
                "{key}"
            );
        }
        let held = self
            .model
            .locks
            .values()
            .filter(|lock| lock.held(moment).is_some());
        let counted: usize = server
            .cli(&["HGET", "leasehold:locks", "#held"])
            .parse()
            .expect("a number");
        prop_assert!(counted >= held.count());
        Ok(())
    }

    async fn pass(&mut self, micros: u64) {
        let by = Duration::from_micros(micros);
        self.subject.advance(by).await;
        self.model.now = self.model.now.after(by);
    }
}

impl Model {
    fn moment(&self) -> Moment {
        Moment {
            now: self.now,
            grace: GRACE,
        }
    }

    fn lock(&mut self, key: &LockKey) -> &mut Lock {
        self.locks.entry(key.clone()).or_default()
    }

    /// Applies an operation to a lock, with rising numbers.
    fn change<T>(
        &mut self,
        key: &LockKey,
        operation: impl FnOnce(&mut Lock, &mut Context<'_>) -> T,
    ) -> T {
        let moment = self.moment();
        let last = &mut self.last_token;
        let mut ctx = Context {
            key,
            moment,
            releases: &mut self.releases,
            next_number: &mut || {
                *last += 1;
                FencingToken::new(*last).expect("small")
            },
        };
        operation(self.locks.entry(key.clone()).or_default(), &mut ctx)
    }

    fn pick_waiting(&self, which: Index) -> Option<(LockKey, Acquire, Ticket)> {
        (!self.waiting.is_empty()).then(|| which.get(&self.waiting).clone())
    }

    fn pick(&self, which: Index) -> Option<Known> {
        (!self.known.is_empty()).then(|| which.get(&self.known).clone())
    }

    fn request(
        &mut self,
        ttl_ms: u64,
        keys: Option<(u8, u8)>,
        wait: Option<Wait>,
        words: bool,
    ) -> Acquire {
        self.minted += 1;
        let holder =
            words.then(|| Holder::new(format!("client {}", self.minted)).expect("printable"));
        let metadata = if words {
            [("a b".to_owned(), "%\"\\".to_owned())].into()
        } else {
            [].into()
        };
        Acquire {
            lease_id: LeaseId::from_bytes(u128::from(self.minted).to_be_bytes()),
            attempt: Attempt(self.minted),
            ttl: ttl(ttl_ms),
            hold_at_least: Duration::ZERO,
            holder,
            metadata: Metadata::new(metadata).expect("printable"),
            idempotency: keys.map(|(key, request)| idempotency(key, request)),
            wait,
        }
    }

    /// An answer states until when the lock is held at least.
    fn hold(&mut self, key: &LockKey, lease: &Lease) {
        let until = lease.info.acquired_at.after(lease.info.hold_at_least);
        self.held.insert(key.clone(), (lease.lease_id, until));
    }

    /// An answer states that a lease is valid until `deadline`.
    fn holds(&mut self, key: &LockKey, lease_id: LeaseId, deadline: Timestamp) -> TestCaseResult {
        prop_assert!(
            !self.lost.contains(&(key.clone(), lease_id)),
            "a lost lease came back"
        );
        self.valid.insert(key.clone(), (lease_id, deadline));
        Ok(())
    }

    /// An answer states that a lease is lost.
    fn loses(&mut self, key: &LockKey, lease_id: LeaseId) -> TestCaseResult {
        let valid = self.valid.get(key);
        let still = valid.is_some_and(|(id, until)| *id == lease_id && self.now < *until);
        prop_assert!(
            !still || self.locks[key].lease_info(self.moment()).is_none(),
            "a valid lease was called lost"
        );
        self.lost.push((key.clone(), lease_id));
        Ok(())
    }

    fn releases(&mut self, key: &LockKey, known: &Known, ending: EndOutcome) -> TestCaseResult {
        if let EndOutcome::Ended { held_for: Some(_) } = ending {
            let held = (known.lease_id, known.held_until);
            self.held.insert(key.clone(), held);
        }
        self.ends(key, known.lease_id, ending)
    }

    fn ends(&mut self, key: &LockKey, lease_id: LeaseId, ending: EndOutcome) -> TestCaseResult {
        if self.valid.get(key).is_some_and(|(id, _)| *id == lease_id) {
            self.valid.remove(key);
        }
        match ending {
            EndOutcome::Ended { .. } => {
                self.lost.push((key.clone(), lease_id));
                Ok(())
            }
            EndOutcome::Lost(_) => self.loses(key, lease_id),
        }
    }

    /// The client of the lease on `key` is gone; it relies on nothing, or on the lease for `keep`.
    fn gives_up(&mut self, key: &LockKey, keep: Option<Duration>) {
        let kept = self.now.after(keep.unwrap_or(Duration::ZERO));
        if let Some((_, until)) = self.valid.get_mut(key) {
            *until = kept.min(*until);
        }
    }

    /// The time to `offset` after the next deadline, the next end of a grace, or the next removal.
    fn next_edge(&self, offset: i64) -> Option<u64> {
        let moment = self.moment();
        let edges = self.locks.values().filter_map(|lock| {
            let over = lock.lease_info(moment).map(|info| info.deadline);
            let deadline = over.and_then(|over| {
                let micros = over
                    .as_micros()
                    .checked_sub(u64::try_from(GRACE.as_micros()).ok()?)?;
                Some(Timestamp::from_micros(micros))
            });
            over.into_iter()
                .chain(deadline)
                .chain(lock.disposable_from(GRACE))
                .filter(|edge| *edge > self.now)
                .min()
        });
        let own = self
            .valid
            .values()
            .flat_map(|(_, deadline)| [*deadline, deadline.after(GRACE)]);
        let held = self
            .held
            .values()
            .flat_map(|(_, until)| [*until, until.after(GRACE)]);
        let more = own.chain(held).filter(|edge| *edge > self.now);
        let ahead = edges.chain(more).min()?.since(self.now);
        u64::try_from(ahead.as_micros())
            .ok()?
            .checked_add_signed(offset)
    }
}

fn wait(within_ms: u64, ticket: Option<Ticket>) -> Wait {
    Wait {
        timeout: Duration::from_millis(within_ms),
        ticket,
        max_waiters: 4,
    }
}

#[test]
fn redis_answers_as_the_rules_do() {
    let server = RedisServer::plain();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let subject = runtime.block_on(Subject::with_grace(&server, GRACE));
    let asked = std::env::var("LEASEHOLD_TEST_SEQUENCES").ok();
    let cases = asked
        .map_or(SEQUENCES, |number| number.parse().expect("a number"))
        .max(SEQUENCES);
    let seed = u64::from(leasehold::random::number());
    println!("{cases} sequences, seed {seed}");
    let config = Config {
        cases,
        failure_persistence: None,
        rng_seed: RngSeed::Fixed(seed),
        ..Config::default()
    };
    let sequences = proptest::collection::vec((0..KEYS.len(), op()), 1..LONGEST);
    let counter = std::cell::Cell::new(0_u32);
    let result = TestRunner::new(config).run(&sequences, |sequence| {
        counter.set(counter.get() + 1);
        runtime.block_on(compare(&server, &subject, counter.get(), &sequence))
    });
    runtime.block_on(subject.store.close());
    if let Err(failure) = result {
        panic!("{failure}");
    }
    assert!(counter.get() >= cases);
}

async fn compare(
    server: &RedisServer,
    subject: &Subject,
    number: u32,
    sequence: &[(usize, Op)],
) -> TestCaseResult {
    let now = server
        .cli(&["GET", "leasehold:test:clock"])
        .parse()
        .expect("microseconds");
    let last_token = server
        .cli(&["HGET", "leasehold:locks", "#token"])
        .parse()
        .expect("a token");
    let model = Model {
        locks: HashMap::new(),
        releases: Releases::default(),
        now: Timestamp::from_micros(now),
        last_token,
        newest: HashMap::new(),
        known: Vec::new(),
        valid: HashMap::new(),
        held: HashMap::new(),
        lost: Vec::new(),
        minted: 0,
        waiting: Vec::new(),
    };
    let mut run = Run {
        subject,
        prefix: format!("{number}/"),
        model,
    };
    let compared = async {
        for (on, op) in sequence {
            run.step(*on, op).await?;
        }
        run.check_indexed(server)
    }
    .await;
    // Otherwise each listing would scan the locks of all earlier sequences, and a failure would make all later
    // sequences fail.
    server.cli(&["DEL", "leasehold:leases"]);
    for key in KEYS {
        let key = format!("{number}/{key}");
        server.cli(&["HDEL", "leasehold:locks", &key]);
        let of = |kind: &str| format!("leasehold:{kind}:{key}");
        server.cli(&["DEL", &of("queue"), &of("entries"), &of("kept")]);
    }
    compared
}
