//! A connection to the active server: requests as bytes, responses passed on as they come.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};

use super::framing::ResponseHead;
use super::trust::{Trust, server_name};

/// How long a connection may take to come about, and then a handshake.
const CONNECT: Duration = Duration::from_secs(1);

/// How long the active server may take to accept a piece of a request, and a host to be silent.
const SILENCE: Duration = Duration::from_secs(5);

/// A request may wait for long: the host is asked whether it is still there.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(1))
    .with_interval(Duration::from_secs(1))
    .with_retries(5);

/// How much is received at a time.
const PIECE: usize = 16 * 1024;

/// The largest head of a response, in bytes.
const MAX_HEAD: usize = 64 * 1024;

/// A connection to the active server.
pub(super) struct Upstream {
    /// The server's URL.
    pub(super) url: String,
    stream: Stream,
    input: Vec<u8>,
    /// What it has got belongs to no request: the next one may be sent.
    is_idle: bool,
}

/// What carries the bytes.
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

/// What became of a request.
#[derive(Debug)]
pub(super) enum Relayed {
    /// The response has been passed on; whether the connection goes on.
    Passed { close: bool },
    /// The server did nothing, and said so.
    NotDone,
    /// There is no response: the server may have done it, or not.
    NoResponse,
    /// The response broke off, or the client does not take it.
    Broken,
}

impl Upstream {
    /// Connects to `http://HOST:PORT`, or to `https://HOST:PORT` if the server is one to trust.
    pub(super) fn connect(url: &str, trust: Option<&Trust>) -> io::Result<Self> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let stream = match url.split_once("://") {
            Some(("http", authority)) => Stream::Plain(connect(authority, 80)?),
            Some(("https", authority)) => {
                let trust = trust.ok_or_else(|| {
                    wrong("it speaks TLS: this server needs --tls-cert or --advertise-ca, too")
                })?;
                let socket = connect(authority, 443)?;
                let name = server_name(url).ok_or_else(|| wrong("the URL has no host"))?;
                let session = ClientConnection::new(trust.current().as_ref().clone(), name);
                let session = session.map_err(io::Error::other)?;
                Stream::Tls(Box::new(shake_hands(session, socket)?))
            }
            _ => return Err(wrong("it is not at http://HOST:PORT or https://HOST:PORT")),
        };
        Ok(Self { url: url.into(), stream, input: Vec::new(), is_idle: true })
    }

    /// Whether another request may be sent: the answer to the one before is all there, and the
    /// server has neither ended the connection nor said what nobody has asked for.
    pub(super) fn is_open(&self) -> bool {
        if !self.is_idle {
            return false;
        }
        let (mut byte, socket) = ([0], self.stream.socket());
        let peeked = socket.set_nonblocking(true).and_then(|()| socket.peek(&mut byte));
        let open = matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        socket.set_nonblocking(false).is_ok() && open && self.stream.is_empty()
    }

    /// By which another thread can end it.
    pub(super) fn handle(&self) -> io::Result<Ending> {
        self.stream.socket().try_clone().map(Ending)
    }

    /// Sends a request. If nothing of it could be sent, another server may be asked.
    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.is_idle = false;
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(request),
            Stream::Tls(session) => session.write_all(request).and_then(|()| session.flush()),
        }
    }

    /// Waits for the response up to `within`; whether something has come.
    pub(super) fn wait(&mut self, within: Duration) -> bool {
        let in_time = self.stream.socket().set_read_timeout(Some(within)).is_ok();
        let came = in_time && self.receive().is_ok();
        self.stream.socket().set_read_timeout(None).is_ok() && came
    }

    /// Passes the response on as it comes. `to_head`: it is one to HEAD.
    pub(super) fn relay(
        &mut self,
        to_head: bool,
        mut pass: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Relayed {
        let head = loop {
            match ResponseHead::parse(&self.input, to_head) {
                Ok(Some(head)) if head.len > MAX_HEAD => return Relayed::NoResponse,
                Ok(Some(head)) if (100..200).contains(&head.status) => {
                    self.input.drain(..head.len);
                }
                Ok(Some(head)) => break head,
                Ok(None) if self.input.len() < MAX_HEAD => {
                    if !matches!(self.receive(), Ok(1..)) {
                        return Relayed::NoResponse;
                    }
                }
                Ok(None) | Err(_) => return Relayed::NoResponse,
            }
        };
        if head.not_done {
            return Relayed::NotDone;
        }
        let ResponseHead { len, close, mut end, .. } = head;
        let mut done = len;
        loop {
            match end.take(&self.input[done..]) {
                Ok(taken) => done += taken,
                Err(_) => return Relayed::Broken,
            }
            if pass(&self.input[..done]).is_err() {
                return Relayed::Broken;
            }
            self.input.drain(..done);
            done = 0;
            if end.is_there() {
                self.input.shrink_to(PIECE);
                // What nobody has asked for is no answer to the next request.
                self.is_idle = !close && self.input.is_empty();
                return Relayed::Passed { close: !self.is_idle };
            }
            match self.receive() {
                Ok(1..) => {}
                Ok(0) if close => return Relayed::Passed { close },
                Ok(0) | Err(_) => return Relayed::Broken,
            }
        }
    }

    /// Receives some more; 0: the server has ended the connection.
    fn receive(&mut self) -> io::Result<usize> {
        let len = self.input.len();
        self.input.resize(len + PIECE, 0);
        let received = loop {
            let room = &mut self.input[len..];
            let read = match &mut self.stream {
                Stream::Plain(socket) => socket.read(room),
                Stream::Tls(session) => session.read(room),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        self.input.truncate(len + received.as_ref().copied().unwrap_or(0));
        received
    }
}

impl Stream {
    fn socket(&self) -> &TcpStream {
        match self {
            Self::Plain(socket) => socket,
            Self::Tls(session) => &session.sock,
        }
    }

    /// Whether all that has come has been read.
    fn is_empty(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(session) => session.conn.wants_read(),
        }
    }
}

fn connect(authority: &str, default_port: u16) -> io::Result<TcpStream> {
    let with_port =
        if has_port(authority) { authority.into() } else { format!("{authority}:{default_port}") };
    let mut last = io::ErrorKind::NotFound.into();
    for address in with_port.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                socket.set_write_timeout(Some(SILENCE))?;
                let options = SockRef::from(&socket);
                options.set_tcp_keepalive(&KEEPALIVE)?;
                options.set_tcp_user_timeout(Some(SILENCE))?;
                return Ok(socket);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// However slowly the other side does its part.
fn shake_hands(
    mut session: ClientConnection,
    mut socket: TcpStream,
) -> io::Result<StreamOwned<ClientConnection, TcpStream>> {
    let deadline = Instant::now() + CONNECT;
    while session.is_handshaking() {
        while session.wants_write() {
            session.write_tls(&mut socket)?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        socket.set_read_timeout(Some(left))?;
        if session.read_tls(&mut socket)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let understood = session.process_new_packets();
        if let Err(error) = understood {
            // The other side's log says why, too.
            let _ = session.write_tls(&mut socket);
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
    }
    socket.set_read_timeout(None)?;
    Ok(StreamOwned::new(session, socket))
}

/// Ends a connection from another thread.
pub(super) struct Ending(TcpStream);

impl Ending {
    pub(super) fn end(&self) {
        // Fails if it has ended.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

fn has_port(authority: &str) -> bool {
    let port = authority.rsplit_once(':').map(|(_, port)| port);
    port.is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread::{self, JoinHandle};

    use super::*;

    /// A server that reads a request and says this, as often as it is asked; and a connection.
    fn asked(answers: &'static [&'static [u8]]) -> (Upstream, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            for answer in answers {
                let mut request = [0; 4];
                stream.read_exact(&mut request).unwrap();
                stream.write_all(answer).unwrap();
            }
            // Until the other side is done with it.
            let _ = stream.read(&mut [0]);
        });
        (Upstream::connect(&url, None).unwrap(), server)
    }

    fn ask(upstream: &mut Upstream) -> (Relayed, String) {
        let mut passed = Vec::new();
        upstream.send(b"ask\n").unwrap();
        let relayed = upstream.relay(false, |bytes| {
            passed.extend_from_slice(bytes);
            Ok(())
        });
        (relayed, String::from_utf8(passed).unwrap())
    }

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const NOT_DONE: &[u8] = b"HTTP/1.1 503 x\r\nRDLM-Not-Done: 1\r\nContent-Length: 4\r\n\r\nrest";

    #[test]
    fn the_rest_of_a_refusal_is_no_answer_to_the_next_request() {
        let (mut upstream, server) = asked(&[OK, NOT_DONE]);
        assert!(upstream.is_open());
        let (relayed, passed) = ask(&mut upstream);
        assert!(matches!(relayed, Relayed::Passed { close: false }));
        assert_eq!(passed.as_bytes(), OK);
        assert!(upstream.is_open());
        let (relayed, passed) = ask(&mut upstream);
        assert!(matches!(relayed, Relayed::NotDone), "{relayed:?}");
        assert_eq!(passed, "", "the client is told nothing");
        assert!(!upstream.is_open(), "its rest is there: {:?}", upstream.input);
        drop(upstream);
        server.join().unwrap();
    }

    #[test]
    fn what_nobody_has_asked_for_ends_the_connection() {
        let (mut upstream, server) = asked(&[b"HTTP/1.1 204 x\r\n\r\nHTTP/1.1 200 x\r\n\r\n"]);
        let (relayed, passed) = ask(&mut upstream);
        assert!(matches!(relayed, Relayed::Passed { close: true }), "{relayed:?}");
        assert_eq!(passed, "HTTP/1.1 204 x\r\n\r\n");
        assert!(!upstream.is_open());
        drop(upstream);
        server.join().unwrap();
    }

    #[test]
    fn a_head_from_the_active_server_over_64_kib_is_no_response() {
        let answer = |head: usize| {
            // So it does not come in pieces that end where the limit is.
            let before = "HTTP/1.1 100 x\r\n\r\n";
            let (start, end) = ("HTTP/1.1 204 x\r\nA: ", "\r\n\r\n");
            let value = "a".repeat(head - start.len() - end.len());
            Vec::leak([before, start, &value, end].concat().into_bytes()) as &[u8]
        };
        for (head, is_response) in [(MAX_HEAD, true), (MAX_HEAD + 1, false)] {
            let answers: &[_] = Vec::leak(vec![answer(head)]);
            let (mut upstream, server) = asked(answers);
            let (relayed, passed) = ask(&mut upstream);
            assert_eq!(matches!(relayed, Relayed::Passed { .. }), is_response, "{relayed:?}");
            assert_eq!(passed.len(), if is_response { head } else { 0 });
            drop(upstream);
            server.join().unwrap();
        }
    }
}
