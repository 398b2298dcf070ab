//! The file of users: who there is, how each is known, and what each may do.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::str;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use smol_str::SmolStr;
use toml::Spanned;

use super::rights::Rights;
use super::rules::{Digest, Rules, User, is_unknown_hash};
use crate::http::reloaded::{self, Reloaded, Source};

/// How often a request looks whether the file has changed, at most.
const LOOK: Duration = Duration::from_millis(200);

/// How long the rights of a user are in all, in bytes: another server is told of them in a field of
/// a head.
const MAX_RIGHTS: usize = 6 * 1024;

/// The file, and what it says.
pub type Users = Reloaded<UserFile>;

/// Where the users are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserFile(pub PathBuf);

/// What is wrong with the file.
#[derive(Debug)]
pub struct UsersError {
    path: PathBuf,
    fault: Fault,
}

#[derive(Debug)]
enum Fault {
    Unreadable(io::Error),
    /// At this line and column, from 1.
    At(usize, usize, String),
}

impl fmt::Display for UsersError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match &self.fault {
            Fault::Unreadable(error) => write!(f, "cannot read {path}: {error}"),
            Fault::At(line, column, what) => {
                write!(f, "{path}, line {line}, column {column}: {what}")
            }
        }
    }
}

impl std::error::Error for UsersError {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    anonymous: Option<Anonymous>,
    #[serde(default)]
    user: BTreeMap<Spanned<String>, Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Anonymous {
    may: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    password: Option<Spanned<String>>,
    token: Option<Spanned<String>>,
    may: Vec<Spanned<String>>,
}

/// What is wrong, and with which bytes.
struct Mistake(Range<usize>, String);

impl UserFile {
    /// Reads it. From then on a request looks at it now and then.
    ///
    /// # Errors
    /// It is not as it should be.
    pub fn load(self) -> Result<Users, UsersError> {
        Reloaded::load(self, LOOK)
    }
}

impl Source for UserFile {
    type Value = Rules;
    type Error = UsersError;

    fn read(&self) -> Result<Vec<Vec<u8>>, UsersError> {
        let unreadable =
            |error| UsersError { path: self.0.clone(), fault: Fault::Unreadable(error) };
        Ok(vec![reloaded::read(&self.0).map_err(unreadable)?])
    }

    fn parse(&self, contents: &[Vec<u8>]) -> Result<Rules, UsersError> {
        let bytes = contents.first().map(Vec::as_slice).unwrap_or_default();
        let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
        let rules = str::from_utf8(bytes)
            .map_err(|error| {
                Mistake(error.valid_up_to()..error.valid_up_to(), "it is not UTF-8".into())
            })
            .and_then(rules);
        rules.map_err(|Mistake(at, what)| {
            let (line, column) = place(bytes, at.start);
            UsersError { path: self.0.clone(), fault: Fault::At(line, column, what) }
        })
    }

    fn describe(&self, rules: &Rules) -> String {
        format!("users of {}: {}", self.0.display(), rules.len())
    }
}

fn rules(text: &str) -> Result<Rules, Mistake> {
    let document: Document = toml::from_str(text).map_err(|error| {
        let what = error.message().replace(char::is_control, " ");
        Mistake(error.span().unwrap_or(0..0), what)
    })?;
    // As a file is before it is written. Nobody would have any right.
    if document.anonymous.is_none() && document.user.is_empty() {
        return Err(Mistake(0..0, "there is neither a user nor [anonymous] in it".into()));
    }
    let anonymous = document.anonymous.map_or(Ok(Rights::none()), |it| rights(it.may))?;
    let (mut users, mut tokens) = (HashMap::new(), HashMap::new());
    for (name, Entry { password, token, may }) in document.user {
        let (at, name) = (name.span(), SmolStr::from(name.into_inner()));
        if name.is_empty() || (name.contains(':') && password.is_some()) {
            let what = "a user's name is not empty, and has no colon if there is a password";
            return Err(Mistake(at, what.into()));
        }
        let password = password.map(checked_password).transpose()?;
        if let Some(token) = token {
            let (at, hash) = (token.span(), token_hash(token.as_ref()));
            let expected = "expected sha256: and 64 hex digits, as rdlm hash-token prints them";
            let hash = hash.ok_or_else(|| Mistake(at.clone(), expected.into()))?;
            if tokens.insert(hash, name.clone()).is_some() {
                return Err(Mistake(at, "another user has this token".into()));
            }
        }
        users
            .insert(name, User { passwords: password.into_iter().collect(), rights: rights(may)? });
    }
    Ok(Rules::new(anonymous, users, tokens))
}

fn rights(may: Vec<Spanned<String>>) -> Result<Arc<Rights>, Mistake> {
    let (mut rights, mut len) = (Rights::default(), 0);
    for rule in may {
        let expected = |what| Mistake(rule.span(), format!("expected {what}"));
        rights.add(rule.as_ref()).map_err(expected)?;
        len += rule.as_ref().len() + "\"\",".len();
        if len > MAX_RIGHTS {
            let what = format!("the rights of one user have at most {MAX_RIGHTS} bytes");
            return Err(Mistake(rule.span(), what));
        }
    }
    Ok(Arc::new(rights))
}

fn checked_password(password: Spanned<String>) -> Result<String, Mistake> {
    if password.as_ref().is_empty() || is_unknown_hash(password.as_ref()) {
        let what = "a password is plain or a bcrypt hash, as rdlm hash-password prints it, and not \
                    empty";
        return Err(Mistake(password.span(), what.into()));
    }
    Ok(password.into_inner())
}

fn token_hash(text: &str) -> Option<Digest> {
    let hex = text.strip_prefix("sha256:")?;
    if hex.len() != 64 || !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut hash = Digest::default();
    for (byte, pair) in hash.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

/// The line and column of a byte, from 1.
fn place(text: &[u8], at: usize) -> (usize, usize) {
    let before = &text[..at.min(text.len())];
    let line = before.split(|byte| *byte == b'\n').count();
    let begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    (line, String::from_utf8_lossy(&before[begin..]).chars().count() + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_half_written_gives_nobody_a_right_that_the_whole_does_not() {
        let whole = "[anonymous]\nmay = [\"lock ci-*\", \"see ci-1\"]\n\
            # A comment, and what is \"quoted\" in it.\n\
            [user.ops]\nmay = [\n  \"admin ops-*\",\n  \"see *\",\n]\npassword = \"pass word\"\n\
            [user.'deploy.er']\npassword = \"p\"\nmay = []\n";
        let all = rules(whole).ok().unwrap();
        let rules_of = |rights: &Arc<Rights>| rights.rules().collect::<Vec<_>>();
        let is_within = |part: &Arc<Rights>, whole: &Arc<Rights>| {
            let whole = rules_of(whole);
            rules_of(part).iter().all(|rule| whole.contains(rule))
        };
        assert!(rules("").is_err() && rules("# nothing\n").is_err());
        let mut taken = 0;
        for end in 0..whole.len() {
            let Ok(part) = rules(&whole[..end]) else { continue };
            taken += 1;
            assert!(is_within(&part.anonymous(), &all.anonymous()), "{}", &whole[..end]);
            for (name, user) in part.users() {
                let same = &all.users()[name];
                assert!(is_within(&user.rights, &same.rights), "{}", &whole[..end]);
                assert!(user.passwords.is_empty() || user.passwords == same.passwords);
            }
        }
        assert_ne!(taken, 0);
    }
}
