//! The kinds of refusal, in one table. The documentation lists them in its order.

use axum::http::StatusCode;

/// Defines the kinds, each with its name, HTTP status and title.
macro_rules! kinds {
    ($($(#[$doc:meta])* $variant:ident = ($name:literal, $status:literal, $title:literal),)+) => {
        /// The kinds of refusal: name, status, title.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Kind { $($(#[$doc])* $variant,)+ }

        impl Kind {
            /// All kinds, for the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The last part of the problem's `type`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The HTTP status.
            #[must_use]
            pub fn status(self) -> StatusCode {
                let status = match self { $(Self::$variant => $status,)+ };
                StatusCode::from_u16(status).expect("the table has statuses")
            }

            /// The title, the same for all problems of the kind.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)+ }
            }
        }
    };
}

kinds! {
    /// The path names no valid key.
    InvalidKey = ("invalid-key", 400, "The lock key is not valid"),
    /// The route does not accept this body, query or header.
    InvalidRequest = ("invalid-request", 400, "The request is not valid"),
    /// `Lease-Id` is missing.
    LeaseIdRequired = ("lease-id-required", 400, "The Lease-Id header is missing"),
    /// The request needs a bearer token.
    Unauthenticated = ("unauthenticated", 401, "A bearer token is required"),
    /// The bearer token does not permit this, or the request comes from a page of another origin.
    Forbidden = ("forbidden", 403, "The operation is not permitted"),
    /// The route does not exist.
    NotFound = ("not-found", 404, "The route does not exist"),
    /// The route does not have this method.
    MethodNotAllowed = ("method-not-allowed", 405, "The route does not support this method"),
    /// The body did not arrive in time.
    RequestTimeout = ("request-timeout", 408, "The body did not arrive in time"),
    /// The lease is over, or was never the caller's.
    LeaseLost = ("lease-lost", 409, "The lease is lost"),
    /// The body is too large.
    PayloadTooLarge = ("payload-too-large", 413, "The body is too large"),
    /// The body is not plain JSON.
    UnsupportedMediaType = ("unsupported-media-type", 415, "The body must be plain application/json"),
    /// The request names another server.
    MisdirectedRequest = ("misdirected-request", 421, "The server does not answer to this host name"),
    /// An earlier request with other parameters used the idempotency key.
    IdempotencyKeyReused = ("idempotency-key-reused", 422, "The Idempotency-Key was used for another request"),
    /// Another client holds the lock.
    LockHeld = ("lock-held", 423, "The lock is held"),
    /// Another client held the lock for the whole wait.
    WaitTimeout = ("wait-timeout", 423, "The lock was held for the whole wait"),
    /// The limit of waiters is reached.
    TooManyWaiters = ("too-many-waiters", 429, "Too many requests wait for locks"),
    /// The limit of listings in progress is reached.
    TooManyListings = ("too-many-listings", 429, "Too many listings are in progress"),
    /// The head is too large.
    HeadTooLarge = ("head-too-large", 431, "The head of the request is too large"),
    /// A defect of this program.
    Internal = ("internal", 500, "Internal error"),
    /// The store is unreachable.
    StoreUnavailable = ("store-unavailable", 503, "The store is unavailable"),
    /// The store has no memory left.
    StoreOutOfMemory = ("store-out-of-memory", 503, "The store is out of memory"),
    /// The store refuses writes because it cannot save them.
    StoreNotPersisting = ("store-not-persisting", 503, "The store rejects writes because it cannot save them"),
    /// Too few replicas confirmed in time.
    ReplicationUnconfirmed = ("replication-unconfirmed", 503, "Too few replicas confirmed in time"),
    /// The store pauses new grants: clients may still rely on leases that it lost.
    Recovering = ("recovering", 503, "New grants pause after a failover or a loss"),
    /// The server drains.
    ShuttingDown = ("shutting-down", 503, "The server is shutting down"),
    /// The limit of connections is reached.
    TooManyConnections = ("too-many-connections", 503, "The limit of connections is reached"),
}
