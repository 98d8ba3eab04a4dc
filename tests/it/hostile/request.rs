//! A request as bytes: what no HTTP library would send must be as easy to write as what all of them do.

use std::fmt;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::http::{Reply, raw, try_http};

/// The largest head of a request, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// How long an answer to a request that breaks off may take.
const SILENCE: Duration = Duration::from_secs(4);

/// A lease id that belongs to no lease.
pub(super) const LEASE: &str = "Lease-Id: 0123456789abcdef0123456789abcdef";

/// A request that a row sends on a connection of its own.
#[derive(Clone)]
pub(super) struct Request {
    /// The request line and the header lines; empty for bytes that are no request.
    head: Vec<Vec<u8>>,
    body: Vec<u8>,
    /// The client's request id, if it must come back.
    pub(super) kept_id: Option<String>,
}

pub(super) fn get(path: impl AsRef<[u8]>) -> Request {
    call("GET", path)
}

pub(super) fn post(path: impl AsRef<[u8]>) -> Request {
    call("POST", path)
}

pub(super) fn put(path: impl AsRef<[u8]>) -> Request {
    call("PUT", path)
}

pub(super) fn delete(path: impl AsRef<[u8]>) -> Request {
    call("DELETE", path)
}

/// Would take a free lock.
pub(super) fn acquire(body: impl AsRef<[u8]>) -> Request {
    post("/locks/free").json(body)
}

/// Finds the lock held, but only after its body was found right.
pub(super) fn acquire_held(body: impl AsRef<[u8]>) -> Request {
    post("/locks/held").json(body)
}

/// Finds the lease lost, but only after its body was found right.
pub(super) fn renew(body: impl AsRef<[u8]>) -> Request {
    put("/locks/free/lease").header(LEASE).json(body)
}

/// Any method and any bytes for a path, with `Host` and `Connection: close`.
pub(super) fn call(method: &str, path: impl AsRef<[u8]>) -> Request {
    line([method.as_bytes(), b" ", path.as_ref(), b" HTTP/1.1"].concat())
}

/// Any request line, with `Host` and `Connection: close`.
pub(super) fn line(line: impl Into<Vec<u8>>) -> Request {
    Request {
        head: vec![line.into()],
        body: Vec::new(),
        kept_id: None,
    }
    .header("Host: localhost")
    .header("Connection: close")
}

/// Bytes as they are.
pub(super) fn verbatim(bytes: impl Into<Vec<u8>>) -> Request {
    Request {
        head: Vec::new(),
        body: bytes.into(),
        kept_id: None,
    }
}

impl Request {
    /// Adds one header line, right or wrong.
    pub(super) fn header(mut self, line: impl AsRef<[u8]>) -> Self {
        self.head.push(line.as_ref().to_vec());
        self
    }

    /// Leaves the headers with this name out, in the case given.
    pub(super) fn without(mut self, name: &str) -> Self {
        self.head.retain(|line| !line.starts_with(name.as_bytes()));
        self
    }

    /// Adds an `X-Request-Id` that the answer must repeat.
    pub(super) fn kept_id(mut self, id: &str) -> Self {
        self.kept_id = Some(id.to_owned());
        self.header(format!("X-Request-Id: {id}"))
    }

    /// Adds a header that makes the head as long as this.
    pub(super) fn padded_to(self, bytes: usize) -> Self {
        let missing = bytes - self.to_bytes().len() - "\r\nX-Padding: ".len();
        self.header(format!("X-Padding: {}", "x".repeat(missing)))
    }

    /// Adds bytes behind the head, whatever the headers say about them.
    pub(super) fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body.extend_from_slice(bytes.as_ref());
        self
    }

    /// Adds a body of an honest length, and no type.
    pub(super) fn body(self, body: impl AsRef<[u8]>) -> Self {
        let length = format!("Content-Length: {}", body.as_ref().len());
        self.header(length).bytes(body)
    }

    /// Adds a body that is said to be JSON.
    pub(super) fn json(self, body: impl AsRef<[u8]>) -> Self {
        self.header("Content-Type: application/json").body(body)
    }

    /// Adds a body that is said to be JSON, in one chunk.
    pub(super) fn chunked(self, body: impl AsRef<[u8]>) -> Self {
        let body = body.as_ref();
        let size = format!("{:x}\r\n", body.len());
        self.header("Content-Type: application/json")
            .header("Transfer-Encoding: chunked")
            .bytes(size)
            .bytes(body)
            .bytes("\r\n0\r\n\r\n")
    }

    /// Adds another request behind it, on the same connection.
    pub(super) fn followed_by(self, next: &Self) -> Self {
        self.bytes(next.to_bytes())
    }

    /// The path as it is written in the request line.
    pub(super) fn path(&self) -> String {
        self.word(1)
    }

    pub(super) fn is_head(&self) -> bool {
        self.word(0) == "HEAD"
    }

    /// Sends it to `addr`; what comes before the final answers (100 Continue) is left out.
    pub(super) fn send(&self, addr: &str) -> Vec<Reply> {
        if self.is_head() {
            // What is raw cannot know that the length in the answer announces no body.
            return try_http(addr, "HEAD", &self.path(), &[], None)
                .into_iter()
                .collect();
        }
        let mut replies = raw(addr, &self.to_bytes());
        replies.retain(|reply| reply.status >= 200);
        replies
    }

    /// Sends it to `addr` and closes the sending side, whatever was announced; returns what comes back.
    pub(super) fn send_and_hang_up(&self, addr: &str) -> String {
        let mut stream = TcpStream::connect(addr).expect("a server that listens");
        stream
            .set_read_timeout(Some(SILENCE))
            .expect("a time-out that is not zero");
        stream.write_all(&self.to_bytes()).expect("a short request");
        stream.shutdown(Shutdown::Write).expect("an open stream");
        let mut answer = String::new();
        stream
            .read_to_string(&mut answer)
            .unwrap_or_else(|error| panic!("{error} after {answer:?} to {self:?}"));
        answer
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.head.join(&b"\r\n"[..]);
        if !self.head.is_empty() {
            bytes.extend_from_slice(b"\r\n\r\n");
        }
        bytes.extend_from_slice(&self.body);
        bytes
    }

    fn word(&self, at: usize) -> String {
        let line = self.head.first().map(|line| String::from_utf8_lossy(line));
        let word = line.as_ref().and_then(|line| line.split(' ').nth(at));
        word.unwrap_or_default().to_owned()
    }
}

/// The beginning of its bytes: enough to find the row again.
impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 200;
        let bytes = self.to_bytes();
        let shown = &bytes[..bytes.len().min(SHOWN)];
        write!(f, "{}", shown.escape_ascii())?;
        if shown.len() < bytes.len() {
            write!(f, "… ({} bytes)", bytes.len())?;
        }
        Ok(())
    }
}
