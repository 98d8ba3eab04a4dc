//! TLS towards Redis and the Sentinels: the trusted certificates, and the client certificate.

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, InconsistentKeys, RootCertStore,
    SignatureScheme,
};
use tokio_rustls::TlsConnector;

use crate::secret::Secret;

/// The TLS settings of a kind of node.
#[derive(Clone)]
pub struct Tls {
    config: Arc<ClientConfig>,
    has_client_certificate: bool,
}

/// Why the TLS settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the authorities.
    #[error("LEASEHOLD_TLS_CA_FILE has no usable certificate: {0}")]
    Authorities(String),
    /// No file with authorities is set, and the system has none.
    #[error("this system has no certificate authorities: set LEASEHOLD_TLS_CA_FILE")]
    NoAuthorities,
    /// The client certificate.
    #[error("LEASEHOLD_TLS_CERT_FILE has no usable certificate: {0}")]
    Certificate(String),
    /// The key of the client certificate.
    #[error("LEASEHOLD_TLS_KEY_FILE has no usable key: {0}")]
    Key(String),
    /// The key is that of another certificate.
    #[error(
        "the key in LEASEHOLD_TLS_KEY_FILE does not belong to the certificate in LEASEHOLD_TLS_CERT_FILE: set both files of \
         one pair"
    )]
    KeyMismatch,
}

impl Tls {
    /// Trusts `ca`, certificates in PEM, or else the authorities of the system. `identity` is the client certificate
    /// with its chain, and its key.
    ///
    /// # Errors
    /// A part of it cannot be used.
    pub fn new(ca: Option<&[u8]>, identity: Option<(&[u8], &Secret)>) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider has cipher suites of both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Trust::new(ca, &provider)?));
        let mut config = match identity {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                let chain = certificates(chain).map_err(TlsError::Certificate)?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                    .map_err(|error| TlsError::Key(error.to_string()))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|error| match error {
                        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                            TlsError::KeyMismatch
                        }
                        Error::InvalidCertificate(_) => TlsError::Certificate(error.to_string()),
                        _ => TlsError::Key(error.to_string()),
                    })?
            }
        };
        // A resumed session checks no certificate, and Redis without a session cache fails one that has client certificates.
        config.resumption = Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            has_client_certificate: identity.is_some(),
        })
    }

    pub(super) fn connector(&self) -> TlsConnector {
        Arc::clone(&self.config).into()
    }

    pub(super) const fn has_client_certificate(&self) -> bool {
        self.has_client_certificate
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// Decides whether a node's certificate is trusted.
#[derive(Debug)]
struct Trust {
    by_authority: Arc<WebPkiServerVerifier>,
    /// The certificates that the operator named. A node that shows one of them is trusted, whatever its name: a
    /// self-signed certificate is no authority's, and the node has its key.
    exactly: Vec<CertificateDer<'static>>,
}

impl Trust {
    fn new(ca: Option<&[u8]>, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let mut authorities = RootCertStore::empty();
        let exactly = match ca {
            Some(pem) => certificates(pem).map_err(TlsError::Authorities)?,
            None => Vec::new(),
        };
        for certificate in &exactly {
            authorities
                .add(certificate.clone())
                .map_err(|error| TlsError::Authorities(error.to_string()))?;
        }
        if ca.is_none() {
            let of_system = rustls_native_certs::load_native_certs().certs;
            authorities.add_parsable_certificates(of_system);
        }
        let by_authority = WebPkiServerVerifier::builder_with_provider(
            Arc::new(authorities),
            Arc::clone(provider),
        );
        Ok(Self {
            by_authority: by_authority.build().map_err(|_| TlsError::NoAuthorities)?,
            exactly,
        })
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verdict =
            self.by_authority
                .verify_server_cert(certificate, intermediates, name, ocsp, now);
        match verdict {
            Err(Error::InvalidCertificate(error))
                if self.exactly.contains(certificate) && !is_about_time(&error) =>
            {
                Ok(ServerCertVerified::assertion())
            }
            verdict => verdict,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority
            .verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

fn is_about_time(error: &CertificateError) -> bool {
    matches!(
        error,
        CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. }
    )
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    certificates.map_err(|error| error.to_string())
}
