//! Leasehold, a lock service over HTTP.
//!
//! # Architecture
//!
//! Modules import only modules below them; a test checks this.
//!
//! ```text
//! cli        the command line
//! run        runs a command under a lease
//! server     builds the service from the configuration, serves, drains
//! client     the HTTP client of the commands
//! config     settings from flags and variables, validated once
//! http       routes, extractors, problems, documentation
//! service    the layer between HTTP and a store: mints lease ids, waits, rolls back
//! store      contract (the trait) · memory · redis
//! auth       principals, their tokens and grants, and the permits that the service demands
//! lock       keys, leases and the rules: pure, no HTTP, no Redis, no clock
//! telemetry  logs, and the metrics that all of the above count
//! random     random bits
//! secret     texts that the log never shows
//! ```
//!
//! A request becomes a typed request in [`http`], is carried out by a [`service::LockService`] against
//! a [`store::contract::Store`], and its result becomes an answer or a problem in [`http`] again.
//! The rules of locking are written once, in [`lock::rules`]; the memory store runs them, and the Lua
//! scripts of the Redis store mirror them.
//!
//! The queue is a part of a lock's state. When a lock is released, the store sets it aside for the first waiter as a
//! *reservation*, and tells that waiter's server with a [`store::contract::StoreEvent`]. The server claims the lock by
//! asking again. The same request joins the queue, claims a reservation and restores a lost entry, so a waiter recovers
//! from any lost message by asking again.

pub mod auth;
pub mod cli;
pub mod client;
pub mod config;
pub mod http;
pub mod lock;
pub mod random;
pub mod run;
pub mod secret;
pub mod server;
pub mod service;
pub mod store;
pub mod telemetry;
