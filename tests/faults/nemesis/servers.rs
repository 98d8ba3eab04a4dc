//! Faults of servers.

use super::World;
use crate::history::Outcome;
use crate::wait::hold_ms;

/// Kills a server with its waiters, and restarts it without their state.
pub(super) fn kill(world: &mut World) -> Result<(), String> {
    let server = world.rng.index(world.cluster.servers.len());
    world.inject(&format!("server{server}"));
    world.cluster.servers[server].process.kill();
    let url = world.cluster.servers[server].url();
    let seen = world.expect("calls to it fail", |w| {
        w.crowd.has_seen(w.injected_at(), |call| {
            call.server == url && matches!(call.outcome, Outcome::NotDone | Outcome::Unknown)
        })
    });
    let pause = world.rng.between(0, 5000);
    hold_ms(pause);
    world.cluster.servers[server].start()?;
    world.heal();
    seen
}

/// Stops a server; it later runs the requests that its sockets received meanwhile.
pub(super) fn stop(world: &mut World) -> Result<(), String> {
    let server = world.rng.index(world.cluster.servers.len());
    let pause = world.rng.between(1500, 8000);
    world.inject(&format!("server{server} for {pause} ms"));
    world.cluster.servers[server].process.pause();
    let url = world.cluster.servers[server].url();
    let seen = world.expect("a call to it stands still", |w| {
        w.crowd
            .has_pending_for(1_000_000, |call| call.server == url && call.wait_ms == 0)
    });
    hold_ms(pause);
    world.cluster.servers[server].process.resume();
    world.heal();
    seen
}
