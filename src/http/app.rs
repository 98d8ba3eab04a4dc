//! What handlers share.

use std::ops::Deref;
use std::sync::Arc;

use crate::http::answers::LargeAnswers;
use crate::http::auth::Auth;
use crate::http::browsers::Browsers;
use crate::http::wire::Limits;
use crate::service::LockService;
use crate::telemetry::Metrics;

/// The service and what surrounds it; cheap to clone, which each request does.
#[derive(Clone)]
pub struct App(Arc<AppState>);

/// What an [`App`] has.
pub struct AppState {
    /// The locks.
    pub service: LockService,
    /// Bounds that the operator set.
    pub limits: Limits,
    /// Who may do what.
    pub auth: Auth,
    /// Who may ask through a browser.
    pub browsers: Browsers,
    /// The permits for large answers.
    pub large_answers: LargeAnswers,
    /// What is counted.
    pub metrics: Metrics,
}

impl App {
    /// Shares the parts.
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
