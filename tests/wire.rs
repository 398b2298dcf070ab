//! HTTP/1.1 as it is on the wire, for tests and benchmarks: requests that are bytes, so that they
//! may be wrong, late or cut off, and answers that show all of theirs. The product has no part in
//! it. What goes wrong is an error: whether that fails a test its user decides.

use std::io::{self, BufRead, BufReader, Error, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::ops::Range;
use std::time::Duration;

use socket2::SockRef;

/// A request with these lines in its head, and a Content-Length.
pub(crate) fn request(method: &str, target: &str, headers: &str, body: &str) -> String {
    let len = body.len();
    format!("{method} {target} HTTP/1.1\r\n{headers}\r\nContent-Length: {len}\r\n\r\n{body}")
}

/// A connection to a server: a socket, or TLS over one.
pub(crate) struct Connection<S = TcpStream> {
    stream: BufReader<S>,
    /// What was sent last is a HEAD, whose answer has no body.
    is_head: bool,
}

impl Connection {
    /// Nothing on it may take longer than `patience`.
    pub(crate) fn open(address: SocketAddr, patience: Duration) -> io::Result<Self> {
        Self::on(TcpStream::connect_timeout(&address, patience)?, patience)
    }

    /// On a socket that is connected.
    pub(crate) fn on(stream: TcpStream, patience: Duration) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self::over(stream))
    }

    /// Ends the sending side.
    pub(crate) fn half_close(&self) -> io::Result<()> {
        self.stream().shutdown(Shutdown::Write)
    }

    /// Ends it as a client does that crashes.
    pub(crate) fn reset(self) -> io::Result<()> {
        SockRef::from(self.stream()).set_linger(Some(Duration::ZERO))
    }
}

impl<S: Read + Write> Connection<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream), is_head: false }
    }

    pub(crate) fn stream(&self) -> &S {
        self.stream.get_ref()
    }

    /// What was received and not read yet stays here.
    pub(crate) fn stream_mut(&mut self) -> &mut S {
        self.stream.get_mut()
    }

    /// Sends bytes as they are.
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let bytes = bytes.as_ref();
        self.is_head = bytes.starts_with(b"HEAD ");
        self.stream.get_mut().write_all(bytes)
    }

    /// Reads one answer.
    pub(crate) fn response(&mut self) -> io::Result<Response> {
        let mut response = self.head()?;
        if self.is_head || response.status < 200 || response.status == 204 {
            return Ok(response);
        }
        if response.header("Transfer-Encoding") == Some("chunked") {
            while let Some(chunk) = self.chunk()? {
                response.body.extend(chunk);
            }
        } else {
            let length = response.header("Content-Length").and_then(|length| length.parse().ok());
            let length = length.ok_or_else(|| invalid("no length", &response.head.text))?;
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        }
        Ok(response)
    }

    /// Reads the head of an answer. What follows may be read by [`Self::chunk`].
    pub(crate) fn head(&mut self) -> io::Result<Response> {
        let head = Head::read(&mut self.stream)?;
        let status = head.text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| invalid("no status", &head.text))?;
        Ok(Response { status, head, body: Vec::new() })
    }

    /// Reads one chunk; `None` at the end.
    pub(crate) fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = usize::from_str_radix(line.trim_end(), 16);
        let length = length.map_err(|_| invalid("no length of a chunk", &line))?;
        let mut chunk = vec![0; length + 2];
        self.stream.read_exact(&mut chunk)?;
        if !chunk.ends_with(b"\r\n") {
            return Err(invalid("a chunk without its end", &line));
        }
        chunk.truncate(length);
        Ok(Some(chunk).filter(|chunk| !chunk.is_empty()))
    }

    /// All that comes until the server ends the connection.
    pub(crate) fn rest(mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        match self.stream.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error),
            _ => {}
        }
        String::from_utf8(rest).map_err(Error::other)
    }

    /// Waits for the next byte, or the end of the connection; returns whether it has ended.
    pub(crate) fn is_closed(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(rest) => rest.is_empty(),
            Err(error) => error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    head: Head,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.field(name)
    }
}

/// The first line and the fields of a message.
#[derive(Debug)]
pub(crate) struct Head {
    /// With the empty line behind them.
    pub(crate) text: String,
    /// Where the name of each field is, and its value.
    fields: Vec<[Range<usize>; 2]>,
}

impl Head {
    pub(crate) fn read(stream: &mut impl BufRead) -> io::Result<Self> {
        let (mut text, mut fields) = (String::with_capacity(512), Vec::with_capacity(16));
        loop {
            let begin = text.len();
            if stream.read_line(&mut text)? == 0 {
                let what = format!("the connection ended in the head {text:?}");
                return Err(Error::new(ErrorKind::UnexpectedEof, what));
            }
            let line = text[begin..].strip_suffix("\r\n");
            let line = line.ok_or_else(|| invalid("a line without its end", &text))?;
            if line.is_empty() {
                return Ok(Self { text, fields });
            }
            if begin > 0 {
                let colon = line.find(':').filter(|colon| line[colon + 1..].starts_with(' '));
                let colon = colon.ok_or_else(|| invalid("a line that is no field", &text))?;
                fields.push([begin..begin + colon, begin + colon + 2..begin + line.len()]);
            }
        }
    }

    /// The value of a field, which must not be there twice.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let is =
            |[found, _]: &&[Range<usize>; 2]| self.text[found.clone()].eq_ignore_ascii_case(name);
        let mut found = self.fields.iter().filter(is);
        let value = found.next().map(|[_, value]| &self.text[value.clone()]);
        assert!(found.next().is_none(), "{name} is there twice");
        value
    }
}

fn invalid(what: &str, text: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{what} in {text:?}"))
}
