//! Liveness, readiness and metrics.

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::app::App;
use crate::http::problem::Problem;
use crate::http::wire::rfc3339;
use crate::store::contract::Condition;
use crate::telemetry::{Leases, Snapshot, StoreCondition};

/// The liveness of the server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Liveness {
    /// Always `alive`.
    #[schema(example = "alive")]
    pub status: &'static str,
}

/// The readiness of the server, and the state of its store.
#[derive(Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// `ready`, `starting` or `draining`.
    #[schema(value_type = String)]
    pub status: Status,
    /// `ok`, `degraded` or `unreached`.
    #[schema(value_type = String)]
    pub store: StoreStatus,
    /// What is wrong with the store, and what to do. It is absent if the store is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub reason: Option<String>,
    /// The moment since which the store is not healthy (RFC 3339). It is absent if the store is healthy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime, example = "2026-01-01T12:00:00.000Z")]
    pub since: Option<String>,
    /// The last change of the store's master since the server started.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub last_change: Option<StoreChange>,
    /// The guarantee that the settings give up. It is absent if they give up none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub accepted_risk: Option<String>,
    /// What is wrong with the files of the bearer tokens. Until it is mended, the tokens of before count. It is absent if the
    /// files are good.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub auth_problem: Option<String>,
}

/// A change of the store's master.
#[derive(Debug, Serialize, ToSchema)]
pub struct StoreChange {
    /// The moment at which this server noticed the change (RFC 3339).
    #[schema(format = DateTime, example = "2026-01-01T12:00:00.000Z")]
    pub at: String,
    /// The old and the new master, the time without a master, and the lost writes.
    pub what: String,
}

/// The state of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The server accepts requests.
    Ready,
    /// The server has not reached its store yet.
    Starting,
    /// The server shuts down: it finishes the requests under way.
    Draining,
}

/// The condition of the store.
#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreStatus {
    /// The store is healthy.
    Ok,
    /// The store fails now, or serves with fewer guarantees.
    Degraded,
    /// The server has not reached the store since it started.
    Unreached,
}

/// Liveness
///
/// Checks that the process answers. It does not depend on the store, because a restart would not repair the store.
#[utoipa::path(get, path = "/livez", operation_id = "livez", tag = "health",
    responses((status = 200, description = "The process answers.", body = Liveness)))]
pub(super) async fn livez() -> axum::Json<Liveness> {
    axum::Json(Liveness { status: "alive" })
}

/// Readiness
///
/// Answers 503 before the first contact with the store, and while the server drains. If the store fails
/// later, the answer is 200 with `"store": "degraded"` and the reason. With 503, Kubernetes would remove
/// all servers from the Service, and clients would lose the answers that explain the fault.
#[utoipa::path(get, path = "/readyz", operation_id = "readyz", tag = "health",
    responses(
        (status = 200, description = "The server is ready.", body = Readiness),
        (status = 503, description = "The server starts, or drains.", body = Readiness),
    ))]
pub(super) async fn readyz(State(app): State<App>) -> Response {
    let readiness = readiness(&app);
    if readiness.status == Status::Ready {
        return axum::Json(readiness).into_response();
    }
    let retry = [(HeaderName::from_static("retry-after"), "1")];
    (
        StatusCode::SERVICE_UNAVAILABLE,
        retry,
        axum::Json(readiness),
    )
        .into_response()
}

fn readiness(app: &App) -> Readiness {
    let (health, draining) = (app.service.health(), app.service.is_draining());
    let (status, store, reason) = match health.condition {
        Condition::Starting(reason) => (Status::Starting, StoreStatus::Unreached, Some(reason)),
        Condition::Ready => (Status::Ready, StoreStatus::Ok, None),
        Condition::Degraded(reason) => (Status::Ready, StoreStatus::Degraded, Some(reason)),
    };
    Readiness {
        status: if draining { Status::Draining } else { status },
        store,
        reason,
        since: health.since.map(rfc3339),
        last_change: health.last_change.map(|change| StoreChange {
            at: rfc3339(change.at),
            what: change.text,
        }),
        accepted_risk: health.accepted_risk,
        auth_problem: app.auth.problem(),
    }
}

/// Metrics
///
/// Returns the metrics in the Prometheus text format.
#[utoipa::path(get, path = "/metrics", operation_id = "metrics", tag = "health",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")))]
pub(super) async fn metrics(State(app): State<App>) -> Result<Response, Problem> {
    let text = app.metrics.render(&now(&app)).map_err(|error| {
        tracing::error!("cannot encode the metrics: {error}");
        Problem::internal()
    })?;
    Ok((
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        text,
    )
        .into_response())
}

/// The gauges of the metrics at this moment.
fn now(app: &App) -> Snapshot {
    let readiness = readiness(app);
    let leases = app.service.lease_stats();
    let (waiters, max_waiters) = app.service.waiters();
    Snapshot {
        ready: readiness.status == Status::Ready,
        draining: app.service.is_draining(),
        store: match readiness.store {
            StoreStatus::Ok => StoreCondition::Ready,
            StoreStatus::Degraded => StoreCondition::Degraded,
            StoreStatus::Unreached => StoreCondition::Starting,
        },
        waiters,
        max_waiters,
        leases: leases.map(|leases| Leases {
            held: leases.held,
            expired_total: leases.expired_total,
            releases_forgotten_total: leases.releases_forgotten_total,
        }),
    }
}
