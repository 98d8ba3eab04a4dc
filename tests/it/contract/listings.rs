//! Pages of held locks.

use std::collections::BTreeMap;

use leasehold::store::contract::{ListQuery, StoreError};

use super::release;
use crate::support::stores::{Subject, key, ms, request, ttl};

pub(super) async fn listing_holds_every_held_key_once_the_pages_are_read(s: &Subject) {
    let mut held = BTreeMap::new();
    for number in 0..60 {
        let name = format!("jobs/{number}");
        let lease = s
            .granted(
                &key(&name),
                &request(if number % 4 == 0 { 1000 } else { 9000 }),
            )
            .await;
        held.insert(name, lease);
    }
    for other in ["job", "jobs", "other/1"] {
        s.granted(&key(other), &request(9000)).await;
    }
    s.advance(ms(1000)).await;
    release(s, "jobs/1", held["jobs/1"].lease_id).await;
    held.retain(|name, lease| lease.info.ttl == ttl(9000) && name != "jobs/1");
    for limit in [1, 7, 1000] {
        let mut seen = BTreeMap::new();
        let mut cursor = None;
        for pages in 0.. {
            assert!(pages < 500, "the listing does not end");
            let query = ListQuery {
                prefix: "jobs/".to_owned(),
                limit,
                cursor,
            };
            let page = s.store.list(&query).await.expect("a page");
            assert!(page.locks.len() <= limit);
            seen.extend(
                page.locks
                    .into_iter()
                    .map(|(key, info, _)| (key.as_str().to_owned(), info)),
            );
            cursor = page.next_cursor;
            if cursor.is_none() {
                break;
            }
        }
        assert!(
            seen.keys().eq(held.keys()),
            "limit {limit}: {:?}",
            seen.keys()
        );
        assert_eq!(
            seen["jobs/2"].fencing_token,
            held["jobs/2"].info.fencing_token
        );
    }
}

pub(super) async fn listing_refuses_a_cursor_it_never_gave(s: &Subject) {
    let query = ListQuery {
        prefix: String::new(),
        limit: 10,
        cursor: Some("no cursor".to_owned()),
    };
    assert_eq!(
        s.store.list(&query).await.err(),
        Some(StoreError::InvalidCursor)
    );
}
