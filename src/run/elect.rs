//! Leader election: a candidate competes for a lock without an end, and tells its neighbours over HTTP whether it leads.
//!
//! The answer is true for `expires_in_ms` from the moment of the question on. A leader that hears nothing must stop then.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CACHE_CONTROL;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::sleep;

use super::schedule::Schedule;
use super::signals::Signals;
use crate::client::{Acquire, Client, Failure, Grant, Moment};

/// The longest time between the end of the leadership here and the moment at which another candidate may lead.
const PAUSE: Duration = Duration::from_secs(1);

/// The lease, while this candidate leads.
type Role = watch::Receiver<Option<Grant>>;

/// Competes until a signal ends the process. Returns the exit code.
///
/// # Errors
/// [`Failure`], if the address is taken, or the servers refuse the request.
pub async fn elect(client: &Client, lock: &Acquire, listen: SocketAddr) -> Result<u8, Failure> {
    let unusable =
        |error: std::io::Error| Failure::Usage(format!("cannot listen on {listen}: {error}"));
    let mut signals = Signals::new().map_err(unusable)?;
    let listener = TcpListener::bind(listen).await.map_err(unusable)?;
    let (lead, role) = watch::channel(None);
    let routes = Router::new()
        .route("/role", get(tell))
        .with_state(Arc::new(role));
    let serve = async { axum::serve(listener, routes).await.map_err(unusable) };
    let compete = async {
        loop {
            match client.acquire(lock, &mut |_| {}).await {
                Ok(grant) => keep(client, grant, &lead).await,
                Err(Failure::Unavailable(_) | Failure::NotAcquired(_)) => sleep(PAUSE).await,
                Err(failure) => return failure,
            }
        }
    };
    let code = tokio::select! {
        served = serve => return served.map(|()| 0),
        failure = compete => return Err(failure),
        signal = signals.fatal() => super::code_of_signal(signal),
    };
    let leads = lead.borrow().clone();
    if let Some(grant) = leads {
        // The next leader need not wait for the end of the lease.
        let _ = client.release(&grant.key, &grant.lease_id).await;
    }
    Ok(code)
}

/// Leads until the lease is over.
async fn keep(client: &Client, grant: Grant, lead: &watch::Sender<Option<Grant>>) {
    let mut schedule = Schedule::new(&grant, Duration::ZERO);
    lead.send_replace(Some(grant.clone()));
    while !schedule.kill_at.left().is_zero() {
        sleep(schedule.renew_at.left().min(schedule.kill_at.left())).await;
        let limit = schedule.renewal_timeout(client.servers());
        match client.renew(&grant.key, &grant.lease_id, None, limit).await {
            Ok(renewed) => {
                schedule = Schedule::new(&renewed, Duration::ZERO);
                lead.send_replace(Some(renewed));
            }
            Err(Failure::Lost(_)) => break,
            Err(_) => schedule.renew_at = Moment::now() + schedule.pause(),
        }
    }
    lead.send_replace(None);
}

async fn tell(State(role): State<Arc<Role>>) -> Response {
    let leads = role.borrow().clone();
    let left = leads.map(|grant| {
        let left = Schedule::new(&grant, Duration::ZERO).kill_at.left();
        (u64::try_from(left.as_millis()).unwrap_or(u64::MAX), grant)
    });
    let uncached = [(CACHE_CONTROL, "no-store")];
    match left {
        Some((expires_in_ms, grant)) if expires_in_ms > 0 => {
            let body = json!({
                "leader": true,
                "fencing_token": grant.fencing_token,
                "expires_in_ms": expires_in_ms,
            });
            (uncached, Json(body)).into_response()
        }
        _ => (
            StatusCode::SERVICE_UNAVAILABLE,
            uncached,
            Json(json!({"leader": false})),
        )
            .into_response(),
    }
}
