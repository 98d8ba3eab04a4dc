//! What is known of a request's head while it comes: its size, and whether it names a `Content-Length`.
//!
//! hyper drops a `Content-Length` that stands beside a `Transfer-Encoding`, as the standard allows. Proxies do not agree
//! which of them counts, so the server refuses both together, and has to see it for itself. Nothing of a head is kept but
//! the beginnings of two lines: a client that sends half a head costs no second copy of it.

const CONTENT_LENGTH: &[u8] = b"content-length:";

/// How many bytes of a line are kept: enough to tell the field, or the method, from others.
const KEPT: usize = CONTENT_LENGTH.len();

/// A head as far as it has come.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    bytes: usize,
    /// How the first line begins; empty before it.
    first: LineStart,
    current: LineStart,
    names_length: bool,
    ended: bool,
}

/// The first bytes of a line.
#[derive(Clone, Copy, Debug, Default)]
struct LineStart {
    bytes: [u8; KEPT],
    length: usize,
}

impl Head {
    /// Adds what came next, which may reach beyond the head.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.ended {
                return;
            }
            self.current.add(part);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
    }

    /// How many bytes have come since the request before.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the head of a request with this method names a `Content-Length`, or cannot be known not to: a part of it
    /// came during the request before.
    pub(super) fn may_name_length(&self, method: &str) -> bool {
        let first = self.first.get();
        let method = &method.as_bytes()[..method.len().min(KEPT)];
        let is_whole = self.ended && first.starts_with(method);
        !is_whole || self.names_length
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.current);
        let text = line.get().trim_ascii_end();
        if self.first.get().is_empty() {
            // Empty lines before the first one are none of the head.
            if !text.is_empty() {
                self.first = line;
            }
            return;
        }
        self.ended = text.is_empty();
        self.names_length |= text.eq_ignore_ascii_case(CONTENT_LENGTH);
    }
}

impl LineStart {
    fn add(&mut self, part: &[u8]) {
        let taken = part.len().min(KEPT - self.length);
        self.bytes[self.length..][..taken].copy_from_slice(&part[..taken]);
        self.length += taken;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    /// The same head in one piece and byte by byte.
    fn heads(text: &str) -> [Head; 2] {
        let (mut whole, mut piecewise) = (Head::default(), Head::default());
        whole.add(text.as_bytes());
        text.as_bytes()
            .chunks(1)
            .for_each(|byte| piecewise.add(byte));
        [whole, piecewise]
    }

    #[test]
    fn length_is_found_in_the_head_alone() {
        for (text, names) in [
            (
                "POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n",
                true,
            ),
            ("POST /a HTTP/1.1\ncONTENT-lENGTH:2\n\n", true),
            (
                "\r\n\r\nPOST /a HTTP/1.1\r\nContent-Length: 2\r\n\r\n",
                true,
            ),
            ("POST /a HTTP/1.1\r\nContent-Lengths: 2\r\n\r\n", false),
            ("POST /a HTTP/1.1\r\nX: Content-Length: 2\r\n\r\n", false),
            ("POST /a HTTP/1.1\r\n\r\nContent-Length: 2\r\n\r\n", false),
        ] {
            for head in heads(text) {
                assert_eq!(head.may_name_length("POST"), names, "{text:?}");
                assert_eq!(head.bytes(), text.len());
            }
        }
    }

    #[test]
    fn head_that_is_not_whole_may_name_a_length() {
        for text in ["", "POST /a HTTP/1.1\r\nHost: a\r\n", "st: a\r\n\r\n"] {
            for head in heads(text) {
                assert!(head.may_name_length("POST"), "{text:?}");
            }
        }
    }
}
