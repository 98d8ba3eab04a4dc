//! One request, to one of several servers.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use serde_json::Value;
use tokio::time::timeout;

use super::answer::Answer;
use super::clock::Moment;
use super::failure::Failure;
use crate::secret::Secret;

/// How long to wait for a connection to one server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// The longest body of an answer; a page of locks has about 256 KiB.
const MAX_ANSWER: usize = 1 << 20;

/// A client of one or more servers of one service.
#[derive(Clone)]
pub struct Client {
    servers: Arc<[Uri]>,
    /// The server that answered last.
    current: Arc<AtomicUsize>,
    authorization: Option<HeaderValue>,
    http: HyperClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// Where the servers are, and how to call them.
#[derive(Clone, Debug)]
pub struct Connection {
    /// The base URLs: `http://host:port` or `https://host[:port]`. They are tried in turn.
    pub servers: Vec<String>,
    /// The bearer token.
    pub token: Option<Secret>,
    /// The authorities that signed the certificates of the servers; those of the system if absent.
    pub ca: Option<Vec<u8>>,
}

/// A request, without the server that it goes to.
pub(super) struct Call<'a> {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) headers: Vec<(&'static str, &'a str)>,
    pub(super) body: Option<Value>,
    /// How long one server may take.
    pub(super) timeout: Duration,
}

impl Client {
    /// A client. It connects with the first request.
    ///
    /// # Errors
    /// [`Failure::Usage`] if an address, the token or a certificate cannot be used.
    pub fn new(connection: &Connection) -> Result<Self, Failure> {
        let servers: Vec<Uri> = connection
            .servers
            .iter()
            .map(|text| server(text))
            .collect::<Result<_, _>>()?;
        let authorization = connection.token.as_ref().map(|token| {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.expose())).map_err(|_| {
                    Failure::Usage("the token has characters that no header can have".into())
                })?;
            value.set_sensitive(true);
            Ok(value)
        });
        let mut tcp = HttpConnector::new();
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        tcp.enforce_http(false);
        let is_https = |uri: &Uri| uri.scheme_str() == Some("https");
        let roots = match &connection.ca {
            Some(pem) => named(pem)?,
            // Loading the authorities of the system takes longer than a call.
            None if servers.iter().any(is_https) => of_system()?,
            None => RootCertStore::empty(),
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites of both versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        Ok(Self {
            servers: servers.into(),
            current: Arc::default(),
            authorization: authorization.transpose()?,
            http: HyperClient::builder(TokioExecutor::new()).build(connector),
        })
    }

    /// How many servers there are.
    #[must_use]
    pub fn servers(&self) -> u32 {
        u32::try_from(self.servers.len()).unwrap_or(u32::MAX)
    }

    /// Whether the server reports that it is ready.
    ///
    /// # Errors
    /// [`Failure::Unavailable`].
    pub async fn is_ready(&self, limit: Duration) -> Result<bool, Failure> {
        let call = Call::new(Method::GET, "/readyz".into(), limit);
        let answer = self.call_one(&self.servers[0], &call).await?;
        Ok(answer.is_success())
    }

    /// Calls the servers in turn, beginning with the one that answered last, until one answers with less than 500. Without
    /// such an answer the last one counts.
    pub(super) async fn call(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let first = self.current.load(Ordering::Relaxed);
        let mut last = Err(Failure::Unavailable("no server is set".into()));
        for at in 0..self.servers.len() {
            let at = (first + at) % self.servers.len();
            let answer = self.call_one(&self.servers[at], call).await;
            if answer.as_ref().is_ok_and(|answer| answer.status < 500) {
                self.current.store(at, Ordering::Relaxed);
                return answer;
            }
            // An answer says more than none.
            if answer.is_ok() || last.is_err() {
                last = answer;
            }
        }
        last
    }

    async fn call_one(&self, server: &Uri, call: &Call<'_>) -> Result<Answer, Failure> {
        let fails = |cause: &dyn fmt::Display| {
            Failure::Unavailable(format!("{server} does not answer: {cause}"))
        };
        let mut request = Request::builder().method(&call.method).uri(format!(
            "{}{}",
            server.to_string().trim_end_matches('/'),
            call.path
        ));
        for (name, value) in &call.headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let body = match &call.body {
            None => Bytes::new(),
            Some(body) => {
                request = request.header(CONTENT_TYPE, "application/json");
                body.to_string().into()
            }
        };
        let request = request
            .body(Full::new(body))
            .map_err(|error| Failure::Usage(format!("the request cannot be sent: {error}")))?;
        let sent = Moment::now();
        let exchange = async {
            let response = self
                .http
                .request(request)
                .await
                .map_err(|error| fails(&causes(&error)))?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, MAX_ANSWER).collect().await;
            let body = body.map_err(|error| fails(&error))?.to_bytes();
            Ok(Answer::new(&head, &body, sent))
        };
        timeout(call.timeout, exchange).await.unwrap_or_else(|_| {
            let seconds = call.timeout.as_secs_f32();
            Err(fails(&format_args!("nothing within {seconds:.1} s")))
        })
    }
}

impl Call<'_> {
    pub(super) const fn new(method: Method, path: String, timeout: Duration) -> Self {
        Self {
            method,
            path,
            headers: Vec::new(),
            body: None,
            timeout,
        }
    }
}

/// The text of an error with that of its causes: hyper's own says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

fn server(text: &str) -> Result<Uri, Failure> {
    let uri = text.trim_end_matches('/').parse::<Uri>().ok();
    let is_base = |uri: &Uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    };
    uri.filter(is_base).ok_or_else(|| {
        Failure::Usage(format!(
            "{text:?} is no address of a server: write http://host:port or https://host"
        ))
    })
}

fn named(pem: &[u8]) -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    let wrong = |cause: &dyn fmt::Display| {
        Failure::Usage(format!(
            "the file with the authorities cannot be used: {cause}"
        ))
    };
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| wrong(&error))?;
        roots.add(certificate).map_err(|error| wrong(&error))?;
    }
    if roots.is_empty() {
        return Err(wrong(&"it has no certificate in PEM format"));
    }
    Ok(roots)
}

fn of_system() -> Result<RootCertStore, Failure> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(Failure::Usage(
            "this system has no certificate authorities: name a file with --ca-file".into(),
        ));
    }
    Ok(roots)
}

/// Reads the file with the authorities.
///
/// # Errors
/// [`Failure::Usage`].
pub fn read_ca(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path)
        .map_err(|error| Failure::Usage(format!("cannot read {}: {error}", path.display())))
}
