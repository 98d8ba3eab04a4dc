//! Which word of the metrics stands for what Redis met.

use deadpool_redis::PoolError;
use redis::{ErrorKind, RedisError};

use super::diagnosis::lacks_permission;
use crate::telemetry::Fault;

/// Of a call that failed as a whole.
pub(super) fn of_call(error: &RedisError) -> Fault {
    match error.code() {
        Some("READONLY") => Fault::NotMaster,
        Some("LOADING" | "MASTERDOWN" | "NOREPLICAS" | "BUSY" | "TRYAGAIN") => Fault::NotReady,
        Some("OOM") => Fault::OutOfMemory,
        Some("MISCONF") => Fault::NotPersisting,
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => Fault::Access,
        _ if error.kind() == ErrorKind::AuthenticationFailed => Fault::Access,
        _ if error.is_timeout() => Fault::Timeout,
        _ if error.is_io_error() || error.is_connection_dropped() => Fault::Connection,
        _ => Fault::Other,
    }
}

/// Of a connection that could not be had.
pub(super) fn of_pool(error: &PoolError) -> Fault {
    match error {
        PoolError::Backend(error) => of_call(error),
        PoolError::Timeout(_) => Fault::Timeout,
        _ => Fault::Connection,
    }
}

/// Of an operation that failed inside a script.
pub(super) fn of_operation(said: &str) -> Fault {
    match said {
        _ if said.contains("OOM ") => Fault::OutOfMemory,
        _ if said.contains("MISCONF ") => Fault::NotPersisting,
        _ if said.contains("READONLY ") => Fault::NotMaster,
        _ if said.contains("NOREPLICAS ") => Fault::NotReady,
        _ if lacks_permission(said) => Fault::Access,
        _ => Fault::Other,
    }
}
