//! What an answer means: whether it is rdlm's own, and what to do if it is not the one that was
//! wanted.

use std::io;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use ureq::http::response::Parts;
use ureq::http::{HeaderMap, HeaderValue};

use super::Error;
use super::lock_path::{LockPath, is_uid};

/// A server that asks for a longer pause is asked again after this one.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(10);

/// An answer of rdlm with a status under 300.
pub struct Answer {
    /// When the server sent it, by its clock.
    pub date: Option<SystemTime>,
    /// All of it.
    pub body: Vec<u8>,
    /// The body, parsed; null if there is none.
    pub json: Value,
    /// The uid of the lock that was granted.
    pub(super) uid: Option<String>,
}

/// What an answer under 300 has to be. Anything else was made by something on the way, such as a
/// proxy's page for maintenance: it says nothing about the lock. (Servers of 1.0.0 behind a proxy
/// that replaces `Server` have no other mark.)
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
    /// 200 that says that the server is well.
    Health,
    /// 204.
    NoContent,
    /// Events; anything else is none.
    Events,
}

/// Why there is no useful answer.
#[derive(Debug)]
pub enum Failure {
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
    Later {
        /// Why, in the server's words.
        detail: String,
        /// When it is worth asking again.
        retry_after: Option<Duration>,
    },
    /// Something on the way cannot do it now. What the server has done is not known.
    Proxy {
        /// What it says.
        detail: String,
        /// When it is worth asking again.
        retry_after: Option<Duration>,
    },
    /// Another server is the one to ask, at this URL.
    Elsewhere(String),
    /// Another error of the server.
    Refused {
        /// The HTTP status.
        status: u16,
        /// Why, in the server's words.
        detail: String,
    },
}

impl Failure {
    /// Whether it may go better with the next try.
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
    /// The error that it is for whoever wanted something of a lock.
    pub fn about_lock(self, path: &LockPath) -> Error {
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

/// What was asked: to understand the answer, and for messages.
pub(super) struct Asked<'a> {
    /// The server that was asked, as messages show it.
    pub(super) url: &'a str,
    pub(super) path: &'a str,
    pub(super) expected: Expected<'a>,
    /// How long the answer may take.
    pub(super) within: Duration,
    /// What there is to say if it asks for other credentials.
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
            (401, ..) => Failure::Refused { status, detail: self.not_accepted.into() },
            (404, Some(_), _) if reason == Some("no_such_lock") => Failure::NotThere,
            // It knows nothing of the path: the base of the URL is not its own.
            (404, Some(_), _) => Failure::Foreign(format!(
                "{url} is not where rdlm's API begins: it knows no such path"
            )),
            // Whether it was done is not known to the server either.
            (503, Some(detail), _) if outcome == Some("unknown") => Failure::Dropped(detail.into()),
            (503, Some(detail), _) => Failure::Later { detail: detail.into(), retry_after },
            (307 | 308, _, Some(to)) if to.ends_with(path) && to.contains("://") => {
                Failure::Elsewhere(to[..to.len() - path.len()].into())
            }
            (_, Some(detail), _) => Failure::Refused { status, detail: detail.into() },
            (403, None, _) => {
                Failure::Refused { status, detail: format!("{url} answers {status}") }
            }
            // A proxy, whose server is gone or slow.
            (408 | 429 | 500.., None, _) => {
                let detail = format!(
                    "{url} answers {status}, not as rdlm does: is the server behind it there?"
                );
                Failure::Proxy { detail, retry_after }
            }
            (300..=399, None, Some(to)) => self.not_rdlm(&format!("it redirects to {to}")),
            _ => self.foreign(status),
        }
    }

    fn foreign(&self, status: u16) -> Failure {
        let url = self.url;
        Failure::Foreign(format!("{url} is no rdlm server: it answers {status}, not as rdlm does"))
    }

    fn not_rdlm(&self, why: &str) -> Failure {
        Failure::NotRdlm(format!("{} is no rdlm server: {why}", self.url))
    }

    /// What it means that there is no answer.
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
            Kind::InvalidData | Kind::InvalidInput => self.not_rdlm(&error.to_string()),
            _ => Failure::Unreachable(format!("cannot reach {url}: {error}")),
        }
    }
}

fn header<'a>(head: &'a Parts, name: &str) -> Option<&'a str> {
    head.headers.get(name).and_then(|value| value.to_str().ok())
}

/// The problem document of an answer, if rdlm wrote it.
fn problem(head: &Parts, body: &[u8]) -> Option<Value> {
    let media_type = header(head, "Content-Type")?.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case("application/problem+json") {
        return None;
    }
    let problem = serde_json::from_slice(body).ok()?;
    is_rdlm(&head.headers, &problem).then_some(problem)
}

/// Whether an answer is rdlm's own. Proxies replace `Server`, which is the only mark of 1.0.0, and
/// some drop headers that they do not know.
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
    fn an_answer_is_rdlms_by_any_of_its_marks() {
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
