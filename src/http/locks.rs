//! The lock routes. A handler extracts the arguments, calls the service and converts its result.

use axum::Extension;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};

use crate::auth::{Acquire, Principal, Verb};
use crate::http::app::App;
use crate::http::extract::{Arrived, Caller, IdempotencyKey, Json, Key, OptionalLeaseId, Query};
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
/// Grants a lease if the lock is free. The lease is exclusive until its deadline, and its fencing
/// token is higher than all earlier ones. If another client holds the lock, the request waits in the
/// queue for up to `wait_ms`, by default not at all. If it does not get the lock, the answer is 423.
///
/// With an `Idempotency-Key`, a client can safely repeat the request: as long as the lease lives, it
/// gets the same lease.
#[utoipa::path(
    post, path = "/locks/{key}", operation_id = "acquire", tag = "locks",
    request_body(content = AcquireBody, description = "The parameters of the acquisition. Optional."),
    responses(
        (status = 201, description = "A new lease.", body = Lease),
        (status = 200, description = "A replay: the lease that an earlier request of this acquisition got.", body = Lease),
    ),
)]
pub(super) async fn acquire(
    State(app): State<App>,
    Caller { principal, headers }: Caller,
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
    let reads = principal.may(Verb::Read, &key);
    let waits = request.wait_until.is_some();
    let acquired = app
        .service
        .acquire(principal.permit(key.clone())?, request)
        .await?;
    if let (true, Acquired::Granted(lease) | Acquired::Replayed(lease)) = (waits, &acquired) {
        let lease_id = lease.value.lease_id;
        let still = app.auth.identify(&headers);
        let still = still.and_then(|caller| Ok(caller.permit::<Acquire>(key.clone())?));
        if let Err(problem) = still {
            // The token has ended during the wait.
            let permit = principal.permit(key.clone())?;
            app.service.release(permit, lease_id).await?;
            return Err(problem);
        }
    }
    match acquired {
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
        Acquired::Held(held_by) => Err(Problem::held(held_by, reads)),
        Acquired::TimedOut(held_by, ahead) => Err(Problem::wait_timeout(held_by, ahead, reads)),
        Acquired::KeyReused => Err(Problem::key_reused()),
        Acquired::AlreadyReleased => Err(Problem::already_released()),
        Acquired::TooManyWaiters => Err(Problem::too_many_waiters()),
    }
}

/// Renew a lease
///
/// Extends the lease to its TTL from now on, and never shortens it. A lease that has ended does not
/// come back: the answer is 409, and the client must stop the protected work.
#[utoipa::path(
    put, path = "/locks/{key}/lease", operation_id = "renew", tag = "locks",
    request_body(content = RenewBody, description = "The parameters of the renewal. Optional."),
    responses((status = 200, description = "The lease with its new deadline.", body = Lease)),
)]
pub(super) async fn renew(
    State(app): State<App>,
    principal: Principal,
    Extension(Arrived(arrived)): Extension<Arrived>,
    Key(key): Key,
    _: Query<NoParameters>,
    OptionalLeaseId(lease_id): OptionalLeaseId,
    Json(body): Json<RenewBody>,
) -> Result<axum::Json<Lease>, Problem> {
    let lease_id = lease_id.ok_or_else(Problem::lease_id_required)?;
    let Timed { value, asked_at } = app
        .service
        .renew(
            principal.permit(key.clone())?,
            lease_id,
            body.ttl(&app.limits)?,
        )
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

/// Release or break a lease
///
/// Releases the lease that the header `Lease-Id` names. A repetition of the request within 10 seconds
/// gets 204 again.
///
/// With `force=true` and without `Lease-Id`, the request breaks the lease that `fencing_token` names.
/// Administrators use it when a holder hangs and its TTL is long. The next renewal of that holder gets
/// 409; until then, fencing protects the resource.
#[utoipa::path(
    delete, path = "/locks/{key}", operation_id = "release", tag = "locks",
    responses((status = 204, description = "The lease has ended.")),
)]
pub(super) async fn release(
    State(app): State<App>,
    principal: Principal,
    Key(key): Key,
    Query(parameters): Query<ReleaseParameters>,
    OptionalLeaseId(lease_id): OptionalLeaseId,
) -> Result<StatusCode, Problem> {
    let outcome = match (parameters.broken_token()?, lease_id) {
        (None, Some(lease_id)) => {
            app.service
                .release(principal.permit(key)?, lease_id)
                .await?
        }
        (None, None) => return Err(Problem::lease_id_required()),
        (Some(_), Some(_)) => {
            return Err(Problem::invalid(
                "force=true breaks the lease of another client: send no Lease-Id",
            ));
        }
        (Some(token), None) => {
            app.service
                .break_lease(principal.permit(key)?, token)
                .await?
        }
    };
    match outcome {
        EndOutcome::Ended { .. } => Ok(StatusCode::NO_CONTENT),
        EndOutcome::Lost(loss) => Err(Problem::lost(loss)),
    }
}

/// Inspect a lock
///
/// Returns the holder and the state of the lock, never the lease id. A key that was never used is free.
#[utoipa::path(
    get, path = "/locks/{key}", operation_id = "inspect", tag = "locks",
    responses((status = 200, description = "The status of the lock.", body = LockStatus)),
)]
pub(super) async fn inspect(
    State(app): State<App>,
    principal: Principal,
    Key(key): Key,
    _: Query<NoParameters>,
) -> Result<axum::Json<LockStatus>, Problem> {
    let permit = principal.permit(key.clone())?;
    let (info, waiters) = app.service.inspect(permit).await?;
    Ok(axum::Json(LockStatus::new(&key, info.as_ref(), waiters)))
}

/// List the held locks
///
/// Returns the held locks in pages of at most about 256 KiB. A page can be shorter than `limit`, even
/// empty, and not be the last. A key can appear twice. A key that is held during the whole listing
/// appears at least once. The last page has no `next_cursor`.
#[utoipa::path(
    get, path = "/locks", operation_id = "list_locks", tag = "locks",
    responses((status = 200, description = "A page of held locks.", body = LockPage)),
)]
pub(super) async fn list(
    State(app): State<App>,
    principal: Principal,
    Query(parameters): Query<ListParameters>,
) -> Result<axum::Json<LockPage>, Problem> {
    let query = parameters.into_query()?;
    let permit = principal.permit_list(&query.prefix)?;
    let page = match app.service.list(permit, &query).await? {
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
