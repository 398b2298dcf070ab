//! The certificate of the listener and the authority of its clients, taken anew when their files
//! change.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use humantime::format_rfc3339_seconds;
use log::{error, info};
use ring::digest;
use rustls::crypto::ring::{Ticketer, default_provider};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::{RootCertStore, ServerConfig};
use x509_cert::Certificate;
use x509_cert::der::Decode;

/// How often a handshake looks whether the files have changed.
const LOOK: Duration = Duration::from_secs(5);

/// A file that is longer is none of certificates, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// Where a listener has its certificate from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, and those between it and its authority (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
    /// The certificates of the authority that clients have to have one of (PEM).
    pub client_authority: Option<PathBuf>,
}

/// What the files have, as it was when it was last in order.
pub struct Certificates {
    files: CertificateFiles,
    state: Mutex<State>,
    /// Held by whoever looks at the files.
    looking: Mutex<()>,
}

struct State {
    in_use: Arc<ServerConfig>,
    /// Of what was looked at last, in order or not.
    seen: Fingerprint,
    looked: Instant,
}

/// Of all the files together, or why they could not be read.
type Fingerprint = Result<[u8; 32], String>;

/// What is wrong with a file.
#[derive(Debug)]
pub struct CertificateError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    TooLong,
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
            Fault::TooLong => write!(f, "{path} is longer than {MAX_FILE} bytes"),
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

impl Certificates {
    /// Reads the files.
    ///
    /// # Errors
    /// They are not as they should be.
    pub fn load(files: CertificateFiles) -> Result<Self, CertificateError> {
        let contents = Contents::read(&files)?;
        let (config, expires) = contents.config(&files)?;
        let path = files.certificate.display();
        info!("the certificate in {path} is valid until {}", seconds(expires));
        let seen = Ok(contents.fingerprint());
        let state = State { in_use: Arc::new(config), seen, looked: Instant::now() };
        Ok(Self { files, state: Mutex::new(state), looking: Mutex::default() })
    }

    /// Looks at the files and takes what is new. If that is not in order the log says so, once, and
    /// what was in use stays.
    pub fn look(&self) {
        let _looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        self.look_alone();
    }

    /// What is to be used for a handshake. Now and then it looks at the files.
    pub(super) fn current(&self) -> Arc<ServerConfig> {
        let is_time = self.state().looked.elapsed() >= LOOK;
        // One looks; the others go on meanwhile, as a disk may be slow.
        if is_time && let Ok(_looking) = self.looking.try_lock() {
            self.look_alone();
        }
        Arc::clone(&self.state().in_use)
    }

    fn look_alone(&self) {
        let contents = Contents::read(&self.files);
        let seen = match &contents {
            Ok(contents) => Ok(contents.fingerprint()),
            Err(error) => Err(error.to_string()),
        };
        let is_new = {
            let mut state = self.state();
            state.looked = Instant::now();
            std::mem::replace(&mut state.seen, seen.clone()) != seen
        };
        if !is_new {
            return;
        }
        match contents.and_then(|contents| contents.config(&self.files)) {
            Ok((config, expires)) => {
                self.state().in_use = Arc::new(config);
                let path = self.files.certificate.display();
                info!("taken anew: the certificate in {path} is valid until {}", seconds(expires));
            }
            Err(error) => error!("the certificate from before stays in use: {error}"),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is in there is whole at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The bytes of the files.
struct Contents {
    certificate: Vec<u8>,
    key: Vec<u8>,
    client_authority: Option<Vec<u8>>,
}

impl Contents {
    fn read(files: &CertificateFiles) -> Result<Self, CertificateError> {
        let client_authority = files.client_authority.as_deref().map(read).transpose()?;
        Ok(Self {
            certificate: read(&files.certificate)?,
            key: read(&files.key)?,
            client_authority,
        })
    }

    fn fingerprint(&self) -> [u8; 32] {
        let mut context = digest::Context::new(&digest::SHA256);
        let authority = self.client_authority.as_deref().unwrap_or_default();
        for part in [&self.certificate, &self.key, authority] {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut fingerprint = [0; 32];
        fingerprint.copy_from_slice(context.finish().as_ref());
        fingerprint
    }

    /// What a handshake needs, and until when the certificate is valid.
    fn config(
        &self,
        files: &CertificateFiles,
    ) -> Result<(ServerConfig, SystemTime), CertificateError> {
        let wrong = |fault| CertificateError { path: files.certificate.clone(), fault };
        let chain = certificates(&self.certificate, &files.certificate)?;
        let expires = chain.first().map(valid_until).transpose().map_err(wrong)?;
        let expires = expires.ok_or_else(|| wrong(Fault::NoCertificate))?;
        let key = PrivateKeyDer::from_pem_slice(&self.key)
            .map_err(|_| CertificateError { path: files.key.clone(), fault: Fault::NoKey })?;
        let authority = match (&self.client_authority, &files.client_authority) {
            (Some(pem), Some(path)) => Some(authority(pem, path)?),
            _ => None,
        };
        let provider = Arc::new(default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider));
        let versions = builder.with_safe_default_protocol_versions();
        let builder = versions.map_err(|error| wrong(Fault::Unsuitable(error)))?;
        let certificates_wanted = authority.is_some();
        let builder = match (authority, &files.client_authority) {
            (Some(roots), Some(path)) => {
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                let verifier = verifier.build().map_err(|error| CertificateError {
                    path: path.clone(),
                    fault: Fault::Malformed(error.to_string()),
                })?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => wrong(Fault::OtherKey(files.key.clone())),
            error => wrong(Fault::Unsuitable(error)),
        })?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        if certificates_wanted {
            // A session that goes on would bring back a certificate that has expired since.
            config.send_tls13_tickets = 0;
        } else {
            config.ticketer = Ticketer::new().map_err(|error| wrong(Fault::Unsuitable(error)))?;
            config.send_tls13_tickets = 1;
        }
        Ok((config, expires))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    let wrong = |fault| CertificateError { path: path.into(), fault };
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes))
        .map_err(|error| wrong(Fault::Unreadable(error)))?;
    if bytes.len() as u64 > MAX_FILE { Err(wrong(Fault::TooLong)) } else { Ok(bytes) }
}

fn certificates(pem: &[u8], path: &Path) -> Result<Vec<CertificateDer<'static>>, CertificateError> {
    let wrong = |fault| CertificateError { path: path.into(), fault };
    let all = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    let all = all.map_err(|error| wrong(Fault::Malformed(error.to_string())))?;
    if all.is_empty() { Err(wrong(Fault::NoCertificate)) } else { Ok(all) }
}

fn authority(pem: &[u8], path: &Path) -> Result<RootCertStore, CertificateError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, path)? {
        roots.add(certificate).map_err(|error| CertificateError {
            path: path.into(),
            fault: Fault::Malformed(error.to_string()),
        })?;
    }
    Ok(roots)
}

/// Until when a certificate is valid, if it is.
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
