//! The faults by name. Each fault injects, checks that its effect shows, holds, and repairs. The campaign then waits
//! until the service works again.

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
    /// A description for the listing.
    pub(crate) about: &'static str,
    pub(crate) run: fn(&mut World) -> Result<(), String>,
}

pub(crate) const ALL: &[Nemesis] = &[
    Nemesis {
        name: "none",
        about: "Nothing: the run by which the others are measured.",
        run: none,
    },
    Nemesis {
        name: "kill-master",
        about: "The master is killed, and comes back with its data when another has taken over.",
        run: redis::kill_master,
    },
    Nemesis {
        name: "stop-master-0.3s",
        about: "The master stands still for 0.3 s.",
        run: |w| redis::stop_master(w, 300),
    },
    Nemesis {
        name: "stop-master-3s",
        about: "The master stands still for 3 s, longer than Sentinel waits.",
        run: |w| redis::stop_master(w, 3000),
    },
    Nemesis {
        name: "stop-master-30s",
        about: "The master stands still for 30 s, and wakes up deposed.",
        run: |w| redis::stop_master(w, 30_000),
    },
    Nemesis {
        name: "stop-replica",
        about: "A replica stands still for about a second: nothing is confirmed meanwhile.",
        run: redis::stop_replica,
    },
    Nemesis {
        name: "promote-laggard",
        about: "The replica that lacks the last writes is promoted, the other one being out of reach.",
        run: redis::promote_laggard,
    },
    Nemesis {
        name: "wipe-replica",
        about: "A replica loses its disk, and copies everything again.",
        run: redis::wipe_replica,
    },
    Nemesis {
        name: "fast-empty-master-restart",
        about: "The master restarts without its data, too fast for a failover.",
        run: redis::fast_empty_master_restart,
    },
    Nemesis {
        name: "restored-backup",
        about: "The master restarts with the data of some seconds ago, too fast for a failover.",
        run: redis::restored_backup,
    },
    Nemesis {
        name: "flushall",
        about: "An operator empties the database.",
        run: redis::flushall,
    },
    Nemesis {
        name: "flush-unconfirmed",
        about: "The same, while grants wait for replicas that stand still, and no Sentinel answers.",
        run: redis::flush_unconfirmed,
    },
    Nemesis {
        name: "sentinel-failover",
        about: "A failover away from a healthy master is ordered.",
        run: sentinel::failover,
    },
    Nemesis {
        name: "failover-twice",
        about: "Two of them, as close as Sentinel does it.",
        run: sentinel::failover_twice,
    },
    Nemesis {
        name: "kill-1-sentinel",
        about: "One of three Sentinels is killed.",
        run: |w| sentinel::kill(w, 1),
    },
    Nemesis {
        name: "kill-2-sentinels",
        about: "Two are: no majority is left.",
        run: |w| sentinel::kill(w, 2),
    },
    Nemesis {
        name: "kill-3-sentinels",
        about: "All are.",
        run: |w| sentinel::kill(w, 3),
    },
    Nemesis {
        name: "stale-sentinel-server",
        about: "One server sees but a Sentinel that names the old master.",
        run: sentinel::stale_for_one_server,
    },
    Nemesis {
        name: "kill-server",
        about: "A server is killed with its waiters, and comes back without memory.",
        run: servers::kill,
    },
    Nemesis {
        name: "stop-server",
        about: "A server stands still, and then runs what was asked long ago.",
        run: servers::stop,
    },
    Nemesis {
        name: "cut-master-but-one-server",
        about: "Split brain: the old master is cut off from all but one server.",
        run: network::cut_master_but_one_server,
    },
    Nemesis {
        name: "one-way-cut-to-master",
        about: "Nothing reaches the master any more.",
        run: |w| network::one_way(w, true),
    },
    Nemesis {
        name: "one-way-cut-from-master",
        about: "Nothing comes from the master any more.",
        run: |w| network::one_way(w, false),
    },
    Nemesis {
        name: "deaf-servers",
        about: "The master hears the servers for a second, and they do not hear it.",
        run: network::deaf_servers,
    },
    Nemesis {
        name: "slow-link",
        about: "Half of the clients reach the servers over a slow way.",
        run: network::slow_link,
    },
    Nemesis {
        name: "reset-response",
        about: "Answers break off in the middle, for half of the clients.",
        run: network::reset_response,
    },
    Nemesis {
        name: "clock-plus-240ms",
        about: "The clock of a data node steps forward, within the skew, and back.",
        run: |w| clocks::step(w, 240),
    },
    Nemesis {
        name: "clock-minus-240ms",
        about: "It steps back, within the skew, and forward.",
        run: |w| clocks::step(w, -240),
    },
    Nemesis {
        name: "clock-plus-240ms-thrice",
        about: "The clock of the master steps forward three times within a TTL: each step within the skew, the sum beyond.",
        run: clocks::step_thrice,
    },
    Nemesis {
        name: "clock-240ms-two-nodes",
        about: "The clock of the master steps, another master takes over, and its clock steps: all within the skew.",
        run: clocks::step_two_nodes,
    },
    Nemesis {
        name: "clock-240ms-new-server",
        about: "Servers start between the first and the second of three such steps.",
        run: clocks::step_around_start,
    },
    Nemesis {
        name: "clock-plus-2s",
        about: "The clock of a data node steps forward, beyond the skew, and back.",
        run: |w| clocks::step(w, 2000),
    },
    Nemesis {
        name: "clock-minus-2s",
        about: "It steps back, beyond the skew, and forward.",
        run: |w| clocks::step(w, -2000),
    },
    Nemesis {
        name: "clock-plus-ttl",
        about: "It steps forward by the longest TTL, and back.",
        run: |w| clocks::step(w, clocks::TTL_MS),
    },
    Nemesis {
        name: "clock-minus-ttl",
        about: "It steps back by the longest TTL, and forward.",
        run: |w| clocks::step(w, -clocks::TTL_MS),
    },
    Nemesis {
        name: "client-pause",
        about: "Clients stand still, most of them for longer than their leases last.",
        run: clients::pause,
    },
    Nemesis {
        name: "client-dies-waiting",
        about: "Clients are killed while they stand in line.",
        run: clients::die_waiting,
    },
    Nemesis {
        name: "client-dies-granted",
        about: "Clients are killed when they learn that they hold a lock.",
        run: clients::die_granted,
    },
    Nemesis {
        name: "random-pair",
        about: "Two of those that destroy no data, at once.",
        run: pair::run,
    },
];

pub(crate) fn by_name(name: &str) -> Option<&'static Nemesis> {
    ALL.iter().find(|nemesis| nemesis.name == name)
}

/// The period without a fault, as the baseline for all faults.
#[expect(clippy::unnecessary_wraps, reason = "as all faults")]
fn none(world: &mut World) -> Result<(), String> {
    world.inject("nothing");
    hold_ms(6000);
    world.heal();
    world.saw("nothing");
    Ok(())
}
