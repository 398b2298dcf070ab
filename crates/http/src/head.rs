//! The head of a request: its request line and its fields, by the grammar of RFC 9112.
//!
//! Strict: if a proxy and this server disagreed about where a request ends, one request could be
//! smuggled in the body of another.

use super::headers::{Headers, elements};
use super::request::{MAX_BODY, Request, Singleton, Unreadable};
use super::target::Target;

/// The longest request target, in bytes.
pub const MAX_TARGET: usize = 8 * 1024;

/// The largest field section of a request, in bytes, with its line ends.
pub const MAX_FIELD_SECTION: usize = 16 * 1024;

/// How many fields a request may have.
pub const MAX_FIELDS: usize = 100;

/// Room for a method and a version beside the target.
const MAX_REQUEST_LINE: usize = MAX_TARGET + 64;

/// Finds the end of a head while its bytes arrive, and refuses as soon as possible what cannot become
/// one.
#[derive(Debug, Default)]
pub struct HeadScan {
    /// Where the last, incomplete line begins.
    line: usize,
    /// Where the field section begins, once the request line is there.
    fields: Option<usize>,
    /// How many bytes have been scanned.
    seen: usize,
}

impl HeadScan {
    /// The length of the head at the start of `input`, once it is complete. Each call gets the input of
    /// the previous one with more bytes appended.
    ///
    /// # Errors
    /// It is malformed or too large.
    pub fn find_end(&mut self, input: &[u8]) -> Result<Option<usize>, Unreadable> {
        while let Some(len) = input[self.seen..].iter().position(|byte| *byte == b'\n') {
            let end = self.seen + len + 1;
            let line = input[self.line..end].strip_suffix(b"\r\n").ok_or(Unreadable::LineEnd)?;
            (self.line, self.seen) = (end, end);
            match self.fields {
                None => self.fields = Some(end),
                Some(fields) if line.is_empty() => {
                    check_size(end - fields)?;
                    return Ok(Some(end));
                }
                Some(_) => {}
            }
        }
        self.seen = input.len();
        match self.fields {
            Some(fields) => {
                RequestLine::parse(&input[..fields - 2])?;
                check_size(input.len() - fields)?;
            }
            None if input.len() > MAX_REQUEST_LINE => return Err(Unreadable::TargetTooLong),
            // A client that speaks TLS to this port is not left waiting for a time-out.
            None if input.first().is_some_and(|byte| !is_token_byte(*byte)) => {
                return Err(Unreadable::RequestLine);
            }
            None => {}
        }
        Ok(None)
    }
}

fn check_size(field_section: usize) -> Result<(), Unreadable> {
    if field_section > MAX_FIELD_SECTION { Err(Unreadable::FieldsTooLarge) } else { Ok(()) }
}

/// A parsed head.
#[derive(Debug)]
pub struct RequestHead<'a> {
    /// The request, its body still empty.
    pub request: Request<'a>,
    /// The length of the body.
    pub body: BodyLength,
    /// The client waits for 100 Continue before it sends the body (RFC 9110, section 10.1.1).
    pub expects_continue: bool,
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyLength {
    /// At most [`MAX_BODY`] bytes.
    Known(usize),
    /// Chunked transfer coding.
    Chunked,
}

impl<'a> RequestHead<'a> {
    /// Parses a whole head, as found by [`HeadScan`].
    ///
    /// # Errors
    /// It is malformed, or asks for something that is not supported.
    pub fn parse(head: &'a [u8]) -> Result<Self, Unreadable> {
        let line_end = head.windows(2).position(|pair| pair == b"\r\n");
        let (line, section) = head.split_at(line_end.ok_or(Unreadable::RequestLine)?);
        let line = RequestLine::parse(line)?;
        let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let fields = match httparse::parse_headers(&section[2..], &mut space) {
            Ok(httparse::Status::Complete((_, fields))) => fields,
            Err(httparse::Error::TooManyHeaders) => return Err(Unreadable::TooManyFields),
            Ok(httparse::Status::Partial) | Err(_) => return Err(Unreadable::Field),
        };
        Framing::collect(fields)?.into_head(line, Headers::new(fields))
    }
}

struct RequestLine<'a> {
    method: &'a str,
    target: Target<'a>,
    http_1_0: bool,
}

impl<'a> RequestLine<'a> {
    /// RFC 9112, section 3: method, target and version with one space between them.
    fn parse(line: &'a [u8]) -> Result<Self, Unreadable> {
        let line = str::from_utf8(line).map_err(|_| Unreadable::RequestLine)?;
        let mut parts = line.split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Unreadable::RequestLine);
        };
        if target.len() > MAX_TARGET {
            return Err(Unreadable::TargetTooLong);
        }
        let legal = |byte: u8| byte.is_ascii_graphic() && byte != b'#';
        if method.is_empty()
            || !method.bytes().all(is_token_byte)
            || target.is_empty()
            || !target.bytes().all(legal)
        {
            return Err(Unreadable::RequestLine);
        }
        Ok(Self { method, target: Target::parse(target), http_1_0: is_http_1_0(version)? })
    }
}

/// Whether the version is 1.0; any other minor version than 0 means 1.1 to this server (RFC
/// 9110, section 2.5).
fn is_http_1_0(version: &str) -> Result<bool, Unreadable> {
    match version.strip_prefix("HTTP/").map(str::as_bytes) {
        Some([b'1', b'.', minor]) if minor.is_ascii_digit() => Ok(*minor == b'0'),
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            Err(Unreadable::Version)
        }
        _ => Err(Unreadable::RequestLine),
    }
}

/// RFC 9110, section 5.6.2.
pub(super) fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// The fields that concern the message itself.
#[derive(Default)]
struct Framing<'a> {
    host: Singleton<'a>,
    expect: Option<&'a str>,
    content_length: Option<&'a str>,
    transfer_encoding: Option<&'a str>,
    /// Content-Length or Transfer-Encoding stands more than once.
    lengths_repeated: bool,
    close: bool,
    keep_alive: bool,
}

impl<'a> Framing<'a> {
    fn collect(fields: &[httparse::Header<'a>]) -> Result<Self, Unreadable> {
        let mut collected = Self::default();
        for field in fields {
            let is = |name: &str| field.name.eq_ignore_ascii_case(name);
            let value = || str::from_utf8(field.value).map_err(|_| Unreadable::Field);
            if is("Host") {
                collected.host = collected.host.and(value()?);
            } else if is("Content-Length") {
                collected.lengths_repeated |= collected.content_length.replace(value()?).is_some();
            } else if is("Transfer-Encoding") {
                collected.lengths_repeated |=
                    collected.transfer_encoding.replace(value()?).is_some();
            } else if is("Connection") {
                collected.read_connection_options(value()?);
            } else if is("Expect") {
                collected.expect = Some(value()?);
            }
        }
        Ok(collected)
    }

    fn read_connection_options(&mut self, value: &str) {
        for option in elements(value) {
            self.close |= option.eq_ignore_ascii_case("close");
            self.keep_alive |= option.eq_ignore_ascii_case("keep-alive");
        }
    }

    fn into_head(
        self,
        line: RequestLine<'a>,
        headers: Headers<'a>,
    ) -> Result<RequestHead<'a>, Unreadable> {
        let length = self.body_length(line.http_1_0)?;
        let expects_continue = match self.expect {
            Some(_) if line.http_1_0 => false,
            None => false,
            Some(expect) if expect.eq_ignore_ascii_case("100-continue") => true,
            Some(_) => return Err(Unreadable::Expectation),
        };
        // A method that implies a body, without a length: what follows may be a body, and must not be
        // parsed as a request.
        let unannounced = length.is_none() && has_body(line.method);
        let persistent = !self.close && (!line.http_1_0 || self.keep_alive);
        let host = match (self.host, line.target.authority()) {
            // RFC 9112, section 3.2.2: the target's authority is the one that counts.
            (Singleton::One(_), Some(authority)) => Singleton::One(authority),
            (host, _) => host,
        };
        let request = Request {
            method: line.method,
            target: line.target,
            http_1_0: line.http_1_0,
            keep_alive: persistent && !unannounced,
            host,
            headers,
            body: b"",
        };
        Ok(RequestHead { request, body: length.unwrap_or(BodyLength::Known(0)), expects_continue })
    }

    /// `None` if the request does not announce a body.
    fn body_length(&self, http_1_0: bool) -> Result<Option<BodyLength>, Unreadable> {
        match (self.content_length, self.transfer_encoding) {
            _ if self.lengths_repeated => Err(Unreadable::BodyLength),
            (None, None) => Ok(None),
            (Some(length), None) => content_length(length).map(Some),
            // A proxy that speaks HTTP/1.0 would not have understood the chunks.
            (None, Some(coding)) if !http_1_0 => transfer_coding(coding).map(Some),
            (_, Some(_)) => Err(Unreadable::BodyLength),
        }
    }
}

fn content_length(value: &str) -> Result<BodyLength, Unreadable> {
    if value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Unreadable::BodyLength);
    }
    // A number that does not fit is too large as well.
    match value.parse() {
        Ok(len) if len <= MAX_BODY => Ok(BodyLength::Known(len)),
        _ => Err(Unreadable::BodyTooLarge),
    }
}

fn transfer_coding(value: &str) -> Result<BodyLength, Unreadable> {
    let is_chunked = |coding: &str| coding.eq_ignore_ascii_case("chunked");
    match value.rsplit_once(',') {
        None if is_chunked(value) => Ok(BodyLength::Chunked),
        Some((others, last)) if is_chunked(last.trim()) && !elements(others).any(is_chunked) => {
            Err(Unreadable::TransferCoding)
        }
        _ => Err(Unreadable::BodyLength),
    }
}

fn has_body(method: &str) -> bool {
    matches!(method, "POST" | "PUT" | "PATCH")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(pieces: &[&[u8]]) -> Result<Option<usize>, Unreadable> {
        let mut scan = HeadScan::default();
        let mut input = Vec::new();
        let mut found = Ok(None);
        for piece in pieces {
            input.extend_from_slice(piece);
            found = scan.find_end(&input);
            if !matches!(found, Ok(None)) {
                break;
            }
        }
        found
    }

    #[test]
    fn the_end_of_a_head_is_found_however_it_comes_in() {
        let head = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n";
        assert_eq!(scan(&[head]), Ok(Some(head.len())));
        assert_eq!(scan(&[head, b"GET "]), Ok(Some(head.len())));
        let bytes: Vec<_> = head.chunks(1).collect();
        assert_eq!(scan(&bytes), Ok(Some(head.len())));
        for at in 1..head.len() {
            assert_eq!(scan(&[&head[..at]]), Ok(None), "{at}");
            assert_eq!(scan(&[&head[..at], &head[at..]]), Ok(Some(head.len())), "{at}");
        }
    }

    #[test]
    fn what_cannot_become_a_request_is_refused_before_its_end() {
        for (input, expected) in [
            (&b"\x16\x03\x01"[..], Unreadable::RequestLine),
            (b" GET", Unreadable::RequestLine),
            (b"GET /\r\n", Unreadable::RequestLine),
            (b"GET / HTTP/1.1\n", Unreadable::LineEnd),
            (b"GET / HTTP/1.1\r\nHost: h\n", Unreadable::LineEnd),
            (b"PRI * HTTP/2.0\r\n", Unreadable::Version),
        ] {
            assert_eq!(scan(&[input]), Err(expected), "{}", input.escape_ascii());
        }
        let long = [b"GET /".to_vec(), vec![b'x'; MAX_REQUEST_LINE]].concat();
        assert_eq!(scan(&[&long]), Err(Unreadable::TargetTooLong));
        let large = [b"GET / HTTP/1.1\r\nA: ".to_vec(), vec![b'x'; MAX_FIELD_SECTION]].concat();
        assert_eq!(scan(&[&large]), Err(Unreadable::FieldsTooLarge));
        assert_eq!(scan(&[&large, b"\r\n\r\n"]), Err(Unreadable::FieldsTooLarge));
    }

    fn body_length(fields: &str) -> Result<BodyLength, Unreadable> {
        let head = format!("PUT / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n");
        RequestHead::parse(head.as_bytes()).map(|head| head.body)
    }

    #[test]
    fn the_length_of_a_body_is_clear_or_refused() {
        assert_eq!(body_length("Content-Length: 007"), Ok(BodyLength::Known(7)));
        assert_eq!(body_length("transfer-encoding: Chunked"), Ok(BodyLength::Chunked));
        for unclear in [
            "Content-Length:",
            "Content-Length: +5",
            "Content-Length: 5,5",
            "Content-Length: 5\r\nContent-Length: 5",
            "Content-Length: 5\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked, chunked",
            "Transfer-Encoding: chunked, gzip",
            "Transfer-Encoding: identity",
            "Transfer-Encoding:",
        ] {
            assert_eq!(body_length(unclear), Err(Unreadable::BodyLength), "{unclear}");
        }
        assert_eq!(
            body_length("Transfer-Encoding: gzip, chunked"),
            Err(Unreadable::TransferCoding)
        );
        for large in ["65537", "9223372036854775808", "999999999999999999999999999999"] {
            let length = body_length(&format!("Content-Length: {large}"));
            assert_eq!(length, Err(Unreadable::BodyTooLarge), "{large}");
        }
    }
}
