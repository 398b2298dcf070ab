//! What a standby sends to the active server on behalf of a client.

use std::borrow::Cow;

use super::upstream::Upstream;
use crate::doors::ForwardedClient;
use crate::http::Request;

/// Marks a forwarded request: the secret of the active server's term, then the client.
const FORWARDED: &str = "RDLM-Forwarded";

/// Fields of this hop; and those with the site for which a browser sent the request, which this
/// server has checked against the name that the client knows it by.
const NOT_PASSED_ON: [&str; 7] =
    ["Expect", FORWARDED, "Trailer", "TE", "Upgrade", "Origin", "Sec-Fetch-Site"];

/// In place of the client: a response that told of a lock was not delivered. Clients cannot forge
/// it, as their own field is never passed on.
const UNDELIVERED: &str = "undelivered";

/// The connection to the active server that belongs to one client's connection.
#[derive(Default)]
pub struct Forwarding(pub(super) Option<Upstream>);

/// What another server wants.
pub(super) enum Believed {
    /// That of this client.
    Request(ForwardedClient),
    /// A client was not told of the lock that the target names.
    Undelivered,
}

/// The field of a forwarded request.
pub(super) fn forwarded<'r>(request: &Request<'r>) -> Option<Cow<'r, str>> {
    let mut fields = request.headers.all(FORWARDED);
    fields.next().map(|value| String::from_utf8_lossy(value.trim_ascii()))
}

/// What the field says, if it has the secret.
pub(super) fn believed(field: &str, secret: &str) -> Option<Believed> {
    use subtle::ConstantTimeEq;
    let (theirs, client) = field.split_once(' ')?;
    if !bool::from(theirs.as_bytes().ct_eq(secret.as_bytes())) {
        return None;
    }
    match client {
        UNDELIVERED => Some(Believed::Undelivered),
        client => ForwardedClient::from_field(client).map(Believed::Request),
    }
}

/// A message that a client was not told of this lock.
pub(super) fn undelivered(lock: &str, secret: &str) -> Vec<u8> {
    let field = format!("{FORWARDED}: {secret} {UNDELIVERED}");
    format!("DELETE {lock} HTTP/1.1\r\nHost: rdlm\r\n{field}\r\n\r\n").into_bytes()
}

/// A forwarded request. Fields of the client's own hop are left out or replaced, and so are its
/// credentials, if this server has checked them.
pub(super) fn bytes(request: &Request<'_>, secret: &str, client: &ForwardedClient) -> Vec<u8> {
    let Request { method, http_1_0, body, .. } = request;
    let target = request.target.as_str();
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
        let is_for_this_server = client.is_complete() && is(&"Authorization");
        if !about_body && !is_for_this_server && !NOT_PASSED_ON.iter().any(is) {
            push(name, value);
        }
    }
    push(FORWARDED, format!("{secret} {}", client.to_field()).as_bytes());
    if has_body {
        push("Content-Length", body.len().to_string().as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
    out
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::prelude::BASE64_STANDARD;

    use super::*;
    use crate::http::head::RequestHead;

    fn parsed<'a>(head: &'a str, body: &'a [u8]) -> Request<'a> {
        Request { body, ..RequestHead::parse(head.as_bytes()).unwrap().request }
    }

    fn client(json: &str) -> ForwardedClient {
        ForwardedClient::from_field(&BASE64_STANDARD.encode(json)).unwrap()
    }

    #[test]
    fn a_request_is_forwarded_without_the_fields_of_its_hop() {
        let head = "POST /locks/a?x HTTP/1.1\r\nHost: h\r\nexpect: 100-continue\r\n\
            Transfer-Encoding: chunked\r\nIdempotency-Key: k\r\nrdlm-forwarded: s 1\r\n\
            Authorization: Basic eA==\r\nConnection: close\r\n\r\n";
        let client = client(r#"{"address":"::1"}"#);
        let made = bytes(&parsed(head, b"{}"), "secret", &client);
        let field = client.to_field();
        let expected = format!(
            "POST /locks/a?x HTTP/1.1\r\nHost: h\r\nIdempotency-Key: k\r\n\
            Authorization: Basic eA==\r\nConnection: close\r\nRDLM-Forwarded: secret {field}\r\n\
            Content-Length: 2\r\n\r\n{{}}"
        );
        assert_eq!(String::from_utf8(made).unwrap(), expected);
    }

    #[test]
    fn a_request_without_a_body_announces_none() {
        let client = client(r#"{"address":"::1"}"#);
        let made = bytes(&parsed("GET / HTTP/1.0\r\n\r\n", b""), "s", &client);
        let expected = format!("GET / HTTP/1.0\r\nRDLM-Forwarded: s {}\r\n\r\n", client.to_field());
        assert_eq!(String::from_utf8(made).unwrap(), expected);
    }

    #[test]
    fn the_password_of_a_known_user_is_not_forwarded() {
        let client = client(r#"{"address":"::1","user":"deploy","rights":["lock *"]}"#);
        let head = "GET / HTTP/1.0\r\nauthorization: Basic eA==\r\nA: b\r\n\r\n";
        let made = bytes(&parsed(head, b""), "s", &client);
        let field = client.to_field();
        let expected = format!("GET / HTTP/1.0\r\nA: b\r\nRDLM-Forwarded: s {field}\r\n\r\n");
        assert_eq!(String::from_utf8(made).unwrap(), expected);
    }

    #[test]
    fn a_forwarded_request_needs_the_secret() {
        let client = client(r#"{"address":"192.0.2.1"}"#).to_field();
        let head =
            format!("GET / HTTP/1.1\r\nHost: h\r\nRDLM-Forwarded:  s3cret {client} \r\n\r\n");
        let field = forwarded(&parsed(&head, b"")).unwrap();
        let Some(Believed::Request(known)) = believed(&field, "s3cret") else { panic!("{field}") };
        assert_eq!(known.to_field(), client);
        for other in ["other", "s3cre", "s3crett", ""] {
            assert!(believed(&field, other).is_none(), "{other}");
        }
        assert_eq!(forwarded(&parsed("GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"")), None);
    }

    #[test]
    fn giving_a_lock_back_needs_the_secret() {
        let made = String::from_utf8(undelivered("/locks/a/1", "s3cret")).unwrap();
        let request = parsed(&made, b"");
        assert_eq!((request.method, request.target.path()), ("DELETE", "/locks/a/1"));
        let field = forwarded(&request).unwrap();
        assert!(matches!(believed(&field, "s3cret"), Some(Believed::Undelivered)));
        assert!(believed(&field, "other").is_none());
    }
}
