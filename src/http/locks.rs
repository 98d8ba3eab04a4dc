//! The lock routes. A handler extracts the arguments, calls the service and converts its result.

use axum::Extension;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::http::app::App;
use crate::http::auth::Principal;
use crate::http::extract::{Arrived, IdempotencyKey, Json, Key, OptionalLeaseId, Query};
use crate::http::problem::Problem;
use crate::http::wire::{
    AcquireBody, Lease, ListParameters, LockPage, LockStatus, NoParameters, ReleaseParameters,
    RenewBody,
};
use crate::lock::key::LockKey;
use crate::lock::rules::{EndOutcome, Renewal};
use crate::service::{Acquired, Listing};
use crate::store::contract::Timed;

/// Marks the replay of an earlier answer.
const REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Acquire a lock
///
/// Takes the lock if it is free and answers with a lease: exclusive until its deadline, with a
/// fencing token that is higher than any before. If somebody else holds the lock, the answer is 423,
/// at once or after `wait_ms` in line.
///
/// With an `Idempotency-Key`, repeating the request is safe: while the acquisition lives, the answer
/// is the same lease.
#[utoipa::path(
    post, path = "/locks/{key}", operation_id = "acquire", tag = "locks",
    request_body(content = AcquireBody, description = "What to acquire; may be left out."),
    responses(
        (status = 201, description = "The lock is yours.", body = Lease),
        (status = 200, description = "This acquisition was granted before, and its lease is alive.", body = Lease),
    ),
)]
pub(super) async fn acquire(
    State(app): State<App>,
    principal: Principal,
    Extension(Arrived(arrived)): Extension<Arrived>,
    Key(key): Key,
    _: Query<NoParameters>,
    IdempotencyKey(idempotency_key): IdempotencyKey,
    Json(body): Json<AcquireBody>,
) -> Result<Response, Problem> {
    let request = body.into_request(
        &app.limits,
        arrived,
        principal.name(),
        idempotency_key.as_deref(),
    )?;
    match app.service.acquire(key.clone(), request).await? {
        Acquired::Granted(lease) => Ok((
            StatusCode::CREATED,
            location(&key),
            axum::Json(Lease::new(&key, &lease, arrived)),
        )
            .into_response()),
        Acquired::Replayed(lease) => {
            let replayed = [(REPLAYED, HeaderValue::from_static("true"))];
            Ok((replayed, axum::Json(Lease::new(&key, &lease, arrived))).into_response())
        }
        Acquired::Held(held_by) => Err(Problem::held(held_by)),
        Acquired::TimedOut(held_by, ahead) => Err(Problem::wait_timeout(held_by, ahead)),
        Acquired::KeyReused => Err(Problem::key_reused()),
        Acquired::AlreadyReleased => Err(Problem::already_released()),
        Acquired::TooManyWaiters => Err(Problem::too_many_waiters()),
    }
}

/// Renew a lease
///
/// Extends the lease to its TTL from now; never shortens it. A lease that is over does not come back:
/// the answer is 409, and whatever it protected must stop.
#[utoipa::path(
    put, path = "/locks/{key}/lease", operation_id = "renew", tag = "locks",
    request_body(content = RenewBody, description = "How to renew; may be left out."),
    responses((status = 200, description = "The lease goes on.", body = Lease)),
)]
pub(super) async fn renew(
    State(app): State<App>,
    _: Principal,
    Extension(Arrived(arrived)): Extension<Arrived>,
    Key(key): Key,
    _: Query<NoParameters>,
    OptionalLeaseId(lease_id): OptionalLeaseId,
    Json(body): Json<RenewBody>,
) -> Result<axum::Json<Lease>, Problem> {
    let lease_id = lease_id.ok_or_else(Problem::lease_id_required)?;
    let Timed { value, asked_at } = app
        .service
        .renew(key.clone(), lease_id, body.ttl(&app.limits)?)
        .await?;
    match value {
        Renewal::Renewed(lease) => {
            let lease = Timed {
                value: lease,
                asked_at,
            };
            Ok(axum::Json(Lease::new(&key, &lease, arrived)))
        }
        Renewal::Lost(loss) => Err(Problem::lost(loss)),
    }
}

/// Release a lease, or break somebody else's
///
/// Ends the lease that the `Lease-Id` header names; repeating the request within 10 seconds is
/// answered 204 again.
///
/// With `force=true` and no `Lease-Id` it breaks the lease whose fencing token is named, whoever
/// holds it: for administrators, when a holder hangs and its TTL is long. The broken holder is told by
/// its next renewal, and kept out by fencing until then.
#[utoipa::path(
    delete, path = "/locks/{key}", operation_id = "release", tag = "locks",
    responses((status = 204, description = "That lease is over.")),
)]
pub(super) async fn release(
    State(app): State<App>,
    principal: Principal,
    Key(key): Key,
    Query(parameters): Query<ReleaseParameters>,
    OptionalLeaseId(lease_id): OptionalLeaseId,
) -> Result<StatusCode, Problem> {
    let ending = match (parameters.broken_token()?, lease_id) {
        (None, Some(lease_id)) => app.service.release(key, lease_id).await?,
        (None, None) => return Err(Problem::lease_id_required()),
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "force=true ends somebody else's lease: send no Lease-Id",
            ));
        }
        (Some(token), None) => {
            app.auth.check_break(principal)?;
            app.service.break_lease(key, token).await?
        }
    };
    match ending {
        EndOutcome::Ended { .. } => Ok(StatusCode::NO_CONTENT),
        EndOutcome::Lost(loss) => Err(Problem::lost(loss)),
    }
}

/// Inspect a lock
///
/// Says who holds the lock and how it stands; never the lease id. A key that was never used is free.
#[utoipa::path(
    get, path = "/locks/{key}", operation_id = "inspect", tag = "locks",
    responses((status = 200, description = "How the lock stands.", body = LockStatus)),
)]
pub(super) async fn inspect(
    State(app): State<App>,
    _: Principal,
    Key(key): Key,
    _: Query<NoParameters>,
) -> Result<axum::Json<LockStatus>, Problem> {
    let (info, waiters) = app.service.inspect(&key).await?;
    Ok(axum::Json(LockStatus::new(&key, info.as_ref(), waiters)))
}

/// List the held locks
///
/// In pages: a page has about 256 KiB at most, and may be shorter than `limit`, even empty, before the last one; a key may
/// appear twice; a key that is held during the whole listing does appear. The last page has no
/// `next_cursor`.
#[utoipa::path(
    get, path = "/locks", operation_id = "list_locks", tag = "locks",
    responses((status = 200, description = "A page of held locks.", body = LockPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    _: Principal,
    Query(parameters): Query<ListParameters>,
) -> Result<axum::Json<LockPage>, Problem> {
    let page = match app.service.list(&parameters.into_query()?).await? {
        Listing::Page(page) => page,
        Listing::TooMany => return Err(Problem::too_many_listings()),
    };
    let locks = page.locks.iter();
    let locks = locks
        .map(|(key, info, waiters)| LockStatus::new(key, Some(info), *waiters))
        .collect();
    Ok(axum::Json(LockPage {
        locks,
        next_cursor: page.next_cursor,
    }))
}

/// The lock's path with the key as one segment: a proxy may alter a slash in the key.
fn location(key: &LockKey) -> HeaderMap {
    let path = format!("/locks/{}", key.as_str().replace('/', "%2F"));
    let value = HeaderValue::try_from(path).expect("a key is visible ASCII");
    HeaderMap::from_iter([(LOCATION, value)])
}
