//! The integration tests: one crate, a module per subject, servers that start and stop themselves.

mod abuse;
mod architecture;
mod batches;
mod browsers;
mod configuration;
mod connections;
mod contract;
mod costs;
mod diagnosis;
mod documents;
mod draining;
mod effects;
mod failover;
mod fencing;
mod grace;
mod hang_ups;
mod hostile;
mod http_api;
mod links;
mod listings;
mod logging;
mod metrics;
mod model;
mod numbers;
mod openapi;
mod queue;
mod readme;
mod recipes;
mod replication;
mod rolling;
mod sentinel;
mod soak;
#[path = "../support/mod.rs"]
mod support;
mod tutorial;
mod waiting;
