//! etcd, by its JSON gateway: one attempt at one member, with a deadline of its own.

pub(super) mod wire;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde::de::DeserializeOwned;
use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::DefaultConnector;

use super::Options;
use super::names::Names;
use crate::client::own_certificate;
use wire::{Authenticated, ErrorAnswer, FromCluster, RangeAnswer, StatusAnswer, TxnAnswer};

/// The longest answer in bytes. Rows that take more are asked for again, fewer at a time.
const MAX_ANSWER: u64 = 64 * 1024 * 1024;

/// The members of one etcd cluster.
pub(super) struct Etcd {
    agent: Agent,
    names: Names,
    endpoints: Vec<String>,
    /// The one that is asked: another one after each failure.
    current: AtomicUsize,
    login: Option<Login>,
    /// Of the cluster that answered first. No other is believed.
    cluster_id: OnceLock<String>,
    errors: [AtomicU64; Failure::NAMES.len()],
}

struct Login {
    user: String,
    password: String,
    token: Mutex<Option<Arc<str>>>,
}

/// Why an attempt has no answer that can be used. What etcd has done is not known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection, or it ended.
    Connection(String),
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
    /// For the label of a metric, in the order of the variants.
    pub(super) const NAMES: [&str; 5] =
        ["connection", "timeout", "error", "other_cluster", "unreadable"];

    fn index(&self) -> usize {
        match self {
            Self::Connection(_) => 0,
            Self::Timeout => 1,
            Self::Error { .. } => 2,
            Self::OtherCluster => 3,
            Self::Unreadable => 4,
        }
    }

    fn is_about_login(&self) -> bool {
        match self {
            // UNAUTHENTICATED, or what etcd says of a request without a token.
            Self::Error { code, message } => {
                *code == 16
                    || message.contains("user name is empty")
                    || message.contains("invalid auth token")
            }
            _ => false,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(why) => f.write_str(why),
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
    pub(super) fn new(options: &Options) -> Result<Self, String> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("rdlm/", env!("CARGO_PKG_VERSION")))
            .tls_config(tls(options)?)
            .build();
        let login = match (&options.user, &options.password_file) {
            (Some(user), Some(file)) => Some(Login::new(user, file)?),
            _ => None,
        };
        let names = Names::default();
        Ok(Self {
            agent: Agent::with_parts(config, DefaultConnector::default(), names.clone()),
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

    /// How many attempts have failed, in the order of [`Failure::NAMES`].
    pub(super) fn errors(&self) -> [u64; Failure::NAMES.len()] {
        self.errors.each_ref().map(|count| count.load(Ordering::Relaxed))
    }

    pub(super) fn txn(&self, body: &[u8], within: Duration) -> Result<TxnAnswer, Failure> {
        self.attempt("/v3/kv/txn", body, within)
    }

    pub(super) fn range(&self, body: &[u8], within: Duration) -> Result<RangeAnswer, Failure> {
        self.attempt("/v3/kv/range", body, within)
    }

    /// From now on asks the member that leads, if it can be found: every other one passes a write
    /// on to it. What the member says that is asked now.
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
        let mut result = self.ask(endpoint, path, body, within);
        if result.as_ref().is_err_and(Failure::is_about_login)
            && let Some(login) = &self.login
        {
            // Tokens end.
            *login.token() = None;
            result = self.ask(endpoint, path, body, within);
        }
        let failure = match result {
            Ok(bytes) => match self.understand(&bytes) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            },
            Err(failure) => failure,
        };
        self.errors[failure.index()].fetch_add(1, Ordering::Relaxed);
        // Whoever else has failed there meanwhile has gone on already.
        let next = at.wrapping_add(1);
        let _ = self.current.compare_exchange(at, next, Ordering::Relaxed, Ordering::Relaxed);
        Err(failure)
    }

    fn ask(
        &self,
        endpoint: &str,
        path: &str,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let token = match &self.login {
            Some(login) => Some(self.token(login, endpoint, within)?),
            None => None,
        };
        self.send(endpoint, path, token.as_deref(), body, within)
    }

    fn token(&self, login: &Login, endpoint: &str, within: Duration) -> Result<Arc<str>, Failure> {
        if let Some(token) = login.token().clone() {
            return Ok(token);
        }
        let body = wire::authenticate(&login.user, &login.password);
        let answer = self.send(endpoint, "/v3/auth/authenticate", None, &body, within)?;
        let answer: Authenticated = self.understand(&answer)?;
        let token: Arc<str> = answer.token.into();
        *login.token() = Some(Arc::clone(&token));
        Ok(token)
    }

    fn send(
        &self,
        endpoint: &str,
        path: &str,
        token: Option<&str>,
        body: &[u8],
        within: Duration,
    ) -> Result<Vec<u8>, Failure> {
        let mut request = self
            .agent
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

impl Login {
    fn new(user: &str, file: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(file)
            .map_err(|error| format!("--etcd-password-file {}: {error}", file.display()))?;
        let password = text.lines().next().unwrap_or_default().to_string();
        Ok(Self { user: user.into(), password, token: Mutex::default() })
    }

    fn token(&self) -> std::sync::MutexGuard<'_, Option<Arc<str>>> {
        // A token is there or not, at any moment.
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tls(options: &Options) -> Result<TlsConfig, String> {
    let mut tls = TlsConfig::builder();
    if let Some(file) = &options.ca {
        let roots = certificates("--etcd-ca", file)?;
        tls = tls.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    if let (Some(certificate), Some(key)) = (&options.cert, &options.key) {
        let chain = certificates("--etcd-cert", certificate)?;
        let key = private_key(key)?;
        own_certificate::check(&chain, &key)
            .map_err(|error| format!("--etcd-cert {}: {error}", certificate.display()))?;
        tls = tls.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(tls.build())
}

fn certificates(option: &str, file: &PathBuf) -> Result<Vec<Certificate<'static>>, String> {
    let found = pem(option, file)?.into_iter().filter_map(|item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = found.collect();
    if found.is_empty() {
        return Err(format!("{option} {}: there is no certificate in it", file.display()));
    }
    Ok(found)
}

fn private_key(file: &PathBuf) -> Result<PrivateKey<'static>, String> {
    let found = pem("--etcd-key", file)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    found.ok_or_else(|| format!("--etcd-key {}: there is no private key in it", file.display()))
}

fn pem(option: &str, file: &PathBuf) -> Result<Vec<PemItem<'static>>, String> {
    let wrong = |what: String| format!("{option} {}: {what}", file.display());
    let text = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    parse_pem(&text).map(|item| item.map_err(|error| wrong(error.to_string()))).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{self, BufRead, BufReader, Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;
    use crate::cluster::Standby;

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
            // Whoever takes no more ends the connection.
            let _ = io::copy(&mut io::repeat(b'x').take(len), &mut socket);
            let _ = io::copy(&mut socket, &mut io::sink());
        });
        url
    }

    fn asked(len: u64) -> Result<RangeAnswer, Failure> {
        let options = Options {
            endpoints: vec![answers_once(len)],
            prefix: String::new(),
            ca: None,
            cert: None,
            key: None,
            user: None,
            password_file: None,
            advertise_url: None,
            advertise_ca: None,
            failover_after: Duration::from_secs(5),
            standby: Standby::Forward,
        };
        Etcd::new(&options).unwrap().range(b"{}", Duration::from_secs(60))
    }

    #[test]
    fn an_answer_of_etcd_over_64_mib_is_not_read_to_its_end() {
        assert_eq!(asked(MAX_ANSWER).unwrap_err(), Failure::Unreadable, "it is read, and no JSON");
        let failure = asked(MAX_ANSWER + 1).unwrap_err();
        assert!(matches!(failure, Failure::Connection(_)), "{failure:?}");
    }
}
