//! What a response means: whether rdlm sent it, and what to do if it is not the expected one.

use std::io;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http::response::Parts;
use ureq::http::{HeaderMap, HeaderValue};

use super::lock_path::{LockPath, is_uid};
use super::{Error, Time, gone, tls};

/// The longest pause that a server's `Retry-After` can cause.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// A response of rdlm with a status under 300.
pub struct Answer {
    /// When it was sent, by the server's clock.
    pub date: Option<SystemTime>,
    /// The body.
    pub body: Vec<u8>,
    /// The body, parsed; null if that fails.
    pub json: Value,
    /// The uid of the lock that was granted.
    pub(super) uid: Option<String>,
}

/// What a response under 300 has to be. Any other comes from an intermediary, such as a proxy's
/// maintenance page, and says nothing about the lock. The body has to tell, because a 1.0.0 behind a
/// proxy that replaces `Server` has no header of its own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Expected<'a> {
    /// 201 with the URL of a lock.
    NewLock,
    /// 200 with the lock that has this uid.
    Lock(&'a str),
    /// 200 with the resource that has this name.
    Resource(&'a str),
    /// 200 with a list of resources.
    Resources,
    /// 200 from a healthy server.
    Health,
    /// 204.
    NoContent,
    /// A stream of events, which is not parsed here.
    Events,
}

/// Why there is no usable response.
#[derive(Debug, Clone)]
pub enum Failure {
    /// No connection was established.
    Unreachable(String),
    /// The connection ended, or time ran out, before the response was complete.
    Dropped(String),
    /// What responded is not rdlm.
    NotRdlm(String),
    /// An intermediary seems to have made the response.
    Foreign(String),
    /// The lock does not exist. What became of it, if the server knows.
    NotThere(Option<String>),
    /// 503 of rdlm: nothing was done, and a later attempt may succeed.
    Later {
        /// The reason the server gives.
        detail: String,
        /// How long to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// An intermediary failed. What the server has done is not known.
    Proxy {
        /// What failed.
        detail: String,
        /// How long to wait before the next attempt.
        retry_after: Option<Duration>,
    },
    /// A redirect to the server at this URL.
    Elsewhere(String),
    /// The server allows only less of this time.
    TooLong {
        /// What is too long.
        time: Time,
        /// The longest that it allows.
        longest: Duration,
        /// The same as a sentence.
        detail: String,
    },
    /// Any other error of the server.
    Refused {
        /// The HTTP status.
        status: u16,
        /// The reason the server gives.
        detail: String,
    },
}

impl Failure {
    /// Whether another attempt may succeed.
    pub fn is_passing(&self) -> bool {
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

impl Failure {
    /// As the error of a request about this lock.
    pub fn about_lock(self, path: &LockPath) -> Error {
        match self {
            Self::NotThere(gone) => {
                let unknown = "it was released or deleted, it has expired, or it never was";
                let why = gone.as_deref().unwrap_or(unknown);
                Error::Gone(format!("{} is not held: {why}", path.path))
            }
            failure => failure.into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            // Nobody else has the lock, as far as is known.
            Failure::Unreachable(text)
            | Failure::Dropped(text)
            | Failure::Later { detail: text, .. }
            | Failure::Proxy { detail: text, .. } => Self::NoServer(text),
            Failure::TooLong { time, detail, .. } => Self::TooLong(time, detail),
            Failure::NotRdlm(text) | Failure::Foreign(text) => Self::NotRdlm(text),
            Failure::Elsewhere(to) => Self::NotRdlm(format!("the servers point at {to}, and back")),
            Failure::NotThere(_) => Self::Gone("there is no such lock".into()),
            Failure::Refused { status: 401 | 403, detail } => Self::NotPermitted(detail),
            Failure::Refused { status: 408 | 409, detail } => Self::NotGranted(detail),
            Failure::Refused { status: 500.., detail } => Self::NoServer(detail),
            Failure::Refused { detail, .. } => Self::Usage(detail),
        }
    }
}

/// What was sent to whom, to interpret the response and for messages.
pub(super) struct Asked<'a> {
    /// The server, without credentials.
    pub(super) url: &'a str,
    pub(super) path: &'a str,
    pub(super) expected: Expected<'a>,
    /// The lifetime asked for, in seconds.
    pub(super) lifetime: Option<f64>,
    /// The time-out of the response.
    pub(super) within: Duration,
    /// The message for a 401.
    pub(super) not_accepted: &'a str,
}

impl Asked<'_> {
    pub(super) fn understand(&self, head: &Parts, body: Vec<u8>) -> Result<Answer, Failure> {
        if head.status.as_u16() < 300 {
            self.success(head, body)
        } else {
            Err(self.error(head, &body))
        }
    }

    fn success(&self, head: &Parts, body: Vec<u8>) -> Result<Answer, Failure> {
        let json: Value = serde_json::from_slice(&body).unwrap_or_default();
        let uid = json["uid"].as_str();
        let uid_of_location = || {
            let (_, lock) = header(head, "Location")?.rsplit_once("/locks/")?;
            lock.rsplit('/').next().filter(|uid| is_uid(uid))
        };
        let mut new = None;
        let status = head.status.as_u16();
        let is_expected = match self.expected {
            Expected::NewLock => {
                new = uid_of_location().filter(|_| status == 201);
                new.is_some()
            }
            Expected::Lock(lock) => status == 200 && uid == Some(lock),
            Expected::Resource(name) => status == 200 && json["name"] == name,
            Expected::Resources => status == 200 && json["resources"].is_array(),
            Expected::Health => status == 200 && json["status"] == "ok",
            Expected::NoContent => status == 204,
            Expected::Events => false,
        };
        if !is_expected {
            return Err(self.foreign(status));
        }
        let date = header(head, "Date").and_then(|date| httpdate::parse_http_date(date).ok());
        let uid = new.map(String::from);
        Ok(Answer { date, uid, json, body })
    }

    fn error(&self, head: &Parts, body: &[u8]) -> Failure {
        let Self { url, path, .. } = self;
        let (status, problem) = (head.status.as_u16(), problem(head, body));
        let retry_after = header(head, "Retry-After").and_then(|seconds| seconds.parse().ok());
        let retry_after =
            retry_after.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
        let member = |name| problem.as_ref().and_then(|problem| problem[name].as_str());
        let (detail, reason, outcome) = (member("detail"), member("reason"), member("outcome"));
        match (status, detail, header(head, "Location")) {
            (400, Some(_), _) if problem.as_ref().is_some_and(|it| it["max_wait"].is_number()) => {
                self.too_long(&problem.unwrap_or_default())
            }
            (401, ..) => Failure::Refused { status, detail: self.not_accepted.into() },
            (404, Some(_), _) if reason == Some("no_such_lock") => {
                Failure::NotThere(problem.as_ref().and_then(gone::sentence))
            }
            // rdlm, but at another base URL.
            (404, Some(_), _) => Failure::Foreign(format!(
                "{url} is not where rdlm's API begins: it knows no such path"
            )),
            // Not even the server knows whether it was done.
            (503, Some(detail), _) if outcome == Some("unknown") => Failure::Dropped(detail.into()),
            (503, Some(detail), _) => Failure::Later { detail: detail.into(), retry_after },
            (307 | 308, _, Some(to)) if to.ends_with(path) && to.contains("://") => {
                Failure::Elsewhere(to[..to.len() - path.len()].into())
            }
            // The request has not come in whole, or in time.
            (408, Some(detail), _) if reason != Some("timed_out") => {
                Failure::Dropped(detail.into())
            }
            (_, Some(detail), _) => {
                let gone = problem.as_ref().and_then(gone::sentence);
                let gone = gone.map(|gone| format!("; {gone}")).unwrap_or_default();
                Failure::Refused { status, detail: format!("{detail}{gone}") }
            }
            (403, None, _) => {
                Failure::Refused { status, detail: format!("{url} answers {status}") }
            }
            // A proxy whose server is gone or slow.
            (408 | 429 | 500.., None, _) => {
                let detail = format!(
                    "{url} answers {status}, not as rdlm does: is the server behind it there?"
                );
                Failure::Proxy { detail, retry_after }
            }
            (300..=399, None, Some(to)) => self.not_rdlm(&format!("it redirects to {to}")),
            (400, None, None) if url.starts_with("http://") && speaks_of_tls(body) => {
                Failure::NotRdlm(tls::is_expected(url))
            }
            _ => self.foreign(status),
        }
    }

    /// What a refusal of a wait or lifetime means, which has the limits of both.
    fn too_long(&self, limits: &Value) -> Failure {
        let Self { url, lifetime, .. } = self;
        let limit = |name: &str| limits[name].as_f64().unwrap_or_default();
        let (longest_wait, longest_life) = (limit("max_wait"), limit("max_lifetime"));
        let (time, longest, what) = match lifetime {
            Some(lifetime) if *lifetime > longest_life => {
                (Time::Lifetime, longest_life, "lifetime")
            }
            _ => (Time::Wait, longest_wait, "wait"),
        };
        let detail = format!("{url} allows a {what} of at most {longest} s");
        let longest = Duration::try_from_secs_f64(longest).unwrap_or_default();
        Failure::TooLong { time, longest, detail }
    }

    fn foreign(&self, status: u16) -> Failure {
        let url = self.url;
        Failure::Foreign(format!("{url} is no rdlm server: it answers {status}, not as rdlm does"))
    }

    fn not_rdlm(&self, why: &str) -> Failure {
        Failure::NotRdlm(format!("{} is no rdlm server: {why}", self.url))
    }

    /// What an error of the exchange means.
    pub(super) fn failure(&self, error: ureq::Error) -> Failure {
        let url = self.url;
        match error {
            ureq::Error::HostNotFound => {
                Failure::Unreachable(format!("cannot reach {url}: there is no such host"))
            }
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                Failure::Unreachable(format!("cannot reach {url}: no connection in time"))
            }
            ureq::Error::Timeout(_) => {
                let seconds = self.within.as_secs_f64();
                // To the tenth of a second if it is less than one.
                let digits = usize::from(seconds < 1.0);
                Failure::Dropped(format!("{url} does not answer within {seconds:.digits$} s"))
            }
            ureq::Error::Io(error) => self.io_failure(&error),
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

    fn io_failure(&self, error: &io::Error) -> Failure {
        use io::ErrorKind as Kind;
        let url = self.url;
        match error.kind() {
            Kind::ConnectionReset
            | Kind::ConnectionAborted
            | Kind::BrokenPipe
            | Kind::UnexpectedEof => {
                Failure::Dropped(format!("{url} ended the connection without an answer"))
            }
            Kind::TimedOut => {
                Failure::Dropped(format!("the host of {url} does not answer any more"))
            }
            Kind::InvalidData | Kind::InvalidInput => {
                match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                    Some(error) => Failure::NotRdlm(tls::complaint(url, error)),
                    None => self.not_rdlm(&error.to_string()),
                }
            }
            _ => Failure::Unreachable(format!("cannot reach {url}: {error}")),
        }
    }
}

/// Whether a refusal is that of a port for HTTPS, as servers word it.
fn speaks_of_tls(body: &[u8]) -> bool {
    let text = String::from_utf8_lossy(body).to_uppercase();
    ["HTTPS", "TLS", "SSL"].iter().any(|name| text.contains(name))
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The problem document of a response, if rdlm wrote it.
fn problem(head: &Parts, body: &[u8]) -> Option<Value> {
    let media_type = header(head, "Content-Type")?.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/problem+json") {
        return None;
    }
    let problem = serde_json::from_slice(body).ok()?;
    is_rdlm(&head.headers, &problem).then_some(problem)
}

/// Whether rdlm sent a response. Proxies replace `Server`, the only mark of a 1.0.0, and
/// some drop headers they do not know.
fn is_rdlm(headers: &HeaderMap, problem: &Value) -> bool {
    headers.contains_key("RDLM-Version")
        || headers.get_all("Server").iter().any(names_rdlm)
        || problem["type"].as_str().is_some_and(|kind| kind.starts_with("urn:rdlm:"))
}

/// Whether a Server header has the product `rdlm`, perhaps among those of proxies.
fn names_rdlm(server: &HeaderValue) -> bool {
    let products = server.to_str().unwrap_or_default();
    products.split([' ', ',']).any(|product| product.starts_with("rdlm/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_header_or_type_of_rdlm_marks_its_response() {
        let marked = |name: &'static str, value: &'static str, kind: &str| {
            let headers =
                HeaderMap::from_iter([(name.parse().unwrap(), HeaderValue::from_static(value))]);
            is_rdlm(&headers, &serde_json::json!({ "type": kind }))
        };
        assert!(marked("rdlm-version", "1.1.0", "about:blank"));
        assert!(marked("server", "gate/1 rdlm/1.0.0", "about:blank"));
        assert!(marked("server", "nginx", "urn:rdlm:problem:no_such_lock"));
        assert!(!marked("server", "nginx", "about:blank"));
        assert!(!marked("server", "notrdlm/1", "urn:problem:rdlm:"));
    }
}
