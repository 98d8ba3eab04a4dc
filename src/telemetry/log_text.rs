//! Text from clients, as the log shows it.

use std::borrow::Cow;
use std::fmt::Write as _;

/// The most bytes that the log shows of one text from a client.
pub const MAX_LOGGED_BYTES: usize = 256;

/// Truncates a text from a client for the log, and marks the cut with an ellipsis.
#[must_use]
pub fn cut_for_log(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_LOGGED_BYTES {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}…", beginning(text, MAX_LOGGED_BYTES)))
}

/// The longest prefix of a text that has at most `max_bytes` bytes and ends between two characters.
#[must_use]
pub fn beginning(text: &str, max_bytes: usize) -> &str {
    let at_most = text.len().min(max_bytes);
    let mut ends = (0..=at_most).rev();
    let end = ends.find(|end| text.is_char_boundary(*end));
    &text[..end.unwrap_or(0)]
}

/// Escapes the characters that JSON leaves as they are, but that a terminal would execute or hide.
pub(super) fn escape_invisible(line: &[u8]) -> Cow<'_, [u8]> {
    if line.is_ascii() && !line.contains(&0x7F) {
        return Cow::Borrowed(line);
    }
    let line = String::from_utf8_lossy(line);
    let mut escaped = String::with_capacity(line.len());
    for c in line.chars() {
        if is_invisible(c) {
            // Writing to a string cannot fail. All these characters are below U+10000, so four hex digits suffice.
            let _written = write!(escaped, "\\u{:04x}", u32::from(c));
        } else {
            escaped.push(c);
        }
    }
    Cow::Owned(escaped.into_bytes())
}

/// DEL and C1 controls, line and paragraph separators, and marks that change the text direction.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{7F}'..='\u{9F}'
            | '\u{61C}'
            | '\u{200E}'
            | '\u{200F}'
            | '\u{2028}'..='\u{202E}'
            | '\u{2066}'..='\u{2069}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_truncated_between_characters() {
        assert_eq!(cut_for_log("short"), "short");
        let long = format!("{}ééé", "a".repeat(MAX_LOGGED_BYTES - 3));
        assert_eq!(
            cut_for_log(&long),
            format!("{}é…", "a".repeat(MAX_LOGGED_BYTES - 3))
        );
    }

    #[test]
    fn control_and_invisible_characters_are_escaped() {
        let line =
            "a\u{7f}\u{85}\u{9b}\u{61c}\u{200e}\u{2028}\u{202e}\u{2066}\u{2069}é\u{200b}\u{1f600}";
        let escaped = escape_invisible(line.as_bytes());
        let expected =
            "a\\u007f\\u0085\\u009b\\u061c\\u200e\\u2028\\u202e\\u2066\\u2069é\u{200b}\u{1f600}";
        assert_eq!(String::from_utf8_lossy(&escaped), expected);
    }
}
