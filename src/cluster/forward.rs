//! What a standby sends in a client's stead.

use std::borrow::Cow;

use super::upstream::Upstream;
use crate::http::Request;

/// Names the client that a request comes from, in a request from another server: the secret of
/// the tenure, then the client's address.
const FORWARDED: &str = "RDLM-Forwarded";

/// What concerns this connection alone; and for which site a browser sent the request, which was
/// looked at here, where the client knows the name of the server.
const NOT_PASSED_ON: [&str; 7] =
    ["Expect", FORWARDED, "Trailer", "TE", "Upgrade", "Origin", "Sec-Fetch-Site"];

/// The connection to the active server that belongs to one client's connection.
#[derive(Default)]
pub struct Forwarding(pub(super) Option<Upstream>);

/// The field that says that a request comes from another server.
pub(super) fn forwarded<'r>(request: &Request<'r>) -> Option<Cow<'r, str>> {
    let mut fields = request.headers.all(FORWARDED);
    fields.next().map(|value| String::from_utf8_lossy(value.trim_ascii()))
}

/// The address of the client, if the field is that of a server which knows the secret.
pub(super) fn believed<'f>(field: &'f str, secret: &str) -> Option<&'f str> {
    use subtle::ConstantTimeEq;
    let (theirs, address) = field.split_once(' ')?;
    bool::from(theirs.as_bytes().ct_eq(secret.as_bytes())).then_some(address)
}

/// The bytes that go to the active server. What belongs to this connection alone is left out, or
/// said anew.
pub(super) fn bytes(request: &Request<'_>, secret: &str, client: &str) -> Vec<u8> {
    let Request { method, target, http_1_0, body, .. } = request;
    let minor = if *http_1_0 { 0 } else { 1 };
    let mut out = format!("{method} {target} HTTP/1.{minor}\r\n").into_bytes();
    let mut push = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(value);
        out.extend_from_slice(b"\r\n");
    };
    let mut has_body = false;
    for (name, value) in request.headers.iter() {
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        let about_body = ["Content-Length", "Transfer-Encoding"].iter().any(is);
        has_body |= about_body;
        if !about_body && !NOT_PASSED_ON.iter().any(is) {
            push(name, value);
        }
    }
    push(FORWARDED, format!("{secret} {client}").as_bytes());
    if has_body {
        push("Content-Length", body.len().to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::Head;

    fn parsed<'a>(head: &'a str, body: &'a [u8]) -> Request<'a> {
        Request { body, ..Head::parse(head.as_bytes()).unwrap().request }
    }

    #[test]
    fn a_request_is_passed_on_as_it_is_but_for_what_is_the_connection_s() {
        let head = "POST /locks/a?x HTTP/1.1\r\nHost: h\r\nexpect: 100-continue\r\n\
            Transfer-Encoding: chunked\r\nIdempotency-Key: k\r\nrdlm-forwarded: s 1\r\n\
            Connection: close\r\n\r\n";
        let made = bytes(&parsed(head, b"{}"), "secret", "::1");
        let expected = "POST /locks/a?x HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\n\
            Connection: close\r\nRDLM-Forwarded: secret ::1\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(String::from_utf8(made).unwrap(), expected);
    }

    #[test]
    fn a_request_without_a_body_announces_none() {
        let made = bytes(&parsed("GET / HTTP/1.0\r\n\r\n", b""), "s", "::1");
        let expected = "GET / HTTP/1.0\r\nRDLM-Forwarded: s ::1\r\n\r\n";
        assert_eq!(String::from_utf8(made).unwrap(), expected);
    }

    #[test]
    fn only_who_knows_the_secret_is_believed() {
        let head = "GET / HTTP/1.1\r\nHost: h\r\nRDLM-Forwarded:  s3cret 192.0.2.1 \r\n\r\n";
        let field = forwarded(&parsed(head, b"")).unwrap();
        assert_eq!(believed(&field, "s3cret"), Some("192.0.2.1"));
        assert_eq!(believed(&field, "other"), None);
        assert_eq!(forwarded(&parsed("GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"")), None);
    }
}
