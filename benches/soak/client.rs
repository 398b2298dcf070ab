//! A client that reports what it got instead of failing.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use socket2::SockRef;

/// Longer than any wait that the soak asks for.
const PATIENCE: Duration = Duration::from_secs(30);

/// A connection.
pub(crate) struct Client {
    stream: BufReader<TcpStream>,
}

/// An answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    location: Option<String>,
    pub(crate) body: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    pub(crate) fn request(&mut self, method: &str, path: &str, body: &str) -> io::Result<Answer> {
        self.send(request(method, path, body).as_bytes())?;
        self.answer()
    }

    pub(crate) fn acquire(&mut self, what: &Wish) -> io::Result<Answer> {
        self.send(what.to_request().as_bytes())?;
        self.answer()
    }

    pub(crate) fn answer(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| io::Error::other(format!("no status in {line:?}")))?;
        let (mut location, mut len) = (None, 0);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { break };
            match name {
                "Location" => location = Some(value.to_string()),
                "Content-Length" => len = value.parse().map_err(io::Error::other)?,
                _ => {}
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body)?;
        Ok(Answer { status, location, body })
    }

    /// Ends the connection with a reset.
    pub(crate) fn reset(self) {
        let _ = SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO));
    }

    /// Ends the sending side, and reads until the server ends the other.
    pub(crate) fn half_close(mut self) {
        let _ = self.stream.get_ref().shutdown(Shutdown::Write);
        let _ = self.stream.read_to_end(&mut Vec::new());
    }
}

impl Answer {
    /// The path of the lock that was granted.
    pub(crate) fn lock_path(&self) -> Option<&str> {
        let location = self.location.as_deref()?;
        location.find("/locks/").map(|start| &location[start..])
    }
}

/// A request for a lock.
pub(crate) struct Wish<'a> {
    pub(crate) resource: &'a str,
    pub(crate) title: &'a str,
    pub(crate) wait: Duration,
    pub(crate) lifetime: Duration,
}

impl Wish<'_> {
    pub(crate) fn to_request(&self) -> String {
        let (wait, lifetime) = (self.wait.as_secs_f64(), self.lifetime.as_secs_f64());
        let title = self.title;
        let body = format!(r#"{{"title":"{title}","wait":{wait},"lifetime":{lifetime}}}"#);
        request("POST", &format!("/locks/{}", self.resource), &body)
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let len = body.len();
    format!("{method} {path} HTTP/1.1\r\nHost: soak\r\nContent-Length: {len}\r\n\r\n{body}")
}
