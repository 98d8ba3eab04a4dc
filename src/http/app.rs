//! The state that all handlers share.

use std::ops::Deref;
use std::sync::Arc;

use crate::http::answers::LargeAnswers;
use crate::http::auth::Auth;
use crate::http::browsers::Browsers;
use crate::http::wire::Limits;
use crate::service::LockService;
use crate::telemetry::Metrics;

/// The shared state. Each request clones it, so it is one reference-counted pointer.
#[derive(Clone)]
pub struct App(Arc<AppState>);

/// The contents of an [`App`].
pub struct AppState {
    /// The lock service.
    pub service: LockService,
    /// The bounds that the operator sets.
    pub limits: Limits,
    /// The bearer tokens and their permissions.
    pub auth: Auth,
    /// The host names and origins that requests of browsers may carry.
    pub browsers: Browsers,
    /// The permits for large answers.
    pub large_answers: LargeAnswers,
    /// The metrics.
    pub metrics: Metrics,
}

impl App {
    /// Wraps the state for sharing.
    #[must_use]
    pub fn new(parts: AppState) -> Self {
        Self(Arc::new(parts))
    }
}

impl Deref for App {
    type Target = AppState;

    fn deref(&self) -> &AppState {
        &self.0
    }
}
