//! The integration tests: one crate, a module per subject, servers that start and stop themselves.

mod architecture;
mod batches;
mod configuration;
mod contract;
mod diagnosis;
mod draining;
mod failover;
mod fencing;
mod hostile;
mod http_api;
mod logging;
mod metrics;
mod model;
mod openapi;
mod queue;
mod readme;
mod replication;
mod rolling;
mod sentinel;
mod soak;
mod support;
mod tutorial;
mod waiting;
