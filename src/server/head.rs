//! Scans the head of a request as it arrives: its size, and whether it names a `Content-Length`.
//!
//! hyper drops a `Content-Length` beside a `Transfer-Encoding`, as the standard allows. Proxies disagree which of them
//! counts, so the server refuses both together and must scan for it. The scan keeps only the beginnings of two lines,
//! so an incomplete head costs no second copy.

const CONTENT_LENGTH: &[u8] = b"content-length:";

/// How many bytes of a line the scan keeps: enough to recognise the field or the method.
const KEPT: usize = CONTENT_LENGTH.len();

/// The head that has arrived so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Head {
    bytes: usize,
    /// The beginning of the first line; empty before that line ends.
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
    /// Adds the next bytes. They may extend beyond the head.
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

    /// The number of bytes since the request before.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the head of a request with this method may name a `Content-Length`. It is true for an incomplete scan: a
    /// part of the head arrived during the request before, and the scan did not see it.
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
            // HTTP ignores empty lines before the request line.
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
        let length = part.len().min(KEPT - self.length);
        self.bytes[self.length..][..length].copy_from_slice(&part[..length]);
        self.length += length;
    }

    fn get(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::Head;

    /// The same text, added in one piece and byte by byte.
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
    fn incomplete_head_may_name_a_length() {
        for text in ["", "POST /a HTTP/1.1\r\nHost: a\r\n", "st: a\r\n\r\n"] {
            for head in heads(text) {
                assert!(head.may_name_length("POST"), "{text:?}");
            }
        }
    }
}
