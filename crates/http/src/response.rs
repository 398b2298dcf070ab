//! A response, and its head on the wire.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use httpdate::HttpDate;

use super::body_writer::BodyWriter;
use super::request::Request;

/// Distinguishes responses of rdlm from those of a proxy. Many proxies overwrite `Server`, so the
/// version has a header of its own.
const SERVER: &str = concat!(
    "Server: rdlm/",
    env!("CARGO_PKG_VERSION"),
    "\r\nRDLM-Version: ",
    env!("CARGO_PKG_VERSION"),
    "\r\n"
);

/// A response to one request.
#[derive(Debug)]
pub struct Response {
    /// The status code.
    pub status: Status,
    /// The connection ends with this response.
    pub close: bool,
    /// It is unknown whether the request took effect.
    pub unknown: bool,
    headers: Vec<(&'static str, Cow<'static, str>)>,
    body: Body,
    on_undelivered: Option<Undelivered>,
    still_valid: Option<StillValid>,
}

/// The body of a response.
pub enum Body {
    /// All of it, with a Content-Length.
    Bytes(Cow<'static, [u8]>),
    /// Produced while it is sent, in chunks, or to an HTTP/1.0 client up to the end of the connection.
    /// If it fails, the connection ends without the last chunk.
    Stream(Stream),
}

/// Produces a body and writes it to the client.
pub(crate) type Stream = Box<dyn FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send>;

/// Runs when it is dropped, unless the response has been delivered.
struct Undelivered(Option<Box<dyn FnOnce() + Send>>);

impl Drop for Undelivered {
    fn drop(&mut self) {
        if let Some(run) = self.0.take() {
            run();
        }
    }
}

/// A check at the end of a stream.
struct StillValid(Box<dyn FnOnce() -> bool + Send>);

impl Response {
    /// A response that has no body yet.
    pub fn new(status: Status) -> Self {
        let body = Body::Bytes(Cow::Borrowed(b""));
        let (close, unknown) = (false, false);
        let (headers, on_undelivered, still_valid) = (Vec::new(), None, None);
        Self { status, close, unknown, headers, body, on_undelivered, still_valid }
    }

    /// 204 No Content.
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
    pub fn body(self, content_type: &'static str, body: impl Into<Cow<'static, [u8]>>) -> Self {
        let body = Body::Bytes(body.into());
        Self { body, ..self }.header("Content-Type", content_type)
    }

    /// Adds a body that is produced while it is sent.
    #[must_use]
    pub fn stream(
        self,
        content_type: &'static str,
        body: impl FnOnce(&mut BodyWriter<'_>) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let body = Body::Stream(Box::new(body));
        Self { body, ..self }.header("Content-Type", content_type)
    }

    /// Calls `run` if the response is dropped before it has been sent whole.
    #[must_use]
    pub fn on_undelivered(self, run: impl FnOnce() + Send + 'static) -> Self {
        Self { on_undelivered: Some(Undelivered(Some(Box::new(run)))), ..self }
    }

    /// Truncates the stream unless this check passes at its end.
    #[must_use]
    pub fn still_valid(self, check: impl FnOnce() -> bool + Send + 'static) -> Self {
        Self { still_valid: Some(StillValid(Box::new(check))), ..self }
    }

    /// Runs the check.
    pub(super) fn is_still_valid(&mut self) -> bool {
        self.still_valid.take().is_none_or(|StillValid(check)| check())
    }

    /// Whether the connection ends with this response to `request`.
    pub fn is_last(&self, request: &Request<'_>) -> bool {
        let unbounded = request.http_1_0 && matches!(self.body, Body::Stream(_));
        self.close || unbounded || !request.keep_alive
    }

    /// The head, and the body unless it is a stream or `request` is a HEAD.
    pub(super) fn to_bytes(
        &self,
        request: &Request<'_>,
        idle_timeout: Duration,
        now: SystemTime,
    ) -> Vec<u8> {
        let body: &[u8] = match &self.body {
            Body::Bytes(bytes) => bytes,
            Body::Stream(_) => b"",
        };
        let mut out = Vec::with_capacity(512 + body.len());
        // Writing to a Vec cannot fail.
        let _ = self.write_head(&mut out, request, idle_timeout, now);
        if request.method != "HEAD" {
            out.extend_from_slice(body);
        }
        out
    }

    /// The producer of the body, if it is a stream.
    pub(super) fn take_stream(&mut self) -> Option<Stream> {
        match std::mem::replace(&mut self.body, Body::Bytes(Cow::Borrowed(b""))) {
            Body::Stream(stream) => Some(stream),
            Body::Bytes(_) => None,
        }
    }

    /// Marks it as delivered.
    pub(super) fn delivered(mut self) {
        if let Some(Undelivered(run)) = &mut self.on_undelivered {
            *run = None;
        }
    }

    fn write_head(
        &self,
        out: &mut Vec<u8>,
        request: &Request<'_>,
        idle_timeout: Duration,
        now: SystemTime,
    ) -> io::Result<()> {
        let (code, reason) = (self.status.code(), self.status.reason());
        write!(out, "HTTP/1.1 {code} {reason}\r\nDate: {}\r\n{SERVER}", HttpDate::from(now))?;
        for (name, value) in &self.headers {
            for part in [name, ": ", value, "\r\n"] {
                out.extend_from_slice(part.as_bytes());
            }
        }
        match &self.body {
            Body::Bytes(_) if self.status == Status::NoContent => {}
            Body::Bytes(bytes) => write!(out, "Content-Length: {}\r\n", bytes.len())?,
            Body::Stream(_) if request.http_1_0 => {}
            Body::Stream(_) => out.extend_from_slice(b"Transfer-Encoding: chunked\r\n"),
        }
        // A second less, so that a client does not send a request just as the time is up.
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

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "{} bytes", bytes.len()),
            Self::Stream(_) => f.write_str("a stream"),
        }
    }
}

impl fmt::Debug for StillValid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a check)")
    }
}

impl fmt::Debug for Undelivered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(a callback)")
    }
}

/// The status codes of this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "named as in RFC 9110")]
pub enum Status {
    Ok,
    Created,
    NoContent,
    TemporaryRedirect,
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
    Locked,
    RequestHeaderFieldsTooLarge,
    InternalServerError,
    NotImplemented,
    ServiceUnavailable,
    HttpVersionNotSupported,
}

impl Status {
    /// The status code.
    pub fn code(self) -> u16 {
        self.code_and_reason().0
    }

    /// The reason phrase.
    pub fn reason(self) -> &'static str {
        self.code_and_reason().1
    }

    fn code_and_reason(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::Created => (201, "Created"),
            Self::NoContent => (204, "No Content"),
            Self::TemporaryRedirect => (307, "Temporary Redirect"),
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
            Self::Locked => (423, "Locked"),
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
        Request { method: "GET", keep_alive: true, ..Request::UNREADABLE }
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
        let head = Request { method: "HEAD", ..get() };
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
    fn the_announced_idle_time_is_shorter_than_the_real_one() {
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
}
