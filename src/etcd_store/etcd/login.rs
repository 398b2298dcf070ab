//! The session of this server's user of etcd, and when to log in again.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::Failure;
use super::files::{Password, PasswordFile};
use super::wire;

/// How soon a rejected password is tried again: each attempt costs etcd some 70 ms of a processor.
const RETRY: Duration = Duration::from_secs(1);

pub(super) struct Login {
    pub(super) password: Password,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    session: Option<Session>,
    rejected: Option<RejectedPassword>,
}

/// How requests are authenticated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Session {
    Token(Arc<str>),
    /// Not at all: etcd's authentication is switched off.
    Open,
}

/// A password that etcd did not accept.
struct RejectedPassword {
    password: Arc<String>,
    at: Instant,
    failure: Failure,
}

/// A login about to be sent.
pub(super) struct Attempt {
    password: Arc<String>,
    /// The body of the request.
    pub(super) body: Vec<u8>,
}

impl Session {
    pub(super) fn token(&self) -> Option<&str> {
        match self {
            Self::Token(token) => Some(token),
            Self::Open => None,
        }
    }
}

impl Login {
    /// # Errors
    /// There is no password in the file.
    pub(super) fn new(user: &str, file: &Path) -> Result<Self, String> {
        Ok(Self { password: PasswordFile::load(user, file)?, state: Mutex::default() })
    }

    pub(super) fn session(&self) -> Option<Session> {
        self.state().session.clone()
    }

    /// Ends a session. Another thread may have begun the next one already, which goes on.
    pub(super) fn end(&self, session: &Session) {
        self.state().session.take_if(|current| current == session);
    }

    /// # Errors
    /// The password was refused a moment ago, and is still the same.
    pub(super) fn prepare(&self) -> Result<Attempt, Failure> {
        let password = self.password.current();
        if let Some(rejected) = &self.state().rejected
            && rejected.password == password
            && rejected.at.elapsed() < RETRY
        {
            return Err(rejected.failure.clone());
        }
        let body = wire::authenticate(self.password.source().user(), &password);
        Ok(Attempt { password, body })
    }

    /// Begins a session if etcd's answer allows for one.
    pub(super) fn conclude(
        &self,
        attempt: Attempt,
        token: Result<String, Failure>,
    ) -> Result<Session, Failure> {
        let session = match token {
            Ok(token) => Session::Token(token.into()),
            Err(failure) if failure.says("authentication is not enabled") => Session::Open,
            Err(failure) => {
                if failure.says("authentication failed") {
                    let (password, at) = (attempt.password, Instant::now());
                    self.state().rejected =
                        Some(RejectedPassword { password, at, failure: failure.clone() });
                }
                return Err(failure);
            }
        };
        *self.state() = State { session: Some(session.clone()), rejected: None };
        Ok(session)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each of its fields is valid at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::NamedTempFile;

    use super::*;

    fn refused() -> Result<String, Failure> {
        let message = "etcdserver: authentication failed, invalid user ID or password".into();
        Err(Failure::Error { code: 3, message })
    }

    #[test]
    fn a_password_that_was_refused_is_not_tried_again_at_once() {
        let file = NamedTempFile::new().unwrap();
        fs::write(&file, "old\n").unwrap();
        let login = Login::new("u", file.path()).unwrap();
        let began = Instant::now();
        let attempt = login.prepare().unwrap();
        assert!(login.conclude(attempt, refused()).is_err());
        assert!(login.prepare().is_err() || began.elapsed() >= RETRY);
        // Another one is tried at once.
        fs::write(&file, "new\n").unwrap();
        login.password.reload();
        let attempt = login.prepare().unwrap();
        assert!(String::from_utf8(attempt.body.clone()).unwrap().contains("new"));
        let session = login.conclude(attempt, Ok("token".into())).unwrap();
        assert_eq!(login.session(), Some(session.clone()));
        // The end of an older session does not end this one.
        login.end(&Session::Open);
        assert_eq!(login.session(), Some(session));
    }
}
