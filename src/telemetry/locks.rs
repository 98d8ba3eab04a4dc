//! What is counted of locks, whatever the store.

use prometheus::Registry;

use super::label::{Counters, Histograms, label};

/// In seconds, up to the longest wait that is usual.
const WAIT_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// In seconds, up to the longest TTL that is usual; renewals reach beyond.
const HOLD_BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0,
];

label! {
    /// How an acquisition ended.
    AcquireOutcome {
        /// A new lease.
        Granted = "granted",
        /// The lease that it has already.
        Replayed = "replayed",
        /// Somebody else holds the lock.
        Held = "held",
        /// Somebody else held it for the whole wait.
        TimedOut = "timed_out",
        /// The idempotency key stands for another request.
        KeyReused = "key_reused",
        /// It was granted and released moments ago.
        AlreadyReleased = "already_released",
        /// As many wait as may.
        TooManyWaiters = "too_many_waiters",
        /// Its client left before the answer.
        Abandoned = "abandoned",
        /// The server is about to end.
        ShuttingDown = "shutting_down",
        /// New grants pause after a loss.
        Recovering = "recovering",
        /// Too few replicas confirmed it.
        ReplicationUnconfirmed = "replication_unconfirmed",
        /// The store is out of reach, not ready, too slow, full or cannot save.
        Unavailable = "unavailable",
        /// A defect.
        Internal = "internal",
    }
}

label! {
    /// How a wait ended.
    Waited {
        /// With the lock.
        Granted = "granted",
        /// Without it, in time.
        TimedOut = "timed_out",
        /// Its client left.
        Abandoned = "abandoned",
        /// In some other way.
        Failed = "failed",
    }
}

label! {
    /// How a renewal ended.
    RenewOutcome {
        /// The lease goes on.
        Renewed = "renewed",
        /// The lease was over, and nobody holds the lock.
        NotHeld = "not_held",
        /// The lease was over, and somebody else holds the lock.
        HeldByOther = "held_by_other",
        /// There was no answer.
        Error = "error",
    }
}

label! {
    /// How a release ended.
    ReleaseOutcome {
        /// The lease is over.
        Released = "released",
        /// It was, by this release asked for before.
        Repeated = "repeated",
        /// The lease was over, and nobody holds the lock.
        NotHeld = "not_held",
        /// The lease was over, and somebody else holds the lock.
        HeldByOther = "held_by_other",
        /// There was no answer.
        Error = "error",
    }
}

label! {
    /// How a break ended.
    BreakOutcome {
        /// The lease, or what was reserved, is over.
        Broken = "broken",
        /// It was before.
        AlreadyOver = "already_over",
        /// Somebody else holds the lock.
        HeldByOther = "held_by_other",
        /// There was no answer.
        Error = "error",
    }
}

label! {
    /// What ended a lease.
    Ended {
        /// Its holder.
        Release = "release",
        /// An administrator.
        Break = "break",
    }
}

label! {
    /// A bound that refuses what is beyond it.
    Limit {
        /// Requests that wait on this server.
        ServerWaiters = "server_waiters",
        /// Requests that wait for one key.
        KeyWaiters = "key_waiters",
        /// The size of a body.
        BodyBytes = "body_bytes",
        /// The time in which a body must arrive.
        BodyTime = "body_time",
        /// The size of a head.
        HeadBytes = "head_bytes",
        /// Connections of clients.
        Connections = "connections",
        /// Listings that are under way.
        Listings = "listings",
        /// Other large answers that are on their way.
        LargeAnswers = "large_answers",
        /// Places kept for clients that may come back.
        KeptPlaces = "kept_places",
        /// Operations that are to be sent to Redis.
        RedisQueue = "redis_queue",
        /// Answers that are to be confirmed by replicas.
        ConfirmationQueue = "confirmation_queue",
    }
}

/// Counts what becomes of locks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct LockMetrics {
    /// Acquisitions.
    pub acquires: Counters<AcquireOutcome>,
    /// How long those waited that did not get their answer at once.
    pub waits: Histograms<Waited>,
    /// Renewals.
    pub renewals: Counters<RenewOutcome>,
    /// Releases.
    pub releases: Counters<ReleaseOutcome>,
    /// Breaks.
    pub breaks: Counters<BreakOutcome>,
    /// How long leases were held that were ended by a call.
    pub holds: Histograms<Ended>,
    /// Bounds that were met.
    pub limits: Counters<Limit>,
}

impl LockMetrics {
    pub(super) fn new(registry: &Registry, limits: Counters<Limit>) -> Self {
        let name = "leasehold_acquires_total";
        let acquires = Counters::new(registry, name, "Acquisitions by their outcome.", "outcome");
        let waits = Histograms::new(
            registry,
            "leasehold_acquire_wait_seconds",
            "How long acquisitions waited in line, by how that ended.",
            "result",
            &WAIT_BUCKETS,
        );
        let name = "leasehold_renewals_total";
        let renewals = Counters::new(registry, name, "Renewals by their outcome.", "outcome");
        let name = "leasehold_releases_total";
        let releases = Counters::new(registry, name, "Releases by their outcome.", "outcome");
        let name = "leasehold_breaks_total";
        let breaks = Counters::new(registry, name, "Breaks by their outcome.", "outcome");
        let holds = Histograms::new(
            registry,
            "leasehold_lease_hold_seconds",
            "How long leases were held that this server ended, by what ended them; expired ones are not among them.",
            "ended_by",
            &HOLD_BUCKETS,
        );
        Self {
            acquires,
            waits,
            renewals,
            releases,
            breaks,
            holds,
            limits,
        }
    }
}
