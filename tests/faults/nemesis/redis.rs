//! Faults of data nodes.

use super::World;
use crate::cluster::DATA_NODES;
use crate::data;
use crate::wait::hold_ms;

/// Kills the master and restarts it with its data, possibly after a failover.
pub(super) fn kill_master(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    world.inject(&format!("redis{master}"));
    world.cluster.node(master).kill();
    world.expect("another master is named", |w| is_replaced(w, master))?;
    let pause = world.rng.between(0, 3000);
    hold_ms(pause);
    world.cluster.node(master).try_restart()?;
    world.heal();
    Ok(())
}

/// Stops the master; it later runs the commands that its sockets received meanwhile.
pub(super) fn stop_master(world: &mut World, ms: u64) -> Result<(), String> {
    let master = world.cluster.master()?;
    world.inject(&format!("redis{master}"));
    let begun = std::time::Instant::now();
    world.cluster.node(master).pause();
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
    world.cluster.node(master).resume();
    world.heal();
    seen
}

/// Stops a replica for less than the servers wait for replicas: confirmations arrive late.
pub(super) fn stop_replica(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let pause = world.rng.between(500, 1200);
    world.inject(&format!("{pause} ms each"));
    let mut seen = Ok(());
    for offset in 1..DATA_NODES {
        let replica = world.cluster.node((master + offset) % DATA_NODES);
        replica.pause();
        let stands = world.expect("a call stands still", |w| {
            w.crowd
                .has_pending_for(pause * 500, |call| call.wait_ms == 0)
        });
        hold_ms(pause / 2);
        world.cluster.node((master + offset) % DATA_NODES).resume();
        hold_ms(1000);
        seen = seen.and(stands);
    }
    world.heal();
    seen
}

/// Sentinel promotes the replica that lacks the last writes, because the master is dead and the other replica stopped.
/// No confirmed write may be among the lost ones.
pub(super) fn promote_laggard(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let mut replicas = [1, 2].map(|offset| (master + offset) % DATA_NODES);
    world.rng.shuffle(&mut replicas);
    let [laggard, other] = replicas;
    let hosts = [master, laggard].map(|node| world.cluster.node(node).host().name.clone());
    world.inject(&format!("redis{laggard} after redis{master}"));
    let cuts = world.cluster.net.cut_both(&hosts[0], &hosts[1])?;
    // Shorter than the time after which Sentinel considers the replication link down.
    let pause = world.rng.between(500, 1000);
    hold_ms(pause);
    world.cluster.node(other).pause();
    world.cluster.node(master).kill();
    let seen = world.expect("it is named the master", |w| {
        w.cluster.set.named_master() == Some(laggard)
    });
    world.cluster.node(other).resume();
    world.cluster.net.mend(&cuts)?;
    world.cluster.node(master).try_restart()?;
    world.heal();
    seen
}

/// A replica loses its data and synchronises fully.
pub(super) fn wipe_replica(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let replica = (master + 1 + world.rng.index(DATA_NODES - 1)) % DATA_NODES;
    world.inject(&format!("redis{replica}"));
    let node = world.cluster.node(replica);
    node.kill();
    data::wipe(node).map_err(failed)?;
    world.expect("the master has one replica less", |w| {
        w.cluster.node(master).replicas_online() == DATA_NODES - 2
    })?;
    let pause = world.rng.between(0, 4000);
    hold_ms(pause);
    world.cluster.node(replica).try_restart()?;
    world.heal();
    Ok(())
}

/// The master restarts without its data before a Sentinel notices, and the replicas copy the empty data set.
pub(super) fn fast_empty_master_restart(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = replid(world, master);
    world.inject(&format!("redis{master}"));
    let node = world.cluster.node(master);
    node.kill();
    data::wipe(node).map_err(failed)?;
    node.try_restart()?;
    world.heal();
    world.expect("another replication id on the same master", |w| {
        replid(w, master) != before && w.cluster.set.named_master() == Some(master)
    })
}

/// Empties the database while grants wait for replicas. The Sentinels do not answer, so no server activates the master
/// again; the replicas then confirm a state without the grants.
pub(super) fn flush_unconfirmed(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = activation(world, master);
    world.inject(&format!("redis{master}"));
    let replicas = || (1..DATA_NODES).map(|offset| (master + offset) % DATA_NODES);
    for sentinel in &world.cluster.set.sentinels {
        sentinel.pause();
    }
    for replica in replicas() {
        world.cluster.node(replica).pause();
    }
    hold_ms(250);
    let flushed = world.cluster.node(master).try_cli(&["FLUSHALL"]);
    world.heal();
    // Longer than one wait for replicas, shorter than the limit of an operation.
    hold_ms(400);
    for replica in replicas() {
        world.cluster.node(replica).resume();
    }
    hold_ms(300);
    for sentinel in &world.cluster.set.sentinels {
        sentinel.resume();
    }
    flushed.map_err(failed)?;
    world.expect("another activation", |w| {
        activation(w, master).is_some_and(|now| Some(now) != before)
    })
}

/// The master restarts with a backup of its data before a Sentinel notices, and the replicas copy the backup.
pub(super) fn restored_backup(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = replid(world, master);
    let node = world.cluster.node(master);
    data::back_up(node).map_err(failed)?;
    let age = world.rng.between(1000, 4000);
    hold_ms(age);
    world.inject(&format!("redis{master}, {age} ms old"));
    let node = world.cluster.node(master);
    node.kill();
    data::restore(node).map_err(failed)?;
    node.try_restart()?;
    world.heal();
    world.expect("another replication id on the same master", |w| {
        replid(w, master) != before && w.cluster.set.named_master() == Some(master)
    })
}

/// Empties the database.
pub(super) fn flushall(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let before = activation(world, master);
    world.inject(&format!("redis{master}"));
    world
        .cluster
        .node(master)
        .try_cli(&["FLUSHALL"])
        .map_err(failed)?;
    world.heal();
    world.expect("another activation", |w| {
        activation(w, master).is_some_and(|now| Some(now) != before)
    })
}

/// Whether the Sentinels name another master than this one.
pub(super) fn is_replaced(world: &World, master: usize) -> bool {
    world
        .cluster
        .set
        .named_master()
        .is_some_and(|now| now != master)
}

fn replid(world: &World, node: usize) -> Option<String> {
    let node = world.cluster.node(node);
    node.try_info_field("replication", "master_replid")
}

fn activation(world: &World, node: usize) -> Option<String> {
    let words = ["HGET", "leasehold:locks", "#activation"];
    world.cluster.node(node).try_cli(&words).ok()
}

pub(super) fn failed(error: impl std::fmt::Display) -> String {
    error.to_string()
}
