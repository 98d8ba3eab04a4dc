//! What principals may do, and with which locks.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::lock::key::{LockKey, check_prefix};

/// An operation that a grant permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Acquire a lock, and renew and release one's own lease.
    Acquire,
    /// See who holds a lock.
    Read,
    /// Break the lease of another client. With every key, it also permits to end a recovery.
    Break,
}

/// The beginning of keys, up to the end of a segment: `ci` covers `ci` and `ci/a`, but not `cia`. `ci/` covers only what is below
/// `ci`. An empty prefix covers every key.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Prefix(String);

/// Some operations on the keys with a prefix.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// The keys.
    pub prefix: Prefix,
    /// The operations.
    pub verbs: Vec<Verb>,
}

impl Verb {
    /// The verb as grants write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Acquire => "acquire",
            Self::Read => "read",
            Self::Break => "break",
        }
    }
}

impl FromStr for Verb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Acquire, Self::Read, Self::Break]
            .into_iter()
            .find(|verb| verb.name() == text)
            .ok_or_else(|| format!("{text:?} is no verb: use acquire, read or break"))
    }
}

impl Prefix {
    /// Whether the key begins with this prefix.
    #[must_use]
    pub fn covers(&self, key: &str) -> bool {
        match key.strip_prefix(&self.0) {
            _ if self.0.is_empty() => true,
            Some(rest) if self.0.ends_with('/') => !rest.is_empty(),
            Some(rest) => rest.is_empty() || rest.starts_with('/'),
            None => false,
        }
    }

    /// Whether each key that begins with `text` begins with this prefix.
    #[must_use]
    pub fn covers_all_with(&self, text: &str) -> bool {
        let rest = text.strip_prefix(&self.0);
        self.0.is_empty() || rest.is_some_and(|rest| self.0.ends_with('/') || rest.starts_with('/'))
    }
}

impl TryFrom<String> for Prefix {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong =
            |error: &dyn fmt::Display| format!("the prefix {text:?} covers no key: {error}");
        check_prefix(&text).map_err(|error| wrong(&error))?;
        if !text.is_empty() {
            let separator = if text.ends_with('/') { "" } else { "/" };
            LockKey::parse(&format!("{text}{separator}a")).map_err(|error| wrong(&error))?;
        }
        Ok(Self(text))
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.to_owned().try_into()
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Grant {
    /// Some operations on every key.
    #[must_use]
    pub fn of_all_keys(verbs: &[Verb]) -> Self {
        Self {
            prefix: Prefix(String::new()),
            verbs: verbs.to_vec(),
        }
    }

    /// Whether it permits this operation on this key.
    #[must_use]
    pub fn permits(&self, verb: Verb, key: &str) -> bool {
        self.verbs.contains(&verb) && self.prefix.covers(key)
    }
}

impl FromStr for Grant {
    type Err = String;

    /// `PREFIX:VERB,…`. The prefix may have colons too.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.rsplit_once(':');
        let (prefix, verbs) = parts.ok_or_else(|| {
            format!("{text:?} is no grant: write PREFIX:VERB,… such as ci/:acquire,read")
        })?;
        Ok(Self {
            prefix: prefix.parse()?,
            verbs: verbs.split(',').map(str::parse).collect::<Result<_, _>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_at_the_end_of_a_segment() {
        for (prefix, covered, others) in [
            ("", &["a", "a/b"][..], &[][..]),
            (
                "ci",
                &["ci", "ci/a", "ci/a/b"],
                &["cia", "c", "ci-a", "a/ci"],
            ),
            ("ci/", &["ci/a", "ci/a/b"], &["ci", "cia", "cia/b"]),
            ("ci/a", &["ci/a", "ci/a/b"], &["ci/ab", "ci"]),
        ] {
            let prefix: Prefix = prefix.parse().expect(prefix);
            assert!(covered.iter().all(|key| prefix.covers(key)), "{prefix}");
            assert!(!others.iter().any(|key| prefix.covers(key)), "{prefix}");
        }
    }

    #[test]
    fn listing_stays_within_a_prefix() {
        for (prefix, text, is_within) in [
            ("ci/a", "", false),
            ("ci/a", "ci/", false),
            ("ci/a", "ci/a", false),
            ("ci/a", "ci/a/", true),
            ("ci/a", "ci/a/b", true),
            ("ci/a", "ci/ab", false),
            ("ci/", "ci", false),
            ("ci/", "ci/", true),
            ("ci/", "ci/a", true),
            ("", "", true),
            ("", "a", true),
        ] {
            let prefix: Prefix = prefix.parse().expect("a prefix");
            assert_eq!(prefix.covers_all_with(text), is_within, "{prefix} {text}");
        }
    }

    #[test]
    fn prefixes_that_cover_no_key_are_refused() {
        for text in ["/", "a//", "/a", "a b", "a/../", "é"] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn grants_are_written_in_one_word() {
        let grant: Grant = "a:b/:acquire,read".parse().expect("a grant");
        assert_eq!(grant.prefix.to_string(), "a:b/");
        assert_eq!(grant.verbs, [Verb::Acquire, Verb::Read]);
        for text in ["ci", "ci/:write", "ci/:", "//:read"] {
            assert!(text.parse::<Grant>().is_err(), "{text}");
        }
    }
}
