//! Grants, renewals and expiry.

use std::sync::Arc;
use std::time::Duration;

use leasehold::lock::lease::{FencingToken, Holder, Metadata};
use leasehold::lock::request::Acquire;
use leasehold::lock::rules::{Acquisition, EndOutcome, Loss, Renewal};
use leasehold::store::contract::Timed;
use tokio::task::JoinSet;

use super::{ENDED, queued, refused, release, renew, renewed, waiting};
use crate::support::stores::{Subject, key, ms, request, ttl};

pub(super) async fn free_lock_is_granted_until_now_plus_ttl(s: &Subject) {
    let asked = request(1500);
    let lease = s.granted(&key("a"), &asked).await;
    assert_eq!(lease.lease_id, asked.lease_id);
    assert_eq!(lease.info.deadline, lease.info.acquired_at.after(ms(1500)));
    assert_eq!(lease.info.expires_in(), ms(1500));
    assert_eq!(lease.info.held_for(), Duration::ZERO);
    assert_eq!((lease.info.ttl, lease.info.renewals), (ttl(1500), 0));
}

pub(super) async fn held_lock_is_refused_and_says_who_holds_it(s: &Subject) {
    let holder = Holder::new("first".into());
    let lease = s
        .granted(
            &key("a"),
            &Acquire {
                holder: holder.clone(),
                ..request(1000)
            },
        )
        .await;
    s.advance(ms(300)).await;
    let Acquisition::Held { info, .. } = s.acquire(&key("a"), &request(1000)).await else {
        panic!("not held")
    };
    assert_eq!(
        (info.holder.clone(), info.fencing_token),
        (holder, lease.info.fencing_token)
    );
    assert_eq!((info.held_for(), info.expires_in()), (ms(300), ms(700)));
    assert_eq!(s.inspect(&key("a")).await, Some(info));
    assert_eq!(s.inspect(&key("b")).await, None);
    s.granted(&key("b"), &request(1000)).await;
}

pub(super) async fn lock_is_free_again_on_the_microsecond_of_its_deadline(s: &Subject) {
    // The store keeps the record beyond the deadline, because it remembers the release.
    let before = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(release(s, "a", before.lease_id).await, ENDED);
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(Duration::from_micros(999_999)).await;
    assert!(matches!(
        s.acquire(&key("a"), &request(1000)).await,
        Acquisition::Held { .. }
    ));
    assert!(s.inspect(&key("a")).await.is_some());
    s.advance(Duration::from_micros(1)).await;
    assert_eq!(s.inspect(&key("a")).await, None);
    let renewed = s.store.renew(&key("a"), lease.lease_id, None).await;
    let lost = Renewal::Lost(Loss::NotHeld);
    assert_eq!(renewed.expect("an answer").value, lost);
    let released = release(s, "a", lease.lease_id).await;
    assert_eq!(released, EndOutcome::Lost(Loss::NotHeld));
    s.granted(&key("a"), &request(1000)).await;
}

pub(super) async fn renewal_extends_from_now_and_never_shortens(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(400)).await;
    let longer = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!(longer.deadline, lease.info.deadline.after(ms(400)));
    assert_eq!(
        (longer.renewals, longer.fencing_token),
        (1, lease.info.fencing_token)
    );
    let shorter = renewed(s, "a", lease.lease_id, Some(100)).await;
    assert_eq!(shorter.deadline, longer.deadline);
    assert_eq!((shorter.ttl, shorter.renewals), (ttl(100), 2));
}

pub(super) async fn renewal_can_bring_a_ttl_of_its_own(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    renewed(s, "a", lease.lease_id, Some(5000)).await;
    s.advance(ms(4000)).await;
    let again = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!(
        again.expires_in(),
        ms(5000),
        "the TTL of the last renewal stays"
    );
}

pub(super) async fn expired_lease_cannot_be_renewed(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(1000)).await;
    assert_eq!(
        renew(s, "a", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(s.inspect(&key("a")).await, None);
    assert_eq!(
        release(s, "a", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
}

pub(super) async fn expired_lease_does_not_revive_after_a_successor(s: &Subject) {
    let first = s.granted(&key("a"), &request(1000)).await;
    s.advance(ms(1000)).await;
    let second = s.granted(&key("a"), &request(1000)).await;
    assert_eq!(
        renew(s, "a", first.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    s.advance(ms(1000)).await;
    assert_eq!(
        renew(s, "a", first.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        renew(s, "a", second.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
}

pub(super) async fn only_the_holder_can_renew_or_release(s: &Subject) {
    let lease = s.granted(&key("a"), &request(1000)).await;
    let other = s.granted(&key("b"), &request(1000)).await;
    assert_eq!(
        renew(s, "a", other.lease_id).await,
        Renewal::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        release(s, "a", other.lease_id).await,
        EndOutcome::Lost(Loss::HeldByOther)
    );
    assert_eq!(
        renew(s, "c", lease.lease_id).await,
        Renewal::Lost(Loss::NotHeld)
    );
    assert_eq!(
        release(s, "c", lease.lease_id).await,
        EndOutcome::Lost(Loss::NotHeld)
    );
    assert_eq!(release(s, "a", lease.lease_id).await, ENDED);
}

pub(super) async fn tokens_rise_over_all_keys_and_endings(s: &Subject) {
    let mut last = FencingToken::new(0).expect("zero");
    for round in 0..6 {
        let name = if round % 2 == 0 { "a" } else { "b" };
        let lease = s.granted(&key(name), &request(1000)).await;
        assert!(lease.info.fencing_token > last, "round {round}");
        last = lease.info.fencing_token;
        match round {
            0 | 1 => drop(release(s, name, lease.lease_id).await),
            2 | 3 => drop(s.store.break_lease(&key(name), last).await),
            _ => s.advance(ms(1000)).await,
        }
    }
}

/// Redis reports the count with a heartbeat; see the tests of the metrics.
#[tokio::test]
async fn memory_counts_a_lease_until_it_ends_or_runs_out() {
    let s = &Subject::memory();
    let count = || {
        s.store
            .lease_stats()
            .map(|leases| (leases.held, leases.expired_total))
    };
    let first = s.granted(&key("a"), &request(1000)).await;
    s.granted(&key("b"), &request(1000)).await;
    assert_eq!(count(), Some((2, 0)));
    assert_eq!(release(s, "a", first.lease_id).await, ENDED);
    assert_eq!(count(), Some((1, 0)));
    // A reservation does not count as held.
    let again = s.granted(&key("a"), &request(60_000)).await;
    queued(s, &waiting(1000, 50_000)).await;
    assert_eq!(release(s, "a", again.lease_id).await, ENDED);
    refused(s).await;
    assert_eq!(count(), Some((1, 0)));
    s.advance(ms(1000)).await;
    assert_eq!(count(), Some((0, 1)));
}

pub(super) async fn holder_and_metadata_come_back_unchanged(s: &Subject) {
    let holder = Holder::new("7 % \"ünïcode\" \\ 🔒 ' L R".into());
    let pairs = [
        ("k %s".to_owned(), "{\"v\": [1]}".to_owned()),
        ("ключ".to_owned(), String::new()),
    ];
    let metadata = Metadata::new(pairs.into()).expect("printable");
    let asked = Acquire {
        holder: holder.clone(),
        metadata: metadata.clone(),
        ..request(1000)
    };
    let lease = s.granted(&key("a"), &asked).await;
    assert_eq!(
        (&lease.info.holder, &lease.info.metadata),
        (&holder, &metadata)
    );
    let renewed = renewed(s, "a", lease.lease_id, None).await;
    assert_eq!((renewed.holder, renewed.metadata), (holder, metadata));
}

pub(super) async fn one_of_a_hundred_contenders_wins(s: &Subject) {
    let mut contenders = JoinSet::new();
    for _ in 0..100 {
        let store = Arc::clone(&s.store);
        contenders.spawn(async move { store.acquire(&key("a"), request(60_000)).await });
    }
    let answers = contenders.join_all().await;
    let won = answers
        .iter()
        .filter(|answer| {
            matches!(
                answer,
                Ok(Timed {
                    value: Acquisition::Granted(_),
                    ..
                })
            )
        })
        .count();
    let refused = answers
        .iter()
        .filter(|answer| {
            matches!(
                answer,
                Ok(Timed {
                    value: Acquisition::Held { .. },
                    ..
                })
            )
        })
        .count();
    assert_eq!((won, refused), (1, 99));
}
