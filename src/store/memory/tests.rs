//! What only the memory store has: exact counts, and memory that it frees itself.

use super::*;
use crate::lock::lease::Metadata;

fn key(text: &str) -> LockKey {
    LockKey::parse(text).expect("a key")
}

fn request(number: u64, milliseconds: u64) -> Acquire {
    Acquire {
        lease_id: LeaseId::from_bytes(u128::from(number).to_be_bytes()),
        attempt: Attempt(number),
        ttl: Ttl::stored(Duration::from_millis(milliseconds)),
        holder: None,
        hold_at_least: Duration::ZERO,
        metadata: Metadata::default(),
        idempotency: None,
        wait: None,
    }
}

async fn take(store: &MemoryStore, text: &str, request: Acquire) {
    let answer = store.acquire(&key(text), request).await.expect("an answer");
    assert!(matches!(answer.value, Acquisition::Granted(_)), "{text}");
}

/// The names of the listed locks, page by page.
async fn pages(store: &MemoryStore, prefix: &str, cursor: Option<&str>) -> Vec<Vec<String>> {
    let mut query = ListQuery {
        prefix: prefix.to_owned(),
        limit: 100,
        cursor: cursor.map(str::to_owned),
    };
    let mut pages = Vec::new();
    loop {
        let page = store.list(&query).await.expect("a page");
        let names = page.locks.iter().map(|(key, ..)| key.as_str().to_owned());
        pages.push(names.collect());
        match page.next_cursor {
            Some(cursor) => query.cursor = Some(cursor),
            None => return pages,
        }
    }
}

#[tokio::test(start_paused = true)]
async fn lease_that_is_over_earlier_is_told() {
    let store = MemoryStore::new();
    let in_seconds = |seconds| Instant::now() + Duration::from_secs(seconds);
    let released = Acquire {
        hold_at_least: Duration::from_secs(20),
        ..request(1, 60_000)
    };
    take(&store, "a", released).await;
    take(&store, "b", request(2, 60_000)).await;
    let id = request(1, 0).lease_id;
    assert!(store.release(&key("a"), id).await.is_ok());
    let event = store.next_event().await;
    assert_eq!(event, StoreEvent::HeldUntil(key("a"), in_seconds(20)));
    let gone = request(2, 0);
    let keep = Some(Duration::from_secs(10));
    let shortened = store
        .rollback(
            &key("b"),
            gone.waiter_id(),
            gone.lease_id,
            gone.attempt,
            keep,
        )
        .await;
    assert_eq!(shortened, Ok(true));
    let event = store.next_event().await;
    assert_eq!(event, StoreEvent::HeldUntil(key("b"), in_seconds(10)));
}

#[tokio::test(start_paused = true)]
async fn leases_are_counted_until_they_end_or_run_out() {
    let store = MemoryStore::new();
    let count = || {
        store
            .lease_stats()
            .map(|leases| (leases.held, leases.expired_total))
    };
    for number in 0..3 {
        take(&store, &format!("{number}"), request(number, 1000)).await;
    }
    assert_eq!(count(), Some((3, 0)));
    let released = store.release(&key("0"), request(0, 1000).lease_id).await;
    assert!(matches!(
        released,
        Ok(EndOutcome::Ended { held_for: Some(_) })
    ));
    let longer = Some(Ttl::stored(Duration::from_secs(2)));
    let renewed = store
        .renew(&key("1"), request(1, 1000).lease_id, longer)
        .await;
    assert!(matches!(
        renewed.expect("an answer").value,
        Renewal::Renewed(_)
    ));
    assert_eq!(count(), Some((2, 0)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(count(), Some((1, 1)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(count(), Some((0, 2)));
}

#[tokio::test(start_paused = true)]
async fn memory_of_expired_leases_is_freed() {
    let store = MemoryStore::new();
    take(&store, "long", request(0, 60_000)).await;
    for number in 1..=SWEPT_PER_OPERATION as u64 {
        take(&store, &format!("over/{number}"), request(number, 1000)).await;
    }
    let released = store
        .release(&key("over/1"), request(1, 1000).lease_id)
        .await;
    assert!(released.is_ok());
    let is_kept = |text: &str| format!("{store:?}").contains(&format!("{text:?}"));
    // A release is remembered for ten seconds.
    tokio::time::advance(Duration::from_secs(1)).await;
    take(&store, "other", request(100, 60_000)).await;
    assert!(is_kept("over/1") && !is_kept("over/2") && !is_kept("over/4"));
    tokio::time::advance(Duration::from_secs(9)).await;
    take(&store, "last", request(101, 60_000)).await;
    assert!(!is_kept("over/1"));
    assert!(is_kept("long") && is_kept("other") && is_kept("last"));
    // What is refused leaves nothing behind.
    let refused = store
        .renew(&key("never"), request(9, 1000).lease_id, None)
        .await;
    assert!(refused.is_ok() && !is_kept("never"));
}

#[tokio::test(start_paused = true)]
async fn pages_are_bounded_in_locks_bytes_and_steps() {
    let store = MemoryStore::new();
    for number in 0..150 {
        take(&store, &format!("few/{number:03}"), request(number, 60_000)).await;
    }
    let lengths = |pages: Vec<Vec<String>>| pages.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(lengths(pages(&store, "few/", None).await), [100, 50]);
    assert_eq!(lengths(pages(&store, "few/14", None).await), [10]);
    // A cursor ahead of the prefix.
    assert_eq!(lengths(pages(&store, "few/", Some("a")).await), [100, 50]);
    assert_eq!(
        lengths(pages(&store, "few/14", Some("few/100")).await),
        [10]
    );
    let pairs = BTreeMap::from([("k".to_owned(), "v".repeat(4000))]);
    for number in 0..100 {
        let large = Acquire {
            metadata: Metadata::new(pairs.clone()).expect("short enough"),
            ..request(1000 + number, 60_000)
        };
        take(&store, &format!("large/{number:03}"), large).await;
    }
    let large = pages(&store, "large/", None).await;
    let bytes = 192 + "large/000".len() + "k".len() + 4000 + "\"\":\"\",".len();
    let full = MAX_PAGE_BYTES.div_ceil(bytes);
    assert_eq!(lengths(large), [full, 100 - full]);
    let query = ListQuery {
        prefix: String::new(),
        limit: 100,
        cursor: Some("no cursor".to_owned()),
    };
    assert_eq!(
        store.list(&query).await.err(),
        Some(StoreError::InvalidCursor)
    );
    // Locks that are not held are looked at, and fill a page too.
    for number in 0..EXAMINED_PER_PAGE as u64 {
        take(&store, &format!("over/{number:04}"), request(number, 100)).await;
    }
    take(&store, "over/held", request(1, 60_000)).await;
    tokio::time::advance(Duration::from_millis(100)).await;
    assert_eq!(lengths(pages(&store, "over/", None).await), [0, 1]);
}
