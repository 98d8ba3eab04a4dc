//! Opens connections to nodes: TCP, TLS and the login.
//!
//! The driver can do that too, but trusts no self-signed certificate, and hides why a node refuses a login. deadpool-redis
//! checks the connections before the pool gives them out again.

use std::io;
use std::time::Duration;

use deadpool::managed::{Metrics, Pool, RecycleResult};
use futures_util::future::select_ok;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo,
    RedisError, RedisResult, cmd, parse_redis_value,
};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::store::redis::options::{Address, Endpoint};

/// How long a connection is idle before TCP probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// How many requests one connection queues before its sender waits; a batch is one request.
const PIPELINE_BUFFER: usize = 64;

/// The longest reply to a command of the login, in bytes.
const MAX_LOGIN_REPLY: u64 = 1024;

type Transport = Either<TcpStream, TlsStream<TcpStream>>;

/// Opens connections to one node.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Address,
    endpoint: Endpoint,
    db: i64,
    /// What the driver sends at first: nothing.
    driver_login: RedisConnectionInfo,
    connect_timeout: Duration,
    response_timeout: Duration,
}

/// The connections of a pool.
pub(crate) type Connections = Pool<PoolManager>;

/// Opens and checks the connections of a pool.
pub(crate) struct PoolManager {
    connector: Connector,
    checks: deadpool_redis::Manager,
}

impl Connector {
    pub(crate) fn new(
        endpoint: &Endpoint,
        address: &Address,
        db: i64,
        connect_timeout: Duration,
        response_timeout: Duration,
    ) -> Self {
        Self {
            address: address.clone(),
            endpoint: endpoint.clone(),
            db,
            driver_login: RedisConnectionInfo::default().set_skip_set_lib_name(),
            connect_timeout,
            response_timeout,
        }
    }

    /// Opens a connection for commands.
    pub(crate) async fn open(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_response_timeout(Some(self.response_timeout))
            .set_pipeline_buffer_size(PIPELINE_BUFFER);
        // The state of a handshake is large, and would be a part of every operation.
        let open = Box::pin(async {
            let transport = self.login().await?;
            MultiplexedConnection::new_with_config(&self.driver_login, transport, config).await
        });
        let (connection, driver) = self.in_time(open).await?;
        // It ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Opens a connection for subscriptions.
    pub(crate) async fn subscriber(&self) -> RedisResult<PubSub> {
        let open = Box::pin(async { PubSub::new(&self.driver_login, self.login().await?).await });
        self.in_time(open).await
    }

    /// What a node says that closes each connection at once: the driver may meet the end before it reads that.
    pub(crate) async fn refusal(&self) -> Option<RedisError> {
        let say = Box::pin(async { reply(&mut BufReader::new(self.transport().await?)).await });
        self.in_time(say)
            .await
            .err()
            .filter(|error| error.code().is_some())
    }

    /// The manager of a pool of such connections.
    pub(crate) fn manager(self) -> RedisResult<PoolManager> {
        let address = ConnectionAddr::Tcp(self.address.host.clone(), self.address.port);
        Ok(PoolManager {
            checks: deadpool_redis::Manager::new(address.into_connection_info()?)?,
            connector: self,
        })
    }

    async fn in_time<T>(&self, open: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        timeout(self.connect_timeout, open)
            .await
            .unwrap_or_else(|_| {
                let late = io::Error::new(io::ErrorKind::TimedOut, "the connection timed out");
                Err(late.into())
            })
    }

    /// Connects, and sends what the commands after it need: the credentials and the database.
    async fn login(&self) -> RedisResult<Transport> {
        let mut transport = BufReader::new(self.transport().await?);
        let credentials = self.endpoint.password.as_ref().map(|password| {
            let mut auth = cmd("AUTH");
            auth.arg(self.endpoint.username.as_deref());
            auth.arg(password.expose());
            auth
        });
        let database = (self.db != 0).then(|| cmd("SELECT").arg(self.db).to_owned());
        for command in credentials.iter().chain(&database) {
            ask(&mut transport, command).await?;
        }
        // A node sends nothing more before the next command.
        Ok(transport.into_inner())
    }

    async fn transport(&self) -> io::Result<Transport> {
        let Address { host, port } = &self.address;
        let tcp = connect(host, *port).await?;
        let Some(tls) = &self.endpoint.tls else {
            return Ok(Either::Left(tcp));
        };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        Ok(Either::Right(tls.connector().connect(name, tcp).await?))
    }
}

/// Sends a command of which the reply is one line.
async fn ask(transport: &mut BufReader<Transport>, command: &Cmd) -> RedisResult<()> {
    transport.write_all(&command.get_packed_command()).await?;
    transport.flush().await?;
    reply(transport).await
}

/// Reads a reply of one line.
async fn reply(transport: &mut BufReader<Transport>) -> RedisResult<()> {
    let mut reply = Vec::new();
    let mut line = transport.take(MAX_LOGIN_REPLY);
    line.read_until(b'\n', &mut reply).await?;
    parse_redis_value(&reply)?.extract_error()?;
    Ok(())
}

/// Connects to the address of a name that answers first.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    if addresses.is_empty() {
        return Err(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
    }
    let attempts = addresses
        .into_iter()
        .map(|address| Box::pin(TcpStream::connect(address)));
    let (stream, _others) = select_ok(attempts).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(TCP_KEEPALIVE))?;
    Ok(stream)
}

impl deadpool::managed::Manager for PoolManager {
    type Type = MultiplexedConnection;
    type Error = RedisError;

    async fn create(&self) -> RedisResult<MultiplexedConnection> {
        self.connector.open().await
    }

    async fn recycle(
        &self,
        connection: &mut MultiplexedConnection,
        metrics: &Metrics,
    ) -> RecycleResult<RedisError> {
        self.checks.recycle(connection, metrics).await
    }
}
