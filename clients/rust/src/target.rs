//! Which servers a client talks to, and with which credentials.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use nix::unistd::{gethostname, getuid};
use percent_encoding::percent_decode_str;

use super::Error;
use crate::raw::url;

/// Servers, with the credentials and certificates for them.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// At least one. Several are equivalent.
    pub servers: Vec<ServerUrl>,
    /// For requests of an administrator, and all others if a server's URL has none.
    pub credentials: Option<Credentials>,
    /// For servers with https.
    pub tls: TlsFiles,
}

/// PEM files for TLS.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TlsFiles {
    /// Authorities to trust in place of Mozilla's, which are built in.
    pub authority: Option<PemFile>,
    /// The certificate of the server, which alone is trusted then, whatever names are in it.
    pub pinned: Option<PemFile>,
    /// The client's certificate and its key, for servers that ask for one.
    pub own: Option<(PemFile, PemFile)>,
}

/// A PEM file.
#[derive(Debug, Clone, PartialEq)]
pub struct PemFile {
    /// Its path.
    pub path: PathBuf,
    /// The option or variable that names it, for messages.
    pub named_by: String,
}

/// The URL of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerUrl {
    /// Without a user, a password and a slash at the end.
    pub url: String,
    /// Those in the URL, for every request. No message shows them.
    pub credentials: Option<Credentials>,
}

/// The credentials of a user.
#[derive(Clone, PartialEq)]
pub enum Credentials {
    /// A user and a password (HTTP Basic).
    Password {
        /// The user.
        user: String,
        /// The password.
        password: String,
    },
    /// A bearer token.
    Token(String),
}

/// Without secrets.
impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Password { user, .. } => write!(f, "Password of {user:?}"),
            Self::Token(_) => f.write_str("Token"),
        }
    }
}

/// The URLs of servers, separated by commas.
impl FromStr for Target {
    type Err = Error;

    fn from_str(urls: &str) -> Result<Self, Error> {
        let servers = ServerUrl::list(urls).map_err(|expected| {
            let urls = url::without_password(urls);
            Error::Usage(format!("{urls:?}: expected {expected}"))
        })?;
        Ok(Self { servers, credentials: None, tls: TlsFiles::default() })
    }
}

impl ServerUrl {
    /// Parses the URLs of servers, separated by commas.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn list(urls: &str) -> Result<Vec<Self>, String> {
        urls.split(',').map(|url| Self::parse(url.trim())).collect()
    }

    /// User and password as in RFC 3986, section 3.2.1.
    fn parse(text: &str) -> Result<Self, String> {
        let url = url::base(text)?;
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let end = rest.find('/').unwrap_or(rest.len());
        let Some(at) = rest[..end].rfind('@') else {
            return Ok(Self { url, credentials: None });
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        let credentials =
            Some(Credentials::Password { user: decoded(user), password: decoded(password) });
        Ok(Self { url: format!("{scheme}://{}", &rest[at + 1..]), credentials })
    }
}

/// The default title: user, host, program if there is one, and process ID.
pub fn who(program: Option<&str>) -> String {
    let user = user();
    let host = gethostname().unwrap_or_default();
    let host = host.to_string_lossy();
    let pid = std::process::id();
    match program {
        Some(program) => format!("{user}@{host}: {program} [{pid}]"),
        None => format!("{user}@{host} [{pid}]"),
    }
}

/// The name of the user, from the environment, or /etc/passwd (cron and systemd set no variable), or
/// else its number.
fn user() -> String {
    let from_environment = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = getuid().as_raw();
    let from_file = || {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.get(2).is_some_and(|id| id.parse() == Ok(uid)))?;
        line.first().map(ToString::to_string)
    };
    let named = from_environment.filter(|name| !name.is_empty()).or_else(from_file);
    named.unwrap_or_else(|| format!("uid {uid}"))
}
