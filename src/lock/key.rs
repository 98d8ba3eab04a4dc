//! The name of a lock.
//!
//! Names are flat: a `/` is a character like any other, so `a/b` is not a part of `a`. What the
//! syntax forbids is what proxies and HTTP libraries are known to rewrite on the way (empty, `.`
//! and `..` segments), and a last segment `lease`, which would make two routes out of one path.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// The longest key, in bytes.
pub const MAX_KEY_BYTES: usize = 256;

/// The characters of a key besides ASCII letters and digits.
const PUNCTUATION: &[u8] = b"-._~:@/+=,";

/// A valid lock key; cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockKey(Arc<str>);

/// Why a text is not a key; `Display` is a sentence for the caller.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    /// No characters at all.
    #[error("the key is empty, but must have 1 to 256 bytes")]
    Empty,
    /// More than [`MAX_KEY_BYTES`].
    #[error("the key is longer than 256 bytes")]
    TooLong,
    /// A character outside `A-Z a-z 0-9 - . _ ~ : @ / + = ,`.
    #[error("the key must contain only A-Z a-z 0-9 - . _ ~ : @ / + = , after one percent-decoding")]
    Character,
    /// A leading, trailing or doubled slash.
    #[error("the key has an empty segment (a leading, trailing or double /)")]
    EmptySegment,
    /// A segment `.` or `..`.
    #[error("the key has a segment . or .., which proxies rewrite")]
    DotSegment,
    /// The last segment is `lease`.
    #[error("the last segment of the key must not be lease")]
    ReservedSegment,
}

impl LockKey {
    /// Parses a key that was percent-decoded exactly once.
    ///
    /// # Errors
    /// [`InvalidKey`] names the first rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, InvalidKey> {
        check_length_and_characters(text)?;
        let mut last = "";
        for segment in text.split('/') {
            match segment {
                "" => return Err(InvalidKey::EmptySegment),
                "." | ".." => return Err(InvalidKey::DotSegment),
                _ => last = segment,
            }
        }
        if last == "lease" {
            return Err(InvalidKey::ReservedSegment);
        }
        Ok(Self(text.into()))
    }

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Checks what a key's beginning must satisfy too: a prefix may end inside a segment, and may be
/// empty.
///
/// # Errors
/// [`InvalidKey::TooLong`] or [`InvalidKey::Character`].
pub fn check_prefix(prefix: &str) -> Result<(), InvalidKey> {
    if prefix.is_empty() {
        Ok(())
    } else {
        check_length_and_characters(prefix)
    }
}

fn check_length_and_characters(text: &str) -> Result<(), InvalidKey> {
    if text.is_empty() {
        Err(InvalidKey::Empty)
    } else if text.len() > MAX_KEY_BYTES {
        Err(InvalidKey::TooLong)
    } else if text
        .bytes()
        .all(|b| b.is_ascii_alphanumeric() || PUNCTUATION.contains(&b))
    {
        Ok(())
    } else {
        Err(InvalidKey::Character)
    }
}

/// Keys are ordered as their bytes are.
impl Borrow<str> for LockKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stay_as_written() {
        for text in [
            "a",
            "my_lock",
            "a/b",
            "jobs/2024-01-01T00:00:00+01=x,y@z~",
            "leases",
            "lease/x",
        ] {
            assert_eq!(LockKey::parse(text).expect(text).as_str(), text);
        }
        assert!(LockKey::parse(&"k".repeat(256)).is_ok());
    }

    #[test]
    fn each_broken_rule_is_named() {
        for (text, why) in [
            ("", InvalidKey::Empty),
            ("a b", InvalidKey::Character),
            ("a%2Fb", InvalidKey::Character),
            ("naïve", InvalidKey::Character),
            ("a\0", InvalidKey::Character),
            ("/a", InvalidKey::EmptySegment),
            ("a/", InvalidKey::EmptySegment),
            ("a//b", InvalidKey::EmptySegment),
            ("./a", InvalidKey::DotSegment),
            ("a/..", InvalidKey::DotSegment),
            ("lease", InvalidKey::ReservedSegment),
            ("a/lease", InvalidKey::ReservedSegment),
        ] {
            assert_eq!(LockKey::parse(text), Err(why), "{text:?}");
        }
        assert_eq!(LockKey::parse(&"k".repeat(257)), Err(InvalidKey::TooLong));
    }

    #[test]
    fn prefix_may_be_empty_or_end_inside_a_segment() {
        for text in ["", "a/", "/", "leas", "lease", &"k".repeat(256)] {
            assert_eq!(check_prefix(text), Ok(()), "{text:?}");
        }
        assert_eq!(check_prefix("a b"), Err(InvalidKey::Character));
        assert_eq!(check_prefix(&"k".repeat(257)), Err(InvalidKey::TooLong));
    }

    #[test]
    fn key_and_its_error_are_shown() {
        let key = LockKey::parse("a/b").expect("a key");
        assert_eq!(format!("{key} {key:?}"), "a/b \"a/b\"");
        assert_eq!(Borrow::<str>::borrow(&key), "a/b");
        let why = InvalidKey::ReservedSegment.to_string();
        assert_eq!(why, "the last segment of the key must not be lease");
    }
}
