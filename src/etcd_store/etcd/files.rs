//! Certificates, keys and the password for etcd. They are read again when they change.

use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::Agent;

use crate::client::raw::net::tls::{Pem, config_of_files};
use crate::client::raw::net::{Names, agent};
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

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Agent, String> {
        let mut files = self.paths().zip(contents).map(|((option, path), text)| Pem {
            name: format!("{option} {}", path.display()),
            text: text.clone(),
        });
        let own = if self.own.is_some() { files.next().zip(files.next()) } else { None };
        Ok(agent(self.names.clone(), config_of_files(files.next(), own)?))
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

    fn parse(&self, contents: &[Vec<u8>]) -> Result<String, String> {
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
