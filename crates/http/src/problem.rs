//! Errors as clients see them: `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use serde::Serialize;
use serde_json::{Map, Value};

use super::head::{MAX_FIELD_SECTION, MAX_FIELDS, MAX_TARGET};
use super::headers::BadHeader;
use super::request::{MAX_BODY, Unreadable};
use super::response::{Response, Status};

/// Why a request was refused or failed.
#[derive(Debug)]
pub struct Problem {
    status: Status,
    detail: Cow<'static, str>,
    /// A short name for programs.
    reason: Option<&'static str>,
    /// Extension members (RFC 9457, section 3.2).
    members: Map<String, Value>,
    header: Option<(&'static str, Cow<'static, str>)>,
    close: bool,
    unknown: bool,
}

impl Problem {
    /// `detail` is a sentence that says what was wrong and what would be right.
    pub fn new(status: Status, detail: impl Into<Cow<'static, str>>) -> Self {
        let (detail, members) = (detail.into(), Map::new());
        let (reason, header, close, unknown) = (None, None, false, false);
        Self { status, detail, reason, members, header, close, unknown }
    }

    /// A short name for programs.
    pub fn because(self, reason: &'static str) -> Self {
        Self { reason: Some(reason), ..self }
    }

    /// 400.
    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::BadRequest, detail)
    }

    /// 405; `allow` lists the methods that are supported.
    pub fn method_not_allowed(allow: String) -> Self {
        let detail = format!("this method is not supported here; supported are {allow}");
        Self::new(Status::MethodNotAllowed, detail).with_header("Allow", allow)
    }

    /// Adds extension members.
    pub fn with_members(self, members: Map<String, Value>) -> Self {
        Self { members, ..self }
    }

    /// The status code.
    pub fn status(&self) -> Status {
        self.status
    }

    /// What was wrong.
    pub fn detail(&self) -> &str {
        &self.detail
    }

    /// The short name for programs, if it has one.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason
    }

    /// The header that goes with it.
    pub fn header(&self) -> Option<&(&'static str, Cow<'static, str>)> {
        self.header.as_ref()
    }

    /// Adds a header, in place of an earlier one.
    pub fn with_header(self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        Self { header: Some((name, value.into())), ..self }
    }

    /// It is unknown whether the request took effect.
    pub fn unknown(self) -> Self {
        Self { unknown: true, ..self }
    }

    /// The URI of its kind (RFC 9457, section 3.1.1). It also tells a client that the problem is
    /// from rdlm and not from a proxy.
    fn kind(&self) -> String {
        match self.reason {
            Some(reason) => format!("urn:rdlm:problem:{reason}"),
            None => format!("urn:rdlm:problem:{}", self.status.code()),
        }
    }

    /// Ends the connection with the response.
    pub fn closing(self) -> Self {
        Self { close: true, ..self }
    }
}

impl From<BadHeader> for Problem {
    fn from(error: BadHeader) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<Unreadable> for Problem {
    fn from(error: Unreadable) -> Self {
        let bad_request = |detail: &'static str| Self::bad_request(detail);
        let problem = match error {
            Unreadable::RequestLine => bad_request(
                "the request line is malformed: send METHOD /path HTTP/1.1, in visible ASCII, \
                 with one space between; this port does not speak TLS",
            ),
            Unreadable::LineEnd => bad_request("a line of the request does not end in CRLF"),
            Unreadable::Field => {
                bad_request("a header or trailer field is malformed: send Name: value, a line each")
            }
            Unreadable::BodyLength => bad_request(
                "the length of the body is not clear: send one Content-Length, a whole number, \
                 or one Transfer-Encoding: chunked, in HTTP/1.1",
            ),
            Unreadable::Chunk => bad_request("the chunks of the body are malformed"),
            Unreadable::Incomplete => bad_request("the request ended early"),
            Unreadable::TooSlow => {
                let detail = "the request took too long to come in; nothing was done";
                Self::new(Status::RequestTimeout, detail)
            }
            Unreadable::BodyTooLarge => {
                let detail = format!("the body is larger than {MAX_BODY} bytes");
                Self::new(Status::ContentTooLarge, detail)
            }
            Unreadable::TargetTooLong => {
                let detail = format!("the request target is longer than {MAX_TARGET} bytes");
                Self::new(Status::UriTooLong, detail)
            }
            Unreadable::Expectation => {
                let detail = "the only expectation that is met is 100-continue";
                Self::new(Status::ExpectationFailed, detail)
            }
            Unreadable::TooManyFields => {
                let detail = format!("there are more than {MAX_FIELDS} header or trailer fields");
                Self::new(Status::RequestHeaderFieldsTooLarge, detail)
            }
            Unreadable::FieldsTooLarge => {
                let detail =
                    format!("the header or trailer fields are over {MAX_FIELD_SECTION} bytes");
                Self::new(Status::RequestHeaderFieldsTooLarge, detail)
            }
            Unreadable::TransferCoding => {
                let detail = "the only transfer coding that is understood is chunked";
                Self::new(Status::NotImplemented, detail)
            }
            Unreadable::Version => {
                let detail = "only HTTP/1.1 and HTTP/1.0 are spoken here";
                Self::new(Status::HttpVersionNotSupported, detail)
            }
        };
        problem.closing()
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: String,
            title: &'static str,
            status: u16,
            detail: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            reason: Option<&'static str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            outcome: Option<&'static str>,
            #[serde(flatten)]
            members: &'a Map<String, Value>,
        }
        let body = Body {
            r#type: problem.kind(),
            title: problem.status.reason(),
            status: problem.status.code(),
            detail: &problem.detail,
            reason: problem.reason,
            outcome: problem.unknown.then_some("unknown"),
            members: &problem.members,
        };
        // Serializing strings and numbers cannot fail.
        let mut body = serde_json::to_vec(&body).unwrap_or_default();
        body.push(b'\n');
        let mut response = Self::new(problem.status).body("application/problem+json", body);
        if let Some((name, value)) = problem.header {
            response = response.header(name, value);
        }
        (response.close, response.unknown) = (problem.close, problem.unknown);
        response
    }
}
