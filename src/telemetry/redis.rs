//! The metrics of the Redis store. A server with the memory store does not expose them.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, Registry};

use super::label::{Counters, VALID, counter, histogram, label, register};
use super::locks::Limit;

/// In seconds: from a Redis on the same host to slow answers near the operation timeout.
const ROUND_TRIP_BUCKETS: [f64; 12] = [
    0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
];

/// Operations in one batch, up to the largest batch.
const BATCH_BUCKETS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 48.0, 64.0];

/// In seconds: from a quick restart to an outage that needs an operator.
const FAILOVER_BUCKETS: [f64; 10] = [0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 300.0];

label! {
    /// The cause of a failed Redis operation.
    FailureCause {
        /// Redis did not answer in time.
        Timeout = "timeout",
        /// The connection failed to open, or broke.
        Connection = "connection",
        /// Redis rejected the password, or the ACL user lacks a permission.
        Access = "access",
        /// Redis is loading or busy, or it is a replica without its master.
        NotReady = "not_ready",
        /// The node is no longer the master, or a newer activation has replaced the one of the command.
        NotMaster = "not_master",
        /// Redis has no memory left.
        OutOfMemory = "out_of_memory",
        /// Redis cannot persist its data.
        NotPersisting = "not_persisting",
        /// The command reached Redis too late to be executed.
        Late = "late",
        /// Discovery found no usable master.
        NoMaster = "no_master",
        /// Redis answered with any other error.
        Other = "other",
    }
}

label! {
    /// Why an operation lacked the confirmation of enough replicas.
    Shortfall {
        /// Too few replicas are online, so Redis changed nothing.
        Offline = "offline",
        /// Too few replicas confirmed in time.
        Unconfirmed = "unconfirmed",
        /// The master changed before enough replicas confirmed.
        Superseded = "superseded",
    }
}

label! {
    /// The kind of a change of the master.
    MasterChange {
        /// Another node is the master.
        Failover = "failover",
        /// The same master restarted or was reset, or its clock stepped.
        Restart = "restart",
    }
}

label! {
    /// The size of a step of the master's clock.
    ClockStep {
        /// Within the permitted clock skew.
        Small = "small",
        /// Beyond the permitted clock skew; the server handles it like a loss.
        Large = "large",
    }
}

/// The counters and histograms of the Redis store. Clones share them.
#[derive(Clone, Debug)]
pub struct RedisMetrics {
    pub(crate) faults: Counters<FailureCause>,
    pub(crate) shortfalls: Counters<Shortfall>,
    pub(crate) clock_steps: Counters<ClockStep>,
    pub(crate) limits: Counters<Limit>,
    batches: Histogram,
    round_trips: Histogram,
    replication_rounds: Histogram,
    confirmations: IntCounter,
    masters: MasterMetrics,
}

/// The counters and histograms of changes of the master and of losses.
#[derive(Clone, Debug)]
struct MasterMetrics {
    changes: Counters<MasterChange>,
    failovers: Histogram,
    losses: IntCounter,
    lost_writes: IntCounter,
    recoveries_ended: IntCounter,
    pause: Gauge,
}

impl RedisMetrics {
    pub(super) fn new(registry: &Registry, limits: Counters<Limit>) -> Self {
        let faults = Counters::new(
            registry,
            "leasehold_redis_errors_total",
            "Failed Redis operations by cause.",
            "kind",
        );
        let shortfalls = Counters::new(
            registry,
            "leasehold_replication_shortfalls_total",
            "Operations that lacked the confirmation of enough replicas, by reason.",
            "reason",
        );
        let clock_steps = Counters::new(
            registry,
            "leasehold_clock_steps_total",
            "Steps of the Redis master's clock: small is within LEASEHOLD_MAX_CLOCK_SKEW_MS, large is beyond it.",
            "size",
        );
        let batches = histogram(
            registry,
            "leasehold_redis_batch_operations",
            "Operations that this server sent to Redis in one script call.",
            &BATCH_BUCKETS,
        );
        let round_trips = histogram(
            registry,
            "leasehold_redis_round_trip_seconds",
            "Time from sending a batch of operations to Redis to its reply, in seconds.",
            &ROUND_TRIP_BUCKETS,
        );
        let replication_rounds = histogram(
            registry,
            "leasehold_replication_round_seconds",
            "Time of one confirmation round, in seconds. One WAIT covers all answers that need confirmation at that moment.",
            &ROUND_TRIP_BUCKETS,
        );
        let confirmations = counter(
            registry,
            "leasehold_replication_confirmations_total",
            "Answers that enough replicas confirmed.",
        );
        Self {
            faults,
            shortfalls,
            clock_steps,
            limits,
            batches,
            round_trips,
            replication_rounds,
            confirmations,
            masters: MasterMetrics::new(registry),
        }
    }

    /// Records an answered batch.
    pub(crate) fn batch(&self, operations: usize, took: Duration) {
        self.batches
            .observe(u32::try_from(operations).map_or(f64::MAX, f64::from));
        self.round_trips.observe(took.as_secs_f64());
    }

    /// Records one request to the replicas for their confirmation.
    pub(crate) fn replication_round(&self, took: Duration) {
        self.replication_rounds.observe(took.as_secs_f64());
    }

    /// Counts an answer that enough replicas have confirmed.
    pub(crate) fn confirmed(&self) {
        self.confirmations.inc();
    }

    /// Records a change of the master, and how long the server had no usable master before it.
    pub(crate) fn master_changed(&self, change: MasterChange, away: Duration) {
        self.masters.changes.count(change);
        self.masters.failovers.observe(away.as_secs_f64());
    }

    /// Records lost writes, and a loss if leases may be among them.
    pub(crate) fn lost(&self, leases: bool, writes: u64) {
        self.masters.losses.inc_by(leases.into());
        self.masters.lost_writes.inc_by(writes);
    }

    /// Counts a pause of new grants that a client ended.
    pub(crate) fn recovery_ended(&self) {
        self.masters.recoveries_ended.inc();
    }

    /// Sets for how long new grants pause.
    pub(crate) fn paused(&self, pause: Duration) {
        self.masters.pause.set(pause.as_secs_f64());
    }
}

impl MasterMetrics {
    fn new(registry: &Registry) -> Self {
        let changes = Counters::new(
            registry,
            "leasehold_master_changes_total",
            "Changes of the Redis master: failover to another node, or restart (also a reset or a clock step) of the same node.",
            "kind",
        );
        let failovers = histogram(
            registry,
            "leasehold_failover_seconds",
            "Time without a healthy Redis master, in seconds, for each change of the master.",
            &FAILOVER_BUCKETS,
        );
        let losses = counter(
            registry,
            "leasehold_losses_total",
            "Changes of the Redis master that may have lost leases on which clients still count.",
        );
        let lost_writes = counter(
            registry,
            "leasehold_lost_writes_total",
            "Confirmed writes that this server knew and that a new master lacked.",
        );
        let recoveries_ended = counter(
            registry,
            "leasehold_recoveries_ended_total",
            "Pauses of new grants that a client of this server ended with DELETE /recovery.",
        );
        let pause = Gauge::new(
            "leasehold_grant_pause_seconds",
            "Time until the server grants new leases again after a loss, in seconds. 0 if new grants do not pause.",
        )
        .expect(VALID);
        register(registry, pause.clone());
        Self {
            changes,
            failovers,
            losses,
            lost_writes,
            recoveries_ended,
            pause,
        }
    }
}
