//! The way out of a recovery.

use axum::extract::State;
use axum::http::StatusCode;

use crate::auth::Principal;
use crate::http::app::App;
use crate::http::extract::Query;
use crate::http::problem::Problem;
use crate::http::wire::RecoveryParameters;

/// End a recovery
///
/// Ends the pause in which the servers grant nothing new after a loss (503 `recovering`). It has the
/// permission to break leases.
///
/// The pause keeps exclusion: clients may still count on leases that the store has lost. End it only
/// if you know that every such client has ended, or that each resource refuses its old fencing token.
/// The answer is 204 also if there is no pause.
#[utoipa::path(
    delete, path = "/recovery", operation_id = "end_recovery", tag = "locks",
    responses((status = 204, description = "New grants do not pause, or no longer.")),
)]
pub(super) async fn end(
    State(app): State<App>,
    principal: Principal,
    Query(parameters): Query<RecoveryParameters>,
) -> Result<StatusCode, Problem> {
    parameters.check()?;
    app.service
        .end_recovery(principal.permit_recovery()?)
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
