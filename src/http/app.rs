//! What handlers share.

use std::sync::Arc;

use crate::http::auth::Auth;
use crate::http::wire::Limits;
use crate::service::LockService;
use crate::telemetry::Metrics;

/// The service and what surrounds it; cheap to clone.
#[derive(Clone)]
pub struct App {
    /// The locks.
    pub service: LockService,
    /// Bounds that the operator set.
    pub limits: Limits,
    /// Who may do what.
    pub auth: Arc<Auth>,
    /// What is counted.
    pub metrics: Metrics,
}
