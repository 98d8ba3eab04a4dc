#![doc = include_str!("README.md")]

mod credentials;
mod file;
mod grants;
mod permit;

pub use self::credentials::{Credentials, Directory, MAX_TOKENS, Unknown, digest};
pub use self::file::{Entries, InvalidFile, entry};
pub use self::grants::{Grant, Prefix, Verb};
pub use self::permit::{
    Acquire, Break, Denied, ListPermit, Operation, Permit, Principal, Read, RecoveryPermit,
};
