//! Faults of clients.

use super::World;
use crate::wait::hold_ms;

/// How many clients one injection affects.
const VICTIMS: usize = 4;

/// Stops clients at arbitrary moments, most of them for longer than their leases last.
pub(super) fn pause(world: &mut World) -> Result<(), String> {
    world.inject("");
    let mut silent = true;
    for _ in 0..3 {
        let victims = victims(world);
        for victim in &victims {
            world.crowd.pause(*victim);
        }
        let pause = world.rng.between(800, 6500);
        hold_ms(pause);
        silent &= victims
            .iter()
            .all(|victim| world.crowd.silence(*victim) >= pause * 900);
        for victim in &victims {
            world.crowd.resume(*victim);
        }
        hold_ms(300);
    }
    world.heal();
    if silent {
        world.saw("nothing was heard of them");
        Ok(())
    } else {
        Err("clients went on while they were stopped".to_owned())
    }
}

/// Kills clients while they wait in a queue.
pub(super) fn die_waiting(world: &mut World) -> Result<(), String> {
    world.inject("");
    for _ in 0..VICTIMS {
        world.expect("a waiter was killed", |w| w.crowd.kill_a_waiter())?;
        let pause = world.rng.between(0, 600);
        hold_ms(pause);
    }
    hold_ms(2000);
    world.heal();
    Ok(())
}

/// Kills clients at the moment at which they learn of a grant.
pub(super) fn die_granted(world: &mut World) -> Result<(), String> {
    world.inject("");
    let victims = victims(world);
    for victim in &victims {
        world.crowd.kill_when_granted(*victim);
    }
    world.expect("they were granted a lock and killed", |w| {
        victims.iter().all(|victim| !w.crowd.is_doomed(*victim))
    })?;
    hold_ms(2000);
    world.heal();
    Ok(())
}

fn victims(world: &mut World) -> Vec<usize> {
    let mut clients: Vec<usize> = (0..world.crowd.count()).collect();
    world.rng.shuffle(&mut clients);
    clients.truncate(VICTIMS);
    clients
}
