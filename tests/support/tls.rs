//! A private certificate authority for one test, and a second authority that the servers do not trust.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use tempfile::TempDir;

/// PEM files in their own directory, removed on drop.
///
/// Share it with `Arc`: servers read the files again when they restart.
pub(crate) struct TlsFiles {
    /// The authority behind the server's and the client's certificate.
    pub(crate) ca: PathBuf,
    /// The server's certificate, for 127.0.0.1 and localhost.
    pub(crate) server_cert: PathBuf,
    /// The key of `server_cert`.
    pub(crate) server_key: PathBuf,
    /// A client certificate for servers with `tls-auth-clients yes`.
    pub(crate) client_cert: PathBuf,
    /// The key of `client_cert`.
    pub(crate) client_key: PathBuf,
    /// Another authority: a client that trusts only this one must refuse the server.
    pub(crate) stranger_ca: PathBuf,
    /// A client certificate from the other authority: the server must refuse it.
    pub(crate) stranger_cert: PathBuf,
    /// The key of `stranger_cert`.
    pub(crate) stranger_key: PathBuf,
    /// Signs in the name of `ca`.
    issuer: Issuer<'static, KeyPair>,
    /// Owns the files.
    dir: TempDir,
}

impl TlsFiles {
    /// Makes fresh keys and certificates.
    pub(crate) fn generate() -> Self {
        let dir = TempDir::new().expect("a temporary directory");
        let (ca, own_issuer) = authority(dir.path(), "ca");
        let (server_cert, server_key) = leaf(
            dir.path(),
            "server",
            &["127.0.0.1", "localhost"],
            ExtendedKeyUsagePurpose::ServerAuth,
            &own_issuer,
        );
        let (client_cert, client_key) = leaf(
            dir.path(),
            "client",
            &["client"],
            ExtendedKeyUsagePurpose::ClientAuth,
            &own_issuer,
        );
        let (stranger_ca, issuer) = authority(dir.path(), "stranger-ca");
        let (stranger_cert, stranger_key) = leaf(
            dir.path(),
            "stranger",
            &["client"],
            ExtendedKeyUsagePurpose::ClientAuth,
            &issuer,
        );
        Self {
            ca,
            server_cert,
            server_key,
            client_cert,
            client_key,
            stranger_ca,
            stranger_cert,
            stranger_key,
            issuer: own_issuer,
            dir,
        }
    }

    /// Another certificate of the authority, changed by `change`: the paths of certificate and key.
    pub(crate) fn signed(
        &self,
        name: &str,
        subjects: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let (mut params, key) = request(name, subjects);
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.expect("a signed certificate");
        store(self.dir.path(), name, &certificate.pem(), &key)
    }

    /// A self-signed certificate, changed by `change`: the paths of certificate and key.
    pub(crate) fn self_signed(
        &self,
        name: &str,
        subjects: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> (PathBuf, PathBuf) {
        let (mut params, key) = request(name, subjects);
        change(&mut params);
        let certificate = params.self_signed(&key).expect("a self-signed certificate");
        store(self.dir.path(), name, &certificate.pem(), &key)
    }
}

/// A self-signed authority: the path of its certificate, and its signing key.
fn authority(dir: &Path, name: &str) -> (PathBuf, Issuer<'static, KeyPair>) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().expect("a key pair");
    let certificate = params.self_signed(&key).expect("a self-signed certificate");
    (
        write(dir, &format!("{name}.pem"), &certificate.pem()),
        Issuer::new(params, key),
    )
}

/// A certificate for one purpose, signed by `issuer`: the paths of certificate and key.
fn leaf(
    dir: &Path,
    name: &str,
    subjects: &[&str],
    purpose: ExtendedKeyUsagePurpose,
    issuer: &Issuer<'static, KeyPair>,
) -> (PathBuf, PathBuf) {
    let (mut params, key) = request(name, subjects);
    params.extended_key_usages = vec![purpose];
    params.use_authority_key_identifier_extension = true;
    let certificate = params
        .signed_by(&key, issuer)
        .expect("a signed certificate");
    store(dir, name, &certificate.pem(), &key)
}

fn request(name: &str, subjects: &[&str]) -> (CertificateParams, KeyPair) {
    let subjects: Vec<String> = subjects.iter().map(ToString::to_string).collect();
    let mut params = CertificateParams::new(subjects).expect("valid subject names");
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    (params, KeyPair::generate().expect("a key pair"))
}

fn store(dir: &Path, name: &str, certificate: &str, key: &KeyPair) -> (PathBuf, PathBuf) {
    (
        write(dir, &format!("{name}.pem"), certificate),
        write(dir, &format!("{name}-key.pem"), &key.serialize_pem()),
    )
}

/// Writes `text` to a file of `dir` and returns its path.
fn write(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("a writable temporary directory");
    path
}
