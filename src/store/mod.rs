//! The stores of locks: one contract, two implementations.

mod clock;
pub mod contract;
pub mod memory;
pub mod redis;
