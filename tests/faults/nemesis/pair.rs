//! Two faults at once.

use std::thread;

use super::{Nemesis, World, by_name};
use crate::wait::hold_ms;

/// Faults that keep a copy of the data: two faults that destroy it together would prove nothing.
const MIXABLE: [&str; 16] = [
    "kill-master",
    "stop-master-0.3s",
    "stop-master-3s",
    "stop-replica",
    "sentinel-failover",
    "kill-1-sentinel",
    "kill-server",
    "stop-server",
    "cut-master-but-one-server",
    "one-way-cut-to-master",
    "one-way-cut-from-master",
    "deaf-servers",
    "slow-link",
    "reset-response",
    "client-pause",
    "client-dies-granted",
];

/// Runs two faults in parallel. One visible effect is enough, because one fault can prevent the effect of the other.
pub(super) fn run(world: &mut World) -> Result<(), String> {
    let mut names = MIXABLE;
    world.rng.shuffle(&mut names);
    let pair = [names[0], names[1]].map(|name| by_name(name).expect("a name of the list"));
    world.inject(&format!("{} + {}", pair[0].name, pair[1].name));
    let offset = world.rng.between(0, 2500);
    let (mut one, mut other) = (world.part(), world.part());
    let run = |nemesis: &Nemesis, part: &mut World| (nemesis.run)(part);
    let (first, second) = thread::scope(|scope| {
        let first = scope.spawn(|| run(pair[0], &mut one));
        let second = scope.spawn(|| {
            hold_ms(offset);
            run(pair[1], &mut other)
        });
        (
            first.join().expect("a fault does not panic"),
            second.join().expect("a fault does not panic"),
        )
    });
    world.cluster.repair()?;
    world.heal();
    first.or(second)
}
