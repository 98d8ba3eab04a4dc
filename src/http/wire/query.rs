//! The query parameters.
//!
//! The decoder replaces an escape that is not UTF-8 by U+FFFD. Each parameter accepts only ASCII, so such a value is
//! refused and never mistaken for another.

use serde::Deserialize;

use crate::http::problem::Problem;
use crate::lock::key::check_prefix;
use crate::lock::lease::FencingToken;
use crate::store::contract::ListQuery;

/// The number of keys of a page that names none, and the most.
pub const DEFAULT_LIST_LIMIT: u64 = 100;
/// See [`DEFAULT_LIST_LIMIT`].
pub const MAX_LIST_LIMIT: u64 = 1000;

/// The longest cursor that the server reads, in bytes.
pub(in crate::http) const MAX_CURSOR_BYTES: usize = 512;

/// The query of a route that has no parameters.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoParameters {}

/// The query of a listing.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListParameters {
    #[serde(default)]
    prefix: String,
    limit: Option<String>,
    cursor: Option<String>,
}

/// The query of a release. With `force=true` it breaks the lease that has this fencing token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseParameters {
    #[serde(default)]
    force: bool,
    fencing_token: Option<String>,
}

/// The query of the end of a recovery.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecoveryParameters {
    #[serde(default)]
    force: bool,
}

impl RecoveryParameters {
    /// Checks that the client means it.
    ///
    /// # Errors
    /// A problem that names the parameter.
    pub fn check(&self) -> Result<(), Problem> {
        if self.force {
            Ok(())
        } else {
            Err(Problem::invalid(
                "ending a recovery requires force=true: clients may still count on lost leases",
            ))
        }
    }
}

impl ListParameters {
    /// Checks every bound.
    ///
    /// # Errors
    /// A problem that names the parameter and its bounds.
    pub fn into_query(self) -> Result<ListQuery, Problem> {
        check_prefix(&self.prefix).map_err(|_| {
            Problem::invalid("prefix must be the beginning of a key: at most 256 of its characters")
        })?;
        let limit = match self.limit {
            None => DEFAULT_LIST_LIMIT,
            Some(text) => integer(&text)
                .filter(|limit| (1..=MAX_LIST_LIMIT).contains(limit))
                .ok_or_else(|| {
                    Problem::invalid(format!(
                        "limit must be an integer from 1 to {MAX_LIST_LIMIT}"
                    ))
                })?,
        };
        let plain = |cursor: &String| cursor.is_ascii() && cursor.len() <= MAX_CURSOR_BYTES;
        if !self.cursor.as_ref().is_none_or(plain) {
            return Err(Problem::invalid(
                "cursor must be the next_cursor of an earlier page",
            ));
        }
        Ok(ListQuery {
            prefix: self.prefix,
            limit: usize::try_from(limit).expect("at most a thousand"),
            cursor: self.cursor,
        })
    }
}

impl ReleaseParameters {
    /// The fencing token of the lease to break, if `force=true` asks for that.
    ///
    /// # Errors
    /// A problem that names the parameter.
    pub fn broken_token(&self) -> Result<Option<FencingToken>, Problem> {
        match (self.force, &self.fencing_token) {
            (false, None) => Ok(None),
            (false, Some(_)) => Err(Problem::invalid(
                "fencing_token requires force=true; a release needs only the header Lease-Id",
            )),
            (true, None) => Err(Problem::invalid(
                "force=true requires the fencing_token of the lease to break",
            )),
            (true, Some(text)) => integer(text)
                .and_then(FencingToken::new)
                .map(Some)
                .ok_or_else(|| {
                    Problem::invalid(format!(
                        "fencing_token must be an integer from 0 to {}",
                        FencingToken::MAX
                    ))
                }),
        }
    }
}

/// Parses digits alone: no sign, fraction, exponent or leading zero.
fn integer(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let padded = text.len() > 1 && text.starts_with('0');
    (digits && !padded).then(|| text.parse().ok()).flatten()
}
