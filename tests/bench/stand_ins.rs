//! The baselines for Leasehold: servers of this program, each in its own process.

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::routing::post;
use axum::serve::ListenerExt;
use deadpool_redis::{Config, Pool, Runtime};
use redis::Script;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// The empty handler's answer: the same bytes as Leasehold's.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Canned {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

/// A handler without work: `answers` is JSON with the answers to POST and DELETE.
pub(crate) fn empty(answers: &str) {
    let [acquire, release]: [Canned; 2] = serde_json::from_str(answers).expect("two answers");
    let (acquire, release) = (ready(acquire), ready(release));
    let routes =
        post(async move |_: Bytes| acquire.clone()).delete(async move |_: Bytes| release.clone());
    serve(Router::new().route("/locks/{key}", routes));
}

fn ready(canned: Canned) -> (StatusCode, HeaderMap, Bytes) {
    let status = StatusCode::from_u16(canned.status).expect("a status");
    let header = |(name, value): (String, String)| {
        let name: HeaderName = name.parse().expect("a header's name");
        (
            name,
            HeaderValue::try_from(value).expect("a header's value"),
        )
    };
    let headers = canned.headers.into_iter().map(header).collect();
    (status, headers, Bytes::from(canned.body))
}

/// A straightforward implementation: each request takes a connection from a pool with default settings and runs one
/// script. It has a fencing token and a checked release, but no guard, no waiting and no replay.
pub(crate) fn pooled(redis: &str) {
    let pool = Config::from_url(redis)
        .create_pool(Some(Runtime::Tokio1))
        .expect("a pool");
    let state = Pooled {
        pool,
        acquire: Script::new(ACQUIRE),
        release: Script::new(RELEASE),
    };
    let routes = post(acquire).delete(release);
    serve(
        Router::new()
            .route("/locks/{key}", routes)
            .with_state(state),
    );
}

/// Keys: the lock, the counter. Arguments: lease id, TTL in milliseconds.
const ACQUIRE: &str = "
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return redis.call('INCR', KEYS[2]) end
return 0";

/// Key: the lock. Argument: lease id.
const RELEASE: &str = "
if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end
return 0";

#[derive(Clone)]
struct Pooled {
    pool: Pool,
    acquire: Script,
    release: Script,
}

#[derive(Deserialize)]
struct AcquireBody {
    ttl_ms: u64,
}

#[derive(Serialize)]
struct Granted {
    key: String,
    lease_id: String,
    fencing_token: u64,
    ttl_ms: u64,
}

async fn acquire(
    State(state): State<Pooled>,
    Path(key): Path<String>,
    axum::Json(body): axum::Json<AcquireBody>,
) -> Result<(StatusCode, axum::Json<Granted>), StatusCode> {
    let lease_id = format!("{:032x}", rand::random::<u128>());
    let unavailable = |_| StatusCode::SERVICE_UNAVAILABLE;
    let mut connection = state
        .pool
        .get()
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let mut call = state.acquire.key(format!("pooled:{key}"));
    let call = call.key("pooled").arg(&lease_id).arg(body.ttl_ms);
    let fencing_token: u64 = call
        .invoke_async(&mut connection)
        .await
        .map_err(unavailable)?;
    if fencing_token == 0 {
        return Err(StatusCode::LOCKED);
    }
    let ttl_ms = body.ttl_ms;
    let lease = Granted {
        key,
        lease_id,
        fencing_token,
        ttl_ms,
    };
    Ok((StatusCode::CREATED, axum::Json(lease)))
}

async fn release(
    State(state): State<Pooled>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<StatusCode, StatusCode> {
    let lease_id = headers.get("lease-id").and_then(|id| id.to_str().ok());
    let lease_id = lease_id.ok_or(StatusCode::BAD_REQUEST)?;
    let unavailable = |_| StatusCode::SERVICE_UNAVAILABLE;
    let mut connection = state
        .pool
        .get()
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let mut call = state.release.key(format!("pooled:{key}"));
    let ended: u64 = call
        .arg(lease_id)
        .invoke_async(&mut connection)
        .await
        .map_err(unavailable)?;
    Ok(if ended == 1 {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::CONFLICT
    })
}

fn serve(router: Router) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the system gives threads");
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        println!(
            "Leasehold stand-in listening on http://{}",
            listener.local_addr().expect("it is bound")
        );
        let listener = listener.tap_io(|stream| {
            let _set = stream.set_nodelay(true);
        });
        axum::serve(listener, router)
            .await
            .expect("it serves until it is killed");
    });
}
