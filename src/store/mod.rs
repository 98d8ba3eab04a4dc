//! Where locks are kept: one contract, two real stores.

mod clock;
pub mod contract;
pub mod memory;
pub mod redis;
