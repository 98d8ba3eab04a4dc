//! The cause that the metrics count for each error of Redis.

use deadpool_redis::PoolError;
use redis::RedisError;

use super::diagnosis::said;
use super::refusals;
use crate::telemetry::FailureCause;

/// The cause of a call that failed as a whole.
pub(crate) fn of_call(error: &RedisError) -> FailureCause {
    match refusals::find(&said(error)) {
        Some(refusal) => refusal.cause,
        None if error.is_timeout() => FailureCause::Timeout,
        None if error.is_io_error() || error.is_connection_dropped() => FailureCause::Connection,
        None => FailureCause::Other,
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
    refusals::find(said).map_or(FailureCause::Other, |refusal| refusal.cause)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_of_the_network_has_its_cause() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(of_call(&refused.into()), FailureCause::Connection);
        let late = std::io::Error::from(std::io::ErrorKind::TimedOut);
        assert_eq!(of_call(&late.into()), FailureCause::Timeout);
    }
}
