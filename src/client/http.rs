//! The API, as a client sees it: one method a request, each sent again over a connection that
//! was dropped.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use crossbeam_channel::after;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, http};

use super::socket::WithKeepalive;
use super::{Ask, Error, Target};

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, beside the wait for a lock.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// How long a request is sent again to a server that is not there.
pub(super) const TRIES: Duration = Duration::from_secs(2);

/// An answer that is longer is none of rdlm.
const MAX_BODY_BYTES: u64 = 1 << 28;

/// What stays as it is in the path of a URL.
const IN_PATH: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':').remove(b'~').remove(b'@').remove(b'-');

/// A server.
#[derive(Clone)]
pub(super) struct Server {
    agent: Agent,
    url: Arc<str>,
    authorization: Option<Arc<str>>,
}

/// A lock that was granted.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Lock {
    pub(super) path: LockPath,
    pub(super) fencing_token: Option<u64>,
}

/// Where a lock is: `/locks/{resource}/{uid}` on the server, or on another one that its URL names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LockPath {
    base: Option<String>,
    path: String,
}

/// Why there is no useful answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// No connection came about.
    Unreachable(String),
    /// The connection ended, or time ran out, before the answer was there.
    Dropped(String),
    /// The answer is not one of rdlm.
    NotRdlm(String),
    /// 404
    NotThere,
    /// 503, or something on the way that cannot do it now.
    Later { detail: String, retry_after: Option<Duration> },
    /// Another error of the server.
    Refused { status: u16, detail: String },
}

impl Failure {
    /// Whether it may go better with the next try.
    pub(super) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Dropped(_) | Self::Later { .. })
    }

    /// The error that it is for whoever wanted something of a lock.
    pub(super) fn about_lock(self, path: &LockPath) -> Error {
        match self {
            Self::NotThere => Error::Gone(format!(
                "{} is not held: it was released or deleted, it has expired, or it never was",
                path.path
            )),
            failure => failure.into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) | Failure::Dropped(text) => Self::NoServer(text),
            Failure::NotRdlm(text) => Self::NotRdlm(text),
            Failure::NotThere => Self::Gone("there is no such lock".into()),
            Failure::Later { detail, .. } => Self::NotGranted(detail),
            Failure::Refused { status: 401, .. } => Self::NotPermitted(
                "the server asks for an administrator: set RDLM_USER and RDLM_PASSWORD".into(),
            ),
            Failure::Refused { status: 403, detail } => Self::NotPermitted(detail),
            Failure::Refused { status: 408 | 409, detail } => Self::NotGranted(detail),
            Failure::Refused { status: 500.., detail } => Self::NoServer(detail),
            Failure::Refused { detail, .. } => Self::Usage(detail),
        }
    }
}

impl LockPath {
    /// Understands the URL of a lock, or its path.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let expected =
            || Error::Usage(format!("{text:?}: expected the URL of a lock, as acquire prints it"));
        let at = text.find("/locks/").ok_or_else(expected)?;
        let (base, path) = text.split_at(at);
        let is_url = base.starts_with("http://") || base.starts_with("https://");
        let shape: Vec<_> = path.split('/').collect();
        match shape[..] {
            [_, _, resource, uid] if is_uid(uid) && !resource.is_empty() => {}
            _ => return Err(expected()),
        }
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#\"<>\\^`{|}".contains(&byte);
        if !(base.is_empty() || is_url) || !text.bytes().all(legal) {
            return Err(expected());
        }
        let base = if is_url { Some(base.into()) } else { None };
        Ok(Self { base, path: path.into() })
    }
}

fn is_uid(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// A request.
struct Call<'a> {
    method: http::Method,
    /// The server, if it is another one.
    base: Option<&'a str>,
    path: &'a str,
    body: Option<Value>,
    key: String,
    /// Sent with the name and password.
    by_administrator: bool,
    answer_within: Duration,
}

impl<'a> Call<'a> {
    fn new(method: http::Method, path: &'a str) -> Self {
        let key = new_key();
        let by_administrator = false;
        Self { method, base: None, path, body: None, key, by_administrator, answer_within: ANSWER }
    }

    fn on_lock(method: http::Method, lock: &'a LockPath) -> Self {
        Self { base: lock.base.as_deref(), ..Self::new(method, &lock.path) }
    }

    fn by_administrator(self) -> Self {
        Self { by_administrator: true, ..self }
    }
}

/// A new Idempotency-Key.
pub(super) fn new_key() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// An answer with a status under 300.
pub(super) struct Answer {
    status: u16,
    location: Option<String>,
    /// When the server sent it, by its clock.
    pub(super) date: Option<std::time::SystemTime>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body, if it is JSON.
    pub(super) fn json(&self) -> Result<Value, Failure> {
        let not_json = |_| Failure::NotRdlm("the server's answer is not that of rdlm".into());
        serde_json::from_slice(&self.body).map_err(not_json)
    }
}

impl Server {
    /// Opens no connection yet.
    pub(super) fn new(target: &Target) -> Result<Self, Error> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Lock servers are inside; a proxy for the outside does not reach them.
            .proxy(None)
            .user_agent(concat!("rdlm/", env!("CARGO_PKG_VERSION")))
            .accept("application/hal+json");
        if let Some(file) = &target.root_certificates {
            let roots = root_certificates(file)?;
            config = config.tls_config(TlsConfig::builder().root_certs(roots).build());
        }
        let authorization = target.credentials.as_ref().map(|credentials| {
            let pair = format!("{}:{}", credentials.user, credentials.password);
            format!("Basic {}", STANDARD.encode(pair)).into()
        });
        let connector = ().chain(WithKeepalive).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config.build(), connector, DefaultResolver::default());
        Ok(Self { agent, url: target.url.as_str().into(), authorization })
    }

    /// The URL of a lock, as this client reaches it.
    pub(super) fn url_of(&self, lock: &LockPath) -> String {
        let base = lock.base.as_deref().unwrap_or(&self.url);
        format!("{base}{}", lock.path)
    }

    /// Sends one request for a lock. The server answers when it is granted or `wait` is over.
    pub(super) fn ask_once(
        &self,
        ask: &Ask,
        key: &str,
        wait: Duration,
        answer_within: Duration,
    ) -> Result<Lock, Failure> {
        let mut body = json!({
            "title": ask.title.as_deref().unwrap_or_default(),
            "wait": wait.as_secs_f64(),
            "lifetime": ask.lifetime.as_secs_f64(),
        });
        if let Some(mode) = &ask.mode {
            body["mode"] = mode.as_str().into();
        }
        if let Some(limit) = ask.limit {
            body["limit"] = limit.into();
        }
        let resource = utf8_percent_encode(&ask.resource, IN_PATH);
        let path = format!("/locks/{resource}");
        let answer = self.send(&Call {
            body: Some(body),
            key: key.into(),
            answer_within,
            ..Call::new(http::Method::POST, &path)
        })?;
        granted(&answer, &path).ok_or_else(|| self.not_rdlm("the answer names no lock"))
    }

    /// Lets a lock live for another lifetime.
    pub(super) fn renew(&self, lock: &LockPath, lifetime: Duration) -> Result<(), Failure> {
        self.retry(&renewal(lock, lifetime, ANSWER)).map(drop)
    }

    /// Sends one renewal.
    pub(super) fn renew_once(
        &self,
        lock: &LockPath,
        lifetime: Duration,
        answer_within: Duration,
    ) -> Result<(), Failure> {
        self.send(&renewal(lock, lifetime, answer_within)).map(drop)
    }

    /// Releases a lock.
    pub(super) fn release(&self, lock: &LockPath) -> Result<(), Failure> {
        self.delete_once_or_again(&Call::on_lock(http::Method::DELETE, lock))
    }

    /// A lock, held or waiting.
    pub(super) fn get(&self, lock: &LockPath) -> Result<Answer, Failure> {
        self.retry(&Call::on_lock(http::Method::GET, lock))
    }

    /// The resources that have locks.
    pub(super) fn resources(&self) -> Result<Answer, Failure> {
        self.retry(&Call::new(http::Method::GET, "/resources").by_administrator())
    }

    /// All resources with all their locks.
    pub(super) fn status(&self) -> Result<Answer, Failure> {
        self.retry(&Call::new(http::Method::GET, "/status").by_administrator())
    }

    /// The locks of a resource.
    pub(super) fn locks(&self, resource: &str) -> Result<Answer, Failure> {
        let path = format!("/resources/{}", utf8_percent_encode(resource, IN_PATH));
        self.retry(&Call::new(http::Method::GET, &path).by_administrator())
    }

    /// Deletes the locks of a resource, or all locks.
    pub(super) fn delete(&self, resource: Option<&str>) -> Result<(), Failure> {
        let path = match resource {
            Some(name) => format!("/resources/{}", utf8_percent_encode(name, IN_PATH)),
            None => "/resources".into(),
        };
        self.delete_once_or_again(&Call::new(http::Method::DELETE, &path).by_administrator())
    }

    /// A deletion whose answer was lost has been done; its repetition finds nothing.
    fn delete_once_or_again(&self, call: &Call<'_>) -> Result<(), Failure> {
        let mut dropped = false;
        let result = retry(TRIES, || {
            let result = self.send(call);
            dropped |= matches!(result, Err(Failure::Dropped(_)));
            result
        });
        match result {
            Err(Failure::NotThere) if dropped => Ok(()),
            result => result.map(drop),
        }
    }

    fn retry(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        retry(TRIES, || self.send(call))
    }

    fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let url = format!("{}{}", call.base.unwrap_or(&self.url), call.path);
        let mut request = http::Request::builder()
            .method(&call.method)
            .uri(url)
            .header("Idempotency-Key", &call.key);
        if let Some(authorization) = self.authorization.as_deref().filter(|_| call.by_administrator)
        {
            request = request.header("Authorization", authorization);
        }
        let within = call.answer_within;
        let result = match &call.body {
            Some(body) => {
                let json = request.header("Content-Type", "application/json");
                json.body(body.to_string())
                    .map_err(ureq::Error::from)
                    .and_then(|request| self.agent.run(self.with_timeouts(request, within)))
            }
            None => request
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(self.with_timeouts(request, within))),
        };
        self.understand(result.map_err(|error| self.failure(error, within))?, within)
    }

    fn with_timeouts<B: ureq::AsSendBody>(
        &self,
        request: http::Request<B>,
        within: Duration,
    ) -> http::Request<B> {
        self.agent
            .configure_request(request)
            .timeout_connect(Some(CONNECT.min(within)))
            .timeout_global(Some(within))
            .build()
    }

    fn understand(
        &self,
        response: http::Response<Body>,
        within: Duration,
    ) -> Result<Answer, Failure> {
        let (head, mut body) = response.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let (status, location) = (head.status.as_u16(), header("Location").map(String::from));
        let read = body.with_config().limit(MAX_BODY_BYTES).read_to_vec();
        let body = read.map_err(|error| self.failure(error, within))?;
        if status < 300 {
            let date = header("Date").and_then(|date| httpdate::parse_http_date(date).ok());
            return Ok(Answer { status, location, date, body });
        }
        let retry_after =
            header("Retry-After").and_then(|seconds| seconds.parse().ok()).map(Duration::from_secs);
        let is_problem = header("Content-Type") == Some("application/problem+json");
        let problem: Option<Value> = serde_json::from_slice(&body).ok().filter(|_| is_problem);
        let detail = problem.as_ref().and_then(|problem| problem["detail"].as_str());
        Err(match (status, detail, location) {
            (404, Some(_), _) => Failure::NotThere,
            (503, Some(detail), _) => Failure::Later { detail: detail.into(), retry_after },
            (_, Some(detail), _) => Failure::Refused { status, detail: detail.into() },
            (401 | 403, None, _) => {
                let detail = format!("{} answers {status}", self.url);
                Failure::Refused { status, detail }
            }
            // A proxy, whose server is gone or slow.
            (429 | 502..=504, None, _) => {
                let detail =
                    format!("{} answers {status}: the server behind it is not there", self.url);
                Failure::Later { detail, retry_after }
            }
            (300..=399, None, Some(to)) => self.not_rdlm(&format!("it redirects to {to}")),
            _ => self.not_rdlm(&format!("it answers {status}, not as rdlm does")),
        })
    }

    fn not_rdlm(&self, why: &str) -> Failure {
        Failure::NotRdlm(format!("{} is no rdlm server: {why}", self.url))
    }

    fn failure(&self, error: ureq::Error, within: Duration) -> Failure {
        use io::ErrorKind as Kind;
        let url = &self.url;
        match error {
            ureq::Error::HostNotFound => {
                Failure::Unreachable(format!("cannot reach {url}: there is no such host"))
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Failure::Unreachable(format!("cannot reach {url}: no connection in time"))
            }
            ureq::Error::Timeout(_) => {
                let seconds = within.as_secs_f64();
                Failure::Dropped(format!("{url} does not answer within {seconds:.0} s"))
            }
            ureq::Error::Io(error) => match error.kind() {
                Kind::ConnectionReset
                | Kind::ConnectionAborted
                | Kind::BrokenPipe
                | Kind::UnexpectedEof => {
                    Failure::Dropped(format!("{url} ended the connection without an answer"))
                }
                Kind::TimedOut => {
                    Failure::Dropped(format!("the host of {url} does not answer any more"))
                }
                Kind::InvalidData | Kind::InvalidInput => self.not_rdlm(&error.to_string()),
                _ => Failure::Unreachable(format!("cannot reach {url}: {error}")),
            },
            ureq::Error::ConnectionFailed => {
                Failure::Unreachable(format!("cannot reach {url}: no connection"))
            }
            error @ (ureq::Error::BadUri(_) | ureq::Error::Http(_)) => {
                let detail = format!("{url} is not a URL to send requests to: {error}");
                Failure::Refused { status: 400, detail }
            }
            error => self.not_rdlm(&error.to_string()),
        }
    }
}

/// Tries again for a while, as long as the failure may pass.
fn retry<T>(
    within: Duration,
    mut attempt: impl FnMut() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let until = Instant::now() + within;
    let mut pauses = Pauses::new();
    loop {
        let failure = match attempt() {
            Err(failure) if failure.is_passing() => failure,
            result => return result,
        };
        let pause = pauses.next(&failure);
        if Instant::now() + pause > until {
            return Err(failure);
        }
        // A channel that is ready after the pause.
        let _ = after(pause).recv();
    }
}

/// The pauses between tries: from 0.1 s, each twice as long as the one before, to 2 s.
pub(super) struct Pauses(Duration);

impl Pauses {
    pub(super) fn new() -> Self {
        Self(Duration::from_millis(100))
    }

    /// The pause before the next try, after this failure.
    pub(super) fn next(&mut self, failure: &Failure) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Duration::from_secs(2));
        match failure {
            Failure::Later { retry_after: Some(asked_for), .. } => pause.max(*asked_for),
            _ => pause,
        }
    }
}

fn renewal(lock: &LockPath, lifetime: Duration, answer_within: Duration) -> Call<'_> {
    let body = Some(json!({ "lifetime": lifetime.as_secs_f64() }));
    Call { body, answer_within, ..Call::on_lock(http::Method::PATCH, lock) }
}

/// The lock of a 201. Its host is what the server believes to be called; this client reached
/// it by its own URL, and keeps to that.
fn granted(answer: &Answer, resource: &str) -> Option<Lock> {
    let location = answer.location.as_deref()?;
    let uid = location.rsplit('/').next().filter(|uid| is_uid(uid))?;
    if answer.status != 201 || !location.contains("/locks/") {
        return None;
    }
    let lock: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    Some(Lock {
        path: LockPath { base: None, path: format!("{resource}/{uid}") },
        fencing_token: lock["fencing_token"].as_u64(),
    })
}

fn root_certificates(file: &Path) -> Result<RootCerts, Error> {
    let wrong = |what: String| Error::Usage(format!("SSL_CERT_FILE {}: {what}", file.display()));
    let pem = fs::read(file).map_err(|error| wrong(error.to_string()))?;
    let certificates: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(wrong("there is no certificate in it".into()));
    }
    Ok(RootCerts::Specific(Arc::new(certificates)))
}
