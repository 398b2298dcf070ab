//! A client of etcd's JSON gateway: one attempt at one member, with a deadline of its own.

mod files;
mod login;
pub(super) mod wire;

use std::fmt;
use std::io;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::client::raw::net::Names;
use crate::cluster::options::Options;
use files::{Agents, TlsFiles};
use login::{Login, Session};
use wire::{Authenticated, ErrorAnswer, FromCluster, RangeAnswer, StatusAnswer, TxnAnswer};

/// The longest answer in bytes. If rows take more, fewer are requested at a time.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// How long a login may take at least: etcd hashes the password, for some 70 ms of a processor
/// that may be busy.
const LOGIN: Duration = Duration::from_secs(1);

/// The members of one etcd cluster.
pub(crate) struct Etcd {
    agents: Agents,
    names: Names,
    endpoints: Vec<String>,
    /// The member in use: the next one after each failure.
    current: AtomicUsize,
    login: Option<Login>,
    /// Of the cluster that answered first. Answers of any other are failures.
    cluster_id: OnceLock<String>,
    errors: [AtomicU64; Failure::NAMES.len()],
}

/// Why an attempt has no usable answer. Whether etcd has done anything is unknown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection.
    Connection(String),
    /// The connection ended without an answer.
    Ended(String),
    /// No answer in time.
    Timeout,
    /// etcd says that something is wrong.
    Error { code: i64, message: String },
    /// It is not the cluster that answered before.
    OtherCluster,
    /// The answer is not one of etcd.
    Unreadable,
}

impl Failure {
    /// For the label of a metric; see [`Failure::index`].
    pub(crate) const NAMES: [&str; 5] =
        ["connection", "timeout", "error", "other_cluster", "unreadable"];

    fn index(&self) -> usize {
        match self {
            Self::Connection(_) | Self::Ended(_) => 0,
            Self::Timeout => 1,
            Self::Error { .. } => 2,
            Self::OtherCluster => 3,
            Self::Unreadable => 4,
        }
    }

    /// Whether etcd says this. Its codes differ between versions, these texts do not.
    fn says(&self, text: &str) -> bool {
        matches!(self, Self::Error { message, .. } if message.contains(text))
    }

    /// Whether the session has ended, so that a new login helps.
    fn ends_session(&self) -> bool {
        match self {
            // What some versions, among them 3.4.23, do instead of refusing a token.
            Self::Ended(_) => true,
            // UNAUTHENTICATED
            Self::Error { code: 16, .. } => true,
            _ => [
                "invalid auth token",
                // There was no token, since authentication was switched off before.
                "user name is empty",
                // Users or roles have changed, which invalidates all JWTs. The latter is what
                // etcd calls the same where it does not translate its own errors.
                "revision of auth store is old",
                "revision in header is old",
            ]
            .iter()
            .any(|text| self.says(text)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(why) | Self::Ended(why) => f.write_str(why),
            Self::Timeout => f.write_str("no answer in time"),
            Self::Error { message, .. } => f.write_str(message),
            Self::OtherCluster => f.write_str("it belongs to another cluster than the one before"),
            Self::Unreadable => f.write_str("its answer is not one of etcd"),
        }
    }
}

impl Etcd {
    /// Opens no connection yet.
    ///
    /// # Errors
    /// A file cannot be used; a sentence says which, and why.
    pub(crate) fn new(options: &Options) -> Result<Self, String> {
        let login = match (&options.user, &options.password_file) {
            (Some(user), Some(file)) => Some(Login::new(user, file)?),
            _ => None,
        };
        let names = Names::default();
        Ok(Self {
            agents: TlsFiles::load(options, names.clone())?,
            names,
            endpoints: options.endpoints.clone(),
            current: AtomicUsize::new(0),
            login,
            cluster_id: OnceLock::new(),
            errors: Default::default(),
        })
    }

    /// How many attempts reach each member once.
    pub(super) fn members(&self) -> usize {
        self.endpoints.len()
    }

    /// Whether there are files that [`Etcd::look`] reads again.
    pub(crate) fn reloads(&self) -> bool {
        self.login.is_some() || self.agents.source().has_files()
    }

    /// Looks whether certificates or the password have changed.
    pub(crate) fn look(&self) {
        self.agents.reload();
        self.login.iter().for_each(|login| login.password.reload());
    }

    /// The same, unless it was done a moment ago.
    pub(super) fn look_now_and_then(&self) {
        self.agents.current();
        self.login.iter().for_each(|login| drop(login.password.current()));
    }

    /// How many attempts have failed, in the order of [`Failure::NAMES`].
    pub(crate) fn errors(&self) -> [u64; Failure::NAMES.len()] {
        self.errors.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn txn(&self, body: &[u8], within: Duration) -> Result<TxnAnswer, Failure> {
        self.attempt("/v3/kv/txn", body, within)
    }

    pub(super) fn range(&self, body: &[u8], within: Duration) -> Result<RangeAnswer, Failure> {
        self.attempt("/v3/kv/range", body, within)
    }

    /// Prefers the leader from now on, if it can be found: other members forward writes to it.
    /// Returns the status of the member in use so far.
    pub(super) fn prefer_leader(&self, within: Duration) -> Result<StatusAnswer, Failure> {
        let at = self.current.load(Ordering::Relaxed);
        let status = self.status(at, within);
        if status.as_ref().is_ok_and(StatusAnswer::leads) {
            return status;
        }
        let leads = |at: &usize| self.status(*at, within).is_ok_and(|status| status.leads());
        if let Some(leader) = (at + 1..).take(self.members() - 1).find(leads) {
            let _ = self.current.compare_exchange(at, leader, Ordering::Relaxed, Ordering::Relaxed);
        }
        status
    }

    fn status(&self, at: usize, within: Duration) -> Result<StatusAnswer, Failure> {
        let endpoint = &self.endpoints[at % self.members()];
        let answer = self.ask(endpoint, "/v3/maintenance/status", b"{}", within)?;
        self.understand(&answer)
    }

    /// One attempt. After a failure the next one goes to another member.
    fn attempt<T: DeserializeOwned + FromCluster>(
        &self,
        path: &str,
        body: &[u8],
        within: Duration,
    ) -> Result<T, Failure> {
        let at = self.current.load(Ordering::Relaxed);
        let endpoint = &self.endpoints[at % self.endpoints.len()];
        let result = self.ask(endpoint, path, body, within);
        let failure = match result.and_then(|bytes| self.understand(&bytes)) {
            Ok(answer) => return Ok(answer),
            Err(failure) => failure,
        };
        // It may require new certificates.
        self.look_now_and_then();
        self.errors[failure.index()].fetch_add(1, Ordering::Relaxed);
        // Unless another thread has moved on after a failure of its own.
        let next = at.wrapping_add(1);
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        Err(failure)
    }

    /// Sends a request, with a login before it where one is needed.
    fn ask(
        &self,
        endpoint: &str,
        path: &str,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let Some(login) = &self.login else { return self.send(endpoint, path, None, body, within) };
        let session = self.session(login, endpoint, within)?;
        let result = self.send(endpoint, path, session.token(), body, within);
        let Some(failure) = result.as_ref().err().filter(|failure| failure.ends_session()) else {
            return result;
        };
        login.end(&session);
        if matches!(failure, Failure::Ended(_)) {
            // The member may be down: try another one.
            return result;
        }
        let session = self.session(login, endpoint, within)?;
        self.send(endpoint, path, session.token(), body, within)
    }

    /// The current session, or a new one.
    fn session(&self, login: &Login, endpoint: &str, within: Duration) -> Result<Session, Failure> {
        if let Some(session) = login.session() {
            return Ok(session);
        }
        let (attempt, within) = (login.prepare()?, within.max(LOGIN));
        let answer = self.send(endpoint, "/v3/auth/authenticate", None, &attempt.body, within);
        let answer = answer.and_then(|answer| self.understand::<Authenticated>(&answer));
        login.conclude(attempt, answer.map(|answer| answer.token))
    }

    fn send(
        &self,
        endpoint: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let agent = self.agents.latest();
        let mut request = agent
            .post(format!("{endpoint}{path}"))
            .header("Content-Type", "application/json")
            .header("Grpc-Timeout", format!("{}m", within.as_millis()));
        if let Some(token) = token {
            request = request.header("Authorization", token);
        }
        let request = request.config().timeout_global(Some(within)).build();
        let failed = |error| {
            self.names.refresh();
            match error {
                ureq::Error::Timeout(_) => Failure::Timeout,
                ureq::Error::Io(error) if is_end(&error) => Failure::Ended(error.to_string()),
                error => Failure::Connection(error.to_string()),
            }
        };
        let mut response = request.send(body).map_err(failed)?;
        let status = response.status().as_u16();
        let body = response.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
        let body = body.map_err(failed)?;
        if status == 200 {
            return Ok(body);
        }
        let error: ErrorAnswer = serde_json::from_slice(&body).map_err(|_| Failure::Unreadable)?;
        let code = if status == 401 { 16 } else { error.code };
        Err(Failure::Error { code, message: error.message })
    }

    fn understand<T: DeserializeOwned + FromCluster>(&self, bytes: &[u8]) -> Result<T, Failure> {
        let answer: T = serde_json::from_slice(bytes).map_err(|_| Failure::Unreadable)?;
        let theirs = answer.cluster_id();
        if self.cluster_id.get_or_init(|| theirs.into()) != theirs {
            return Err(Failure::OtherCluster);
        }
        Ok(answer)
    }
}

/// Whether the other side has ended a connection that there was.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// An etcd that answers a single request, with a body of so many bytes; and its address.
    fn answers_once(len: u64) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let head = BufReader::new(&socket).lines().map(Result::unwrap);
            assert!(head.take_while(|line| !line.is_empty()).count() > 0);
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {len}\r\n\r\n");
            socket.write_all(head.as_bytes()).unwrap();
            // Fails if the client stops reading.
            let _ = io::copy(&mut io::repeat(b'x').take(len), &mut socket);
            let _ = io::copy(&mut socket, &mut io::sink());
        });
        url
    }

    fn asked(len: u64) -> Result<RangeAnswer, Failure> {
        let options = Options::of_member(answers_once(len), Duration::from_secs(5));
        Etcd::new(&options).unwrap().range(b"{}", Duration::from_secs(60))
    }

    #[test]
    fn an_answer_of_etcd_over_64_mib_is_not_read_to_its_end() {
        assert_eq!(asked(MAX_ANSWER).unwrap_err(), Failure::Unreadable, "it is read, and no JSON");
        let failure = asked(MAX_ANSWER + 1).unwrap_err();
        assert!(matches!(failure, Failure::Connection(_)), "{failure:?}");
    }
}
