//! Derives the limit of client connections from the system's limit of open files.
//!
//! Each connection uses a file descriptor. Without a free one, the server can neither reach Redis nor answer a health
//! check. The server therefore reserves some descriptors that client connections cannot use.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Reserved for the program itself, for health checks beyond the limit, and for closing connections.
const OWN: usize = 32;

/// Connections to Redis outside the pool: subscription, confirmation, listing, sweeps and discovery. They count twice,
/// as does the pool, because connections to the old and the new master coexist during a failover.
const REDIS_BESIDES_POOL: usize = 5;

/// Descriptors for each Sentinel. The server assumes at least five Sentinels, because it discovers the unlisted ones.
const PER_SENTINEL: usize = 2;
const SENTINELS: usize = 5;

/// Clients always get at least a quarter of the limit, even if that cuts into the reserve.
const LEAST_SHARE: usize = 4;

/// The limit of open files to assume if the system sets none.
const MOST: usize = 1 << 20;

/// The number of client connections that the limit of open files allows. If the operator wants more, the server first
/// raises its limit as far as the system permits.
pub(super) fn max_clients(wanted: Option<usize>, pool_size: usize, sentinels: usize) -> usize {
    let Ok((limit, most)) = getrlimit(Resource::RLIMIT_NOFILE) else {
        return connections_for_clients(MOST, pool_size, sentinels);
    };
    let allowed_by = |limit: u64| {
        let limit = usize::try_from(limit).unwrap_or(MOST).min(MOST);
        connections_for_clients(limit, pool_size, sentinels)
    };
    let allowed = allowed_by(limit);
    if wanted.is_none_or(|wanted| wanted <= allowed) {
        return allowed;
    }
    match setrlimit(Resource::RLIMIT_NOFILE, most, most) {
        Ok(()) => allowed_by(most),
        Err(_) => allowed,
    }
}

fn connections_for_clients(limit: usize, pool_size: usize, sentinels: usize) -> usize {
    let redis = 2 * (pool_size + REDIS_BESIDES_POOL) + PER_SENTINEL * sentinels.max(SENTINELS);
    limit
        .saturating_sub(OWN + redis)
        .max(limit / LEAST_SHARE)
        .max(1)
}

#[cfg(test)]
mod tests {
    use super::connections_for_clients;

    #[test]
    fn clients_get_all_descriptors_but_the_reserve_and_at_least_a_quarter() {
        assert_eq!(connections_for_clients(1024, 4, 3), 1024 - 32 - 18 - 10);
        assert_eq!(connections_for_clients(1024, 64, 3), 1024 - 32 - 138 - 10);
        assert_eq!(connections_for_clients(48, 4, 3), 12);
        assert_eq!(connections_for_clients(0, 4, 0), 1);
    }
}
