//! Steps of the wall clocks of data nodes, within the clock skew of the contract and beyond it.

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

/// The skew of the contract is 500 ms: two of these steps are within it, three are beyond.
const SMALL_MS: i64 = 240;

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
    set_clock(world, victim, ms)?;
    let mut seen = expect_clock(world, victim, ms);
    if !on_master {
        let failed_over = order_failover(world);
        seen = seen
            .and(failed_over)
            .and_then(|()| world.expect("another master is named", |w| is_replaced(w, master)));
    }
    hold_ms(4000);
    hold_until_granted(world);
    set_clock(world, victim, 0)?;
    world.heal();
    seen
}

/// Steps the clock of the master three times. A lease that lives through all steps could end for others before its
/// holder's deadline, although the skew excuses each step by itself.
pub(super) fn step_thrice(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let pause = world.rng.between(0, 1200);
    world.inject(&format!("redis{master}, {pause} ms apart"));
    let mut seen = Ok(());
    for steps in 1..=3 {
        set_clock(world, master, steps * SMALL_MS)?;
        seen = seen.and(expect_clock(world, master, steps * SMALL_MS));
        hold_ms(pause);
    }
    hold_ms(2000);
    hold_until_granted(world);
    set_clock(world, master, 0)?;
    world.heal();
    seen
}

/// Steps the clock of the master, and after a failover the clock of the new master, in any directions.
pub(super) fn step_two_nodes(world: &mut World) -> Result<(), String> {
    let first = world.cluster.master()?;
    let mut either_way = || {
        let back = world.rng.percent(40);
        if back { -SMALL_MS } else { SMALL_MS }
    };
    let (before, after) = (either_way(), either_way());
    world.inject(&format!(
        "{before:+} ms on redis{first}, {after:+} ms on its successor"
    ));
    set_clock(world, first, before)?;
    expect_clock(world, first, before)?;
    let pause = world.rng.between(0, 1000);
    hold_ms(pause);
    order_failover(world)?;
    world.expect("another master is named", |w| is_replaced(w, first))?;
    let second = world.cluster.master()?;
    let pause = world.rng.between(0, 2000);
    hold_ms(pause);
    set_clock(world, second, after)?;
    expect_clock(world, second, after)?;
    hold_ms(2000);
    hold_until_granted(world);
    for node in [first, second] {
        set_clock(world, node, 0)?;
    }
    world.heal();
    Ok(())
}

/// One server, or all servers one after the other, start anew between the first and the second of three steps. They know
/// of the first step only from what the servers before them have published.
pub(super) fn step_around_start(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let mut servers: Vec<usize> = (0..world.cluster.servers.len()).collect();
    world.rng.shuffle(&mut servers);
    if world.rng.percent(40) {
        servers.truncate(1);
    }
    world.inject(&format!("redis{master}, servers {servers:?}"));
    set_clock(world, master, SMALL_MS)?;
    expect_clock(world, master, SMALL_MS)?;
    // Longer than a heartbeat: the servers publish the step.
    let pause = world.rng.between(1200, 2000);
    hold_ms(pause);
    for server in servers {
        world.cluster.servers[server].process.kill();
        world.cluster.servers[server].start()?;
        let (since, url) = (now_us(), world.cluster.servers[server].url());
        world.expect("the new server grants", |w| {
            w.crowd.has_seen(since, |call| {
                call.server == url && call.sent_at >= since && is_grant(call)
            })
        })?;
    }
    for steps in 2..=3 {
        set_clock(world, master, steps * SMALL_MS)?;
        expect_clock(world, master, steps * SMALL_MS)?;
        let pause = world.rng.between(0, 800);
        hold_ms(pause);
    }
    hold_ms(2000);
    hold_until_granted(world);
    set_clock(world, master, 0)?;
    world.heal();
    Ok(())
}

fn set_clock(world: &World, node: usize, ms: i64) -> Result<(), String> {
    data::set_clock_ms(world.cluster.node(node), ms).map_err(failed)
}

fn expect_clock(world: &mut World, node: usize, ms: i64) -> Result<(), String> {
    world.expect("the node tells another time", |w| {
        let told = data::time_ms(w.cluster.node(node));
        let ahead_ms = told.map(|told| told - wall_clock_ms());
        ahead_ms.is_some_and(|ahead| (ahead - ms).abs() <= SMALL_MS / 2)
    })
}

/// Grants pause after a step beyond the skew; the history should also contain grants by the stepped clock.
fn hold_until_granted(world: &World) {
    let since = now_us();
    let _or_not = poll(GRANTS_LIMIT, || {
        let granted = |call: &Call| is_grant(call) && call.sent_at >= since;
        world.crowd.has_seen(since, granted).then_some(())
    });
    hold_ms(1000);
}

fn is_grant(call: &Call) -> bool {
    call.op == Op::Acquire && call.succeeded()
}

fn wall_clock_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let ms = since.expect("it is after 1970").as_millis();
    i64::try_from(ms).expect("a time of this age")
}
