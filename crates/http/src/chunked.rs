//! Bodies in chunks (RFC 9112, section 7.1).

use super::head::{MAX_FIELD_SECTION, MAX_FIELDS, is_token_byte};
use super::request::{MAX_BODY, Unreadable};

/// The longest line with the size of a chunk and its extensions, in bytes.
const MAX_SIZE_LINE: usize = 256;

/// Decodes a body from its chunks as they arrive.
#[derive(Debug, Default)]
pub struct ChunkedBody {
    next: Expected,
}

#[derive(Debug, Default)]
enum Expected {
    #[default]
    Size,
    /// The remaining bytes of a chunk.
    Data(usize),
    DataEnd,
    Trailers,
    Nothing,
}

impl ChunkedBody {
    /// Appends to `body` what `input` contains of it, and returns how many bytes of `input` are
    /// consumed. The others have to be passed again, with more appended.
    ///
    /// # Errors
    /// The chunks are malformed, or the body is larger than [`MAX_BODY`].
    pub fn decode(&mut self, input: &[u8], body: &mut Vec<u8>) -> Result<usize, Unreadable> {
        let mut rest = input;
        while let Some((next, used)) = self.step(rest, body)? {
            self.next = next;
            rest = &rest[used..];
        }
        Ok(input.len() - rest.len())
    }

    /// Whether the end has been reached.
    pub fn is_complete(&self) -> bool {
        matches!(self.next, Expected::Nothing)
    }

    /// Parses one element of the grammar, if it is complete: what is expected next, and its length.
    fn step(
        &self,
        input: &[u8],
        body: &mut Vec<u8>,
    ) -> Result<Option<(Expected, usize)>, Unreadable> {
        match self.next {
            Expected::Size => {
                let Some(line) = size_line(input)? else { return Ok(None) };
                let size = chunk_size(line, MAX_BODY - body.len())?;
                let next = if size == 0 { Expected::Trailers } else { Expected::Data(size) };
                Ok(Some((next, line.len() + 2)))
            }
            Expected::Data(left) => {
                let len = left.min(input.len());
                body.extend_from_slice(&input[..len]);
                let next = if len == left { Expected::DataEnd } else { Expected::Data(left - len) };
                Ok((len > 0).then_some((next, len)))
            }
            Expected::DataEnd => match input {
                [b'\r', b'\n', ..] => Ok(Some((Expected::Size, 2))),
                [] | [b'\r'] => Ok(None),
                _ => Err(Unreadable::Chunk),
            },
            Expected::Trailers => Ok(trailers_len(input)?.map(|len| (Expected::Nothing, len))),
            Expected::Nothing => Ok(None),
        }
    }
}

/// The line at the start of `input`, without its end, if all of it is there.
fn size_line(input: &[u8]) -> Result<Option<&[u8]>, Unreadable> {
    let longest = &input[..input.len().min(MAX_SIZE_LINE + 2)];
    match longest.iter().position(|byte| *byte == b'\n') {
        Some(end) => longest[..end].strip_suffix(b"\r").map(Some).ok_or(Unreadable::Chunk),
        None if input.len() > MAX_SIZE_LINE => Err(Unreadable::Chunk),
        None => Ok(None),
    }
}

/// The size that a line begins with. Extensions are ignored.
fn chunk_size(line: &[u8], limit: usize) -> Result<usize, Unreadable> {
    let line = str::from_utf8(line).map_err(|_| Unreadable::Chunk)?;
    let (digits, extensions) = line.split_at(line.find(is_no_digit).unwrap_or(line.len()));
    if digits.is_empty() || !are_extensions(extensions) {
        return Err(Unreadable::Chunk);
    }
    // A number that does not fit is too large as well.
    match usize::from_str_radix(digits, 16) {
        Ok(size) if size <= limit => Ok(size),
        _ => Err(Unreadable::BodyTooLarge),
    }
}

fn is_no_digit(char: char) -> bool {
    !char.is_ascii_hexdigit()
}

const BLANKS: [char; 2] = [' ', '\t'];

/// RFC 9112, section 7.1.1: each is a name behind a semicolon, and may have a value.
fn are_extensions(mut rest: &str) -> bool {
    while !rest.is_empty() {
        let Some(after) = extension(rest) else { return false };
        rest = after;
    }
    true
}

/// What follows the extension that `text` begins with.
fn extension(text: &str) -> Option<&str> {
    let rest = text.trim_start_matches(BLANKS).strip_prefix(';')?;
    let rest = token(rest.trim_start_matches(BLANKS))?;
    match rest.trim_start_matches(BLANKS).strip_prefix('=') {
        Some(value) => {
            let value = value.trim_start_matches(BLANKS);
            if value.starts_with('"') { quoted_string(value) } else { token(value) }
        }
        None => Some(rest),
    }
}

/// What follows the token that `text` begins with (RFC 9110, section 5.6.2).
fn token(text: &str) -> Option<&str> {
    let len = text.bytes().take_while(|byte| is_token_byte(*byte)).count();
    (len > 0).then(|| &text[len..])
}

/// What follows the quoted string that `text` begins with (RFC 9110, section 5.6.4).
fn quoted_string(text: &str) -> Option<&str> {
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        let quoted = match char {
            '"' => return Some(&text[at + 1..]),
            '\\' => chars.next()?.1,
            char => char,
        };
        if quoted.is_control() && quoted != '\t' {
            return None;
        }
    }
    None
}

/// The length of the trailer section at the start of `input`, if all of it is there. Its
/// fields are checked and ignored.
fn trailers_len(input: &[u8]) -> Result<Option<usize>, Unreadable> {
    let mut space = [httparse::EMPTY_HEADER; MAX_FIELDS];
    let (len, complete) = match httparse::parse_headers(input, &mut space) {
        Ok(httparse::Status::Complete((len, _))) => (len, true),
        Ok(httparse::Status::Partial) => (input.len(), false),
        Err(httparse::Error::TooManyHeaders) => return Err(Unreadable::TooManyFields),
        Err(_) => return Err(Unreadable::Field),
    };
    let trailers = &input[..len];
    if trailers.len() > MAX_FIELD_SECTION {
        return Err(Unreadable::FieldsTooLarge);
    }
    let bare = |at: usize| trailers[at] == b'\n' && (at == 0 || trailers[at - 1] != b'\r');
    if (0..len).any(bare) {
        return Err(Unreadable::LineEnd);
    }
    Ok(complete.then_some(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, if `input` has all of it.
    fn decode(input: &[u8]) -> Result<Option<Vec<u8>>, Unreadable> {
        let (mut chunks, mut body) = (ChunkedBody::default(), Vec::new());
        chunks.decode(input, &mut body)?;
        Ok(chunks.is_complete().then_some(body))
    }

    #[test]
    fn a_body_is_the_same_however_its_chunks_come_in() {
        let whole = b"5;a=\"b\"\r\nhello\r\n00A\r\n0123456789\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(decode(whole), Ok(Some(b"hello0123456789".to_vec())));

        let (mut chunks, mut body, mut pending) = (ChunkedBody::default(), Vec::new(), Vec::new());
        for byte in whole {
            pending.push(*byte);
            let used = chunks.decode(&pending, &mut body).unwrap();
            pending.drain(..used);
        }
        assert!(chunks.is_complete());
        assert_eq!((&body[..], &pending[..]), (&b"hello0123456789"[..], &b"GET"[..]));
    }

    #[test]
    fn extensions_are_ignored() {
        for line in ["5;a", "5;a=b;c", "5 ; a = b", "5\t;\ta\t=\t\"b\"", "5;a=\"\\\"; é\t\";c=\"\""]
        {
            let chunks = format!("{line}\r\nhello\r\n0\r\n\r\n");
            assert_eq!(decode(chunks.as_bytes()), Ok(Some(b"hello".to_vec())), "{line}");
        }
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for input in [
            &b"zz\r\n"[..],
            b"+5\r\nhello\r\n",
            b"-1\r\n",
            b" 5\r\nhello\r\n",
            b"0x5\r\nhello\r\n",
            b"\r\n",
            b"5\nhello\r\n",
            b"5;a\nb\r\nhello\r\n",
            b"5;a\x00\r\nhello\r\n",
            b"5;\r\nhello\r\n",
            b"5 \r\nhello\r\n",
            b"5\t\r\nhello\r\n",
            b"5 a\r\nhello\r\n",
            b"5;bad[=x\r\nhello\r\n",
            b"5;a=\r\nhello\r\n",
            b"5;=b\r\nhello\r\n",
            b"5;a;\r\nhello\r\n",
            b"5;a b\r\nhello\r\n",
            b"5;a=\"b\r\nhello\r\n",
            b"5;a=\"b\\\"\r\nhello\r\n",
            b"5;a=\"b\"c\r\nhello\r\n",
            b"5\r\nhelloworld\r\n",
            b"5\r\nhello\r\r\n",
        ] {
            assert_eq!(decode(input), Err(Unreadable::Chunk), "{}", input.escape_ascii());
        }
        assert_eq!(decode(&[b'0'; 257]), Err(Unreadable::Chunk));
        assert_eq!(decode(b"0\r\nno field\r\n\r\n"), Err(Unreadable::Field));
        assert_eq!(decode(b"0\r\na: b\n\r\n"), Err(Unreadable::LineEnd));
        let endless = [b"0\r\na: ".to_vec(), vec![b'x'; MAX_FIELD_SECTION]].concat();
        assert_eq!(decode(&endless), Err(Unreadable::FieldsTooLarge));
    }

    #[test]
    fn chunks_together_are_at_most_as_large_as_a_body() {
        let chunk = |size: usize| [format!("{size:x}\r\n").into_bytes(), vec![b'x'; size]].concat();
        let full = [chunk(MAX_BODY), b"\r\n".to_vec()].concat();
        assert!(decode(&[full.clone(), b"0\r\n\r\n".to_vec()].concat()).unwrap().is_some());
        let over = [full, b"1\r\n".to_vec()].concat();
        assert_eq!(decode(&over), Err(Unreadable::BodyTooLarge));
        assert_eq!(decode(b"fffffffffffffffffffff\r\n"), Err(Unreadable::BodyTooLarge));
    }
}
