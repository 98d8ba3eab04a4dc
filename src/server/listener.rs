//! The listening socket.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpSocket};

/// The first TCP keepalive probe goes out after this time of silence. The system drops a connection after the last
/// probe without an answer, so a waiter on a dead machine leaves the queue after 30 s.
const KEEPALIVE_TIME: Duration = Duration::from_secs(15);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_RETRIES: u32 = 3;

/// The send buffer of a connection, in bytes; Linux doubles the value. The buffer counts as memory of this process'
/// control group, and without a bound a client that does not read can fill some megabytes.
const SEND_BUFFER_BYTES: u32 = 64 * 1024;

/// The listen backlog. Clients of a draining server all reconnect at once; clients beyond the backlog retry only after
/// 1 s, then after 3 s.
pub const BACKLOG: u32 = 4096;

pub(super) fn listen(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = match at {
        SocketAddr::V4(_) => TcpSocket::new_v4(),
        SocketAddr::V6(_) => TcpSocket::new_v6(),
    }?;
    // A restarted server can use the address while the system still closes connections of the previous one.
    socket.set_reuseaddr(true)?;
    // Accepted connections inherit the options of the listening socket.
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    let options = SockRef::from(&socket);
    options.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(KEEPALIVE_TIME)
            .with_interval(KEEPALIVE_INTERVAL)
            .with_retries(KEEPALIVE_RETRIES),
    )?;
    // Keepalive does not probe while sent bytes lack an acknowledgement. Without this bound the system retries for
    // minutes.
    #[cfg(target_os = "linux")]
    options.set_tcp_user_timeout(Some(
        KEEPALIVE_TIME + KEEPALIVE_INTERVAL * KEEPALIVE_RETRIES,
    ))?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}
