//! Faults of Sentinels, and forced failovers.

use std::time::Duration;

use super::World;
use super::redis::is_replaced;
use crate::cluster::SENTINELS;
use crate::support::sentinel::ask;
use crate::wait::{hold_ms, poll};

/// A failover from a healthy master: it loses the writes that the old master still accepts.
pub(super) fn failover(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    world.inject(&format!("redis{master}"));
    order_failover(world)?;
    world.expect("another master is named", |w| is_replaced(w, master))?;
    world.heal();
    Ok(())
}

/// Two failovers in the shortest succession that Sentinel allows.
pub(super) fn failover_twice(world: &mut World) -> Result<(), String> {
    let first = world.cluster.master()?;
    world.inject(&format!("redis{first}"));
    order_failover(world)?;
    world.expect("another master is named", |w| is_replaced(w, first))?;
    let second = world.cluster.master()?;
    order_failover(world)?;
    world.expect("a third master is named", |w| is_replaced(w, second))?;
    world.heal();
    Ok(())
}

/// Kills some of the Sentinels; without a majority of Sentinels no server may activate a master.
pub(super) fn kill(world: &mut World, count: usize) -> Result<(), String> {
    let mut victims: Vec<usize> = (0..SENTINELS).collect();
    world.rng.shuffle(&mut victims);
    victims.truncate(count);
    world.inject(&format!("{victims:?}"));
    for victim in &victims {
        world.cluster.set.sentinels[*victim].kill();
    }
    world.expect("they do not answer", |w| {
        let mut victims = victims.iter();
        victims.all(|victim| w.cluster.set.sentinels[*victim].try_cli(&["PING"]).is_err())
    })?;
    let pause = world.rng.between(3000, 8000);
    hold_ms(pause);
    for victim in &victims {
        world.cluster.set.sentinels[*victim].try_restart()?;
    }
    world.heal();
    Ok(())
}

/// One server sees a single Sentinel. That Sentinel is cut off from all others and keeps naming the old master.
pub(super) fn stale_for_one_server(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let net = &world.cluster.net;
    let server = world.rng.index(world.cluster.servers.len());
    let server = world.cluster.servers[server].host.name.clone();
    let stale = world.rng.index(SENTINELS);
    let mut cuts = Vec::new();
    for (index, sentinel) in world.cluster.set.sentinels.iter().enumerate() {
        if index != stale {
            cuts.extend(net.cut_both(&server, &sentinel.host().name)?);
            cuts.extend(net.cut_both(
                &sentinel.host().name,
                &world.cluster.set.sentinels[stale].host().name,
            )?);
        }
    }
    for node in world.cluster.set.nodes() {
        cuts.extend(net.cut_both(
            &node.host().name,
            &world.cluster.set.sentinels[stale].host().name,
        )?);
    }
    world.inject(&format!("{server} sees only sentinel{stale}"));
    let chief = (stale + 1) % SENTINELS;
    let ordered = poll(Duration::from_secs(10), || {
        let set = &world.cluster.set;
        (ask(&set.sentinels[chief], "FAILOVER")? == "OK").then_some(())
    });
    let seen = ordered
        .ok_or_else(|| "no Sentinel takes the order".to_owned())
        .and_then(|()| {
            world.expect(
                "the stale one names the old master, the others a new one",
                |w| {
                    let named =
                        |index: usize| w.cluster.set.named_by(&w.cluster.set.sentinels[index]);
                    named(stale) == Some(master) && named(chief).is_some_and(|now| now != master)
                },
            )
        });
    hold_ms(5000);
    world.cluster.net.mend(&cuts)?;
    world.heal();
    seen
}

/// Forces a failover; retries, because Sentinel refuses while an earlier failover ends.
pub(super) fn order_failover(world: &mut World) -> Result<(), String> {
    let mut last = None;
    let done = poll(Duration::from_secs(15), || {
        let sentinel = world.rng.index(SENTINELS);
        let set = &world.cluster.set;
        last = ask(&set.sentinels[sentinel], "FAILOVER");
        (last.as_deref() == Some("OK")).then_some(())
    });
    done.ok_or_else(|| format!("no Sentinel takes the order: {last:?}"))
}
