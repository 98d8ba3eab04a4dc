//! Redis against the rules: random sequences of operations, the same on both, the same answers.
//!
//! The scripts' clock is a key that the test sets, so that time moves to just before, onto and just
//! behind the deadlines, where mistakes live. Besides, each sequence is held against what must be true
//! of any lock service, in case the rules and the scripts are wrong together.

use std::collections::HashMap;
use std::time::Duration;

use leasehold::lock::key::LockKey;
use leasehold::lock::lease::{Attempt, FencingToken, Holder, LeaseId, Metadata, Timestamp};
use leasehold::lock::rules::{Acquire, Acquisition, Ending, Holding, Lock, Renewal};
use leasehold::store::contract::ListQuery;
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngSeed, TestCaseResult, TestRunner};

use crate::support::redis::RedisServer;
use crate::support::stores::{Subject, idempotency, key, ttl};

/// How many sequences are compared, at least; `LEASEHOLD_TEST_SEQUENCES` asks for more.
const SEQUENCES: u32 = 2000;

/// The most operations of a sequence.
const LONGEST: usize = 40;

const KEYS: [&str; 3] = ["a", "b", "a/b"];

#[derive(Clone, Debug)]
enum Op {
    Acquire {
        ttl_ms: u64,
        idempotency: Option<(u8, u8)>,
        behind: bool,
        words: bool,
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
    /// To `offset` microseconds after the next moment at which something is over.
    PassToEdge {
        offset: i64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let ttl = prop_oneof![Just(100_u64), Just(1000), Just(5000), 100..20_000_u64];
    let idempotency = proptest::option::weighted(0.5, (1..3_u8, 1..3_u8));
    prop_oneof![
        6 => (ttl.clone(), idempotency, proptest::bool::weighted(0.1), any::<bool>())
            .prop_map(|(ttl_ms, idempotency, behind, words)| Op::Acquire { ttl_ms, idempotency, behind, words }),
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

/// What a client remembers of an acquisition that it was answered.
#[derive(Clone, Debug)]
struct Known {
    lease_id: LeaseId,
    attempt: Attempt,
    token: FencingToken,
}

/// The rules, and what must be true whatever they say.
struct Model {
    locks: HashMap<LockKey, Lock>,
    now: Timestamp,
    last_token: u64,
    known: Vec<Known>,
    /// Whose lease is valid until when, by what was answered.
    valid: HashMap<LockKey, (LeaseId, Timestamp)>,
    lost: Vec<(LockKey, LeaseId)>,
    minted: u64,
}

struct Run<'a> {
    subject: &'a Subject,
    prefix: String,
    model: Model,
}

impl Run<'_> {
    async fn step(&mut self, on: usize, op: &Op) -> TestCaseResult {
        let key = key(&format!("{}{}", self.prefix, KEYS[on]));
        let now = self.model.now;
        match op {
            Op::Acquire { .. } => self.acquire(&key, op).await,
            Op::Renew { which, ttl_ms } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let ttl = ttl_ms.map(ttl);
                let expected = self.model.lock(&key).renew(known.lease_id, ttl, now);
                let got = self.subject.store.renew(&key, known.lease_id, ttl).await;
                let got = got.map(|timed| timed.value);
                prop_assert_eq!(got.as_ref(), Ok(&expected));
                match expected {
                    Renewal::Renewed(lease) => {
                        self.model
                            .holds(&key, lease.lease_id, lease.holding.deadline)
                    }
                    Renewal::Lost(_) => self.model.loses(&key, known.lease_id),
                }
            }
            Op::Release { which } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let expected = self.model.lock(&key).release(known.lease_id, now);
                let got = self.subject.store.release(&key, known.lease_id).await;
                prop_assert_eq!(got, Ok(expected));
                self.model.ends(&key, known.lease_id, expected)
            }
            Op::Break { which } => {
                let Some(known) = self.model.pick(*which) else {
                    return Ok(());
                };
                let expected = self.model.lock(&key).break_lease(known.token, now);
                let got = self.subject.store.break_lease(&key, known.token).await;
                prop_assert_eq!(got, Ok(expected));
                if expected == Ending::Ended {
                    self.model.valid.remove(&key);
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
                let expected = self
                    .model
                    .lock(&key)
                    .abandon(known.lease_id, attempt, keep, now);
                let got = self
                    .subject
                    .store
                    .abandon(&key, known.lease_id, attempt, keep)
                    .await;
                prop_assert_eq!(got, Ok(expected));
                if expected {
                    self.model.gives_up(&key, keep);
                }
                Ok(())
            }
            Op::Inspect => {
                let got = self.subject.store.inspect(&key).await;
                prop_assert_eq!(got, Ok(self.model.lock(&key).holding(now)));
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

    async fn acquire(&mut self, key: &LockKey, op: &Op) -> TestCaseResult {
        let Op::Acquire {
            ttl_ms,
            idempotency: keys,
            behind,
            words,
        } = op
        else {
            return Ok(());
        };
        let request = self.model.request(*ttl_ms, *keys, *behind, *words);
        let (now, last) = (self.model.now, self.model.last_token);
        let mut minted = None;
        let expected = self.model.lock(key).acquire(request.clone(), now, || {
            let token = FencingToken::new(last + 1).expect("small");
            minted = Some(token.get());
            token
        });
        self.model.last_token = minted.unwrap_or(last);
        let got = self.subject.store.acquire(key, request.clone()).await;
        let got = got.map(|timed| timed.value);
        prop_assert_eq!(got.as_ref(), Ok(&expected));
        match expected {
            Acquisition::Granted(lease) => {
                let before = self.model.valid.get(key);
                prop_assert!(
                    before.is_none_or(|(_, until)| *until <= now),
                    "two leases are valid at once: {:?}",
                    before
                );
                prop_assert!(
                    lease.holding.fencing_token.get() > last,
                    "a token did not rise"
                );
                let token = lease.holding.fencing_token;
                self.model.known.push(Known {
                    lease_id: lease.lease_id,
                    attempt: request.attempt,
                    token,
                });
                self.model
                    .holds(key, lease.lease_id, lease.holding.deadline)
            }
            Acquisition::Replayed(lease) => {
                let token = lease.holding.fencing_token;
                self.model.known.push(Known {
                    lease_id: lease.lease_id,
                    attempt: request.attempt,
                    token,
                });
                self.model
                    .holds(key, lease.lease_id, lease.holding.deadline)
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
        let now = self.model.now;
        let held = self
            .model
            .locks
            .iter()
            .filter_map(|(key, lock)| Some((key.clone(), lock.holding(now)?)));
        let mut expected: Vec<(LockKey, Holding)> = held.collect();
        let by_key = |a: &(LockKey, Holding), b: &(LockKey, Holding)| a.0.cmp(&b.0);
        expected.sort_by(by_key);
        got.sort_by(by_key);
        got.dedup();
        prop_assert_eq!(got, expected);
        Ok(())
    }

    async fn pass(&mut self, micros: u64) {
        let by = Duration::from_micros(micros);
        self.subject.advance(by).await;
        self.model.now = self.model.now.after(by);
    }
}

impl Model {
    fn lock(&mut self, key: &LockKey) -> &mut Lock {
        self.locks.entry(key.clone()).or_default()
    }

    fn pick(&self, which: Index) -> Option<Known> {
        (!self.known.is_empty()).then(|| which.get(&self.known).clone())
    }

    fn request(
        &mut self,
        ttl_ms: u64,
        keys: Option<(u8, u8)>,
        behind_waiters: bool,
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
            holder,
            metadata: Metadata::new(metadata).expect("printable"),
            idempotency: keys.map(|(key, request)| idempotency(key, request)),
            behind_waiters,
        }
    }

    /// A lease was answered as valid until `deadline`.
    fn holds(&mut self, key: &LockKey, lease_id: LeaseId, deadline: Timestamp) -> TestCaseResult {
        prop_assert!(
            !self.lost.contains(&(key.clone(), lease_id)),
            "a lost lease came back"
        );
        self.valid.insert(key.clone(), (lease_id, deadline));
        Ok(())
    }

    /// A lease was answered as lost.
    fn loses(&mut self, key: &LockKey, lease_id: LeaseId) -> TestCaseResult {
        let valid = self.valid.get(key);
        let still = valid.is_some_and(|(id, until)| *id == lease_id && self.now < *until);
        prop_assert!(
            !still || self.locks[key].holding(self.now).is_none(),
            "a valid lease was called lost"
        );
        self.lost.push((key.clone(), lease_id));
        Ok(())
    }

    fn ends(&mut self, key: &LockKey, lease_id: LeaseId, ending: Ending) -> TestCaseResult {
        if self.valid.get(key).is_some_and(|(id, _)| *id == lease_id) {
            self.valid.remove(key);
        }
        match ending {
            Ending::Ended => {
                self.lost.push((key.clone(), lease_id));
                Ok(())
            }
            Ending::Lost(_) => self.loses(key, lease_id),
        }
    }

    /// The client of the lease on `key` is gone; it counts on nothing, or on `keep`.
    fn gives_up(&mut self, key: &LockKey, keep: Option<Duration>) {
        let kept = self.now.after(keep.unwrap_or(Duration::ZERO));
        if let Some((_, until)) = self.valid.get_mut(key) {
            *until = kept.min(*until);
        }
    }

    /// How far it is to `offset` after the next deadline or forgetting.
    fn next_edge(&self, offset: i64) -> Option<u64> {
        let edges = self.locks.values().filter_map(|lock| {
            let held = lock.holding(self.now).map(|holding| holding.deadline);
            held.into_iter()
                .chain(lock.disposable_from())
                .filter(|edge| *edge > self.now)
                .min()
        });
        let ahead = edges.min()?.since(self.now);
        u64::try_from(ahead.as_micros())
            .ok()?
            .checked_add_signed(offset)
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
    let subject = runtime.block_on(Subject::direct(&server));
    let asked = std::env::var("LEASEHOLD_TEST_SEQUENCES").ok();
    let cases = asked
        .map_or(SEQUENCES, |number| number.parse().expect("a number"))
        .max(SEQUENCES);
    let seed = leasehold::random::number();
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
        .cli(&["HGET", "leasehold:meta", "token"])
        .parse()
        .expect("a token");
    let model = Model {
        locks: HashMap::new(),
        now: Timestamp::from_micros(now),
        last_token,
        known: Vec::new(),
        valid: HashMap::new(),
        lost: Vec::new(),
        minted: 0,
    };
    let mut run = Run {
        subject,
        prefix: format!("{number}/"),
        model,
    };
    for (on, op) in sequence {
        run.step(*on, op).await?;
    }
    // Else each listing would walk over the locks of all sequences before.
    let keys = KEYS.map(|key| format!("leasehold:lock:{number}/{key}"));
    server.cli(&["DEL", &keys[0], &keys[1], &keys[2]]);
    Ok(())
}
