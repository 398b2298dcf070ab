//! A request, and why one cannot be read.

use std::net::Ipv6Addr;

use super::headers::Headers;
use super::target::Target;

/// The largest body that is read, in bytes.
pub const MAX_BODY: usize = 64 * 1024;

/// A request.
#[derive(Debug)]
pub struct Request<'a> {
    /// The method, a token.
    pub method: &'a str,
    /// The target.
    pub target: Target<'a>,
    /// HTTP/1.0 rather than 1.1.
    pub http_1_0: bool,
    /// The client will send more on this connection.
    pub keep_alive: bool,
    /// The host that the client addresses.
    pub host: Singleton<'a>,
    /// All header fields.
    pub headers: Headers<'a>,
    /// The body, empty when there is none.
    pub body: &'a [u8],
}

impl Request<'_> {
    /// Stands for a request that could not be read: its response is the last one.
    pub const UNREADABLE: Self = Self {
        method: "",
        target: Target::NONE,
        http_1_0: false,
        keep_alive: false,
        host: Singleton::None,
        headers: Headers::NONE,
        body: b"",
    };
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
    /// Adds one more occurrence.
    pub fn and(self, value: &'a str) -> Self {
        match self {
            Self::None => Self::One(value),
            Self::One(_) | Self::Several => Self::Several,
        }
    }
}

/// Why a request could not be read. Where the next one would begin is unknown, so the connection ends
/// with the response.
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

#[cfg(test)]
mod tests {
    use super::*;

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
