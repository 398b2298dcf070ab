//! Errors as clients see them: `application/problem+json` (RFC 9457).

use std::borrow::Cow;

use serde::Serialize;

use super::message::{BodyError, MAX_BODY, Response, Status};
use crate::lock::InvalidResourceName;

/// A request that was not done, and why.
#[derive(Debug)]
pub(super) struct Problem {
    status: Status,
    detail: Cow<'static, str>,
    header: Option<(&'static str, &'static str)>,
    close: bool,
}

impl Problem {
    /// `detail` is a sentence that says what was wrong and what would be right.
    pub(super) fn new(status: Status, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, detail: detail.into(), header: None, close: false }
    }

    pub(super) fn bad_request(detail: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Status::BadRequest, detail)
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let detail = format!("this method is not supported here; supported are {allow}");
        Self::new(Status::MethodNotAllowed, detail).with_header("Allow", allow)
    }

    pub(super) fn with_header(self, name: &'static str, value: &'static str) -> Self {
        Self { header: Some((name, value)), ..self }
    }

    pub(super) fn closing(self) -> Self {
        Self { close: true, ..self }
    }
}

impl From<InvalidResourceName> for Problem {
    fn from(error: InvalidResourceName) -> Self {
        Self::bad_request(error.to_string())
    }
}

impl From<&BodyError> for Problem {
    fn from(error: &BodyError) -> Self {
        let problem = match error {
            BodyError::TooLarge => {
                let detail = format!("the body is larger than {MAX_BODY} bytes");
                Self::new(Status::ContentTooLarge, detail)
            }
            BodyError::BadFraming => Self::bad_request(
                "the length of the body is not clear: send one Content-Length, a whole number, \
                 or Transfer-Encoding: chunked",
            ),
            BodyError::Broken => {
                Self::bad_request("the body ended early, or its chunks are malformed")
            }
        };
        problem.closing()
    }
}

impl From<Problem> for Response {
    fn from(problem: Problem) -> Self {
        #[derive(Serialize)]
        struct Body<'a> {
            r#type: &'static str,
            title: &'static str,
            status: u16,
            detail: &'a str,
        }
        let body = Body {
            r#type: "about:blank",
            title: problem.status.reason(),
            status: problem.status.code(),
            detail: &problem.detail,
        };
        // Serializing strings and numbers cannot fail.
        let mut body = serde_json::to_vec(&body).unwrap_or_default();
        body.push(b'\n');
        let mut response = Self::new(problem.status).body("application/problem+json", body);
        if let Some((name, value)) = problem.header {
            response = response.header(name, value);
        }
        response.close = problem.close;
        response
    }
}
