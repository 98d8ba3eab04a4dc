//! Steps of one data node's wall clock, within the clock skew of the contract and beyond it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::World;
use super::redis::{failed, is_replaced};
use super::sentinel::order_failover;
use crate::clock::now_us;
use crate::cluster::DATA_NODES;
use crate::data;
use crate::history::{Call, Op};
use crate::wait::{hold_ms, poll};
use crate::workload::LONGEST_TTL_MS;

/// A step as long as the longest lease.
pub(super) const TTL_MS: i64 = LONGEST_TTL_MS.cast_signed();

/// How long grants may pause: the longest lease that can be lost, plus the skew.
const GRANTS_LIMIT: Duration = Duration::from_millis(LONGEST_TTL_MS + 2000);

/// Steps the clock of the master, or of a replica before a failover. The repair steps it back.
pub(super) fn step(world: &mut World, ms: i64) -> Result<(), String> {
    let master = world.cluster.master()?;
    let on_master = world.rng.percent(60);
    let victim = if on_master {
        master
    } else {
        (master + 1 + world.rng.index(DATA_NODES - 1)) % DATA_NODES
    };
    world.inject(&format!("redis{victim}, master redis{master}"));
    data::set_clock_ms(world.cluster.node(victim), ms).map_err(failed)?;
    let mut seen = world.expect("the node tells another time", |w| {
        let told = data::time_ms(w.cluster.node(victim));
        let ahead_ms = told.map(|told| told - wall_clock_ms());
        ahead_ms.is_some_and(|ahead| (ahead - ms).abs() <= ms.abs() / 2)
    });
    if !on_master {
        let failed_over = order_failover(world);
        seen = seen
            .and(failed_over)
            .and_then(|()| world.expect("another master is named", |w| is_replaced(w, master)));
    }
    hold_ms(4000);
    // Grants pause after a step; the history should also contain grants by the stepped clock.
    let since = now_us();
    let granted = |call: &Call| call.op == Op::Acquire && call.succeeded() && call.sent_at >= since;
    let _or_not = poll(GRANTS_LIMIT, || {
        world.crowd.has_seen(since, granted).then_some(())
    });
    hold_ms(1000);
    data::set_clock_ms(world.cluster.node(victim), 0).map_err(failed)?;
    world.heal();
    seen
}

fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.expect("it is after 1970").as_millis();
    i64::try_from(ms).expect("a time of this age")
}
