//! Faults between hosts.

use super::World;
use super::redis::is_replaced;
use crate::history::Outcome;
use crate::wait::hold_ms;

/// A split brain: the old master loses all hosts except one server.
pub(super) fn cut_master_but_one_server(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let spared = world.rng.index(world.cluster.servers.len());
    let spared = world.cluster.servers[spared].host.name.clone();
    let victim = world.cluster.node(master).host().name.clone();
    let mut cuts = Vec::new();
    world.inject(&format!("{victim}, seen only by {spared}"));
    for other in others(world, master, true)
        .into_iter()
        .filter(|host| *host != spared)
    {
        cuts.extend(world.cluster.net.cut_both(&victim, &other)?);
    }
    let seen = world.expect("another master is named", |w| is_replaced(w, master));
    let pause = world.rng.between(1000, 6000);
    hold_ms(pause);
    world.cluster.net.mend(&cuts)?;
    world.heal();
    seen
}

/// Cuts one direction between the master and the other nodes, sometimes including the servers.
pub(super) fn one_way(world: &mut World, to_master: bool) -> Result<(), String> {
    let master = world.cluster.master()?;
    let with_servers = world.rng.percent(50);
    let victim = world.cluster.node(master).host().name.clone();
    let mut cuts = Vec::new();
    world.inject(&format!(
        "{victim}, the servers {}",
        if with_servers { "too" } else { "spared" }
    ));
    for other in others(world, master, with_servers) {
        cuts.push(if to_master {
            world.cluster.net.cut(&other, &victim)?
        } else {
            world.cluster.net.cut(&victim, &other)?
        });
    }
    let seen = world.expect("another master is named", |w| is_replaced(w, master));
    let pause = world.rng.between(1000, 6000);
    hold_ms(pause);
    world.cluster.net.mend(&cuts)?;
    world.heal();
    seen
}

/// The master executes the servers' commands, but its replies do not arrive; no Sentinel notices a fault.
pub(super) fn deaf_servers(world: &mut World) -> Result<(), String> {
    let master = world.cluster.master()?;
    let victim = world.cluster.node(master).host().name.clone();
    let mut cuts = Vec::new();
    world.inject(&victim);
    for server in &world.cluster.servers {
        cuts.push(world.cluster.net.cut(&victim, &server.host.name)?);
    }
    let seen = world.expect("a call stands still", |w| {
        w.crowd.has_pending_for(300_000, |call| call.wait_ms == 0)
    });
    let pause = world.rng.between(250, 700);
    hold_ms(pause);
    world.cluster.net.mend(&cuts)?;
    world.heal();
    seen
}

/// Half of the clients reach the servers through a slow proxy.
pub(super) fn slow_link(world: &mut World) -> Result<(), String> {
    let delay = world.rng.between(80, 700);
    world.inject(&format!("{delay} ms each way"));
    world.proxy.say(&format!("delay {delay}"));
    let seen = world.expect("slow answers", |w| {
        w.crowd.has_seen(w.injected_at(), |call| {
            w.proxy.is_on_the_way_to(&call.server)
                && call.wait_ms == 0
                && call.succeeded()
                && call
                    .answered_at
                    .is_some_and(|at| at - call.sent_at >= delay * 1900)
        })
    });
    hold_ms(6000);
    world.proxy.say("pass");
    world.heal();
    seen
}

/// Half of the clients receive incomplete answers.
pub(super) fn reset_response(world: &mut World) -> Result<(), String> {
    let bytes = *world.rng.pick(&[1, 30, 150, 400]);
    world.inject(&format!("after {bytes} bytes"));
    world.proxy.say(&format!("reset {bytes}"));
    let seen = world.expect("an acquisition without an answer", |w| {
        w.crowd.has_seen(w.injected_at(), |call| {
            w.proxy.is_on_the_way_to(&call.server)
                && call.outcome == Outcome::Unknown
                && call.status.is_none()
        })
    });
    hold_ms(4000);
    world.proxy.say("pass");
    world.heal();
    seen
}

/// The hosts of the Sentinels and of all data nodes except one; optionally of the servers.
fn others(world: &World, but: usize, with_servers: bool) -> Vec<String> {
    let nodes = world.cluster.set.nodes().iter().enumerate();
    let nodes = nodes.filter(|(index, _)| *index != but);
    let mut hosts: Vec<String> = nodes.map(|(_, node)| node.host().name.clone()).collect();
    hosts.extend(
        world
            .cluster
            .set
            .sentinels
            .iter()
            .map(|s| s.host().name.clone()),
    );
    if with_servers {
        hosts.extend(world.cluster.servers.iter().map(|s| s.host.name.clone()));
    }
    hosts
}
