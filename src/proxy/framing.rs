//! Where a response ends (RFC 9112, section 6.3). Pure: the bytes themselves are relayed as they
//! come.

use std::ops::Range;

use crate::doors::IF_UNDELIVERED;

/// What the head of a response says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ResponseHead {
    /// In bytes, with the empty line.
    pub(super) len: usize,
    pub(super) status: u16,
    /// The connection ends with it.
    pub(super) close: bool,
    /// The server has not done what was asked, because it is not the active one.
    pub(super) not_done: bool,
    /// It tells of a lock of which nobody else knows yet.
    pub(super) grant: Option<Grant>,
    pub(super) end: End,
}

/// A lock that is to be given back if the client does not get the response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// Its path.
    pub(super) lock: String,
    /// The line of the head that says so, in bytes.
    pub(super) line: Range<usize>,
}

/// How the end of the body is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    /// After so many more bytes.
    Left(u64),
    /// By its chunks.
    Chunked(Chunks),
    /// With the connection.
    Close,
}

/// How far a body in chunks has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Chunks {
    /// In a line with a size: what it says so far, and whether its digits are over.
    Size(u64, bool),
    /// In a chunk: so many bytes are left of it, with the line end.
    Data(u64),
    /// In the lines behind the last chunk: whether this one has anything in it.
    Trailer(bool),
    Done,
}

/// Tells a standby that nothing was done, so it may ask another server.
pub(super) const NOT_DONE: &str = "RDLM-Not-Done";

/// No response has more header fields.
const MAX_FIELDS: usize = 64;

impl ResponseHead {
    /// The head that `bytes` begin with, in answer to HEAD or not; `None` if it is not all there.
    ///
    /// # Errors
    /// It is none.
    pub(super) fn parse(bytes: &[u8], to_head: bool) -> Result<Option<Self>, httparse::Error> {
        let mut fields = [httparse::EMPTY_HEADER; MAX_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(len) = response.parse(bytes)? else { return Ok(None) };
        let status = response.code.unwrap_or_default();
        let field = |name: &str| {
            let mut fields = response.headers.iter();
            let found = fields.find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| str::from_utf8(field.value).ok())
        };
        let chunked = field("Transfer-Encoding").is_some();
        let length = field("Content-Length").and_then(|length| length.trim().parse().ok());
        let end = match (to_head || matches!(status, 100..=199 | 204 | 304), chunked, length) {
            (true, ..) => End::Left(0),
            (false, true, _) => End::Chunked(Chunks::Size(0, false)),
            (false, false, Some(length)) => End::Left(length),
            (false, false, None) => End::Close,
        };
        let option = field("Connection").unwrap_or_default();
        let close = option.eq_ignore_ascii_case("close") || end == End::Close;
        let line = line_of(&bytes[..len], IF_UNDELIVERED);
        let lock = field(IF_UNDELIVERED).zip(line);
        let grant = lock.map(|(lock, line)| Grant { lock: lock.into(), line });
        Ok(Some(Self { len, status, close, not_done: field(NOT_DONE).is_some(), grant, end }))
    }
}

/// Where the line of a head is that has this field.
fn line_of(head: &[u8], name: &str) -> Option<Range<usize>> {
    let mut start = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let end = start + line.len();
        let named = line.split(|byte| *byte == b':').next();
        if named.is_some_and(|named| named.eq_ignore_ascii_case(name.as_bytes())) {
            return Some(start..end);
        }
        start = end;
    }
    None
}

impl End {
    /// How many of these bytes belong to the body.
    ///
    /// # Errors
    /// They are not in chunks as they should be.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        match self {
            Self::Left(left) => {
                let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                *left -= taken as u64;
                Ok(taken)
            }
            Self::Chunked(chunks) => chunks.take(bytes),
            Self::Close => Ok(bytes.len()),
        }
    }

    /// Whether the body is complete, which one that ends with the connection never is.
    pub(super) fn is_there(&self) -> bool {
        matches!(self, Self::Left(0) | Self::Chunked(Chunks::Done))
    }
}

/// The chunks are not as they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

impl Chunks {
    fn take(&mut self, bytes: &[u8]) -> Result<usize, Malformed> {
        let mut taken = 0;
        while *self != Self::Done {
            let Some(&byte) = bytes.get(taken) else { break };
            if let Self::Data(left) = self {
                let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                taken += here;
                *left -= here as u64;
                if *left == 0 {
                    *self = Self::Size(0, false);
                }
                continue;
            }
            taken += 1;
            *self = self.after(byte)?;
        }
        Ok(taken)
    }

    /// After one more byte of a line.
    fn after(&self, byte: u8) -> Result<Self, Malformed> {
        Ok(match (self, byte) {
            (Self::Size(0, _), b'\n') => Self::Trailer(false),
            (Self::Size(size, _), b'\n') => Self::Data(size.checked_add(2).ok_or(Malformed)?),
            (Self::Size(size, false), byte) => match char::from(byte).to_digit(16) {
                Some(digit) => {
                    let size = size.checked_mul(16).ok_or(Malformed)?;
                    Self::Size(size | u64::from(digit), false)
                }
                None => Self::Size(*size, true),
            },
            (Self::Size(size, true), _) => Self::Size(*size, true),
            (Self::Trailer(false), b'\n') => Self::Done,
            (Self::Trailer(true), b'\n') => Self::Trailer(false),
            (Self::Trailer(in_line), b'\r') => Self::Trailer(*in_line),
            (Self::Trailer(_), _) => Self::Trailer(true),
            (Self::Data(_) | Self::Done, _) => return Err(Malformed),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(text: &str, to_head: bool) -> ResponseHead {
        ResponseHead::parse(text.as_bytes(), to_head).unwrap().unwrap()
    }

    #[test]
    fn the_head_says_where_the_body_ends() {
        let ok = "HTTP/1.1 200 OK\r\n";
        for (fields, to_head, end, close) in [
            ("Content-Length: 5\r\n\r\n", false, End::Left(5), false),
            ("content-length: 5\r\nConnection: close\r\n\r\n", false, End::Left(5), true),
            ("Content-Length: 5\r\n\r\n", true, End::Left(0), false),
            (
                "Transfer-Encoding: chunked\r\n\r\n",
                false,
                End::Chunked(Chunks::Size(0, false)),
                false,
            ),
            ("\r\n", false, End::Close, true),
        ] {
            let head = head(&format!("{ok}{fields}"), to_head);
            assert_eq!((head.end, head.close, head.status), (end, close, 200), "{fields}");
        }
        assert_eq!(head("HTTP/1.1 204 No Content\r\n\r\n", false).end, End::Left(0));
        assert!(head("HTTP/1.1 503 x\r\nrdlm-not-done: 1\r\n\r\n", false).not_done);
        assert_eq!(ResponseHead::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n", false), Ok(None));
        assert!(ResponseHead::parse(b"SSH-2.0-x\r\n", false).is_err());
    }

    #[test]
    fn a_body_ends_where_it_ends_however_it_comes() {
        let chunked = b"5;x=y\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\nA: b\r\n\r\nHTTP";
        let known = b"0123456789HTTP";
        let kinds = [(&chunked[..], End::Chunked(Chunks::Size(0, false))), (known, End::Left(10))];
        for (bytes, begin) in kinds {
            for size in 1..bytes.len() {
                let (mut end, mut taken) = (begin.clone(), 0);
                for piece in bytes.chunks(size) {
                    taken += end.take(piece).unwrap();
                }
                assert!(end.is_there());
                assert_eq!(taken, bytes.len() - 4, "in pieces of {size}");
            }
        }
    }

    #[test]
    fn chunks_that_are_none_are_refused() {
        let mut end = End::Chunked(Chunks::Size(0, false));
        assert_eq!(end.take(b"ffffffffffffffffff\r\n"), Err(Malformed));
    }
}
