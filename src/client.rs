//! A small HTTP client for the `healthcheck` command.

use http_body_util::Empty;
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    base: Uri,
    http: HyperClient<HttpConnector, Empty<Bytes>>,
}

/// Why the server's state is unknown.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is not `http://host:port`.
    #[error("{0:?} is not http://host:port")]
    Address(String),
    /// The server is unreachable, or does not answer with HTTP.
    #[error("cannot reach the server: {0}")]
    Transport(String),
}

impl Client {
    /// A client for the server at `http://host:port`. It connects with the first request.
    ///
    /// # Errors
    /// [`ClientError::Address`].
    pub fn new(base: &str) -> Result<Self, ClientError> {
        let base: Uri = base
            .parse()
            .map_err(|_| ClientError::Address(base.to_owned()))?;
        if base.scheme_str() != Some("http") || base.host().is_none() {
            return Err(ClientError::Address(base.to_string()));
        }
        Ok(Self {
            base,
            http: HyperClient::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// Whether the server reports that it is ready.
    ///
    /// # Errors
    /// [`ClientError::Transport`].
    pub async fn is_ready(&self) -> Result<bool, ClientError> {
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some("/readyz".parse().expect("a path"));
        let uri = Uri::from_parts(parts).expect("only the path was changed");
        let response = self
            .http
            .get(uri)
            .await
            .map_err(|error| ClientError::Transport(error.to_string()))?;
        Ok(response.status().is_success())
    }
}
