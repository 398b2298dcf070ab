//! One HTTP exchange: a request is sent, its answer or the want of one is understood.

use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{Connector, RustlsConnector};
use ureq::{Agent, Body, http};

use super::events::Following;
use super::socket::WithKeepalive;
use super::target::{PemFile, TlsFiles};
use super::{Credentials, Error, ServerUrl, Target};
use crate::own_certificate;

/// How long a connection may take to come about.
const CONNECT: Duration = Duration::from_secs(5);

/// How long an answer may take, beside the wait for a lock.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// A server that asks for a longer pause is asked again after this one.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// An answer that is longer is none of rdlm.
const MAX_BODY_BYTES: u64 = 1 << 28;

/// The way to a server.
#[derive(Clone)]
pub(super) struct Transport {
    agent: Agent,
    pub(super) url: Arc<str>,
    /// The servers that are sent what follows, and no others: a lock's URL may name any.
    servers: Arc<[ServerUrl]>,
    authorization: Option<Arc<str>>,
    /// What the URL named: for whatever is in front of the server.
    of_url: Option<Arc<str>>,
}

/// A request.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: http::Method,
    /// The server, if it is another one.
    pub(super) base: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) body: Option<Value>,
    pub(super) key: String,
    /// What is in front of the server is not asked for this.
    pub(super) by_administrator: bool,
    pub(super) answer_within: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: http::Method, path: &'a str) -> Self {
        let key = new_key();
        let by_administrator = false;
        Self { method, base: None, path, body: None, key, by_administrator, answer_within: ANSWER }
    }

    pub(super) fn by_administrator(self) -> Self {
        Self { by_administrator: true, ..self }
    }
}

/// A new Idempotency-Key.
pub(super) fn new_key() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// An answer with a status under 300.
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) location: Option<String>,
    /// When the server sent it, by its clock.
    pub(crate) date: Option<std::time::SystemTime>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// The body, if it is JSON.
    pub(crate) fn json(&self) -> Result<Value, Failure> {
        let not_json = |_| Failure::NotRdlm("the server's answer is not that of rdlm".into());
        serde_json::from_slice(&self.body).map_err(not_json)
    }
}

/// Why there is no useful answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection came about.
    Unreachable(String),
    /// The connection ended, or time ran out, before the answer was there.
    Dropped(String),
    /// The answer is not one of rdlm.
    NotRdlm(String),
    /// An answer that something on the way made, as far as one can tell.
    Foreign(String),
    /// There is no such lock.
    NotThere,
    /// 503: it was not done, and may be later.
    Later { detail: String, retry_after: Option<Duration> },
    /// Something on the way cannot do it now. What the server has done is not known.
    Proxy { detail: String, retry_after: Option<Duration> },
    /// Another server is the one to ask, at this URL.
    Elsewhere(String),
    /// Another error of the server.
    Refused { status: u16, detail: String },
}

impl Failure {
    /// Whether it may go better with the next try.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(
            self,
            Self::Unreachable(_)
                | Self::Dropped(_)
                | Self::Foreign(_)
                | Self::Later { .. }
                | Self::Proxy { .. }
        )
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Unreachable(text) | Failure::Dropped(text) => Self::NoServer(text),
            Failure::NotRdlm(text) | Failure::Foreign(text) => Self::NotRdlm(text),
            Failure::Elsewhere(to) => Self::NotRdlm(format!("the servers point at {to}, and back")),
            Failure::NotThere => Self::Gone("there is no such lock".into()),
            Failure::Later { detail, .. } | Failure::Proxy { detail, .. } => {
                Self::NotGranted(detail)
            }
            Failure::Refused { status: 401 | 403, detail } => Self::NotPermitted(detail),
            Failure::Refused { status: 408 | 409, detail } => Self::NotGranted(detail),
            Failure::Refused { status: 500.., detail } => Self::NoServer(detail),
            Failure::Refused { detail, .. } => Self::Usage(detail),
        }
    }
}

impl Transport {
    /// Opens no connection yet.
    pub(super) fn new(target: &Target, server: &ServerUrl, tls: bool) -> Result<Self, Error> {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            // Lock servers are inside; a proxy for the outside does not reach them.
            .proxy(None)
            .user_agent(concat!("rdlm/", env!("CARGO_PKG_VERSION")))
            .accept("application/hal+json");
        if tls {
            config = config.tls_config(tls_config(&target.tls)?);
        }
        let authorization = target.credentials.as_ref().map(authorization_of);
        let of_url = server.credentials.as_ref().map(authorization_of);
        let connector = ().chain(WithKeepalive).chain(RustlsConnector::default());
        let agent = Agent::with_parts(config.build(), connector, DefaultResolver::default());
        let (url, servers) = (server.url.as_str().into(), target.servers.as_slice().into());
        Ok(Self { agent, url, servers, authorization, of_url })
    }

    /// Sends a request once.
    pub(super) fn send(&self, call: &Call<'_>) -> Result<Answer, Failure> {
        let within = call.answer_within;
        let result = match &call.body {
            Some(body) => {
                let json = self.request(call).header("Content-Type", "application/json");
                json.body(body.to_string())
                    .map_err(ureq::Error::from)
                    .and_then(|request| self.agent.run(self.with_timeouts(request, within)))
            }
            None => self
                .request(call)
                .body(())
                .map_err(ureq::Error::from)
                .and_then(|request| self.agent.run(self.with_timeouts(request, within))),
        };
        self.understand(result.map_err(|error| self.failure(error, within))?, call)
    }

    /// Asks for events, behind the one with the id `last`, and follows them as long as they come.
    pub(super) fn follow(&self, call: &Call<'_>, last: Option<&str>) -> Result<Following, Failure> {
        let within = call.answer_within;
        let mut request = self.request(call);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let run = |request| {
            let request = self.agent.configure_request(request);
            let request = request.timeout_connect(Some(CONNECT));
            self.agent.run(request.timeout_recv_response(Some(within)).build())
        };
        let response = request.body(()).map_err(ureq::Error::from).and_then(run);
        let response = response.map_err(|error| self.failure(error, within))?;
        let header = response.headers().get("Content-Type");
        let is_stream = header.is_some_and(|value| value == "text/event-stream");
        if response.status() == 200 && is_stream {
            return Ok(Following::new(response.into_body().into_reader()));
        }
        match self.understand(response, call) {
            Ok(_) => Err(self.not_rdlm("it has no events")),
            Err(failure) => Err(failure),
        }
    }

    fn request(&self, call: &Call<'_>) -> http::request::Builder {
        let url = format!("{}{}", call.base.unwrap_or(&self.url), call.path);
        let mut request = http::Request::builder()
            .method(&call.method)
            .uri(url)
            .header("Idempotency-Key", &call.key);
        let (own, of_url) = (self.authorization.as_deref(), self.of_url.as_deref());
        let authorization = if call.by_administrator { own.or(of_url) } else { of_url.or(own) };
        let is_ours = |base| self.servers.iter().any(|server| server.url == base);
        if let Some(authorization) = authorization.filter(|_| call.base.is_none_or(is_ours)) {
            request = request.header("Authorization", authorization);
        }
        request
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
        call: &Call<'_>,
    ) -> Result<Answer, Failure> {
        let (head, mut body) = response.into_parts();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let (status, location) = (head.status.as_u16(), header("Location").map(String::from));
        let read = body.with_config().limit(MAX_BODY_BYTES).read_to_vec();
        let body = read.map_err(|error| self.failure(error, call.answer_within))?;
        let media_type = header("Content-Type").map(media_type);
        let of_rdlm = head.headers.get_all("Server").iter().any(names_rdlm);
        if status < 300 {
            let may_be = status == 204
                || matches!(
                    media_type.as_deref(),
                    Some("application/hal+json" | "application/json")
                );
            if !of_rdlm && !may_be {
                return Err(self.not_rdlm(&format!("it answers {status}, not as rdlm does")));
            }
            let date = header("Date").and_then(|date| httpdate::parse_http_date(date).ok());
            return Ok(Answer { status, location, date, body });
        }
        let retry_after = header("Retry-After").and_then(|seconds| seconds.parse().ok());
        let retry_after =
            retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        let is_problem = of_rdlm && media_type.as_deref() == Some("application/problem+json");
        let problem: Option<Value> = serde_json::from_slice(&body).ok().filter(|_| is_problem);
        let member = |name| problem.as_ref().and_then(|problem| problem[name].as_str());
        let (detail, reason, outcome) = (member("detail"), member("reason"), member("outcome"));
        Err(match (status, detail, location) {
            (401, ..) => Failure::Refused { status, detail: self.not_accepted(call) },
            (404, Some(_), _) if reason == Some("no_such_lock") => Failure::NotThere,
            // It knows nothing of the path: the base of the URL is not its own.
            (404, Some(_), _) => Failure::Foreign(format!(
                "{} is not where rdlm's API begins: it knows no such path",
                self.url
            )),
            // Whether it was done is not known to the server either.
            (503, Some(detail), _) if outcome == Some("unknown") => Failure::Dropped(detail.into()),
            (503, Some(detail), _) => Failure::Later { detail: detail.into(), retry_after },
            (307 | 308, _, Some(to)) if to.ends_with(call.path) && to.contains("://") => {
                Failure::Elsewhere(to[..to.len() - call.path.len()].into())
            }
            (_, Some(detail), _) => Failure::Refused { status, detail: detail.into() },
            (403, None, _) => {
                let detail = format!("{} answers {status}", self.url);
                Failure::Refused { status, detail }
            }
            // A proxy, whose server is gone or slow.
            (408 | 429 | 500.., None, _) => {
                let detail = format!(
                    "{} answers {status}, not as rdlm does: is the server behind it there?",
                    self.url
                );
                Failure::Proxy { detail, retry_after }
            }
            (300..=399, None, Some(to)) => self.not_rdlm(&format!("it redirects to {to}")),
            _ => Failure::Foreign(format!(
                "{} is no rdlm server: it answers {status}, not as rdlm does",
                self.url
            )),
        })
    }

    fn not_accepted(&self, call: &Call<'_>) -> String {
        match &self.authorization {
            Some(own) if own.starts_with("Bearer") => {
                "the token in RDLM_TOKEN is not accepted".into()
            }
            Some(_) if call.by_administrator || self.of_url.is_none() => {
                "the user and the password in RDLM_USER and RDLM_PASSWORD are not accepted".into()
            }
            _ if call.by_administrator => {
                "the server asks for an administrator: set RDLM_USER and RDLM_PASSWORD".into()
            }
            _ => {
                "the server asks who you are: set RDLM_USER and RDLM_PASSWORD, or RDLM_TOKEN".into()
            }
        }
    }

    pub(super) fn not_rdlm(&self, why: &str) -> Failure {
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

/// The type and subtype of a Content-Type, without parameters (RFC 9110, section 8.3.1).
fn media_type(text: &str) -> String {
    text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Whether a Server header has the product `rdlm`, perhaps among those of proxies.
fn names_rdlm(server: &http::HeaderValue) -> bool {
    let products = server.to_str().unwrap_or_default();
    products.split([' ', ',']).any(|product| product.starts_with("rdlm/"))
}

fn authorization_of(credentials: &Credentials) -> Arc<str> {
    match credentials {
        Credentials::Password { user, password } => {
            format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into()
        }
        Credentials::Token(token) => format!("Bearer {token}").into(),
    }
}

fn tls_config(files: &TlsFiles) -> Result<TlsConfig, Error> {
    let mut config = TlsConfig::builder();
    if let Some(file) = &files.authority {
        config = config.root_certs(RootCerts::Specific(Arc::new(certificates(file)?)));
    }
    if let Some((certificate, key)) = &files.own {
        let (chain, key) = (certificates(certificate)?, private_key(key)?);
        own_certificate::check(&chain, &key).map_err(|error| certificate.is_wrong(&error))?;
        config = config.client_cert(Some(ClientCert::new_with_certs(&chain, key)));
    }
    Ok(config.build())
}

fn certificates(file: &PemFile) -> Result<Vec<Certificate<'static>>, Error> {
    let certificate = |item| match item {
        PemItem::Certificate(certificate) => Some(certificate),
        _ => None,
    };
    let certificates: Vec<_> = items(file)?.into_iter().filter_map(certificate).collect();
    if certificates.is_empty() {
        return Err(file.is_wrong("there is no certificate in it"));
    }
    Ok(certificates)
}

fn private_key(file: &PemFile) -> Result<PrivateKey<'static>, Error> {
    let key = items(file)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    key.ok_or_else(|| file.is_wrong("there is no private key in it that is not encrypted"))
}

fn items(file: &PemFile) -> Result<Vec<PemItem<'static>>, Error> {
    let pem = fs::read(&file.path).map_err(|error| file.is_wrong(&error.to_string()))?;
    Ok(parse_pem(&pem).filter_map(Result::ok).collect())
}

impl PemFile {
    fn is_wrong(&self, what: &str) -> Error {
        Error::Usage(format!("{} {}: {what}", self.named_by, self.path.display()))
    }
}
