//! A connection to the active server: requests as bytes, responses passed on as they come.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};

use super::framing::ResponseHead;

/// How long a connection may take to come about.
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

/// The largest head of a response.
const MAX_HEAD: usize = 64 * 1024;

/// A connection to the active server.
pub(super) struct Upstream {
    /// The server's URL.
    pub(super) url: String,
    socket: TcpStream,
    input: Vec<u8>,
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
    /// Connects to `http://HOST:PORT`.
    pub(super) fn connect(url: &str) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "not http://HOST:PORT");
        let authority = url.strip_prefix("http://").ok_or_else(wrong)?;
        let with_port =
            if has_port(authority) { authority.into() } else { format!("{authority}:80") };
        let mut last = wrong();
        for address in with_port.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT) {
                Ok(socket) => {
                    socket.set_nodelay(true)?;
                    socket.set_write_timeout(Some(SILENCE))?;
                    let options = SockRef::from(&socket);
                    options.set_tcp_keepalive(&KEEPALIVE)?;
                    options.set_tcp_user_timeout(Some(SILENCE))?;
                    return Ok(Self { url: url.into(), socket, input: Vec::new() });
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Whether the server has not ended the connection while it was idle.
    pub(super) fn is_open(&self) -> bool {
        let mut byte = [0];
        let peeked = self.socket.set_nonblocking(true).and_then(|()| self.socket.peek(&mut byte));
        let open = matches!(peeked, Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        self.socket.set_nonblocking(false).is_ok() && open
    }

    /// By which another thread can end it.
    pub(super) fn handle(&self) -> io::Result<Ending> {
        self.socket.try_clone().map(Ending)
    }

    /// Sends a request. If nothing of it could be sent, another server may be asked.
    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.socket.write_all(request)
    }

    /// Waits for the response up to `within`; whether something has come.
    pub(super) fn wait(&mut self, within: Duration) -> bool {
        let in_time = self.socket.set_read_timeout(Some(within)).is_ok();
        let came = in_time && self.receive().is_ok();
        self.socket.set_read_timeout(None).is_ok() && came
    }

    /// Passes the response on as it comes. `to_head`: it is one to HEAD.
    pub(super) fn relay(
        &mut self,
        to_head: bool,
        mut pass: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Relayed {
        let head = loop {
            match ResponseHead::parse(&self.input, to_head) {
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
                return Relayed::Passed { close: close || !self.input.is_empty() };
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
            match self.socket.read(&mut self.input[len..]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                received => break received,
            }
        };
        self.input.truncate(len + received.as_ref().copied().unwrap_or(0));
        received
    }
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
