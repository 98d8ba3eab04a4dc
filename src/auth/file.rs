//! The file with principals, in TOML.

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Deserialize;

use super::credentials::{TokenDigest, digest};
use super::grants::{Grant, Verb};

/// Precedes the digest of a token.
const ALGORITHM: &str = "sha256:";

/// Names of principals that are not in the file.
const RESERVED: [&str; 3] = ["anyone", "client", "breaker"];

/// The longest name of a principal, in bytes.
const MAX_ID_BYTES: usize = 64;

/// Why a file cannot be used, for the operator. It shows no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidFile(String);

/// The entries of a file.
#[derive(Debug, Default)]
pub struct Entries(Vec<Entry>);

/// A principal in the file.
#[derive(Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its name.
    pub id: String,
    /// The digests of its tokens.
    pub tokens: Vec<TokenDigest>,
    /// When they end.
    pub expires: Option<Timestamp>,
    /// What it may do.
    pub grants: Vec<Grant>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    #[serde(default)]
    principals: Vec<WrittenEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenEntry {
    id: String,
    tokens: Vec<String>,
    expires: Option<toml::value::Datetime>,
    grants: Vec<Grant>,
}

impl Entries {
    /// Parses the text of a file.
    ///
    /// # Errors
    /// [`InvalidFile`] names the first entry that is wrong.
    pub fn parse(text: &str) -> Result<Self, InvalidFile> {
        let written: Written = toml::from_str(text).map_err(|error| {
            let line = error.span().map_or(1, |span| {
                1 + text[..span.start.min(text.len())].matches('\n').count()
            });
            // The message quotes neither the line nor the cause: an operator may have written a token instead of its digest.
            InvalidFile(format!(
                "line {line} is not as in the guide of principals: a field is wrong, missing or unknown, or this is no TOML"
            ))
        })?;
        if written.principals.is_empty() {
            return Err(InvalidFile("it has no principals".into()));
        }
        let mut ids = HashSet::new();
        let mut entries = Vec::new();
        for (number, written) in (1..).zip(written.principals) {
            check_id(&written.id)
                .map_err(|text| InvalidFile(format!("principal number {number}: {text}")))?;
            let entry = Entry::check(written)?;
            if !ids.insert(entry.id.clone()) {
                return Err(InvalidFile(format!("the id {:?} stands twice", entry.id)));
            }
            entries.push(entry);
        }
        Ok(Self(entries))
    }
}

impl IntoIterator for Entries {
    type Item = Entry;
    type IntoIter = std::vec::IntoIter<Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl Entry {
    fn check(written: WrittenEntry) -> Result<Self, InvalidFile> {
        let of = |text: String| InvalidFile(format!("principal {:?}: {text}", written.id));
        let tokens = written.tokens.iter().map(|token| parse_digest(token));
        let tokens = tokens.collect::<Option<Vec<_>>>().ok_or_else(|| {
            of(format!(
                "each of tokens must be {ALGORITHM} and 64 hex digits, as `leasehold token new` prints it"
            ))
        })?;
        if tokens.is_empty() {
            return Err(of("tokens is empty".into()));
        }
        if written.grants.is_empty() || written.grants.iter().any(|grant| grant.verbs.is_empty()) {
            return Err(of(
                "a principal without a grant, or a grant without a verb, can do nothing".into(),
            ));
        }
        let expires = written.expires.map(|moment| parse_moment(&moment));
        let expires = expires.transpose().map_err(of)?;
        Ok(Self {
            id: written.id,
            tokens,
            expires,
            grants: written.grants,
        })
    }
}

/// The entry of a new principal, as text for the file.
///
/// # Errors
/// The name is not one.
pub fn entry(id: &str, token: &str, grants: &[Grant]) -> Result<String, String> {
    check_id(id)?;
    let hex = digest(token)
        .iter()
        .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
    let quoted = |verbs: &[Verb]| {
        let names: Vec<_> = verbs
            .iter()
            .map(|verb| format!("\"{}\"", verb.name()))
            .collect();
        names.join(", ")
    };
    let grants: Vec<_> = grants
        .iter()
        .map(|grant| {
            format!(
                "  {{ prefix = \"{}\", verbs = [{}] }},\n",
                grant.prefix,
                quoted(&grant.verbs)
            )
        })
        .collect();
    Ok(format!(
        "[[principals]]\nid = \"{id}\"\ntokens = [\"{ALGORITHM}{hex}\"]\ngrants = [\n{}]\n",
        grants.concat()
    ))
}

fn check_id(id: &str) -> Result<(), String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._/:@".contains(c);
    if id.is_empty() || id.len() > MAX_ID_BYTES || !id.chars().all(is_name) {
        return Err(format!(
            "the id must be 1 to {MAX_ID_BYTES} of A-Z a-z 0-9 - . _ / : @"
        ));
    }
    if RESERVED.contains(&id) {
        return Err("the id is a name of the server itself".into());
    }
    Ok(())
}

fn parse_digest(text: &str) -> Option<TokenDigest> {
    let hex = text.strip_prefix(ALGORITHM)?;
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (at, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).ok()?;
    }
    Some(digest)
}

/// A moment with its offset, or the begin of a day in UTC.
fn parse_moment(moment: &toml::value::Datetime) -> Result<Timestamp, String> {
    let text = match (moment.date, moment.time) {
        (Some(_), None) => format!("{moment}T00:00:00Z"),
        _ => moment.to_string(),
    };
    text.parse().map_err(|_| {
        format!("expires is {moment}, but must be a date, or a moment with its offset such as 2027-01-31T12:00:00Z")
    })
}
