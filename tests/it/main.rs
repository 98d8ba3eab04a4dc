//! The integration tests: one crate, a module per subject, servers that start and stop themselves.

mod architecture;
mod configuration;
mod contract;
mod diagnosis;
mod hostile;
mod http_api;
mod model;
mod openapi;
mod readme;
mod sentinel;
mod support;
mod tutorial;
mod waiting;
