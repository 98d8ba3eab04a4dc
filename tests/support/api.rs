//! A client of the HTTP API.

use std::time::Duration;

use serde_json::{Value, json};

use super::http::{Reply, http};
use super::poll;

/// How long the service may be unavailable after a fault of the store.
pub(crate) const FAILOVER: Duration = Duration::from_secs(30);

/// The lock routes of one server. Keys go into the path unescaped, so that a test controls their encoding.
#[derive(Clone)]
pub(crate) struct Api {
    addr: String,
    headers: Vec<(String, String)>,
}

impl Api {
    /// The API of the server or proxy at this address.
    pub(crate) fn new(addr: &str) -> Self {
        Self {
            addr: addr.to_owned(),
            headers: Vec::new(),
        }
    }

    /// Adds this header to each call, such as `Authorization`.
    pub(crate) fn with_header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// `POST /locks/{key}`; `None` sends no body.
    pub(crate) fn acquire(&self, key: &str, body: impl Into<Option<Value>>) -> Reply {
        self.acquire_with(key, &[], body)
    }

    /// Retries until it acquires the lock for 1.5 s.
    pub(crate) fn acquire_soon(&self, key: &str) -> Reply {
        let granted = poll(FAILOVER, || {
            let reply = self.acquire(key, json!({"ttl_ms": 1_500}));
            // An attempt with an unknown outcome may hold the key until its TTL is over.
            assert_ne!(reply.status, 500, "{}", reply.body);
            (reply.status == 201).then_some(reply)
        });
        granted.unwrap_or_else(|| {
            panic!(
                "{key} is not granted again: {}",
                self.acquire(key, None).body
            )
        })
    }

    /// As `acquire`, with headers such as `Idempotency-Key`.
    pub(crate) fn acquire_with(
        &self,
        key: &str,
        headers: &[(&str, &str)],
        body: impl Into<Option<Value>>,
    ) -> Reply {
        self.call("POST", &format!("/locks/{key}"), headers, body)
    }

    /// `PUT /locks/{key}/lease`; `None` sends no body.
    pub(crate) fn renew(&self, key: &str, lease_id: &str, body: impl Into<Option<Value>>) -> Reply {
        self.call(
            "PUT",
            &format!("/locks/{key}/lease"),
            &[("Lease-Id", lease_id)],
            body,
        )
    }

    /// `DELETE /locks/{key}` with a lease id.
    pub(crate) fn release(&self, key: &str, lease_id: &str) -> Reply {
        self.call(
            "DELETE",
            &format!("/locks/{key}"),
            &[("Lease-Id", lease_id)],
            None,
        )
    }

    /// `DELETE /locks/{key}?force=true` for the grant with this fencing token.
    pub(crate) fn break_lease(&self, key: &str, fencing_token: u64) -> Reply {
        let path = format!("/locks/{key}?force=true&fencing_token={fencing_token}");
        self.call("DELETE", &path, &[], None)
    }

    /// `DELETE /recovery?force=true`.
    pub(crate) fn end_recovery(&self) -> Reply {
        self.call("DELETE", "/recovery?force=true", &[], None)
    }

    /// `GET /locks/{key}`.
    pub(crate) fn inspect(&self, key: &str) -> Reply {
        self.call("GET", &format!("/locks/{key}"), &[], None)
    }

    /// `GET /locks`, with a query string without its question mark; an empty one is omitted.
    pub(crate) fn list(&self, query: &str) -> Reply {
        let path = if query.is_empty() {
            "/locks".to_owned()
        } else {
            format!("/locks?{query}")
        };
        self.call("GET", &path, &[], None)
    }

    /// Any call; the body is JSON.
    pub(crate) fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Option<Value>>,
    ) -> Reply {
        let body = body.into().map(|body| body.to_string());
        let mut all: Vec<(&str, &str)> = self.headers.iter().map(|(n, v)| (&**n, &**v)).collect();
        all.extend_from_slice(headers);
        if body.is_some() {
            all.push(("Content-Type", "application/json"));
        }
        http(&self.addr, method, path, &all, body.as_deref())
    }
}
