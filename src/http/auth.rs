//! The bearer tokens of requests.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use jiff::Timestamp;
use tokio::sync::Semaphore;
use tokio::time::sleep;

use crate::auth::{Credentials, Denied, Principal, Unknown};
use crate::http::problem::{Kind, Problem};

/// The delay of the answer to a wrong token. The server never delays a valid token: clients may share an address.
pub const WRONG_TOKEN_DELAY: Duration = Duration::from_millis(250);

/// How many answers to wrong tokens the server delays at once. It sends further ones immediately, because each delay
/// occupies a connection.
pub const MAX_DELAYED_ANSWERS: usize = 256;

/// Who the callers are, by their bearer tokens.
#[derive(Debug)]
pub struct Auth {
    credentials: Arc<Credentials>,
    delayed_answers: Semaphore,
}

impl Auth {
    /// Knows these tokens.
    #[must_use]
    pub fn new(credentials: Arc<Credentials>) -> Self {
        Self {
            credentials,
            delayed_answers: Semaphore::new(MAX_DELAYED_ANSWERS),
        }
    }

    /// What is wrong with the files of the tokens.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.credentials.problem()
    }

    /// The principal that sends these headers. The refusal of an unknown token comes after [`WRONG_TOKEN_DELAY`].
    ///
    /// # Errors
    /// 401 if the server requires a token and the headers carry no known one.
    pub async fn authenticate(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let principal = self.identify(headers);
        if principal.is_err()
            && headers.contains_key(AUTHORIZATION)
            && let Ok(_delayed) = self.delayed_answers.try_acquire()
        {
            sleep(WRONG_TOKEN_DELAY).await;
        }
        principal
    }

    /// The principal that sends these headers at this moment.
    ///
    /// # Errors
    /// As [`Auth::authenticate`], at once.
    pub fn identify(&self, headers: &HeaderMap) -> Result<Principal, Problem> {
        let token = bearer_token(headers)?;
        let directory = self.credentials.directory();
        let found = directory.identify(token, Timestamp::now());
        found.cloned().map_err(|unknown| {
            unauthenticated(match unknown {
                Unknown::NoToken => "send the header Authorization: Bearer and the token",
                Unknown::WrongToken => "this server does not know the bearer token",
                Unknown::Expired => "the bearer token has expired",
            })
        })
    }
}

impl From<Denied> for Problem {
    /// 401 for a caller without a token, 403 for a caller whose token does not permit it.
    fn from(denied: Denied) -> Self {
        let kind = if denied.is_anonymous {
            Kind::Unauthenticated
        } else {
            Kind::Forbidden
        };
        Self::new(kind, denied.detail)
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
