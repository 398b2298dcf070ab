//! The certificates with which servers verify each other. They are read again when they change.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::{ServerName, UnixTime};
use rustls::{ClientConfig, RootCertStore};

use crate::client::raw::net::tls;
use crate::http::certificates::{self, CertificateError, CertificateFiles};
use crate::http::reloaded::{Reloaded, Source};

/// How often a new connection looks whether the files have changed.
const LOOK: Duration = Duration::from_secs(5);

/// The files with them.
#[derive(Debug, Clone)]
pub(crate) struct TrustFiles {
    /// The authorities of the other servers (PEM); `None`: the built-in public ones.
    pub(super) authority: Option<PathBuf>,
    /// This server's own, for servers that ask for a client certificate.
    pub(super) own: Option<CertificateFiles>,
}

/// The TLS configuration of a connection to another server: the latest that was valid.
pub(crate) type Trust = Reloaded<TrustFiles>;

impl TrustFiles {
    /// Reads them. Later, new connections check now and then whether they have changed.
    ///
    /// # Errors
    /// A file cannot be used, or the other servers, which have the same options, would not accept
    /// this one as `url`.
    pub(super) fn load(self, url: &str) -> Result<Trust, String> {
        self.check_own(url)?;
        Reloaded::load(self, LOOK)
    }

    /// Verifies this server's certificate as the others will.
    fn check_own(&self, url: &str) -> Result<(), String> {
        let Some(files) = &self.own else { return Ok(()) };
        let read = |path| certificates::read(path).map_err(own);
        let pair = files.pair(&read(&files.certificate)?, &read(&files.key)?);
        let (chain, _) = pair.map_err(own)?;
        let Some((certificate, between)) = chain.split_first() else { return Ok(()) };
        let path = files.certificate.display();
        let name = server_name(url).ok_or_else(|| format!("--advertise-url {url}: no host"))?;
        let (provider, now) = (Arc::new(default_provider()), UnixTime::now());
        let pem = self.authority.as_ref().map(|path| certificates::read(path)).transpose();
        let roots = Arc::new(self.roots(&pem.map_err(authority)?.unwrap_or_default())?);
        let others = WebPkiServerVerifier::builder_with_provider(roots, Arc::clone(&provider));
        let others = others.build().map_err(|error| format!("--advertise-ca: {error}"))?;
        let known = others.verify_server_cert(certificate, between, &name, &[], now);
        known.map_err(|error| {
            format!(
                "the other servers would not know {url} by the certificate in {path} ({error}): \
                 --advertise-ca names its authority, and --advertise-url has a name that is in it"
            )
        })?;
        let Some(clients) = &files.client_authority else { return Ok(()) };
        let clients = certificates::verifier(&read(clients)?, clients, provider).map_err(own)?;
        let known = clients.verify_client_cert(certificate, between, now);
        known.map(drop).map_err(|error| {
            format!(
                "--tls-client-ca: a standby shows the certificate in {path} to the active server, \
                 which would not accept it ({error}): --standby redirect does without"
            )
        })
    }

    /// The trusted authorities, given the contents of their file.
    fn roots(&self, pem: &[u8]) -> Result<RootCertStore, String> {
        match &self.authority {
            Some(path) => certificates::roots(pem, path).map_err(authority),
            None => Ok(tls::built_in_authorities()),
        }
    }
}

impl Source for TrustFiles {
    type Value = Arc<ClientConfig>;
    type Error = String;

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        let own_files = self.own.iter().flat_map(|own| [&own.certificate, &own.key]);
        let own_files = own_files.map(|path| certificates::read(path).map_err(own));
        let of_others = self.authority.iter().map(|path| certificates::read(path));
        own_files.chain(of_others.map(|read| read.map_err(authority))).collect()
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Arc<ClientConfig>, String> {
        let mut contents = contents.iter().map(Vec::as_slice);
        let mut next = || contents.next().unwrap_or_default();
        let pair = match &self.own {
            Some(files) => Some((files, files.pair(next(), next()).map_err(own)?)),
            None => None,
        };
        let roots = self.roots(next())?;
        let config = match pair {
            Some((files, pair)) => {
                tls::config(roots, Some(pair)).map_err(|error| own(files.unsuitable(error)))?
            }
            None => tls::config(roots, None).map_err(|error| error.to_string())?,
        };
        Ok(config)
    }

    fn describe(&self, _: &Arc<ClientConfig>) -> String {
        match &self.authority {
            Some(path) => format!("other servers are known by {}", path.display()),
            None => "other servers are known by the authorities of Mozilla".into(),
        }
    }
}

fn own(error: CertificateError) -> String {
    format!("TLS: {error}")
}

fn authority(error: CertificateError) -> String {
    format!("--advertise-ca: {error}")
}

/// The host of a URL, as its certificate names it.
pub(super) fn server_name(url: &str) -> Option<ServerName<'static>> {
    tls::server_name(url.split_once("://")?.1)
}
