//! What is counted of the Redis store; a server without one does not show it.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, Registry};

use super::label::{Counters, VALID, counter, histogram, label, register};
use super::locks::Limit;

/// In seconds: from a node next door to the longest time-out.
const ROUND_TRIP_BUCKETS: [f64; 12] = [
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// Operations of one batch, up to the largest.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0, 64.0];

/// In seconds: from a restart to what needs a person.
const FAILOVER_BUCKETS: [f64; 10] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0];

label! {
    /// Why Redis did not do what it was asked.
    Fault {
        /// It did not answer in time.
        Timeout = "timeout",
        /// The connection could not be made, or broke off.
        Connection = "connection",
        /// The password or the permissions do not do.
        Access = "access",
        /// It is loading, busy, or lacks its master.
        NotReady = "not_ready",
        /// It is not the master any more, or was activated anew since.
        NotMaster = "not_master",
        /// It has no memory left.
        OutOfMemory = "out_of_memory",
        /// It cannot save.
        NotPersisting = "not_persisting",
        /// The command reached it too late to be run.
        Late = "late",
        /// No usable master was found.
        NoMaster = "no_master",
        /// It answered something else.
        Other = "other",
    }
}

label! {
    /// Why too few replicas had an answer's change.
    Shortfall {
        /// Too few are connected, so nothing was done.
        Offline = "offline",
        /// Too few confirmed in time.
        Unconfirmed = "unconfirmed",
        /// The master changed before they did.
        Superseded = "superseded",
    }
}

label! {
    /// What became of the master.
    MasterChange {
        /// It is another.
        Failover = "failover",
        /// It restarted or was reset, or its clock stepped.
        Restart = "restart",
    }
}

label! {
    /// How far a clock stepped.
    ClockStep {
        /// Less than clocks may be apart.
        Small = "small",
        /// More, which is handled like a loss.
        Large = "large",
    }
}

/// Counts what the Redis store does. Cheap to clone.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    pub(crate) faults: Counters<Fault>,
    pub(crate) shortfalls: Counters<Shortfall>,
    pub(crate) clock_steps: Counters<ClockStep>,
    pub(crate) limits: Counters<Limit>,
    batches: Histogram,
    round_trips: Histogram,
    replication_rounds: Histogram,
    confirmations: IntCounter,
    changes: Counters<MasterChange>,
    failovers: Histogram,
    losses: IntCounter,
    lost_writes: IntCounter,
    pause: Gauge,
}

impl RedisMetrics {
    pub(super) fn new(registry: &Registry, limits: Counters<Limit>) -> Self {
        let faults = Counters::new(
            registry,
            "leasehold_redis_errors_total",
            "What Redis was asked and did not do, by why.",
            "kind",
        );
        let shortfalls = Counters::new(
            registry,
            "leasehold_replication_shortfalls_total",
            "Answers that were refused because too few replicas confirmed them, by why.",
            "reason",
        );
        let clock_steps = Counters::new(
            registry,
            "leasehold_clock_steps_total",
            "Steps of the master's clock, by whether they are larger than clocks may be apart.",
            "size",
        );
        let batches = histogram(
            registry,
            "leasehold_redis_batch_operations",
            "Operations that went to Redis in one script call.",
            &BATCH_BUCKETS,
        );
        let round_trips = histogram(
            registry,
            "leasehold_redis_round_trip_seconds",
            "Time of a batch of operations from this server to Redis and back.",
            &ROUND_TRIP_BUCKETS,
        );
        let replication_rounds = histogram(
            registry,
            "leasehold_replication_round_seconds",
            "Time in which replicas were asked to confirm all answers of a moment.",
            &ROUND_TRIP_BUCKETS,
        );
        let confirmations = counter(
            registry,
            "leasehold_replication_confirmations_total",
            "Answers that enough replicas confirmed.",
        );
        let changes = Counters::new(
            registry,
            "leasehold_master_changes_total",
            "How often the master was another, or began anew.",
            "kind",
        );
        let failovers = histogram(
            registry,
            "leasehold_failover_seconds",
            "Time without a master in order, for each change of the master.",
            &FAILOVER_BUCKETS,
        );
        let losses = counter(
            registry,
            "leasehold_losses_total",
            "Changes of the master after which leases that clients count on may be gone.",
        );
        let lost_writes = counter(
            registry,
            "leasehold_lost_writes_total",
            "Confirmed writes that this server knew of and a new master did not.",
        );
        let pause = Gauge::new(
            "leasehold_grant_pause_seconds",
            "For how long no new lease is granted after a loss.",
        )
        .expect(VALID);
        register(registry, pause.clone());
        Self {
            faults,
            shortfalls,
            clock_steps,
            limits,
            batches,
            round_trips,
            replication_rounds,
            confirmations,
            changes,
            failovers,
            losses,
            lost_writes,
            pause,
        }
    }

    /// A batch was answered.
    pub(crate) fn batch(&self, operations: usize, took: Duration) {
        self.batches
            .observe(u32::try_from(operations).map_or(f64::MAX, f64::from));
        self.round_trips.observe(took.as_secs_f64());
    }

    /// Replicas were asked for their confirmation.
    pub(crate) fn replication_round(&self, took: Duration) {
        self.replication_rounds.observe(took.as_secs_f64());
    }

    /// An answer is on enough replicas.
    pub(crate) fn confirmed(&self) {
        self.confirmations.inc();
    }

    /// The master is another or begins anew, after a time without one.
    pub(crate) fn master_changed(&self, change: MasterChange, away: Duration) {
        self.changes.count(change);
        self.failovers.observe(away.as_secs_f64());
    }

    /// Leases may be gone, and so many writes are.
    pub(crate) fn lost(&self, leases: bool, writes: u64) {
        self.losses.inc_by(leases.into());
        self.lost_writes.inc_by(writes);
    }

    /// For so long nothing new is granted.
    pub(crate) fn paused(&self, pause: Duration) {
        self.pause.set(pause.as_secs_f64());
    }
}
