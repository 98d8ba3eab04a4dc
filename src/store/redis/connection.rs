//! Opens connections to nodes: TCP, TLS and the login.
//!
//! The driver can do that too, but trusts no self-signed certificate. deadpool-redis checks the connections before the
//! pool gives them out again.

use std::io;
use std::time::Duration;

use deadpool::managed::{Metrics, Pool, RecycleResult};
use futures_util::future::select_ok;
use redis::aio::{MultiplexedConnection, PubSub};
use redis::{
    AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisError,
    RedisResult,
};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use crate::store::redis::options::{Address, Endpoint};

/// How long a connection is idle before TCP probes the peer.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// How many requests one connection queues before its sender waits; a batch is one request.
const PIPELINE_BUFFER: usize = 64;

type Transport = Either<TcpStream, TlsStream<TcpStream>>;

/// Opens connections to one node.
#[derive(Clone)]
pub(crate) struct Connector {
    address: Address,
    endpoint: Endpoint,
    login: RedisConnectionInfo,
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
        let mut login = RedisConnectionInfo::default()
            .set_db(db)
            .set_skip_set_lib_name();
        if let Some(username) = &endpoint.username {
            login = login.set_username(username);
        }
        if let Some(password) = &endpoint.password {
            login = login.set_password(password.expose());
        }
        Self {
            address: address.clone(),
            endpoint: endpoint.clone(),
            login,
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
            let transport = self.transport().await?;
            MultiplexedConnection::new_with_config(&self.login, transport, config).await
        });
        let (connection, driver) = self.in_time(open).await?;
        // It ends with the last handle of the connection.
        tokio::spawn(driver);
        Ok(connection)
    }

    /// Opens a connection for subscriptions.
    pub(crate) async fn subscriber(&self) -> RedisResult<PubSub> {
        let open = Box::pin(async { PubSub::new(&self.login, self.transport().await?).await });
        self.in_time(open).await
    }

    /// The manager of a pool of such connections.
    pub(crate) fn manager(self) -> RedisResult<PoolManager> {
        let address = ConnectionAddr::Tcp(self.address.host.clone(), self.address.port);
        let info = address
            .into_connection_info()?
            .set_redis_settings(self.login.clone());
        Ok(PoolManager {
            checks: deadpool_redis::Manager::new(info)?,
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
