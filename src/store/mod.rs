//! Where locks are kept: one contract, two real stores.

pub mod contract;
pub mod memory;
pub mod redis;
