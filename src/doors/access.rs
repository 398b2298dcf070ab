//! Who may send administrative requests.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use log::error;

use super::rules::{Credentials, Rules, is_unknown_hash};
use crate::http::reloaded;
use crate::http::{Problem, Status};

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

    /// What the file says; `None`: everybody may.
    ///
    /// The file is read each time, so that an edit takes effect at once.
    pub(super) fn rules(&self) -> Result<Option<Rules>, Problem> {
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
        Ok(Some(Rules::of_administrators(users)))
    }
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
    /// It ends in the middle of a line.
    Unfinished,
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
            Fault::Unfinished => {
                write!(f, "{path} does not end with a line feed, so it may be half written")
            }
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

fn read_users(path: &Path) -> Result<Vec<Credentials>, UserFileError> {
    let error = |fault| UserFileError { path: path.into(), fault };
    let bytes = reloaded::read(path).map_err(|source| error(Fault::Unreadable(source)))?;
    users_in(&bytes).map_err(error)
}

fn users_in(bytes: &[u8]) -> Result<Vec<Credentials>, Fault> {
    let not_text = |_| Fault::Unreadable(io::Error::new(io::ErrorKind::InvalidData, "not UTF-8"));
    let text = str::from_utf8(bytes).map_err(not_text)?;
    // Or the first user would have another name than it seems.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    // While the file is being written, the beginning of a password would be taken for all of it.
    if !text.is_empty() && !text.ends_with('\n') {
        return Err(Fault::Unfinished);
    }
    let is_comment = |line: &str| line.is_empty() || line.starts_with('#');
    let lines = (1..).zip(text.lines().map(str::trim)).filter(|(_, line)| !is_comment(line));
    let users = lines.map(|(number, line)| {
        let (name, password) = line.split_once(':').unwrap_or_default();
        if name.is_empty() || password.is_empty() {
            return Err(Fault::MalformedLine(number));
        }
        if is_unknown_hash(password) {
            return Err(Fault::UnknownHash(number));
        }
        Ok(Credentials { name: name.into(), password: password.into() })
    });
    let users = users.collect::<Result<Vec<_>, _>>()?;
    if users.is_empty() { Err(Fault::NoUsers) } else { Ok(users) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_file_that_is_half_written_no_line_is_taken_that_is_not_whole() {
        let whole = "alice:wonderland\n# a comment\n\nbob:pass word\n";
        let pairs = |text: &str| -> Vec<_> {
            let users = users_in(text.as_bytes()).unwrap_or_default();
            users.into_iter().map(|user| (user.name, user.password)).collect()
        };
        let all = pairs(whole);
        assert_eq!(all.len(), 2);
        for end in 0..whole.len() {
            let written = pairs(&whole[..end]);
            assert!(all.starts_with(&written), "{:?}: {written:?}", &whole[..end]);
        }
    }
}
