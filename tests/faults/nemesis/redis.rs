//! Faults of data nodes.

use super::World;
use crate::cluster::DATA_NODES;
use crate::redis_node::field;
use crate::wait::hold_ms;

/// The master dies and comes back with its data, when another one may have taken over.
pub(super) fn kill_master(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    world.inject(&format!("redis{master}"));
    world.cluster.nodes[master].process.kill();
    world.expect("another master is named", |w| is_replaced(w, master))?;
    let pause = world.rng.between(0, 3000);
    hold_ms(pause);
    world.cluster.nodes[master].start()?;
    world.heal();
    Ok(())
}

/// The master stands still, with commands in its sockets that run when it wakes up.
pub(super) fn stop_master(world: &mut World, ms: u64) -> Result<(), String> {
    let master = world.cluster.master()?;
    world.inject(&format!("redis{master}"));
    let begun = std::time::Instant::now();
    world.cluster.nodes[master].process.stop();
    let stands_us = ms.min(1000) * 1000 * 2 / 3;
    let seen = if ms >= 10_000 {
        world.expect("another master is named", |w| is_replaced(w, master))
    } else {
        world.expect("a call stands still", |w| {
            w.crowd.has_pending_for(stands_us, |call| call.wait_ms == 0)
                || w.crowd.has_seen(w.injected_at(), |call| {
                    call.wait_ms == 0
                        && call
                            .answered_at
                            .is_some_and(|at| at - call.sent_at >= stands_us)
                })
                || begun.elapsed().as_millis() >= u128::from(ms)
        })
    };
    let left = u128::from(ms).saturating_sub(begun.elapsed().as_millis());
    hold_ms(u64::try_from(left).unwrap_or(0));
    world.cluster.nodes[master].process.resume();
    world.heal();
    seen
}

/// A replica loses its disk and copies everything again.
pub(super) fn wipe_replica(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let replica = (master + 1 + world.rng.index(DATA_NODES - 1)) % DATA_NODES;
    world.inject(&format!("redis{replica}"));
    let node = &world.cluster.nodes[replica];
    node.process.kill();
    node.wipe()?;
    world.expect("the master has one replica less", |w| {
        let info = w.cluster.nodes[master].replication().unwrap_or_default();
        info.matches("state=online").count() == DATA_NODES - 2
    })?;
    let pause = world.rng.between(0, 4000);
    hold_ms(pause);
    world.cluster.nodes[replica].start()?;
    world.heal();
    Ok(())
}

/// The master restarts without its data before any Sentinel misses it, and its replicas copy the emptiness.
pub(super) fn fast_empty_master_restart(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = replid(world, master);
    world.inject(&format!("redis{master}"));
    let node = &world.cluster.nodes[master];
    node.process.kill();
    node.wipe()?;
    node.start()?;
    world.heal();
    world.expect("another replication id on the same master", |w| {
        replid(w, master) != before && w.cluster.named_master() == Some(master)
    })
}

/// Somebody empties the database.
pub(super) fn flushall(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = activation(world, master);
    world.inject(&format!("redis{master}"));
    world.cluster.nodes[master].cli(&["FLUSHALL"])?;
    world.heal();
    world.expect("another activation", |w| {
        activation(w, master).is_some_and(|now| Some(now) != before)
    })
}

/// Whether the Sentinels name another master than this one.
pub(super) fn is_replaced(world: &World, master: usize) -> bool {
    world
        .cluster
        .named_master()
        .is_some_and(|now| now != master)
}

fn replid(world: &World, node: usize) -> Option<String> {
    let info = world.cluster.nodes[node].replication().ok()?;
    field(&info, "master_replid")
}

fn activation(world: &World, node: usize) -> Option<String> {
    let words = ["HGET", "leasehold:meta", "activation"];
    world.cluster.nodes[node].cli(&words).ok()
}
