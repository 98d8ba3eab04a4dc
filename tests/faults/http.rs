//! One call per connection, with an exact conclusion about its effect.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use crate::support::http::{Reply, parse, request};

const CONNECT_LIMIT: Duration = Duration::from_secs(1);

pub(crate) enum Failure {
    /// The connection failed, so the server has not seen the request.
    NotSent(io::Error),
    /// The server may have executed the request.
    Unknown(io::Error),
    /// The caller gave up, and the server closed the connection without an answer: the server knows that the caller is
    /// gone.
    Abandoned,
}

/// How long a caller that gave up checks for an answer that was already on its way.
const LISTENS: Duration = Duration::from_millis(300);

/// Sends a request and waits `limit` for the whole answer.
pub(crate) fn call(
    server: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&str>,
    limit: Duration,
) -> Result<Reply, Failure> {
    let address: SocketAddr = server.parse().expect("the address of a server");
    let deadline = Instant::now() + limit;
    let mut stream =
        TcpStream::connect_timeout(&address, CONNECT_LIMIT).map_err(Failure::NotSent)?;
    let mut exchange = || -> io::Result<Reply> {
        stream.set_nodelay(true)?;
        stream.write_all(request(server, method, path, headers, body).as_bytes())?;
        let bytes = read_until(&mut stream, deadline)?;
        let (reply, _) = parse(&bytes, false).ok_or(ErrorKind::UnexpectedEof)?;
        Ok(reply)
    };
    exchange().map_err(|error| {
        let gave_up = matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock);
        if gave_up && was_abandoned(&mut stream) {
            Failure::Abandoned
        } else {
            Failure::Unknown(error)
        }
    })
}

/// Closes the sending side; returns whether the server then closes the connection without any byte of an answer.
fn was_abandoned(stream: &mut TcpStream) -> bool {
    let hung_up = stream.shutdown(Shutdown::Write);
    let listens = stream.set_read_timeout(Some(LISTENS));
    hung_up.and(listens).is_ok() && matches!(stream.read(&mut [0; 1]), Ok(0))
}

/// All bytes until the other side closes.
fn read_until(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut received = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            // The server has begun to answer, even if the answer is incomplete.
            let kind = if received.is_empty() {
                ErrorKind::TimedOut
            } else {
                ErrorKind::UnexpectedEof
            };
            return Err(kind.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(received),
            Ok(count) => received.extend_from_slice(&buffer[..count]),
            Err(_) if !received.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Err(error) => return Err(error),
        }
    }
}
