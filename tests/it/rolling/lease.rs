//! A lease that its client renews at the times that the API recommends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::json;
use tokio::sync::watch;
use tokio::time::{Duration, sleep};

use super::client::{Answer, Call, Client};
use super::{ONE_BY_ONE, Stage, TTL};

/// The results for a lease at its end.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) token: u64,
    /// When the client last renewed the lease.
    pub(super) renewed_at: Instant,
}

/// Acquires a lease, counts it in `held`, and keeps it until the end.
pub(super) async fn keep(
    mut client: Client,
    number: usize,
    held: Arc<AtomicUsize>,
    mut stage: watch::Receiver<Stage>,
) -> Kept {
    let key = format!("kept/{number}");
    sleep(ONE_BY_ONE * u32::try_from(number).expect("a thousand")).await;
    let lease = client
        .call(&acquisition(&key, None, Some(random_key())))
        .await;
    assert_eq!(lease.status, 201, "{}", lease.body);
    held.fetch_add(1, Ordering::SeqCst);
    let kept = renew_until(&mut client, &key, &lease, async {
        let _end = stage.wait_for(|stage| *stage == Stage::End).await;
    });
    let kept = kept.await;
    release(&mut client, &key, &lease.lease_id()).await;
    kept
}

/// Renews a lease until `end`; the lease is never lost, and the client can always rely on it.
pub(super) async fn renew_until(
    client: &mut Client,
    key: &str,
    lease: &Answer,
    end: impl Future<Output = ()>,
) -> Kept {
    let mut kept = Kept {
        token: lease.number("fencing_token"),
        renewed_at: lease.sent,
    };
    let renewal = Call {
        method: "PUT",
        path: format!("/locks/{key}/lease"),
        header: Some(("Lease-Id", lease.lease_id())),
        body: None,
    };
    let mut until = lease.counts_until();
    let mut renew_after = lease.millis("renew_after_ms");
    tokio::pin!(end);
    loop {
        tokio::select! {
            () = &mut end => return kept,
            () = sleep(renew_after) => {}
        }
        let renewed = client.call(&renewal).await;
        assert_eq!(renewed.status, 200, "{key} was lost: {}", renewed.body);
        assert_eq!(renewed.number("fencing_token"), kept.token);
        let late = Instant::now().saturating_duration_since(until);
        assert_eq!(late, Duration::ZERO, "{key} was counted on too long");
        until = renewed.counts_until();
        renew_after = renewed.millis("renew_after_ms");
        kept.renewed_at = renewed.sent;
        client.service().figures.renewed(renewed.times);
    }
}

pub(super) async fn release(client: &mut Client, key: &str, lease_id: &str) {
    let release = Call {
        method: "DELETE",
        path: format!("/locks/{key}"),
        header: Some(("Lease-Id", lease_id.to_owned())),
        body: None,
    };
    let released = client.call(&release).await;
    assert_eq!(released.status, 204, "{key}: {}", released.body);
}

pub(super) fn acquisition(
    key: &str,
    wait_ms: Option<u64>,
    idempotency_key: Option<String>,
) -> Call {
    let ttl_ms = u64::try_from(TTL.as_millis()).expect("seconds");
    let mut body = json!({"ttl_ms": ttl_ms});
    if let Some(wait_ms) = wait_ms {
        body["wait_ms"] = wait_ms.into();
    }
    Call {
        method: "POST",
        path: format!("/locks/{key}"),
        header: idempotency_key.map(|key| ("Idempotency-Key", key)),
        body: Some(body),
    }
}

pub(super) fn random_key() -> String {
    format!("{:016x}", leasehold::random::number())
}
