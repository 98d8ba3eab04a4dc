//! The load generator: many keep-alive connections on one thread, the same for all candidates. It does as little work
//! per request as possible, because it shares the machine with the measured server.

use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};

/// The limit for the answer to a single request.
const ASK_LIMIT: Duration = Duration::from_secs(20);

/// The waker's token, which no connection uses.
const WAKE: Token = Token(usize::MAX);

/// Connections to one or more servers.
pub(crate) struct Connections {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    open: Senders,
}

/// The sending side, for the handler of an answer.
pub(crate) struct Senders(Vec<Connection>);

struct Connection {
    stream: TcpStream,
    /// The received part of an incomplete answer.
    input: Vec<u8>,
    /// Bytes that the socket has not accepted yet.
    output: Vec<u8>,
}

/// A complete answer.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
}

impl Connections {
    /// Opens connections, distributed over the addresses.
    pub(crate) fn open(addresses: &[SocketAddr], number: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mut open = Vec::with_capacity(number);
        for (id, address) in (0..number).zip(addresses.iter().cycle()) {
            // The pauses avoid a full listen backlog, which would cost a second per connection.
            if id % 64 == 63 {
                std::thread::sleep(Duration::from_millis(5));
            }
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            let mut stream = TcpStream::from_std(stream);
            let both = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut stream, Token(id), both)?;
            open.push(Connection {
                stream,
                input: Vec::new(),
                output: Vec::new(),
            });
        }
        Ok(Self {
            poll,
            events: Events::with_capacity(1024),
            buffer: vec![0; 64 * 1024],
            open: Senders(open),
        })
    }

    /// A waker that ends a wait for answers from another thread.
    pub(crate) fn waker(&self) -> Arc<Waker> {
        Arc::new(Waker::new(self.poll.registry(), WAKE).expect("the system has another descriptor"))
    }

    pub(crate) fn senders(&mut self) -> &mut Senders {
        &mut self.open
    }

    pub(crate) fn send(&mut self, id: usize, request: &[u8]) {
        self.open.send(id, request);
    }

    /// Waits for answers and passes each to `handle` with its connection.
    pub(crate) fn answers(
        &mut self,
        limit: Option<Duration>,
        mut handle: impl FnMut(&mut Senders, usize, &Answer),
    ) {
        match self.poll.poll(&mut self.events, limit) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return,
            polled => polled.expect("epoll works"),
        }
        for event in &self.events {
            if event.token() == WAKE {
                continue;
            }
            let id = event.token().0;
            if event.is_writable() && !self.open.0[id].output.is_empty() {
                let output = std::mem::take(&mut self.open.0[id].output);
                self.open.send(id, &output);
            }
            if event.is_readable() {
                read(&mut self.open, id, &mut self.buffer, &mut handle);
            }
        }
    }

    /// Sends a request and waits for its answer: status and body.
    pub(crate) fn ask(&mut self, id: usize, request: &[u8]) -> (u16, String) {
        self.send(id, request);
        let (mut answered, end) = (None, Instant::now() + ASK_LIMIT);
        while answered.is_none() && Instant::now() < end {
            self.answers(Some(ASK_LIMIT), |_, from, answer| {
                if from == id {
                    answered = Some((
                        answer.status,
                        String::from_utf8_lossy(answer.body).into_owned(),
                    ));
                }
            });
        }
        answered.expect("the server answers")
    }
}

impl Senders {
    pub(crate) fn send(&mut self, id: usize, request: &[u8]) {
        let connection = &mut self.0[id];
        if !connection.output.is_empty() {
            connection.output.extend_from_slice(request);
            return;
        }
        let sent = match connection.stream.write(request) {
            Ok(sent) => sent,
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("a server cut a connection: {error}"),
        };
        connection.output.extend_from_slice(&request[sent..]);
    }
}

/// Reads once: epoll reports later bytes after a read that did not fill the buffer.
fn read(
    open: &mut Senders,
    id: usize,
    buffer: &mut [u8],
    handle: &mut impl FnMut(&mut Senders, usize, &Answer),
) {
    loop {
        let length = match open.0[id].stream.read(buffer) {
            Ok(0) => panic!("a server closed a connection"),
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("a server cut a connection: {error}"),
        };
        let mut input = std::mem::take(&mut open.0[id].input);
        let mut rest = if input.is_empty() {
            &buffer[..length]
        } else {
            input.extend_from_slice(&buffer[..length]);
            &input
        };
        while let Some((answer, end)) = parse(rest) {
            handle(open, id, &answer);
            rest = &rest[end..];
        }
        if !rest.is_empty() {
            open.0[id].input = rest.to_vec();
        }
        if length < buffer.len() {
            return;
        }
    }
}

/// The first answer in `bytes` and its end, if it is complete.
fn parse(bytes: &[u8]) -> Option<(Answer<'_>, usize)> {
    let head_end = find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..head_end];
    let digit = |at: usize| u16::from(head[at] - b'0');
    let status = digit(9) * 100 + digit(10) * 10 + digit(11);
    let (mut length, mut chunked) = (0, false);
    for line in head.split(|byte| *byte == b'\n') {
        if let Some(value) = value_of(line, b"content-length:") {
            length = value.parse().expect("a length is a number");
        }
        chunked |= value_of(line, b"transfer-encoding:") == Some("chunked");
    }
    let rest = &bytes[head_end..];
    if chunked {
        // The chunk sizes stay in the body, because callers only search it as text.
        let end = find(rest, b"0\r\n\r\n")?;
        return Some((
            Answer {
                status,
                head,
                body: &rest[..end],
            },
            head_end + end + 5,
        ));
    }
    let body = rest.get(..length)?;
    Some((Answer { status, head, body }, head_end + length))
}

fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a str> {
    let (start, value) = line.split_at_checked(name.len())?;
    let found = start.eq_ignore_ascii_case(name);
    found.then(|| std::str::from_utf8(value).unwrap_or_default().trim())
}

/// The first position of `what` in `bytes`.
pub(crate) fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    let mut from = 0;
    while let Some(at) = bytes[from..].iter().position(|byte| *byte == what[0]) {
        if bytes[from + at..].starts_with(what) {
            return Some(from + at);
        }
        from += at + 1;
    }
    None
}

/// The text from `before` to the next quotation mark.
pub(crate) fn quoted<'a>(body: &'a [u8], before: &str) -> Option<&'a [u8]> {
    let from = find(body, before.as_bytes())? + before.len();
    let length = body[from..].iter().position(|byte| *byte == b'"')?;
    Some(&body[from..from + length])
}
