//! Which servers a client talks to, and as whom.

use std::path::PathBuf;
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use super::Error;
use crate::url;

/// The servers, and who talks to them.
#[derive(Debug, Clone, PartialEq)]
pub struct Target {
    /// Where it is; several, if any of them will do. There is at least one.
    pub servers: Vec<ServerUrl>,
    /// For requests of administrators.
    pub credentials: Option<Credentials>,
    /// A file of certificates (PEM) to trust in place of those that are built in.
    pub root_certificates: Option<PathBuf>,
}

/// Where a server is.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerUrl {
    /// Without a name and a password, and without a slash at the end.
    pub url: String,
    /// Those that the URL had, for every request. They are in no message.
    pub credentials: Option<Credentials>,
}

/// A user of HTTP Basic.
#[derive(Debug, Clone, PartialEq)]
pub struct Credentials {
    /// The name.
    pub user: String,
    /// The password.
    pub password: String,
}

/// The URLs of servers, separated by commas.
impl FromStr for Target {
    type Err = Error;

    fn from_str(urls: &str) -> Result<Self, Error> {
        let servers = ServerUrl::list(urls).map_err(|expected| {
            let urls = url::without_password(urls);
            Error::Usage(format!("{urls:?}: expected {expected}"))
        })?;
        Ok(Self { servers, credentials: None, root_certificates: None })
    }
}

impl ServerUrl {
    /// Understands the URLs of servers, separated by commas.
    ///
    /// # Errors
    /// What was expected instead.
    pub fn list(urls: &str) -> Result<Vec<Self>, String> {
        urls.split(',').map(|url| Self::parse(url.trim())).collect()
    }

    /// The name and password are those of RFC 3986, section 3.2.1.
    fn parse(text: &str) -> Result<Self, String> {
        let url = url::base(text)?;
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", &url));
        let end = rest.find('/').unwrap_or(rest.len());
        let Some(at) = rest[..end].rfind('@') else {
            return Ok(Self { url, credentials: None });
        };
        let decoded = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        let (user, password) = rest[..at].split_once(':').unwrap_or((&rest[..at], ""));
        let credentials = Some(Credentials { user: decoded(user), password: decoded(password) });
        Ok(Self { url: format!("{scheme}://{}", &rest[at + 1..]), credentials })
    }
}

/// Who asks, where, perhaps for which program, and the number of the process that does.
pub(crate) fn who(program: Option<&str>) -> String {
    let user = user();
    let uname = rustix::system::uname();
    let host = uname.nodename().to_string_lossy();
    let pid = std::process::id();
    match program {
        Some(program) => format!("{user}@{host}: {program} [{pid}]"),
        None => format!("{user}@{host} [{pid}]"),
    }
}

/// The name of the user: as the environment has it, which cron and systemd leave empty, or the
/// file of users, or else its number.
fn user() -> String {
    let from_environment = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok());
    let uid = rustix::process::getuid().as_raw();
    let from_file = || {
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        let mut lines = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let line = lines.find(|line| line.get(2).is_some_and(|id| id.parse() == Ok(uid)))?;
        line.first().map(ToString::to_string)
    };
    let named = from_environment.filter(|name| !name.is_empty()).or_else(from_file);
    named.unwrap_or_else(|| format!("uid {uid}"))
}
