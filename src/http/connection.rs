//! One client's connection: requests in, responses out, one [`Exchange`] after the other.

use std::io;
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::debug;
use rustix::buffer::spare_capacity;
use rustix::net::{RecvFlags, SendFlags};
use smol_str::{SmolStr, ToSmolStr};

use super::chunked::ChunkedBody;
use super::departures::{Client, Departures};
use super::head::{BodyLength, Head, HeadScan};
use super::message::{Request, Response, Unreadable};

/// How long a head may take to come in, and then a body, however steadily it trickles.
const RECEIVE_TIME: Duration = Duration::from_secs(10);

/// How long a client may take to accept a piece of its response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long what a client still sends is received after the last response, and how many bytes
/// of it.
const LINGER: Duration = Duration::from_secs(1);
const MAX_LINGER: usize = 4 * 1024 * 1024;

/// How much is received at a time, in bytes. Most requests are smaller.
const RECEIVE_SIZE: usize = 2048;

/// How much is sent at a time, in bytes. Most responses are smaller.
const SEND_SIZE: usize = 64 * 1024;

/// One client's connection.
pub struct Connection {
    input: Input,
    head: Vec<u8>,
    body: Vec<u8>,
    client: SmolStr,
    departures: Arc<Departures>,
}

/// What follows after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another request may come.
    Request,
    /// The connection ends.
    Close,
}

impl Connection {
    /// Serves `socket`, on which `client` is. A connection on which no request begins within `idle_timeout` ends.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn new(
        socket: TcpStream,
        client: IpAddr,
        idle_timeout: Duration,
        departures: Arc<Departures>,
    ) -> io::Result<Self> {
        let input = Input::new(socket, idle_timeout)?;
        // An IPv4 address looks like one, also on a socket for both.
        let client = client.to_canonical().to_smolstr();
        Ok(Self { input, head: Vec::new(), body: Vec::new(), client, departures })
    }

    /// Waits for the next request; `None` when there will not be any.
    ///
    /// # Errors
    /// What came in is not a request: answer by [`Connection::refuse`].
    pub fn next_request(&mut self) -> Result<Option<Incoming<'_>>, Unreadable> {
        let Some(len) = self.input.read_head()? else { return Ok(None) };
        empty(&mut self.head);
        self.head.extend(self.input.bytes.drain(..len));
        let Head { request, body: length, expects_continue } = Head::parse(&self.head)?;
        let Self { input, body, client, departures, .. } = self;
        Ok(Some(Incoming { request, length, expects_continue, input, body, client, departures }))
    }

    /// Answers what could not be read, and ends the connection.
    pub fn refuse(self, response: &Response) {
        let bytes = response.to_bytes(&Request::UNREADABLE, Duration::ZERO, SystemTime::now());
        match send(&self.input.socket, &bytes) {
            Ok(()) => self.linger(),
            Err(error) => debug!("a client does not take its response: {error}"),
        }
    }

    /// Ends the connection of a client that may still be sending, so that it can read the last
    /// response.
    pub fn linger(mut self) {
        self.input.drain();
    }
}

/// A request whose head is there, and perhaps its body.
pub struct Incoming<'a> {
    /// The request, its body still empty.
    pub request: Request<'a>,
    length: BodyLength,
    expects_continue: bool,
    input: &'a mut Input,
    body: &'a mut Vec<u8>,
    client: &'a SmolStr,
    departures: &'a Departures,
}

impl<'a> Incoming<'a> {
    /// Whether the client has still to send some of the body.
    pub fn lacks_body(&self) -> bool {
        match self.length {
            BodyLength::Known(len) => self.input.bytes.len() < len,
            BodyLength::Chunked => self.input.bytes.is_empty(),
        }
    }

    /// Receives the body.
    ///
    /// # Errors
    /// It is malformed, or not all of it comes in: answer by [`Connection::refuse`].
    pub fn receive(self) -> Result<Exchange<'a>, Unreadable> {
        if self.expects_continue && self.lacks_body() {
            send(&self.input.socket, b"HTTP/1.1 100 Continue\r\n\r\n")
                .map_err(|_| Unreadable::Incomplete)?;
        }
        self.input.read_body(self.length, self.body)?;
        if self.input.bytes.is_empty() {
            empty(&mut self.input.bytes);
        }
        let request = Request { body: self.body, ..self.request };
        let client = Client::new(&self.input.socket, self.client, self.departures);
        Ok(Exchange { request, client, idle_timeout: self.input.idle_timeout })
    }

    /// Answers without the body. What still comes in is none of the next request, so the
    /// connection has to end: call [`Connection::linger`].
    ///
    /// # Errors
    /// The client is gone, or it does not read.
    pub fn refuse(self, response: &Response) -> io::Result<()> {
        let last = Request { keep_alive: false, ..self.request };
        let bytes = response.to_bytes(&last, Duration::ZERO, SystemTime::now());
        send(&self.input.socket, &bytes)
    }
}

/// A request that waits for its response.
pub struct Exchange<'a> {
    /// The request.
    pub request: Request<'a>,
    /// Who sent it.
    pub client: Client<'a>,
    idle_timeout: Duration,
}

impl Exchange<'_> {
    /// Sends the response, in one write.
    ///
    /// # Errors
    /// The client is gone, or it does not read.
    pub fn respond(self, response: &Response) -> io::Result<Next> {
        let bytes = response.to_bytes(&self.request, self.idle_timeout, SystemTime::now());
        send(self.client.socket(), &bytes)?;
        Ok(if response.is_last(&self.request) { Next::Close } else { Next::Request })
    }
}

/// What has been received of a connection and not been looked at yet.
struct Input {
    socket: TcpStream,
    bytes: Vec<u8>,
    idle_timeout: Duration,
    /// The socket's time-out is another than `idle_timeout` at the moment.
    hurried: bool,
}

impl Input {
    fn new(socket: TcpStream, idle_timeout: Duration) -> io::Result<Self> {
        socket.set_read_timeout(Some(idle_timeout))?;
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        Ok(Self { socket, bytes: Vec::new(), idle_timeout, hurried: false })
    }

    /// Receives a head and tells its length; `None` if the connection ends before one begins.
    fn read_head(&mut self) -> Result<Option<usize>, Unreadable> {
        if !self.wait_for_request() {
            return Ok(None);
        }
        let mut scan = HeadScan::default();
        let mut deadline = None;
        loop {
            if let Some(len) = scan.find_end(&self.bytes)? {
                return Ok(Some(len));
            }
            self.receive_more(&mut deadline)?;
        }
    }

    /// Whether a request has begun. Some clients send an empty line after a body, which is
    /// none (RFC 9112, section 2.2).
    fn wait_for_request(&mut self) -> bool {
        let mut deadline = None;
        loop {
            let lines = self.bytes.chunks_exact(2).take_while(|pair| pair == b"\r\n").count();
            self.bytes.drain(..lines * 2);
            if !matches!(&self.bytes[..], b"" | b"\r") {
                return true;
            }
            // Empty lines do not make the time longer.
            let began = Instant::now();
            if matches!(self.receive(deadline), Ok(0) | Err(_)) {
                return false;
            }
            deadline = deadline.or(Some(began + self.idle_timeout));
        }
    }

    fn read_body(&mut self, length: BodyLength, body: &mut Vec<u8>) -> Result<(), Unreadable> {
        empty(body);
        let mut deadline = None;
        match length {
            BodyLength::Known(len) => {
                while self.bytes.len() < len {
                    self.receive_more(&mut deadline)?;
                }
                body.extend(self.bytes.drain(..len));
            }
            BodyLength::Chunked => {
                let mut chunks = ChunkedBody::default();
                loop {
                    let used = chunks.decode(&self.bytes, body)?;
                    self.bytes.drain(..used);
                    if chunks.is_complete() {
                        break;
                    }
                    self.receive_more(&mut deadline)?;
                }
            }
        }
        Ok(())
    }

    /// Receives more of what has begun, until the deadline. The first call sets it.
    fn receive_more(&mut self, deadline: &mut Option<Instant>) -> Result<(), Unreadable> {
        let deadline = *deadline.get_or_insert_with(|| Instant::now() + RECEIVE_TIME);
        match self.receive(Some(deadline)) {
            Ok(0) => Err(Unreadable::Incomplete),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => Err(Unreadable::TooSlow),
            Err(_) => Err(Unreadable::Incomplete),
        }
    }

    /// Waits for input until the deadline, or as long as a connection may be idle. 0: the
    /// client will not send anything more.
    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        self.set_read_timeout(deadline)?;
        self.bytes.reserve(RECEIVE_SIZE);
        Ok(rustix::io::retry_on_intr(|| {
            let buffer = spare_capacity(&mut self.bytes);
            rustix::net::recv(&self.socket, buffer, RecvFlags::empty())
        })?
        .1)
    }

    fn set_read_timeout(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let timeout = match deadline {
            None if !self.hurried => return Ok(()),
            None => self.idle_timeout,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => left,
                _ => return Err(io::ErrorKind::TimedOut.into()),
            },
        };
        self.hurried = deadline.is_some();
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Says that nothing more will be sent, and drops for a while what still comes in. A
    /// socket that is closed with unread input is reset, by which the client could lose the
    /// last response (RFC 9112, section 9.6).
    fn drain(&mut self) {
        let deadline = Instant::now() + LINGER;
        let mut received = 0;
        let mut more = self.socket.shutdown(Shutdown::Write).is_ok();
        while more && received < MAX_LINGER {
            self.bytes.clear();
            let len = self.receive(Some(deadline)).unwrap_or(0);
            received += len;
            more = len > 0;
        }
    }
}

/// Sends bytes; each [`SEND_SIZE`] of them has to be taken within about [`WRITE_TIMEOUT`], the
/// time-out of the socket.
fn send(socket: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    bytes.chunks(SEND_SIZE).try_for_each(|piece| send_piece(socket, piece))
}

fn send_piece(socket: &TcpStream, mut piece: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    loop {
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(socket, piece, SendFlags::NOSIGNAL))?;
        piece = &piece[sent..];
        if piece.is_empty() {
            return Ok(());
        }
        // A send that has to wait ends short when its time is up, or for a signal.
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Empties a buffer, and gives back what a large request has taken.
fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(RECEIVE_SIZE);
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use nix::sys::pthread::{pthread_kill, pthread_self};
    use nix::sys::signal::Signal;
    use signal_hook::consts::SIGUSR1;

    #[test]
    fn a_send_goes_on_after_a_signal() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_write_timeout(Some(WRITE_TIMEOUT)).unwrap();
        // So much that the kernel takes it only in parts.
        const LEN: usize = 32 * 1024 * 1024;
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, Arc::clone(&interrupted)).unwrap();
        let (sender, ids) = std::sync::mpsc::channel();
        let sending = thread::spawn(move || {
            sender.send(pthread_self()).unwrap();
            send(&socket, &vec![b'x'; LEN])
        });
        let id = ids.recv().unwrap();
        // It waits within a piece, as nobody reads yet.
        for _ in 0..100 {
            pthread_kill(id, Signal::SIGUSR1).unwrap();
            // The thread sends nothing more there: this is a pause.
            let _ = ids.recv_timeout(Duration::from_millis(1));
        }
        let mut received = 0;
        let mut buffer = vec![0; 100_000];
        while received < LEN {
            let read = remote.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the rest was not sent");
            received += read;
        }
        sending.join().unwrap().unwrap();
        assert!(interrupted.load(Ordering::SeqCst));
    }
}
