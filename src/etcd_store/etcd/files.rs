//! Certificates, keys and the password for etcd. They are read again when they change.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;

use crate::client::own_certificate;
use crate::cluster::names::Names;
use crate::cluster::options::Options;
use crate::http::reloaded::{self, Reloaded, Source};

/// How often the files are checked at most, unless a signal asks for it.
const LOOK: Duration = Duration::from_secs(5);

/// The same for the password, which is checked before each login.
const LOOK_AT_PASSWORD: Duration = Duration::from_secs(1);

/// A pool of connections opened with the same certificates.
pub(super) type Agents = Reloaded<TlsFiles>;

/// The password of this server's user of etcd.
pub(super) type Password = Reloaded<PasswordFile>;

/// Certificates and keys, all of them optional.
pub(super) struct TlsFiles {
    endpoints: String,
    /// The authorities of etcd's certificates; `None`: the built-in public ones.
    ca: Option<PathBuf>,
    /// This server's certificate for etcd, and its key.
    own: Option<(PathBuf, PathBuf)>,
    names: Names,
}

/// A file with a password in its first line.
pub(super) struct PasswordFile {
    user: String,
    path: PathBuf,
}

impl TlsFiles {
    /// # Errors
    /// A file cannot be used; a sentence says which, and why.
    pub(super) fn load(options: &Options, names: Names) -> Result<Agents, String> {
        let own = options.cert.clone().zip(options.key.clone());
        let endpoints = options.endpoints.join(", ");
        Reloaded::load(Self { endpoints, ca: options.ca.clone(), own, names }, LOOK)
    }

    pub(super) fn has_files(&self) -> bool {
        self.paths().next().is_some()
    }

    /// With the option that names each.
    fn paths(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let own = self.own.iter().flat_map(|(cert, key)| {
            [("--etcd-cert", cert.as_path()), ("--etcd-key", key.as_path())]
        });
        own.chain(self.ca.iter().map(|ca| ("--etcd-ca", ca.as_path())))
    }
}

impl Source for TlsFiles {
    type Value = Agent;
    type Error = String;

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        self.paths().map(|(option, path)| read(option, path)).collect()
    }

    fn understand(&self, contents: &[Vec<u8>]) -> Result<Agent, String> {
        let mut contents = contents.iter().map(Vec::as_slice);
        let mut next = || contents.next().unwrap_or_default();
        let mut tls = TlsConfig::builder();
        if let Some((certificate, key)) = &self.own {
            let chain = certificates("--etcd-cert", certificate, next())?;
            let key = private_key(key, next())?;
            own_certificate::check(&chain, &key)
                .map_err(|error| format!("--etcd-cert {}: {error}", certificate.display()))?;
            tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
        }
        if let Some(file) = &self.ca {
            let roots = certificates("--etcd-ca", file, next())?;
            tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
        }
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("rdlm/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls.build())
            .build();
        Ok(Agent::with_parts(config, DefaultConnector::default(), self.names.clone()))
    }

    fn describe(&self, _: &Agent) -> String {
        let mut text = format!("locks are kept in etcd at {}", self.endpoints);
        for (option, path) in self.paths() {
            text.push_str(&format!("; {option} {}", path.display()));
        }
        text
    }
}

impl PasswordFile {
    /// # Errors
    /// The file cannot be read, or has no password.
    pub(super) fn load(user: &str, path: &Path) -> Result<Password, String> {
        Reloaded::load(Self { user: user.into(), path: path.into() }, LOOK_AT_PASSWORD)
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }
}

impl Source for PasswordFile {
    type Value = String;
    type Error = String;

    fn read(&self) -> Result<Vec<Vec<u8>>, String> {
        Ok(vec![read(PASSWORD_FILE, &self.path)?])
    }

    fn understand(&self, contents: &[Vec<u8>]) -> Result<String, String> {
        let wrong = |what: &str| format!("{PASSWORD_FILE} {}: {what}", self.path.display());
        let text = std::str::from_utf8(contents.first().map_or(&[], Vec::as_slice));
        let text = text.map_err(|_| wrong("it is not UTF-8"))?;
        match text.lines().next() {
            None | Some("") => Err(wrong("its first line is empty")),
            Some(password) => Ok(password.into()),
        }
    }

    fn describe(&self, _: &String) -> String {
        format!("the password of {} for etcd is in {}", self.user, self.path.display())
    }
}

const PASSWORD_FILE: &str = "--etcd-password-file";

fn read(option: &str, path: &Path) -> Result<Vec<u8>, String> {
    reloaded::read(path).map_err(|error| format!("{option} {}: {error}", path.display()))
}

fn certificates(
    option: &str,
    path: &Path,
    text: &[u8],
) -> Result<Vec<Certificate<'static>>, String> {
    let found = pem(option, path, text)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(format!("{option} {}: there is no certificate in it", path.display()));
    }
    Ok(found)
}

fn private_key(path: &Path, text: &[u8]) -> Result<PrivateKey<'static>, String> {
    let found = pem("--etcd-key", path, text)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.ok_or_else(|| format!("--etcd-key {}: there is no private key in it", path.display()))
}

fn pem(option: &str, path: &Path, text: &[u8]) -> Result<Vec<PemItem<'static>>, String> {
    let wrong = |error: ureq::Error| format!("{option} {}: {error}", path.display());
    parse_pem(text).map(|item| item.map_err(wrong)).collect()
}
