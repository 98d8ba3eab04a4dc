//! How many clients the system lets this process have connected.
//!
//! Each connection takes a file descriptor. When they run out, neither Redis nor a health check can be reached, so a
//! part of them is not for clients.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// For the program itself, for health checks beyond the limit, and for connections that are being closed.
const OWN: usize = 32;

/// For each pooled connection and what goes with them (subscription, confirmation, listing, discovery), twice: while the
/// master changes there are those of both.
const REDIS_BESIDES_POOL: usize = 4;

/// For each Sentinel; most sets have three, and the others are found through one.
const PER_SENTINEL: usize = 2;
const SENTINELS: usize = 5;

/// Where the reserve leaves little, clients have this part all the same.
const LEAST_SHARE: usize = 4;

/// Where the system sets no limit.
const MOST: usize = 1 << 20;

/// How many connections of clients the limit of open files leaves room for. Where that is fewer than are wanted, the
/// limit is raised as far as the system lets this process raise it.
pub(super) fn room_for_clients(wanted: Option<usize>, pool_size: usize, sentinels: usize) -> usize {
    let limits = getrlimit(Resource::Nofile);
    let room_in = |limit: Option<u64>| {
        let limit = limit.and_then(|limit| usize::try_from(limit).ok());
        room(limit.unwrap_or(MOST).min(MOST), pool_size, sentinels)
    };
    let has_room = room_in(limits.current);
    if wanted.is_none_or(|wanted| wanted <= has_room) {
        return has_room;
    }
    let raised = Rlimit {
        current: limits.maximum,
        maximum: limits.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => room_in(limits.maximum),
        Err(_) => has_room,
    }
}

fn room(limit: usize, pool_size: usize, sentinels: usize) -> usize {
    let redis = 2 * (pool_size + REDIS_BESIDES_POOL) + PER_SENTINEL * sentinels.max(SENTINELS);
    limit
        .saturating_sub(OWN + redis)
        .max(limit / LEAST_SHARE)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::room;

    #[test]
    fn clients_have_what_the_reserve_leaves_and_a_quarter_where_that_is_little() {
        assert_eq!(room(1024, 4, 3), 1024 - 32 - 16 - 10);
        assert_eq!(room(1024, 64, 3), 1024 - 32 - 136 - 10);
        assert_eq!(room(48, 4, 3), 12);
        assert_eq!(room(0, 4, 0), 1);
    }
}
