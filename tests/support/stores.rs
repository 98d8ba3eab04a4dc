//! Every store behind one handle, with a clock that the test moves: paused Tokio time in memory, a fixed clock in
//! Redis. A test can therefore check the exact microsecond of a deadline.

use std::sync::Arc;
use std::time::Duration;

use leasehold::lock::key::LockKey;
use leasehold::lock::lease::{Attempt, Digest, Idempotency, LeaseId, Metadata, Ttl};
use leasehold::lock::request::{Acquire, Wait};
use leasehold::lock::rules::{Acquisition, Lease, LeaseInfo};
use leasehold::random;
use leasehold::secret::Secret;
use leasehold::store::contract::{Condition, Store};
use leasehold::store::memory::MemoryStore;
use leasehold::store::redis::RedisStore;
use leasehold::store::redis::options::{
    Address, Clock, Discovery, Endpoint, RedisOptions, ReplicaAcks,
};
use leasehold::telemetry::RedisMetrics;

use super::redis::RedisServer;
use super::sentinel::SentinelSet;

/// The longest TTL of these tests.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(3600);

/// Advances the clock, and sets the last heartbeat of every server to the new time: the servers' heartbeats continue while
/// the time advances.
const ADVANCE: &str = "
    redis.call('INCRBY', KEYS[1], ARGV[1])
    local entries, now = redis.call('HGETALL', KEYS[2]), redis.call('GET', KEYS[1])
    for i = 1, #entries, 2 do
        redis.call('HSET', KEYS[2], entries[i], (string.gsub(entries[i + 1], ' %d+', ' ' .. now, 1)))
    end";

/// A store and its clock.
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn Store>,
    clock: TestClock,
}

enum TestClock {
    /// Tokio's paused clock.
    Tokio,
    /// A Redis key that the scripts read as the time.
    Redis {
        client: Box<redis::Client>,
        key: String,
    },
}

impl Subject {
    pub(crate) fn memory() -> Self {
        tokio::time::pause();
        Self {
            store: Arc::new(MemoryStore::new()),
            clock: TestClock::Tokio,
        }
    }

    pub(crate) async fn direct(server: &RedisServer) -> Self {
        Self::with_grace(server, Duration::ZERO).await
    }

    /// A store on one Redis, on which leases outlast their deadlines by `grace`.
    pub(crate) async fn with_grace(server: &RedisServer, grace: Duration) -> Self {
        let discovery = Discovery::Direct(address(&server.addr()));
        let options = RedisOptions {
            max_clock_skew: grace,
            ..options(discovery, Endpoint::default(), "leasehold:")
        };
        Self::redis(options, server).await
    }

    /// A store on the master of `set`, with its own key prefix.
    pub(crate) async fn sentinel(
        set: &SentinelSet,
        prefix: &str,
        data_password: &str,
        sentinel_password: &str,
    ) -> Self {
        let endpoint = |password: &str| Endpoint {
            password: Some(Secret::new(password.to_owned())),
            ..Endpoint::default()
        };
        let discovery = Discovery::Sentinel {
            sentinels: set.sentinels().split(',').map(address).collect(),
            master: "mymaster".to_owned(),
            endpoint: endpoint(sentinel_password),
        };
        Self::redis(
            options(discovery, endpoint(data_password), prefix),
            set.master(),
        )
        .await
    }

    async fn redis(options: RedisOptions, server: &RedisServer) -> Self {
        let key = format!("{}test:clock", options.key_prefix);
        let client = server
            .client()
            .expect("a client for the server of the test");
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        // The start lies ahead of the server's clock; otherwise the store sees a very recent activation.
        let micros = (now.expect("a clock after 1970") + Duration::from_secs(10)).as_micros();
        server.cli(&["SET", &key, &micros.to_string()]);
        let store: Arc<dyn Store> = Arc::new(RedisStore::start(options, RedisMetrics::default()));
        for _ in 0..1000 {
            if store.health().condition == Condition::Ready {
                let clock = TestClock::Redis {
                    client: Box::new(client),
                    key,
                };
                return Self { store, clock };
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("the store is not ready: {:?}", store.health());
    }

    /// Advances the clock of the store alone.
    pub(crate) async fn advance(&self, by: Duration) {
        match &self.clock {
            TestClock::Tokio => tokio::time::advance(by).await,
            TestClock::Redis { client, key } => {
                let mut connection = client.get_connection().expect("a connection");
                let micros = u64::try_from(by.as_micros()).expect("a short time");
                let moved: redis::RedisResult<()> = redis::Script::new(ADVANCE)
                    .key(key)
                    .key(key.replace("test:clock", "servers"))
                    .arg(micros)
                    .invoke(&mut connection);
                moved.expect("the clock is moved");
            }
        }
    }

    /// Acquires and expects a grant.
    pub(crate) async fn granted(&self, on: &LockKey, request: &Acquire) -> Lease {
        match self.acquire(on, request).await {
            Acquisition::Granted(lease) => lease,
            other => panic!("expected a grant of {on}, got {other:?}"),
        }
    }

    pub(crate) async fn acquire(&self, on: &LockKey, request: &Acquire) -> Acquisition {
        let answer = self.store.acquire(on, request.clone()).await;
        answer.expect("an answer").value
    }

    pub(crate) async fn inspect(&self, on: &LockKey) -> Option<LeaseInfo> {
        self.store.inspect(on).await.expect("an answer").0
    }

    pub(crate) async fn waiters(&self, on: &LockKey) -> usize {
        self.store.inspect(on).await.expect("an answer").1
    }
}

/// Options for a plain Redis whose clock the test sets.
pub(crate) fn options(discovery: Discovery, data: Endpoint, prefix: &str) -> RedisOptions {
    RedisOptions {
        discovery,
        data,
        db: 0,
        pool_size: 2,
        connect_timeout: Duration::from_secs(5),
        response_timeout: Duration::from_secs(5),
        replica_acks: ReplicaAcks::Auto,
        key_prefix: prefix.to_owned(),
        // With a clock that the test sets, this is only the grace: none, as on the memory store.
        max_clock_skew: Duration::ZERO,
        max_recovery: MAX_TTL,
        clock: Clock::Set,
    }
}

pub(crate) fn address(text: &str) -> Address {
    Address::parse(text, 6379).expect("host:port")
}

pub(crate) fn key(text: &str) -> LockKey {
    LockKey::parse(text).expect("a key")
}

pub(crate) fn ms(number: u64) -> Duration {
    Duration::from_millis(number)
}

pub(crate) fn ttl(ms: u64) -> Ttl {
    Ttl::new(Duration::from_millis(ms), MAX_TTL).expect("a TTL within bounds")
}

/// An acquisition by a new client.
pub(crate) fn request(ttl_ms: u64) -> Acquire {
    Acquire {
        lease_id: LeaseId::from_bytes(random::bytes()),
        attempt: Attempt(random::number().into()),
        ttl: ttl(ttl_ms),
        holder: None,
        hold_at_least: Duration::ZERO,
        metadata: Metadata::default(),
        idempotency: None,
        wait: None,
    }
}

/// Sets how long a request waits.
pub(crate) fn wait(within_ms: u64) -> Wait {
    Wait {
        timeout: ms(within_ms),
        ticket: None,
        max_waiters: 10,
    }
}

/// A retry of the same acquisition: another attempt, with a lease id that the store must not use.
pub(crate) fn repeated(first: &Acquire) -> Acquire {
    Acquire {
        lease_id: LeaseId::from_bytes(random::bytes()),
        attempt: Attempt(random::number().into()),
        ..first.clone()
    }
}

pub(crate) fn idempotency(key: u8, request: u8) -> Idempotency {
    Idempotency {
        key: Digest::from_bytes([key; 16]),
        fingerprint: Digest::from_bytes([request; 16]),
    }
}
