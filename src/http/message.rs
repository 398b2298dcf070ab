//! Requests and responses, and how a response looks on the wire.

use std::borrow::Cow;
use std::fmt;
use std::io::Write;
use std::net::Ipv6Addr;
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;

use super::accept::Accept;
use crate::lock::{LockId, ResourceName};

/// The largest body that is read, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// Tells the answers of rdlm from those of whatever stands before it.
const SERVER: &str = concat!("Server: rdlm/", env!("CARGO_PKG_VERSION"), "\r\n");

/// What a client sent, as far as this server looks at it.
#[derive(Debug)]
pub struct Request<'a> {
    /// What is to be done.
    pub method: Method,
    /// The request target as it stands in the request line.
    pub target: &'a str,
    /// Sent in HTTP/1.0 rather than 1.1.
    pub http_1_0: bool,
    /// The client will send more on this connection.
    pub keep_alive: bool,
    /// The host that the client believes to talk to.
    pub host: Singleton<'a>,
    /// The Accept headers.
    pub accept: Accept,
    /// The Origin header: the site for which a browser sends this.
    pub origin: Option<&'a str>,
    /// The Sec-Fetch-Site header.
    pub sec_fetch_site: Option<&'a str>,
    /// The Authorization header.
    pub authorization: Option<&'a str>,
    /// A Prefer header asks for 409 where a lock is not granted.
    pub prefers_409: bool,
    /// The Idempotency-Key header.
    pub idempotency_key: Singleton<'a>,
    /// The body, empty when there is none.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// Stands for a request that could not be read: its response is the last one.
    pub const UNREADABLE: Self = Self {
        method: Method::Other,
        target: "",
        http_1_0: false,
        keep_alive: false,
        host: Singleton::None,
        accept: Accept::NONE,
        origin: None,
        sec_fetch_site: None,
        authorization: None,
        prefers_409: false,
        idempotency_key: Singleton::None,
        body: b"",
    };
}

/// The request methods that this server knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in RFC 9110")]
pub enum Method {
    Get,
    Head,
    Post,
    Delete,
    /// PATCH
    Patch,
    Options,
    Other,
}

impl Method {
    /// As it stands in a request line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Delete => "DELETE",
            Self::Patch => "PATCH",
            Self::Options => "OPTIONS",
            Self::Other => "(other method)",
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A header that may be there once (RFC 9110, section 5.5).
#[derive(Debug, Clone, Copy, Default)]
pub enum Singleton<'a> {
    /// There is none.
    #[default]
    None,
    /// The only one.
    One(&'a str),
    /// More than one.
    Several,
}

impl<'a> Singleton<'a> {
    /// What it is when another one has come.
    pub fn and(self, value: &'a str) -> Self {
        match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

/// Why a request could not be read. Nobody knows where the next one would begin: the
/// connection ends with the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreadable {
    /// The request line is malformed.
    RequestLine,
    /// Another major version of HTTP.
    Version,
    /// The request target is too long.
    TargetTooLong,
    /// A line of the head does not end in CRLF.
    LineEnd,
    /// A header or trailer field is malformed.
    Field,
    /// The header or trailer fields are too many.
    TooManyFields,
    /// The header or trailer fields together are too large.
    FieldsTooLarge,
    /// Content-Length and Transfer-Encoding do not say where the body ends.
    BodyLength,
    /// A transfer coding besides chunked.
    TransferCoding,
    /// An expectation besides 100-continue.
    Expectation,
    /// The body is over [`MAX_BODY`].
    BodyTooLarge,
    /// The chunks of the body are malformed.
    Chunk,
    /// The client ended the connection within the request.
    Incomplete,
    /// The client took too long to send the request.
    TooSlow,
}

/// Whether `text` can be the value of a Host header: a host and an optional port (RFC 9110,
/// section 7.2; RFC 3986, section 3.2.2). It may be empty.
pub fn is_host(text: &str) -> bool {
    let (is_host, rest) = match text.strip_prefix('[').and_then(|text| text.split_once(']')) {
        Some((address, rest)) => (address.parse::<Ipv6Addr>().is_ok(), rest),
        None => {
            let (name, rest) = text.split_at(text.find(':').unwrap_or(text.len()));
            let allowed =
                |byte: u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=".contains(&byte);
            (name.bytes().all(allowed), rest)
        }
    };
    let port = if rest.is_empty() { Some("") } else { rest.strip_prefix(':') };
    is_host && port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What the server answers.
#[derive(Debug)]
pub struct Response {
    /// The status.
    pub status: Status,
    /// The connection ends with this response.
    pub close: bool,
    /// The lock that this response grants. If it cannot be delivered, nobody knows of the
    /// lock.
    pub grant: Option<(ResourceName, LockId)>,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Vec<u8>,
}

impl Response {
    /// A response without a body, yet.
    pub fn new(status: Status) -> Self {
        Self { status, close: false, grant: None, headers: Vec::new(), body: Vec::new() }
    }

    /// 204.
    pub fn no_content() -> Self {
        Self::new(Status::NoContent)
    }

    /// Adds a header. `value` must not have line breaks.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Adds the body.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, body: Vec<u8>) -> Self {
        self.body = body;
        self.header("Content-Type", content_type)
    }

    /// Says which lock this response grants.
    #[must_use]
    pub fn granting(mut self, resource: ResourceName, id: LockId) -> Self {
        self.grant = Some((resource, id));
        self
    }

    /// Whether the connection ends with this response to `request`.
    pub fn is_last(&self, request: &Request<'_>) -> bool {
        self.close || !request.keep_alive
    }

    /// The bytes to send in answer to `request`, on a connection that ends when there is no
    /// further request within `idle_timeout`.
    pub fn to_bytes(
        &self,
        request: &Request<'_>,
        idle_timeout: Duration,
        now: SystemTime,
    ) -> Vec<u8> {
        let mut out = Vec::with_capacity(512 + self.body.len());
        // Writing to a Vec cannot fail.
        let _ = self.write_head(&mut out, request, idle_timeout, now);
        if request.method != Method::Head {
            out.extend_from_slice(&self.body);
        }
        out
    }

    fn write_head(
        &self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        idle_timeout: Duration,
        now: SystemTime,
    ) -> std::io::Result<()> {
        let (code, reason) = (self.status.code(), self.status.reason());
        write!(out, "HTTP/1.1 {code} {reason}\r\nDate: {}\r\n{SERVER}", HttpDate::from(now))?;
        for (name, value) in &self.headers {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        if self.status != Status::NoContent {
            write!(out, "Content-Length: {}\r\n", self.body.len())?;
        }
        // Or a client could send its next request in the moment in which the time is up.
        let kept_s = idle_timeout.as_secs().saturating_sub(1);
        if self.is_last(request) {
            out.extend_from_slice(b"Connection: close\r\n");
        } else if kept_s > 0 {
            write!(out, "Connection: keep-alive\r\nKeep-Alive: timeout={kept_s}\r\n")?;
        } else if request.http_1_0 {
            out.extend_from_slice(b"Connection: keep-alive\r\n");
        }
        out.extend_from_slice(b"\r\n");
        Ok(())
    }
}

/// The statuses that this server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in RFC 9110")]
pub enum Status {
    Ok,
    Created,
    NoContent,
    BadRequest,
    Unauthorized,
    Forbidden,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    Conflict,
    ContentTooLarge,
    UriTooLong,
    ExpectationFailed,
    UnprocessableContent,
    RequestHeaderFieldsTooLarge,
    InternalServerError,
    NotImplemented,
    ServiceUnavailable,
    HttpVersionNotSupported,
}

impl Status {
    /// The number.
    pub fn code(self) -> u16 {
        self.code_and_reason().0
    }

    /// The phrase that goes with it.
    pub fn reason(self) -> &'static str {
        self.code_and_reason().1
    }

    fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::Created => (201, "Created"),
            Self::NoContent => (204, "No Content"),
            Self::BadRequest => (400, "Bad Request"),
            Self::Unauthorized => (401, "Unauthorized"),
            Self::Forbidden => (403, "Forbidden"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::Conflict => (409, "Conflict"),
            Self::ContentTooLarge => (413, "Content Too Large"),
            Self::UriTooLong => (414, "URI Too Long"),
            Self::ExpectationFailed => (417, "Expectation Failed"),
            Self::UnprocessableContent => (422, "Unprocessable Content"),
            Self::RequestHeaderFieldsTooLarge => (431, "Request Header Fields Too Large"),
            Self::InternalServerError => (500, "Internal Server Error"),
            Self::NotImplemented => (501, "Not Implemented"),
            Self::ServiceUnavailable => (503, "Service Unavailable"),
            Self::HttpVersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn get() -> Request<'static> {
        Request { method: Method::Get, keep_alive: true, ..Request::UNREADABLE }
    }

    fn text(response: &Response, request: &Request<'_>) -> String {
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        String::from_utf8(response.to_bytes(request, Duration::from_millis(1500), time)).unwrap()
    }

    #[test]
    fn a_response_has_a_date_its_server_and_the_length_of_its_body() {
        let response = Response::new(Status::Ok).body("text/plain", b"hello".to_vec());
        let expected = format!(
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n{SERVER}\
            Content-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"
        );
        assert_eq!(text(&response, &get()), expected);
        let head = Request { method: Method::Head, ..get() };
        assert_eq!(text(&response, &head), expected.strip_suffix("hello").unwrap());
    }

    #[test]
    fn a_204_has_neither_a_body_nor_a_length() {
        let expected = format!(
            "HTTP/1.1 204 No Content\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n{SERVER}\r\n"
        );
        assert_eq!(text(&Response::no_content(), &get()), expected);
    }

    #[test]
    fn the_connection_header_says_what_will_happen() {
        let http_1_0 = Request { http_1_0: true, ..get() };
        let last = Request { keep_alive: false, ..get() };
        let ok = Response::new(Status::Ok);
        assert!(!text(&ok, &get()).contains("Connection:"));
        assert!(text(&ok, &http_1_0).contains("Connection: keep-alive\r\n"));
        assert!(text(&ok, &last).contains("Connection: close\r\n"));
        assert!(text(&Response { close: true, ..ok }, &http_1_0).contains("Connection: close\r\n"));
    }

    #[test]
    fn a_client_hears_of_less_time_than_it_has() {
        let text = |idle_timeout: f64, request: &Request<'_>| {
            let idle_timeout = Duration::from_secs_f64(idle_timeout);
            let bytes =
                Response::no_content().to_bytes(request, idle_timeout, SystemTime::UNIX_EPOCH);
            String::from_utf8(bytes).unwrap()
        };
        let expected = "\r\nConnection: keep-alive\r\nKeep-Alive: timeout=74\r\n";
        assert!(text(75.0, &get()).contains(expected));
        assert!(text(2.9, &get()).contains("timeout=1\r\n"));
        assert!(!text(1.9, &get()).contains("Keep-Alive"));
        assert!(!text(75.0, &Request { keep_alive: false, ..get() }).contains("Keep-Alive"));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_an_optional_port() {
        for host in ["", "a", "a.b:80", "a:", "127.0.0.1:8888", "[::1]", "[::1]:8888", "a_b~c"] {
            assert!(is_host(host), "{host:?}");
        }
        for other in ["a b", "a/b", "a@b", "a:x", "a:80:80", "::1", "[::1", "[x]", "[::1]80", "]"] {
            assert!(!is_host(other), "{other:?}");
        }
    }
}
