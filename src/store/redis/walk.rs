//! A walk over the held locks with `SCAN`, a page at a time.
//!
//! `SCAN` answers with as many keys as a step happens to find, a page holds no more than it was
//! asked for. So the rest of a step is left for the next page, which takes the same step again and
//! goes on behind the last key it gave, in the order of the script. If the step then ends elsewhere, Redis has
//! resized its table in between, and the script gives the whole step again: a key may repeat, but none is passed over.

use crate::lock::key::LockKey;
use crate::lock::rules::LeaseInfo;
use crate::store::contract::Page;

/// Where a walk stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// What marks the activation that it belongs to: `SCAN` cursors mean nothing on another node.
    mark: String,
    /// `SCAN`'s own cursor, at which the step begins.
    scan: String,
    /// The step's end and the last key given, if the step was not given whole.
    partial: Option<(String, LockKey)>,
}

/// What one step found.
pub(super) struct Step {
    pub(super) end: String,
    pub(super) locks: Vec<(LockKey, LeaseInfo, usize)>,
    /// Whether there are more of the same step, behind the last of these.
    pub(super) is_cut: bool,
}

const START: &str = "0";

impl Cursor {
    /// The beginning of a walk.
    pub(super) fn start(mark: &str) -> Self {
        Self {
            mark: mark.to_owned(),
            scan: START.to_owned(),
            partial: None,
        }
    }

    /// Reads a cursor that [`Cursor::encode`] wrote. One of another activation begins anew; `None`
    /// if it is no cursor.
    pub(super) fn decode(text: &str, mark: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '-');
        let of = parts
            .next()
            .filter(|of| of.len() == mark.len() && is_hex(of))?;
        let scan = parts.next().filter(|scan| is_scan_cursor(scan))?;
        let partial = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some(end), Some(key)) if is_scan_cursor(end) => {
                Some((end.to_owned(), LockKey::parse(key).ok()?))
            }
            _ => return None,
        };
        if of != mark {
            return Some(Self::start(mark));
        }
        Some(Self {
            mark: mark.to_owned(),
            scan: scan.to_owned(),
            partial,
        })
    }

    fn encode(&self) -> String {
        match &self.partial {
            None => format!("{}-{}", self.mark, self.scan),
            Some((end, key)) => format!("{}-{}-{end}-{key}", self.mark, self.scan),
        }
    }

    /// Where the step before ended and the last key that it gave, if it was not given whole.
    pub(super) fn given(&self) -> (&str, Option<&LockKey>) {
        match &self.partial {
            None => ("", None),
            Some((end, key)) => (end, Some(key)),
        }
    }

    /// The argument of `SCAN`.
    pub(super) fn scan(&self) -> &str {
        &self.scan
    }

    /// Adds to `page` what it has room for and moves on; `None` at the end of the walk.
    pub(super) fn advance(self, step: Step, page: &mut Page, limit: usize) -> Option<Self> {
        let Step {
            end,
            mut locks,
            is_cut,
        } = step;
        locks.dedup_by(|(a, ..), (b, ..)| a == b);
        let room = limit - page.locks.len();
        let rest = is_cut || locks.len() > room;
        locks.truncate(room);
        page.locks.append(&mut locks);
        match page.locks.last() {
            Some((last, ..)) if rest && room > 0 => Some(Self {
                partial: Some((end, last.clone())),
                mark: self.mark,
                scan: self.scan,
            }),
            _ if end == START => None,
            _ => Some(Self {
                mark: self.mark,
                scan: end,
                partial: None,
            }),
        }
    }
}

/// The text of a cursor for the next page.
pub(super) fn encode(cursor: Option<&Cursor>) -> Option<String> {
    cursor.map(Cursor::encode)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_hexdigit())
}

fn is_scan_cursor(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u64>().is_ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::lock::lease::{FencingToken, Metadata, Timestamp, Ttl};

    fn step(end: &str, keys: &[&str]) -> Step {
        let info = LeaseInfo {
            holder: None,
            metadata: Metadata::default(),
            fencing_token: FencingToken::new(1).expect("small"),
            ttl: Ttl::stored(Duration::from_secs(1)),
            acquired_at: Timestamp::from_micros(0),
            deadline: Timestamp::from_micros(1),
            renewals: 0,
            read_at: Timestamp::from_micros(0),
        };
        let locks = keys
            .iter()
            .map(|k| (LockKey::parse(k).expect(k), info.clone(), 0))
            .collect();
        Step {
            end: end.into(),
            locks,
            is_cut: false,
        }
    }

    fn names(page: &Page) -> Vec<&str> {
        page.locks.iter().map(|(key, ..)| key.as_str()).collect()
    }

    #[test]
    fn a_step_with_too_many_keys_is_given_in_pages() {
        let mut first = Page::default();
        let cursor = Cursor::start("abcd0123").advance(step("7", &["a", "b", "c"]), &mut first, 2);
        assert_eq!(names(&first), ["a", "b"]);
        let cursor =
            Cursor::decode(&cursor.expect("more").encode(), "abcd0123").expect("own cursor");
        assert_eq!(cursor.scan(), "0");
        assert_eq!(cursor.given().0, "7");
        assert_eq!(cursor.given().1.map(LockKey::as_str), Some("b"));
        let mut second = Page::default();
        let cursor = cursor.advance(step("7", &["c"]), &mut second, 2);
        assert_eq!(names(&second), ["c"]);
        assert_eq!(cursor.expect("more").scan(), "7");
    }

    #[test]
    fn a_step_that_was_cut_is_gone_on_with() {
        let cut = Step {
            is_cut: true,
            ..step("0", &["a", "b"])
        };
        let mut page = Page::default();
        let cursor = Cursor::start("abcd0123").advance(cut, &mut page, 5);
        let cursor = cursor.expect("more");
        assert_eq!(names(&page), ["a", "b"]);
        assert_eq!((cursor.scan(), cursor.given().0), ("0", "0"));
        assert_eq!(cursor.given().1.map(LockKey::as_str), Some("b"));
        let end = cursor.advance(step("0", &["c"]), &mut page, 5);
        assert_eq!(names(&page), ["a", "b", "c"]);
        assert_eq!(end, None);
    }

    #[test]
    fn a_cursor_of_another_activation_begins_anew_and_a_foreign_text_is_refused() {
        let cursor = Cursor::decode("ffffffff-12", "abcd0123");
        assert_eq!(cursor, Some(Cursor::start("abcd0123")));
        for bad in [
            "",
            "x",
            "0",
            "abcd0123",
            "abcd0123-",
            "abcd0123-x",
            "abcd0123-1-2",
            "abcd0123-1-2-a b",
            "abcd0123-18446744073709551616",
            "abcd012z-1",
        ] {
            assert_eq!(Cursor::decode(bad, "abcd0123"), None, "{bad}");
        }
    }
}
