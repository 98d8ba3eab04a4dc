//! The state of a lock and its rules, without HTTP, Redis or a clock.
//!
//! The values a lock is made of ([`key`], [`lease`], [`request`]) are valid by construction; every decision
//! is a pure function in [`rules`] (with [`queue`] and [`releases`]), which takes the present moment as an argument.

mod answers;
mod grant;
pub mod key;
pub mod lease;
pub mod queue;
pub mod releases;
pub mod request;
pub mod rules;
