//! The listener's certificate and its clients' authority, reloaded when their files change.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use humantime::format_rfc3339_seconds;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

use crate::reloaded::{self, Reloaded, Source};

/// How often a handshake checks the files.
const LOOK: Duration = Duration::from_secs(5);

/// The files of a listener's certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate and its intermediates (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The authority that must have signed the certificates of clients (PEM).
    pub client_authority: Option<PathBuf>,
}

/// The latest valid certificate.
pub type Certificates = Reloaded<CertificateFiles>;

/// The TLS configuration, and the expiry of its certificate.
pub struct Configured {
    pub(super) config: Arc<ServerConfig>,
    expires: SystemTime,
}

/// What is wrong with a file.
#[derive(Debug)]
pub struct CertificateError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    NoCertificate,
    NoKey,
    Malformed(String),
    NotYetValid(SystemTime),
    Expired(SystemTime),
    /// The key is in this file.
    OtherKey(PathBuf),
    Unsuitable(rustls::Error),
}

impl fmt::Display for CertificateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "cannot read {path}: {error}"),
            Fault::NoCertificate => write!(f, "{path} has no certificate (PEM)"),
            Fault::NoKey => write!(f, "{path} has no private key (PEM) that is not encrypted"),
            Fault::Malformed(what) => write!(f, "{path} is malformed: {what}"),
            Fault::NotYetValid(from) => {
                write!(f, "the certificate in {path} is not valid before {}", seconds(*from))
            }
            Fault::Expired(at) => {
                write!(f, "the certificate in {path} has expired at {}", seconds(*at))
            }
            Fault::OtherKey(key) => {
                write!(f, "the key in {} is not that of the certificate in {path}", key.display())
            }
            Fault::Unsuitable(error) => write!(f, "{path} cannot be used: {error}"),
        }
    }
}

impl std::error::Error for CertificateError {}

fn seconds(time: SystemTime) -> impl fmt::Display {
    format_rfc3339_seconds(time)
}

impl CertificateFiles {
    /// Reads the files. From then on, handshakes reload them when they change.
    ///
    /// # Errors
    /// They cannot be used.
    pub fn load(self) -> Result<Certificates, CertificateError> {
        Reloaded::load(self, LOOK)
    }

    /// Parses the certificate chain and the key.
    ///
    /// # Errors
    /// There is no chain or no key.
    pub fn pair(
        &self,
        certificate: &[u8],
        key: &[u8],
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), CertificateError> {
        let chain = certificates(certificate, &self.certificate)?;
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|_| CertificateError { path: self.key.clone(), fault: Fault::NoKey })?;
        Ok((chain, key))
    }

    /// Why the certificate cannot be used.
    pub fn unsuitable(&self, error: rustls::Error) -> CertificateError {
        self.wrong(match error {
            rustls::Error::InconsistentKeys(_) => Fault::OtherKey(self.key.clone()),
            error => Fault::Unsuitable(error),
        })
    }

    fn wrong(&self, fault: Fault) -> CertificateError {
        CertificateError { path: self.certificate.clone(), fault }
    }
}

impl Source for CertificateFiles {
    type Value = Configured;
    type Error = CertificateError;

    fn read(&self) -> Result<Vec<Vec<u8>>, CertificateError> {
        let paths = [&self.certificate, &self.key].into_iter().chain(&self.client_authority);
        paths.map(|path| read(path)).collect()
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Configured, CertificateError> {
        let [certificate, key, authorities @ ..] = contents else {
            return Err(self.wrong(Fault::NoCertificate));
        };
        let (chain, key) = self.pair(certificate, key)?;
        let expires = chain.first().map(valid_until).transpose();
        let expires = expires.map_err(|fault| self.wrong(fault))?;
        let expires = expires.ok_or_else(|| self.wrong(Fault::NoCertificate))?;
        let unsuitable = |error| self.unsuitable(error);
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let builder = builder.with_safe_default_protocol_versions().map_err(unsuitable)?;
        let authority = authorities.first().zip(self.client_authority.as_deref());
        let builder = match authority {
            Some((pem, path)) => builder.with_client_cert_verifier(verifier(pem, path, provider)?),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(unsuitable)?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        // A resumed session would accept a client's certificate that has expired since.
        if authority.is_none() {
            config.ticketer = Ticketer::new().map_err(unsuitable)?;
            config.send_tls13_tickets = 1;
        }
        Ok(Configured { config: Arc::new(config), expires })
    }

    fn describe(&self, value: &Configured) -> String {
        let (path, until) = (self.certificate.display(), seconds(value.expires));
        format!("the certificate in {path} is valid until {until}")
    }
}

/// The bytes of a file.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let wrong = |error| CertificateError { path: path.into(), fault: Fault::Unreadable(error) };
    reloaded::read(path).map_err(wrong)
}

/// Verifies certificates of clients by these authorities.
///
/// # Errors
/// There are none.
pub fn verifier(
    pem: &[u8],
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, CertificateError> {
    let roots = Arc::new(roots(pem, path)?);
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
    verifier.build().map_err(|error| malformed(path, error.to_string()))
}

/// Parses the certificates of authorities.
///
/// # Errors
/// There are none.
pub fn roots(pem: &[u8], path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|error| malformed(path, error.to_string()))?;
    }
    Ok(roots)
}

fn malformed(path: &Path, what: String) -> CertificateError {
    CertificateError { path: path.into(), fault: Fault::Malformed(what) }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let wrong = |fault| CertificateError { path: path.into(), fault };
    // The parser would skip a certificate that is still being written.
    let last_line = pem.rsplit(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
    if !last_line.is_empty() && !last_line.starts_with(b"-----END ") {
        return Err(malformed(path, "it ends in the middle of a line".into()));
    }
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| wrong(Fault::Malformed(error.to_string())))?;
    if all.is_empty() { Err(wrong(Fault::NoCertificate)) } else { Ok(all) }
}

/// When a certificate expires, if it is valid now.
fn valid_until(certificate: &CertificateDer<'_>) -> Result<SystemTime, Fault> {
    let parsed = Certificate::from_der(certificate);
    let parsed = parsed.map_err(|error| Fault::Malformed(error.to_string()))?;
    let validity = parsed.tbs_certificate().validity();
    let now = DefaultTimeProvider.current_time().map_or(0, |now| now.as_secs());
    let (from, until) = (&validity.not_before, &validity.not_after);
    if now < from.to_unix_duration().as_secs() {
        return Err(Fault::NotYetValid(from.to_system_time()));
    }
    if now > until.to_unix_duration().as_secs() {
        return Err(Fault::Expired(until.to_system_time()));
    }
    Ok(until.to_system_time())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_chain_that_is_half_written_no_certificate_is_left_out_unnoticed() {
        let one = "-----BEGIN CERTIFICATE-----\nAAAA\nAAAA\n-----END CERTIFICATE-----\n";
        let chain = one.repeat(2);
        for end in 0..chain.len() {
            let read = certificates(&chain.as_bytes()[..end], Path::new("chain.pem"));
            // Where the second is about to begin, or has its last line without the line feed.
            let expected = match end {
                _ if end == one.len() - 1 || end == one.len() => Some(1),
                _ if end == chain.len() - 1 => Some(2),
                _ => None,
            };
            assert_eq!(read.ok().map(|all| all.len()), expected, "{:?}", &chain[..end]);
        }
    }
}
