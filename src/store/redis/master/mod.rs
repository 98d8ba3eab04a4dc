//! Which node is the master, whether it may grant, and what this server knows of it.
//!
//! The resolver asks the Sentinels (or takes the configured address), probes the node, activates it, and publishes it as a
//! new generation. Each heartbeat reports the high-water mark and the clocks that this server has seen.
//!
//! This folder runs no operation on a lock.

mod activation;
mod change;
pub(super) mod clock;
pub(super) mod high_water_mark;
pub(super) mod node;
pub(super) mod resolver;
mod sentinel;
pub(super) mod topology;
mod trouble_log;

pub(super) use self::activation::{Activator, explain_guard};
