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
                Fault::NotMaster,
            ),
            (
                "NOREPLICAS Not enough good replicas to write.",
                Fault::NotReady,
            ),
            (
                "LOADING Redis is loading the dataset in memory",
                Fault::NotReady,
            ),
            (
                "OOM command not allowed when used memory > 'maxmemory'.",
                Fault::OutOfMemory,
            ),
            (
                "MISCONF Errors writing to the AOF file",
                Fault::NotPersisting,
            ),
            ("NOPERM this user has no permissions", Fault::Access),
            ("NOAUTH Authentication required.", Fault::Access),
            ("ERR unknown command", Fault::Other),
        ] {
            assert_eq!(of_call(&refusal(said)), fault, "{said}");
        }
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(of_call(&refused.into()), Fault::Connection);
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(of_call(&late.into()), Fault::Timeout);
    }

    #[test]
    fn what_a_script_met_has_its_word() {
        for (said, fault) in [
            ("OOM command not allowed", Fault::OutOfMemory),
            ("MISCONF Redis is configured to save", Fault::NotPersisting),
            ("READONLY You can't write", Fault::NotMaster),
            (
                "The user executing the script can't run this command",
                Fault::Access,
            ),
            ("attempt to index a nil value", Fault::Other),
        ] {
            assert_eq!(of_operation(said), fault, "{said}");
        }
    }
}
