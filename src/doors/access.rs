//! Who may send administrative requests.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use log::error;
use smol_str::SmolStr;
use subtle::ConstantTimeEq;

use crate::http::reloaded;
use crate::http::{Problem, Status};
use crate::passwords::{self, Passwords, Verdict, is_bcrypt};

/// The rule for administrative requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Access {
    /// Everybody may send them.
    Open,
    /// Nobody may.
    Denied,
    /// Who knows a name and password of this file may. It has a `user:password` a line, the
    /// password plain or as a bcrypt hash. Empty lines and those that begin with # are
    /// ignored.
    UserFile(PathBuf),
}

impl Access {
    /// Reads the file, if there is one, to find mistakes at start.
    ///
    /// # Errors
    /// It cannot be read or has a line that is not as it should be.
    pub fn validate(&self) -> Result<(), UserFileError> {
        match self {
            Self::Open | Self::Denied => Ok(()),
            Self::UserFile(path) => read_users(path).map(|_| ()),
        }
    }

    /// Lets a request pass by its Authorization header, or not.
    ///
    /// The file is read anew each time, so that an edit takes effect at once.
    pub(super) fn check(
        &self,
        passwords: &Passwords,
        authorization: Option<&str>,
    ) -> Result<Option<SmolStr>, Problem> {
        let path = match self {
            Self::Open => return Ok(None),
            Self::Denied => return Err(denied()),
            Self::UserFile(path) => path,
        };
        let users = read_users(path).map_err(|error| {
            error!("administrative requests fail: {error}");
            let detail = "the server cannot read its file of administrators; its log says why";
            Problem::new(Status::InternalServerError, detail)
        })?;
        let Some(given) = authorization.and_then(basic_credentials) else {
            return Err(unauthorized());
        };
        let stored = users.iter().filter(|user| user.has_name(&given.name));
        let stored: Vec<_> = stored.map(|user| &*user.password).collect();
        match passwords.check(&stored, &given.password, dearest(&users)) {
            Verdict::Right => Ok(Some(given.name.into())),
            Verdict::Wrong => Err(unauthorized()),
            Verdict::Busy => Err(busy()),
        }
    }
}

/// The answer where too many passwords are being checked.
pub(super) fn busy() -> Problem {
    let detail = "too many passwords are being checked at the moment; try again later";
    Problem::new(Status::ServiceUnavailable, detail).with_header("Retry-After", "1")
}

fn unauthorized() -> Problem {
    let detail = "administrative requests need a user name and password (HTTP Basic)";
    let problem = Problem::new(Status::Unauthorized, detail);
    problem.with_header("WWW-Authenticate", "Basic realm=\"Restricted\"")
}

/// How much it costs to find that a password is not the one of a name, at the dearest name.
fn dearest(users: &[Credentials]) -> u64 {
    let mut by_name = HashMap::<&str, u64>::new();
    for user in users {
        let work = by_name.entry(&user.name).or_default();
        *work = work.saturating_add(passwords::work([&*user.password]));
    }
    by_name.into_values().max().unwrap_or(0)
}

/// The answer where nobody may send administrative requests.
pub(super) fn denied() -> Problem {
    Problem::new(Status::Forbidden, "administrative requests are switched off on this server")
}

/// What is wrong with the file of administrators.
#[derive(Debug)]
pub struct UserFileError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    NoUsers,
    /// The number of the line, from 1.
    MalformedLine(usize),
    UnknownHash(usize),
}

impl fmt::Display for UserFileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "cannot read {path}: {error}"),
            Fault::NoUsers => write!(f, "{path} has no line; expected a user:password a line"),
            Fault::MalformedLine(line) => {
                write!(f, "{path}, line {line}: expected user:password, neither of them empty")
            }
            Fault::UnknownHash(line) => {
                write!(
                    f,
                    "{path}, line {line}: a password is plain or a bcrypt hash, as \
                     `htpasswd -nB USER` prints it"
                )
            }
        }
    }
}

impl std::error::Error for UserFileError {}

/// A name, and a password as it is sent, or as a file has it.
pub(super) struct Credentials {
    pub(super) name: String,
    pub(super) password: String,
}

impl Credentials {
    fn has_name(&self, name: &str) -> bool {
        self.name.as_bytes().ct_eq(name.as_bytes()).into()
    }
}

fn read_users(path: &Path) -> Result<Vec<Credentials>, UserFileError> {
    let error = |fault| UserFileError { path: path.to_path_buf(), fault };
    let bytes = reloaded::read(path).map_err(|source| error(Fault::Unreadable(source)))?;
    let text = String::from_utf8(bytes).map_err(io::Error::other);
    let text = text.map_err(|source| error(Fault::Unreadable(source)))?;
    // Or the first user would have another name than it seems.
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let is_comment = |line: &str| line.is_empty() || line.starts_with('#');
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !is_comment(line));
    let users = lines.map(|(number, line)| {
        let (name, password) = line.split_once(':').unwrap_or_default();
        if name.is_empty() || password.is_empty() {
            return Err(error(Fault::MalformedLine(number)));
        }
        if is_unknown_hash(password) {
            return Err(error(Fault::UnknownHash(number)));
        }
        Ok(Credentials { name: name.into(), password: password.into() })
    });
    let users = users.collect::<Result<Vec<_>, _>>()?;
    if users.is_empty() { Err(error(Fault::NoUsers)) } else { Ok(users) }
}

/// Hashes of kinds that are not supported: taken as plain passwords they would let in
/// whoever knows the hash and nobody who knows the password.
pub(super) fn is_unknown_hash(password: &str) -> bool {
    let unsupported = ["$apr1$", "$1$", "$5$", "$6$", "$argon2", "{SHA}"];
    unsupported.iter().any(|prefix| password.starts_with(prefix))
        || (is_bcrypt(password) && password.parse::<bcrypt::HashParts>().is_err())
}

/// RFC 7617.
pub(super) fn basic_credentials(authorization: &str) -> Option<Credentials> {
    let (scheme, encoded) = authorization.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some(Credentials { name: name.into(), password: password.into() })
}
