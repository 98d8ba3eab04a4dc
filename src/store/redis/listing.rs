//! A scan over the held locks with `ZSCAN`, a page at a time.
//!
//! A step of the scan answers with as many locks as it happens to find; a page holds no more than its limit. So the rest of a
//! step is left for the next page: it takes the same step again, and goes on behind the last key of the page before, in the
//! order of the script. If the step then ends elsewhere, Redis has resized its table in between, and the script gives the
//! whole step again. A key may repeat, but none is left out.

use crate::lock::key::LockKey;
use crate::store::contract::Page;
use crate::store::redis::scripts::reply::ScanStep;

/// The position of a scan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// Marks the index that the cursor belongs to; empty before the first step. The script begins anew for another index.
    mark: String,
    /// The cursor of `ZSCAN` at which the step begins.
    scan: String,
    /// The end of the step and the last key of the page, if the page has only a part of the step.
    partial: Option<(String, LockKey)>,
}

const START: &str = "0";

/// The length of a mark, which is a random id.
const MARK_LENGTH: usize = 32;

impl Cursor {
    pub(super) fn start() -> Self {
        Self {
            mark: String::new(),
            scan: START.to_owned(),
            partial: None,
        }
    }

    /// Reads a cursor that [`Cursor::encode`] wrote; `None` for any other text.
    pub(super) fn decode(text: &str) -> Option<Self> {
        let mut parts = text.splitn(4, '-');
        let mark = parts
            .next()
            .filter(|mark| mark.len() == MARK_LENGTH && is_hex(mark))?;
        let scan = parts.next().filter(|scan| is_scan_cursor(scan))?;
        let partial = match (parts.next(), parts.next()) {
            (None, None) => None,
            (Some(end), Some(key)) if is_scan_cursor(end) => {
                Some((end.to_owned(), LockKey::parse(key).ok()?))
            }
            _ => return None,
        };
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

    /// The arguments of the next step.
    pub(super) fn arguments(&self, count: usize, max_bytes: usize, pattern: &str) -> String {
        let (mark, scan) = (&self.mark, &self.scan);
        let (end, given) = match &self.partial {
            None => ("", ""),
            Some((end, key)) => (end.as_str(), key.as_str()),
        };
        format!("{mark}\t{scan}\t{count}\t{end}\t{max_bytes}\t{pattern}\t{given}")
    }

    /// Adds to `page` what it has room for and moves on; `None` at the end of the scan.
    pub(super) fn advance(self, step: ScanStep, page: &mut Page, limit: usize) -> Option<Self> {
        let ScanStep {
            mark,
            end,
            mut locks,
            is_cut,
        } = step;
        locks.dedup_by(|(a, ..), (b, ..)| a == b);
        let room = limit - page.locks.len();
        let rest = is_cut || locks.len() > room;
        // The script began anew if the index is another one.
        let scan = if self.mark == mark {
            self.scan
        } else {
            START.to_owned()
        };
        locks.truncate(room);
        page.locks.append(&mut locks);
        match page.locks.last() {
            Some((last, ..)) if rest && room > 0 => Some(Self {
                partial: Some((end, last.clone())),
                mark,
                scan,
            }),
            _ if end == START => None,
            _ => Some(Self {
                mark,
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

/// A pattern of Redis that matches all keys with this prefix.
pub(super) fn pattern_of(prefix: &str) -> String {
    let mut pattern = String::with_capacity(prefix.len() + 1);
    for c in prefix.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('*');
    pattern
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
    use crate::lock::rules::LeaseInfo;

    const MARK: &str = "0123456789abcdef0123456789abcdef";

    fn step(end: &str, keys: &[&str]) -> ScanStep {
        let info = LeaseInfo {
            holder: None,
            metadata: Metadata::default(),
            fencing_token: FencingToken::new(1).expect("small"),
            ttl: Ttl::stored(Duration::from_secs(1)),
            acquired_at: Timestamp::from_micros(0),
            deadline: Timestamp::from_micros(1),
            renewals: 0,
            hold_at_least: Duration::ZERO,
            released: false,
            read_at: Timestamp::from_micros(0),
        };
        let locks = keys
            .iter()
            .map(|k| (LockKey::parse(k).expect(k), info.clone(), 0))
            .collect();
        ScanStep {
            mark: MARK.to_owned(),
            end: end.into(),
            locks,
            is_cut: false,
        }
    }

    fn names(page: &Page) -> Vec<&str> {
        page.locks.iter().map(|(key, ..)| key.as_str()).collect()
    }

    #[test]
    fn step_with_too_many_keys_is_given_in_pages() {
        let mut first = Page::default();
        let cursor = Cursor::start().advance(step("7", &["a", "b", "c"]), &mut first, 2);
        assert_eq!(names(&first), ["a", "b"]);
        let cursor = Cursor::decode(&cursor.expect("more").encode()).expect("own cursor");
        assert_eq!(
            cursor.arguments(9, 8, "*"),
            format!("{MARK}\t0\t9\t7\t8\t*\tb")
        );
        let mut second = Page::default();
        let cursor = cursor.advance(step("7", &["c"]), &mut second, 2);
        assert_eq!(names(&second), ["c"]);
        assert_eq!(cursor.expect("more").scan, "7");
    }

    #[test]
    fn cut_step_is_continued() {
        let cut = ScanStep {
            is_cut: true,
            ..step("0", &["a", "b"])
        };
        let mut page = Page::default();
        let cursor = Cursor::start().advance(cut, &mut page, 5);
        let cursor = cursor.expect("more");
        assert_eq!(names(&page), ["a", "b"]);
        assert_eq!(
            cursor.arguments(1, 2, "*"),
            format!("{MARK}\t0\t1\t0\t2\t*\tb")
        );
        let end = cursor.advance(step("0", &["c"]), &mut page, 5);
        assert_eq!(names(&page), ["a", "b", "c"]);
        assert_eq!(end, None);
    }

    #[test]
    fn scan_of_another_index_began_anew() {
        let cursor = Cursor::decode(&format!("{}-12", "f".repeat(32))).expect("a cursor");
        let cut = ScanStep {
            is_cut: true,
            ..step("5", &["a"])
        };
        let cursor = cursor.advance(cut, &mut Page::default(), 5).expect("more");
        assert_eq!((cursor.mark.as_str(), cursor.scan.as_str()), (MARK, "0"));
    }

    #[test]
    fn foreign_text_is_no_cursor() {
        for bad in [
            String::new(),
            "x".to_owned(),
            "0".to_owned(),
            "abcd0123-1".to_owned(),
            MARK.to_owned(),
            format!("{MARK}-"),
            format!("{MARK}-x"),
            format!("{MARK}-1-2"),
            format!("{MARK}-1-2-a b"),
            format!("{MARK}-18446744073709551616"),
            format!("{}z-1", &MARK[1..]),
        ] {
            assert_eq!(Cursor::decode(&bad), None, "{bad}");
        }
    }

    #[test]
    fn pattern_matches_the_prefix_literally() {
        assert_eq!(pattern_of("a*[b]?"), "a\\*\\[b\\]\\?*");
    }
}
