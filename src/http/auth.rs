//! Bearer tokens, compared in constant time.

use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::http::problem::{Kind, Problem};

/// The delay of the answer to a wrong token. The server never delays a valid token: clients may share an address.
pub const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(250);

/// How many answers to wrong tokens the server delays at once. It sends further ones immediately, because each delay
/// occupies a connection.
pub const MAX_DELAYED_ANSWERS: usize = 256;

const BREAK_TOKEN_REQUIRED: &str = "breaking a lease or ending a recovery requires the break token";

/// The known bearer tokens and their permissions. It stores digests, so that a comparison takes the same time for every
/// length of a token.
#[derive(Debug)]
pub struct Auth {
    token: Option<[u8; 32]>,
    break_token: Option<[u8; 32]>,
    delayed_answers: Semaphore,
}

/// The caller, identified by its token. Each principal has its own idempotency keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Principal {
    /// A caller without a token, where the server requires none.
    Anyone,
    /// A caller with the token.
    Client,
    /// A caller with the break token, which permits every operation.
    Breaker,
}

impl Principal {
    /// The name that distinguishes the principals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Anyone => "anyone",
            Self::Client => "client",
            Self::Breaker => "breaker",
        }
    }
}

impl Auth {
    /// Requires `token` for all lock routes and `break_token` to break a lease, each if it is
    /// given. A caller with the break token needs no other.
    #[must_use]
    pub fn new(token: Option<&str>, break_token: Option<&str>) -> Self {
        Self {
            token: token.map(digest),
            break_token: break_token.map(digest),
            delayed_answers: Semaphore::new(MAX_DELAYED_ANSWERS),
        }
    }

    /// The principal that sends these headers. The refusal of an unknown token comes after [`WRONG_TOKEN_DELAY`].
    ///
    /// # Errors
    /// 401 if the server requires a token and the headers carry no known one.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let principal = self.principal(headers);
        if principal.is_err()
            && headers.contains_key(AUTHORIZATION)
            && let Ok(_delayed) = self.delayed_answers.try_acquire()
        {
            sleep(WRONG_TOKEN_DELAY).await;
        }
        principal
    }

    fn principal(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let shown = bearer_token(headers)?.map(digest);
        let is = |known: Option<[u8; 32]>| match (known, shown) {
            (Some(known), Some(shown)) => bool::from(known.ct_eq(&shown)),
            _ => false,
        };
        // Both comparisons always run, so that the time of the answer does not tell which one matched.
        match (is(self.break_token), is(self.token)) {
            (true, _) => Ok(Principal::Breaker),
            (false, true) => Ok(Principal::Client),
            (false, false)
                if self.token.is_none() && (shown.is_none() || self.break_token.is_none()) =>
            {
                Ok(Principal::Anyone)
            }
            (false, false) => Err(unauthenticated(if shown.is_some() {
                "this server does not know the bearer token"
            } else {
                "send the header Authorization: Bearer and the token"
            })),
        }
    }

    /// Checks that `principal` may break a lease or end a recovery.
    ///
    /// # Errors
    /// 401 for a caller without a token, 403 for a caller whose token does not permit it.
    pub fn check_break(&self, principal: Principal) -> Result<(), Problem> {
        match principal {
            Principal::Breaker => Ok(()),
            Principal::Anyone if self.break_token.is_none() => Ok(()),
            Principal::Anyone => Err(unauthenticated(BREAK_TOKEN_REQUIRED)),
            Principal::Client => Err(Problem::new(Kind::Forbidden, BREAK_TOKEN_REQUIRED)),
        }
    }
}

fn bearer_token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value.to_str().ok(),
        _ => None,
    };
    let token = value.and_then(|value| value.split_once(' '));
    match token {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Ok(Some(token.trim())),
        _ => Err(unauthenticated(
            "the header Authorization must contain one Bearer token",
        )),
    }
}

fn unauthenticated(detail: &'static str) -> Problem {
    Problem::new(Kind::Unauthenticated, detail)
}

fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}
