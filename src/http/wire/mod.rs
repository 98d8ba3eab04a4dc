//! The bodies and query parameters of requests and answers, and their conversion to and from the domain types.

mod acquire;
mod fields;
mod lease;
mod limits;
mod query;
mod status;

pub use self::acquire::{AcquireBody, IDEMPOTENCY_KEY_LENGTH};
pub(super) use self::fields::rfc3339;
pub use self::lease::{Lease, RenewBody};
pub use self::limits::{DEFAULT_TTL, Limits};
pub(super) use self::query::MAX_CURSOR_BYTES;
pub use self::query::{
    DEFAULT_LIST_LIMIT, ListParameters, MAX_LIST_LIMIT, NoParameters, RecoveryParameters,
    ReleaseParameters,
};
pub use self::status::{LockPage, LockStatus};
