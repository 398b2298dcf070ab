//! The start page: for browsers what is locked, live; for everybody else a line of text.

use std::sync::LazyLock;

use super::call::{Call, HandlerResult};
use super::door::{AnsweredBy, Door, Handler, OTHER, Operation, Path, at_once};
use super::gzip;
use super::rights::Requirement;
use crate::http::accept::Accept;
use crate::http::{Response, Status};

pub(super) const DOOR: Door = Door::new(&[Path::new(
    "/",
    AnsweredBy::Receiver,
    &[Operation::new(
        "GET",
        Requirement::Nothing,
        OTHER,
        Handler::Plain(|call| at_once(home(call))),
    )],
)]);

/// Markup, style and script, in one file.
const PAGE: &str = include_str!("page.html");

/// Nothing but the style and the script in the page, known by their hashes, may have an
/// effect: whatever a title says, it cannot become either. A test compares the hashes.
const POLICY: &str = "default-src 'none'; \
    style-src 'sha256-XCuSImuvh4nzjsEVzYs1KISs5anFnw7H0QTZkCuPkj8='; \
    script-src 'sha256-97q5tC14cPBWzDA+xaPtmDVxnq90nvrLW+FLQUiXypk='; \
    connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";

/// `GET /`
fn home(call: &Call<'_>) -> HandlerResult {
    let accept = Accept::of(&call.request.headers);
    Ok(if accept.prefers_html() { status_page(gzip::is_accepted(call.request)) } else { welcome() })
}

fn status_page(takes_gzip: bool) -> Response {
    static COMPRESSED: LazyLock<Vec<u8>> = LazyLock::new(|| gzip::compressed(PAGE.as_bytes()));
    let response = Response::new(Status::Ok)
        .header("Vary", "Accept, Accept-Encoding")
        .header("Content-Security-Policy", POLICY)
        .header("X-Content-Type-Options", "nosniff")
        .header("Referrer-Policy", "no-referrer");
    if takes_gzip && !COMPRESSED.is_empty() {
        response.header("Content-Encoding", "gzip").body(HTML, COMPRESSED.as_slice())
    } else {
        response.body(HTML, PAGE.as_bytes())
    }
}

fn welcome() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    let text = format!("Welcome to rdlm {version}, a lock manager over HTTP.\n");
    let response = Response::new(Status::Ok).header("Vary", "Accept, Accept-Encoding");
    response.body("text/plain; charset=utf-8", text.into_bytes())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest, Sha256};

    use super::*;

    /// The source expression for the only element of this name in the page.
    fn hash(element: &str) -> String {
        let (_, rest) = PAGE.split_once(&format!("<{element}>")).unwrap();
        let (text, rest) = rest.split_once(&format!("</{element}>")).unwrap();
        assert!(!rest.contains(&format!("<{element}")), "there is a second {element}");
        format!("'sha256-{}'", BASE64_STANDARD.encode(Sha256::digest(text)))
    }

    #[test]
    fn the_policy_lets_in_the_style_and_the_script_of_the_page() {
        for (directive, element) in [("style-src", "style"), ("script-src", "script")] {
            let expected = format!("{directive} {};", hash(element));
            assert!(POLICY.contains(&expected), "the policy should have: {expected}");
        }
    }

    #[test]
    fn the_page_asks_nobody_else_for_anything_and_makes_no_markup_of_text() {
        for absent in [
            "http:",
            "https:",
            "src=",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            " style=",
            " onclick=",
            " onerror=",
            " onload=",
            " onsubmit=",
        ] {
            assert!(!PAGE.contains(absent), "{absent}");
        }
    }
}
