//! The cause that the metrics count for each error of Redis.

use deadpool_redis::PoolError;
use redis::{ErrorKind, RedisError};

use super::diagnosis::lacks_permission;
use crate::telemetry::FailureCause;

/// The cause of a call that failed as a whole.
pub(crate) fn of_call(error: &RedisError) -> FailureCause {
    match error.code() {
        Some("READONLY") => FailureCause::NotMaster,
        Some("LOADING" | "MASTERDOWN" | "NOREPLICAS" | "BUSY" | "TRYAGAIN") => {
            FailureCause::NotReady
        }
        Some("OOM") => FailureCause::OutOfMemory,
        Some("MISCONF") => FailureCause::NotPersisting,
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => FailureCause::Access,
        _ if error.kind() == ErrorKind::AuthenticationFailed => FailureCause::Access,
        _ if error.is_timeout() => FailureCause::Timeout,
        _ if error.is_io_error() || error.is_connection_dropped() => FailureCause::Connection,
        _ => FailureCause::Other,
    }
}

/// The cause of a failure to get a connection from the pool.
pub(crate) fn of_pool(error: &PoolError) -> FailureCause {
    match error {
        PoolError::Backend(error) => of_call(error),
        PoolError::Timeout(_) => FailureCause::Timeout,
        _ => FailureCause::Connection,
    }
}

/// The cause of an operation that failed inside a script; `said` is the error that the script received.
pub(crate) fn of_operation(said: &str) -> FailureCause {
    match said {
        _ if said.contains("OOM ") => FailureCause::OutOfMemory,
        _ if said.contains("MISCONF ") => FailureCause::NotPersisting,
        _ if said.contains("READONLY ") => FailureCause::NotMaster,
        _ if said.contains("NOREPLICAS ") => FailureCause::NotReady,
        _ if lacks_permission(said) => FailureCause::Access,
        _ => FailureCause::Other,
    }
}

#[cfg(test)]
mod tests {
    use redis::{Value, parse_redis_value};

    use super::*;

    fn refusal(said: &str) -> RedisError {
        match parse_redis_value(format!("-{said}\r\n").as_bytes()) {
            Ok(Value::ServerError(error)) => error.into(),
            other => panic!("{said} was read as {other:?}"),
        }
    }

    #[test]
    fn error_of_redis_has_its_cause() {
        for (said, cause) in [
            (
                "READONLY You can't write against a read only replica.",
                FailureCause::NotMaster,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                FailureCause::NotReady,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                FailureCause::NotReady,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                FailureCause::OutOfMemory,
            ),
            (
                "MISCONF Errors writing to the AOF file",
                FailureCause::NotPersisting,
            ),
            ("NOPERM this user has no permissions", FailureCause::Access),
            ("NOAUTH Authentication required.", FailureCause::Access),
            ("ERR unknown command", FailureCause::Other),
        ] {
            assert_eq!(of_call(&refusal(said)), cause, "{said}");
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(of_call(&refused.into()), FailureCause::Connection);
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(of_call(&late.into()), FailureCause::Timeout);
    }

    #[test]
    fn error_inside_a_script_has_its_cause() {
        for (said, cause) in [
            ("OOM command not allowed", FailureCause::OutOfMemory),
            (
                "MISCONF Redis is configured to save",
                FailureCause::NotPersisting,
            ),
            ("READONLY You can't write", FailureCause::NotMaster),
            (
                "The user executing the script can't run this command",
                FailureCause::Access,
            ),
            ("attempt to index a nil value", FailureCause::Other),
        ] {
            assert_eq!(of_operation(said), cause, "{said}");
        }
    }
}
