//! One HTTP exchange with one server.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::Value;
use ureq::{Agent, Body, http};

use super::answer::{Answer, Asked, Expected, Failure};
use super::deadline::{Deadline, Wait};
use super::events::Following;
use super::{Credentials, Error, ServerUrl, Target};
use crate::raw::url;

/// The time-out of a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// The time-out of a response, beside the wait for a lock.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The shortest time-out: zero means something else.
const SHORTEST: Duration = Duration::from_millis(1);

/// No response of rdlm is longer.
const MAX_BODY_BYTES: u64 = 1 << 28;

/// One server, and what requests to it carry.
#[derive(Clone)]
pub(super) struct Transport {
    agent: Agent,
    pub(super) url: Arc<str>,
    /// The only servers that are sent credentials: a lock's URL may name any other.
    servers: Arc<[ServerUrl]>,
    authorization: Option<Arc<str>>,
    /// The credentials in the URL, for a proxy in front of the server.
    of_url: Option<Arc<str>>,
}

/// A request and its deadlines.
#[derive(Clone)]
pub(super) struct Call<'a> {
    pub(super) method: http::Method,
    /// Another server than that of the transport.
    pub(super) base: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) body: Option<Value>,
    pub(super) key: String,
    /// Whether an administrator's credentials come before those in the URL.
    pub(super) by_administrator: bool,
    pub(super) expected: Expected<'a>,
    /// When the response is due, from any server, beside `wait`.
    pub(super) by: Deadline,
    /// How long the server may wait before it responds.
    pub(super) wait: Option<Wait>,
}

/// The time-outs of one attempt.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    connect: Duration,
    answer: Duration,
}

impl<'a> Call<'a> {
    pub(super) fn new(method: http::Method, path: &'a str, expected: Expected<'a>) -> Self {
        Self {
            method,
            base: None,
            path,
            body: None,
            key: new_key(),
            by_administrator: false,
            expected,
            by: Deadline::after(ANSWER),
            wait: None,
        }
    }

    pub(super) fn by_administrator(self) -> Self {
        Self { by_administrator: true, ..self }
    }

    /// The time-outs of an attempt, when `servers` are left to try. They share the time for
    /// connections; a server that is connected may take all the time left to respond.
    pub(super) fn limits(&self, servers: u32) -> Limits {
        let left = self.by.left().max(SHORTEST);
        let connect = (left / servers.max(1)).clamp(SHORTEST, CONNECT);
        let answer = self.wait.map_or(left, |wait| wait.response_within(left));
        Limits { connect, answer }
    }

    /// The body, with the time left to wait.
    fn body(&self) -> Option<String> {
        let mut body = self.body.clone()?;
        if let Some(wait) = self.wait {
            body["wait"] = wait.seconds().into();
        }
        Some(body.to_string())
    }
}

/// A new Idempotency-Key.
pub fn new_key() -> String {
    let mut bytes = [0; 16];
    let filled = SystemRandom::new().fill(&mut bytes);
    filled.unwrap_or_else(|_| panic!("the system has no random numbers"));
    format!("{:032x}", u128::from_be_bytes(bytes))
}

impl Transport {
    pub(super) fn new(target: &Target, server: &ServerUrl, agent: Agent) -> Result<Self, Error> {
        let authorization = target.credentials.as_ref().map(authorization_of).transpose()?;
        let of_url = server.credentials.as_ref().map(authorization_of).transpose()?;
        let (url, servers) = (server.url.as_str().into(), target.servers.as_slice().into());
        Ok(Self { agent, url, servers, authorization, of_url })
    }

    /// Sends a request once.
    pub(super) fn send(&self, call: &Call<'_>, limits: Limits) -> Result<Answer, Failure> {
        let result = match call.body() {
            Some(body) => {
                let json = self.request(call).header("Content-Type", "application/json");
                let request = json.body(body).map_err(ureq::Error::from);
                request.and_then(|request| self.agent.run(self.limited(request, limits)))
            }
            None => {
                let request = self.request(call).body(()).map_err(ureq::Error::from);
                request.and_then(|request| self.agent.run(self.limited(request, limits)))
            }
        };
        self.asked(call, limits, |asked| read(asked, result.map_err(|error| asked.failure(error))?))
    }

    /// Requests the stream of events after the one with the id `last`.
    pub(super) fn follow(
        &self,
        call: &Call<'_>,
        limits: Limits,
        last: Option<&str>,
    ) -> Result<Following, Failure> {
        let mut request = self.request(call);
        if let Some(last) = last {
            request = request.header("Last-Event-ID", last);
        }
        let run = |request| {
            let request = self.agent.configure_request(request);
            let request = request.timeout_resolve(Some(limits.connect));
            let request = request.timeout_connect(Some(limits.connect));
            self.agent.run(request.timeout_recv_response(Some(limits.answer)).build())
        };
        let result = request.body(()).map_err(ureq::Error::from).and_then(run);
        self.asked(call, limits, |asked| {
            let response = result.map_err(|error| asked.failure(error))?;
            let media_type = response.headers().get("Content-Type");
            let is_stream = media_type.is_some_and(|value| value == "text/event-stream");
            if response.status() == 200 && is_stream {
                let known_since = response.headers().get("RDLM-Known-Since");
                let known_since = known_since.and_then(|it| it.to_str().ok()).map(String::from);
                let stream = response.into_body().into_reader();
                return Ok(Following::new(stream).known_since(known_since));
            }
            // Not a stream of events, so it can only be an error.
            read(asked, response).and(Err(Failure::NotRdlm("there are no events".into())))
        })
    }

    fn request(&self, call: &Call<'_>) -> http::request::Builder {
        let request = http::Request::builder()
            .method(&call.method)
            .uri(format!("{}{}", call.base.unwrap_or(&self.url), call.path))
            .header("Accept", "application/hal+json")
            .header("Idempotency-Key", &call.key);
        match self.credentials(call).filter(|_| self.is_trusted(call)) {
            Some(authorization) => request.header("Authorization", authorization),
            None => request,
        }
    }

    /// Whether the server of a call may see credentials.
    fn is_trusted(&self, call: &Call<'_>) -> bool {
        let is_ours = |base| self.servers.iter().any(|server| server.url == base);
        call.base.is_none_or(is_ours)
    }

    fn credentials(&self, call: &Call<'_>) -> Option<&str> {
        let (own, of_url) = (self.authorization.as_deref(), self.of_url.as_deref());
        if call.by_administrator { own.or(of_url) } else { of_url.or(own) }
    }

    fn limited<B: ureq::AsSendBody>(
        &self,
        request: http::Request<B>,
        limits: Limits,
    ) -> http::Request<B> {
        self.agent
            .configure_request(request)
            .timeout_resolve(Some(limits.connect))
            .timeout_connect(Some(limits.connect))
            .timeout_global(Some(limits.answer))
            .build()
    }

    /// Calls `understand` with what was sent to whom.
    fn asked<T>(
        &self,
        call: &Call<'_>,
        limits: Limits,
        understand: impl FnOnce(&Asked<'_>) -> T,
    ) -> T {
        let url = url::without_password(call.base.unwrap_or(&self.url));
        understand(&Asked {
            url: &url,
            path: call.path,
            expected: call.expected,
            lifetime: call.body.as_ref().and_then(|body| body["lifetime"].as_f64()),
            within: limits.answer,
            not_accepted: &self.not_accepted(call, &url),
        })
    }

    fn not_accepted(&self, call: &Call<'_>, url: &str) -> String {
        let has_any = self.credentials(call).is_some();
        match &self.authorization {
            _ if has_any && !self.is_trusted(call) => format!(
                "{url} asks who you are, and is not told: credentials are for the servers of --url \
                 or RDLM_URL"
            ),
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
}

/// Reads a response to its end.
fn read(asked: &Asked<'_>, response: http::Response<Body>) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let body = body.with_config().limit(MAX_BODY_BYTES).read_to_vec();
    asked.understand(&head, body.map_err(|error| asked.failure(error))?)
}

/// The value of `Authorization`. Errors show no secrets.
fn authorization_of(credentials: &Credentials) -> Result<Arc<str>, Error> {
    let unfit = |what: &str| Err(Error::Usage(what.into()));
    let has_control = |text: &str| text.chars().any(char::is_control);
    match credentials {
        // RFC 7617, section 2.
        Credentials::Password { user, .. } if has_control(user) || user.contains(':') => {
            unfit("the user (RDLM_USER) has a colon or a control character, such as a line feed")
        }
        Credentials::Password { password, .. } if has_control(password) => {
            unfit("the password (RDLM_PASSWORD) has a control character, such as a line feed")
        }
        Credentials::Password { user, password } => {
            Ok(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))).into())
        }
        Credentials::Token(token) if token.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(format!("Bearer {token}").into())
        }
        Credentials::Token(_) => {
            unfit("the token (RDLM_TOKEN) has a blank, a line feed or another strange character")
        }
    }
}
