//! The faults by name. Each one injects, looks whether its effect shows, holds, and heals; the campaign then waits
//! until the service is back.

mod clients;
mod clocks;
mod network;
mod pair;
mod redis;
mod sentinel;
mod servers;
mod world;

use crate::wait::hold_ms;

pub(crate) use world::{ProxyControl, World};

pub(crate) struct Nemesis {
    pub(crate) name: &'static str,
    pub(crate) run: fn(&mut World) -> Result<(), String>,
}

pub(crate) const ALL: &[Nemesis] = &[
    Nemesis {
        name: "none",
        run: none,
    },
    Nemesis {
        name: "kill-master",
        run: redis::kill_master,
    },
    Nemesis {
        name: "stop-master-0.3s",
        run: |w| redis::stop_master(w, 300),
    },
    Nemesis {
        name: "stop-master-3s",
        run: |w| redis::stop_master(w, 3000),
    },
    Nemesis {
        name: "stop-master-30s",
        run: |w| redis::stop_master(w, 30_000),
    },
    Nemesis {
        name: "wipe-replica",
        run: redis::wipe_replica,
    },
    Nemesis {
        name: "fast-empty-master-restart",
        run: redis::fast_empty_master_restart,
    },
    Nemesis {
        name: "flushall",
        run: redis::flushall,
    },
    Nemesis {
        name: "sentinel-failover",
        run: sentinel::failover,
    },
    Nemesis {
        name: "failover-twice",
        run: sentinel::failover_twice,
    },
    Nemesis {
        name: "kill-1-sentinel",
        run: |w| sentinel::kill(w, 1),
    },
    Nemesis {
        name: "kill-2-sentinels",
        run: |w| sentinel::kill(w, 2),
    },
    Nemesis {
        name: "kill-3-sentinels",
        run: |w| sentinel::kill(w, 3),
    },
    Nemesis {
        name: "stale-sentinel-server",
        run: sentinel::stale_for_one_server,
    },
    Nemesis {
        name: "kill-server",
        run: servers::kill,
    },
    Nemesis {
        name: "stop-server",
        run: servers::stop,
    },
    Nemesis {
        name: "cut-master-but-one-server",
        run: network::cut_master_but_one_server,
    },
    Nemesis {
        name: "one-way-cut-to-master",
        run: |w| network::one_way(w, true),
    },
    Nemesis {
        name: "one-way-cut-from-master",
        run: |w| network::one_way(w, false),
    },
    Nemesis {
        name: "slow-link",
        run: network::slow_link,
    },
    Nemesis {
        name: "reset-response",
        run: network::reset_response,
    },
    Nemesis {
        name: "clock-plus-2s",
        run: |w| clocks::step(w, 2000),
    },
    Nemesis {
        name: "clock-minus-2s",
        run: |w| clocks::step(w, -2000),
    },
    Nemesis {
        name: "clock-plus-ttl",
        run: |w| clocks::step(w, clocks::TTL_MS),
    },
    Nemesis {
        name: "clock-minus-ttl",
        run: |w| clocks::step(w, -clocks::TTL_MS),
    },
    Nemesis {
        name: "client-pause",
        run: clients::pause,
    },
    Nemesis {
        name: "client-dies-waiting",
        run: clients::die_waiting,
    },
    Nemesis {
        name: "client-dies-granted",
        run: clients::die_granted,
    },
    Nemesis {
        name: "random-pair",
        run: pair::run,
    },
];

pub(crate) fn by_name(name: &str) -> Option<&'static Nemesis> {
    ALL.iter().find(|nemesis| nemesis.name == name)
}

/// The run without a fault, by which the others are measured.
#[expect(clippy::unnecessary_wraps, reason = "as all faults")]
fn none(world: &mut World) -> Result<(), String> {
    world.inject("nothing");
    hold_ms(6000);
    world.heal();
    world.saw("nothing");
    Ok(())
}
