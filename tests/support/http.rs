//! A small blocking HTTP/1.1 client: one request per connection, and raw bytes for malformed requests.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

/// The limit for an answer; it exceeds the longest wait for a lock.
const REPLY_LIMIT: Duration = Duration::from_secs(70);
/// The silence after which `raw` stops reading.
const SILENCE: Duration = Duration::from_secs(5);

/// An answer as received, with its chunked body decoded.
#[derive(Debug, Clone)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    /// In the order of the answer, with the names as sent.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    /// The body as JSON; panics with the whole answer if it is not JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The fencing token in the answer; panics with the whole answer if it has none.
    pub(crate) fn fencing_token(&self) -> u64 {
        self.json()["fencing_token"]
            .as_u64()
            .unwrap_or_else(|| panic!("no fencing token: {self:?}"))
    }

    /// The lease id in the answer; panics with the whole answer if it has none.
    pub(crate) fn lease_id(&self) -> String {
        match self.json()["lease_id"].as_str() {
            Some(id) => id.to_owned(),
            None => panic!("no lease id: {self:?}"),
        }
    }

    /// The first header with this name, ignoring case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers
            .find(|(other, _)| other.eq_ignore_ascii_case(name))
            .map(|(_, value)| &**value)
    }
}

/// Sends one request to `addr` and returns the answer; panics without an answer.
pub(crate) fn http(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> Reply {
    try_http(addr, method, path, headers, body)
        .unwrap_or_else(|error| panic!("{method} {path} to {addr}: {error}"))
}

/// As `http`, with an error when the connection fails or closes without an answer.
pub(crate) fn try_http(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> io::Result<Reply> {
    let request = request(addr, method, path, headers, body);
    let (bytes, end) = exchange(addr, request.as_bytes(), REPLY_LIMIT)?;
    let replies = parse_all(&bytes, method == "HEAD");
    let reply = replies.into_iter().find(|reply| reply.status >= 200);
    reply.ok_or_else(|| end.err().unwrap_or_else(|| ErrorKind::UnexpectedEof.into()))
}

/// Sends one request and returns its connection; the caller may hang up before the answer.
pub(crate) fn http_on(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> TcpStream {
    let mut stream = TcpStream::connect(addr).expect("a connection");
    let request = request(addr, method, path, headers, body);
    stream.write_all(request.as_bytes()).expect("it is sent");
    stream
}

pub(crate) fn request(
    addr: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
) -> String {
    let mut lines = vec![format!("{method} {path} HTTP/1.1"), format!("Host: {addr}")];
    lines.push("Connection: close".to_owned());
    lines.extend(
        headers
            .iter()
            .map(|(name, value)| format!("{name}: {value}")),
    );
    lines.extend(body.map(|body| format!("Content-Length: {}", body.len())));
    lines.join("\r\n") + "\r\n\r\n" + body.unwrap_or_default()
}

/// Writes `bytes` to `addr` and returns the answers that arrive until the server closes or stays silent for 5 s. The
/// sending side stays open. An incomplete answer is left out.
pub(crate) fn raw(addr: &str, bytes: &[u8]) -> Vec<Reply> {
    let exchanged = exchange(addr, bytes, SILENCE);
    let (received, _) = exchanged.unwrap_or_else(|error| panic!("cannot reach {addr}: {error}"));
    parse_all(&received, false)
}

/// The bytes received until the server closes (`Ok`) or a read fails, for example after `silence`.
fn exchange(addr: &str, bytes: &[u8], silence: Duration) -> io::Result<(Vec<u8>, io::Result<()>)> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(silence))?;
    // A server that refuses early may close before it has read the whole request; its answer is still readable.
    let _ = stream.write_all(bytes);
    let mut received = Vec::new();
    let end = stream.read_to_end(&mut received).map(|_| ());
    Ok((received, end))
}

/// All complete answers in `bytes`.
fn parse_all(mut bytes: &[u8], to_head: bool) -> Vec<Reply> {
    let mut replies = Vec::new();
    while let Some((reply, rest)) = parse(bytes, to_head) {
        replies.push(reply);
        bytes = rest;
    }
    replies
}

/// The first answer in `bytes` and the bytes after it; `None` if it is incomplete.
pub(crate) fn parse(bytes: &[u8], to_head: bool) -> Option<(Reply, &[u8])> {
    let (head, rest) = split_at_mark(bytes, b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let status = lines
        .next()?
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    let headers = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect();
    let mut reply = Reply {
        status,
        headers,
        body: String::new(),
    };
    let (body, rest) = if to_head || status < 200 || status == 204 || status == 304 {
        (Vec::new(), rest)
    } else if reply
        .header("Transfer-Encoding")
        .is_some_and(|value| value.contains("chunked"))
    {
        unchunk(rest)?
    } else if let Some(length) = reply.header("Content-Length") {
        let (body, rest) = rest.split_at_checked(length.parse().ok()?)?;
        (body.to_vec(), rest)
    } else {
        (rest.to_vec(), &rest[rest.len()..])
    };
    reply.body = String::from_utf8_lossy(&body).into_owned();
    Some((reply, rest))
}

/// A decoded chunked body and the bytes after it.
fn unchunk(mut bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (size, rest) = split_at_mark(bytes, b"\r\n")?;
        let size = str::from_utf8(size).ok()?.split(';').next()?.trim();
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            // Skips trailers up to the empty line.
            let mut rest = rest;
            loop {
                let (line, after) = split_at_mark(rest, b"\r\n")?;
                rest = after;
                if line.is_empty() {
                    return Some((body, rest));
                }
            }
        }
        let (chunk, rest) = rest.split_at_checked(size)?;
        body.extend_from_slice(chunk);
        bytes = rest.strip_prefix(b"\r\n")?;
    }
}

/// The bytes before and after the first `mark`.
fn split_at_mark<'a>(bytes: &'a [u8], mark: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = bytes
        .windows(mark.len())
        .position(|window| window == mark)?;
    Some((&bytes[..at], &bytes[at + mark.len()..]))
}
