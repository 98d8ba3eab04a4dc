//! Which word of the metrics stands for what Redis met.

use deadpool_redis::PoolError;
use redis::{ErrorKind, RedisError};

use super::diagnosis::lacks_permission;
use crate::telemetry::ErrorKind;

/// Of a call that failed as a whole.
pub(super) fn of_call(error: &RedisError) -> ErrorKind {
    match error.code() {
        Some("READONLY") => ErrorKind::NotMaster,
        Some("LOADING" | "MASTERDOWN" | "NOREPLICAS" | "BUSY" | "TRYAGAIN") => ErrorKind::NotReady,
        Some("OOM") => ErrorKind::OutOfMemory,
        Some("MISCONF") => ErrorKind::NotPersisting,
        Some("NOPERM" | "NOAUTH" | "WRONGPASS") => ErrorKind::Access,
        _ if error.kind() == ErrorKind::AuthenticationFailed => ErrorKind::Access,
        _ if error.is_timeout() => ErrorKind::Timeout,
        _ if error.is_io_error() || error.is_connection_dropped() => ErrorKind::Connection,
        _ => ErrorKind::Other,
    }
}

/// Of a connection that could not be had.
pub(super) fn of_pool(error: &PoolError) -> ErrorKind {
    match error {
        PoolError::Backend(error) => of_call(error),
        PoolError::Timeout(_) => ErrorKind::Timeout,
        _ => ErrorKind::Connection,
    }
}

/// Of an operation that failed inside a script.
pub(super) fn of_operation(said: &str) -> ErrorKind {
    match said {
        _ if said.contains("OOM ") => ErrorKind::OutOfMemory,
        _ if said.contains("MISCONF ") => ErrorKind::NotPersisting,
        _ if said.contains("READONLY ") => ErrorKind::NotMaster,
        _ if said.contains("NOREPLICAS ") => ErrorKind::NotReady,
        _ if lacks_permission(said) => ErrorKind::Access,
        _ => ErrorKind::Other,
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
    fn what_redis_says_has_its_word() {
        for (said, fault) in [
            (
                "READONLY You can't write against a read only replica.",
                ErrorKind::NotMaster,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                ErrorKind::NotReady,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                ErrorKind::NotReady,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                ErrorKind::OutOfMemory,
            ),
            (
                "MISCONF Errors writing to the AOF file",
                ErrorKind::NotPersisting,
            ),
            ("NOPERM this user has no permissions", ErrorKind::Access),
            ("NOAUTH Authentication required.", ErrorKind::Access),
            ("ERR unknown command", ErrorKind::Other),
        ] {
            assert_eq!(of_call(&refusal(said)), fault, "{said}");
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(of_call(&refused.into()), ErrorKind::Connection);
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(of_call(&late.into()), ErrorKind::Timeout);
    }

    #[test]
    fn what_a_script_met_has_its_word() {
        for (said, fault) in [
            ("OOM command not allowed", ErrorKind::OutOfMemory),
            (
                "MISCONF Redis is configured to save",
                ErrorKind::NotPersisting,
            ),
            ("READONLY You can't write", ErrorKind::NotMaster),
            (
                "The user executing the script can't run this command",
                ErrorKind::Access,
            ),
            ("attempt to index a nil value", ErrorKind::Other),
        ] {
            assert_eq!(of_operation(said), fault, "{said}");
        }
    }
}
