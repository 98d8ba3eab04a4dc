//! The metrics of locks, which are the same for every store.

use prometheus::Registry;

use super::label::{Counters, Histograms, label};

/// In seconds, up to the longest usual wait.
const WAIT_BUCKETS: [f64; 12] = [
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 60.0,
];

/// In seconds, up to the longest usual TTL. Renewed leases exceed it.
const HOLD_BUCKETS: [f64; 12] = [
    0.005, 0.025, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0,
];

label! {
    /// How an acquisition ended.
    AcquireOutcome {
        /// The client got a new lease.
        Granted = "granted",
        /// A replay: the client got the lease that it already has.
        Replayed = "replayed",
        /// Another holder has the lock.
        Held = "held",
        /// The lock stayed unavailable for the whole wait.
        TimedOut = "timed_out",
        /// The idempotency key belongs to another request.
        KeyReused = "key_reused",
        /// An earlier attempt got the lease, and it was released moments ago.
        AlreadyReleased = "already_released",
        /// The limit of waiters is reached.
        TooManyWaiters = "too_many_waiters",
        /// The client disconnected before the answer.
        Abandoned = "abandoned",
        /// The server is draining.
        ShuttingDown = "shutting_down",
        /// New grants pause after a loss.
        Recovering = "recovering",
        /// Too few replicas confirmed the grant.
        ReplicationUnconfirmed = "replication_unconfirmed",
        /// The store is unreachable, not ready, too slow or out of memory, or it cannot persist its data.
        Unavailable = "unavailable",
        /// The server has a defect.
        Internal = "internal",
    }
}

label! {
    /// How a wait ended.
    Waited {
        /// The waiter got the lock.
        Granted = "granted",
        /// The wait reached its time limit without the lock.
        TimedOut = "timed_out",
        /// The client disconnected.
        Abandoned = "abandoned",
        /// The wait ended for any other reason.
        Failed = "failed",
    }
}

label! {
    /// How a renewal ended.
    RenewOutcome {
        /// The lease has a new deadline.
        Renewed = "renewed",
        /// The lease was already over, and the lock is free.
        NotHeld = "not_held",
        /// The lease was already over, and another holder has the lock.
        HeldByOther = "held_by_other",
        /// The store gave no answer.
        Error = "error",
    }
}

label! {
    /// How a release ended.
    ReleaseOutcome {
        /// The lease is over.
        Released = "released",
        /// An earlier attempt of this release ended the lease.
        Repeated = "repeated",
        /// The lease was already over, and the lock is free.
        NotHeld = "not_held",
        /// The lease was already over, and another holder has the lock.
        HeldByOther = "held_by_other",
        /// The store gave no answer.
        Error = "error",
    }
}

label! {
    /// How a break ended.
    BreakOutcome {
        /// The break ended a lease or a reservation.
        Broken = "broken",
        /// The lease was already over.
        AlreadyOver = "already_over",
        /// Another holder has the lock.
        HeldByOther = "held_by_other",
        /// The store gave no answer.
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
    /// A limit of the server. The server rejects a request or a connection beyond it.
    Limit {
        /// Requests that wait on this server.
        ServerWaiters = "server_waiters",
        /// Requests that wait for one key.
        KeyWaiters = "key_waiters",
        /// The size of a body.
        BodyBytes = "body_bytes",
        /// The time for a body to arrive.
        BodyTime = "body_time",
        /// The size of a request head.
        HeadBytes = "head_bytes",
        /// Connections of clients.
        Connections = "connections",
        /// Listings in progress.
        Listings = "listings",
        /// Other large answers in progress.
        LargeAnswers = "large_answers",
        /// Queue entries kept for disconnected clients that may retry.
        KeptPlaces = "kept_places",
        /// Operations that wait to be sent to Redis.
        RedisQueue = "redis_queue",
        /// Answers that wait for the confirmation of replicas.
        ConfirmationQueue = "confirmation_queue",
    }
}

/// The counters and histograms of locks. Clones share them.
#[derive(Clone, Debug)]
pub struct LockMetrics {
    /// Acquisitions by outcome.
    pub acquires: Counters<AcquireOutcome>,
    /// The time that acquisitions waited, without those that were answered immediately.
    pub waits: Histograms<Waited>,
    /// Renewals by outcome.
    pub renewals: Counters<RenewOutcome>,
    /// Releases by outcome.
    pub releases: Counters<ReleaseOutcome>,
    /// Breaks by outcome.
    pub breaks: Counters<BreakOutcome>,
    /// The time from the grant to the release or break of a lease. Expired leases are not included.
    pub holds: Histograms<Ended>,
    /// Rejections by the limit that was reached.
    pub limits: Counters<Limit>,
}

impl LockMetrics {
    pub(super) fn new(registry: &Registry, limits: Counters<Limit>) -> Self {
        let name = "leasehold_acquires_total";
        let acquires = Counters::new(registry, name, "Acquisitions by outcome.", "outcome");
        let waits = Histograms::new(
            registry,
            "leasehold_acquire_wait_seconds",
            "Time that acquisitions waited in the queue, in seconds, by result.",
            "result",
            &WAIT_BUCKETS,
        );
        let name = "leasehold_renewals_total";
        let renewals = Counters::new(registry, name, "Renewals by outcome.", "outcome");
        let name = "leasehold_releases_total";
        let releases = Counters::new(registry, name, "Releases by outcome.", "outcome");
        let name = "leasehold_breaks_total";
        let breaks = Counters::new(registry, name, "Breaks by outcome.", "outcome");
        let holds = Histograms::new(
            registry,
            "leasehold_lease_hold_seconds",
            "Time from the grant of a lease to its release or break by this server, in seconds. Expired leases are not included.",
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
