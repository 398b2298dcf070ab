//! What a connection receives: the head of a request, then its body, each within a deadline.

use std::io;
use std::time::{Duration, Instant};

use super::chunked::ChunkedBody;
use super::head::{BodyLength, HeadScan};
use super::request::Unreadable;
use super::transport::{RECEIVE_SIZE, Transport};

/// How long a head may take to arrive, then a body, however steadily they trickle; and for how long
/// a send may block.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// The same while the server is short of threads.
const SHORT_TIME: Duration = Duration::from_secs(1);

/// What has been received of a connection and not been parsed yet.
pub(super) struct Input {
    pub(super) transport: Transport,
    pub(super) bytes: Vec<u8>,
    pub(super) idle_timeout: Duration,
    /// How long the client may take for a head, a body, or for reading.
    client_time: Duration,
    /// The transport's time-out is not `idle_timeout` at the moment.
    has_deadline: bool,
}

impl Input {
    pub(super) fn new(transport: Transport, idle_timeout: Duration) -> io::Result<Self> {
        let (bytes, client_time) = (Vec::new(), CLIENT_TIME);
        let mut input = Self { transport, bytes, idle_timeout, client_time, has_deadline: false };
        input.reset_timeouts()?;
        Ok(input)
    }

    /// Sets the time-outs of the transport, which may be a new one.
    pub(super) fn reset_timeouts(&mut self) -> io::Result<()> {
        self.has_deadline = false;
        self.transport.set_timeouts(self.idle_timeout, self.client_time)
    }

    /// Gives the client little time for sending and for reading.
    pub(super) fn hurry(&mut self) {
        self.client_time = SHORT_TIME;
        // If it fails, so does the next call on the socket.
        let _ = self.reset_timeouts();
    }

    /// The deadline of a head or body that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.client_time
    }

    /// Receives a head and returns its length; `None` if the connection ends before one begins.
    pub(super) fn read_head(&mut self) -> Result<Option<usize>, Unreadable> {
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

    /// Whether a request has begun. Empty lines before it, which some clients send after a body, are
    /// skipped (RFC 9112, section 2.2).
    fn wait_for_request(&mut self) -> bool {
        let mut deadline = None;
        let mut is_over = false;
        loop {
            let lines = self.bytes.chunks_exact(2).take_while(|pair| pair == b"\r\n").count();
            self.bytes.drain(..lines * 2);
            if !matches!(&self.bytes[..], b"" | b"\r") {
                return true;
            }
            if is_over {
                return false;
            }
            // Empty lines do not extend the time.
            let began = Instant::now();
            match self.receive(deadline) {
                Ok(1..) => deadline = deadline.or(Some(began + self.idle_timeout)),
                // A request that arrived just as the time was up is not lost with the connection.
                Err(error) if is_timeout(&error) => {
                    is_over = true;
                    self.transport.receive_at_once(&mut self.bytes);
                }
                Ok(0) | Err(_) => return false,
            }
        }
    }

    pub(super) fn read_body(
        &mut self,
        length: BodyLength,
        body: &mut Vec<u8>,
    ) -> Result<(), Unreadable> {
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

    /// Receives more of a head or body that has begun, until the deadline, which the first call sets.
    fn receive_more(&mut self, deadline: &mut Option<Instant>) -> Result<(), Unreadable> {
        let deadline = *deadline.get_or_insert_with(|| self.deadline());
        match self.receive(Some(deadline)) {
            Ok(0) => Err(Unreadable::Incomplete),
            Ok(_) => Ok(()),
            Err(error) if is_timeout(&error) => Err(Unreadable::TooSlow),
            Err(_) => Err(Unreadable::Incomplete),
        }
    }

    /// Waits for input until the deadline, or else for the idle time-out; 0 at the end of the input.
    fn receive(&mut self, deadline: Option<Instant>) -> io::Result<usize> {
        self.set_read_timeout(deadline)?;
        self.transport.receive(&mut self.bytes)
    }

    fn set_read_timeout(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        let timeout = match deadline {
            None if !self.has_deadline => return Ok(()),
            None => self.idle_timeout,
            Some(deadline) => match deadline.checked_duration_since(Instant::now()) {
                Some(left) if !left.is_zero() => left,
                _ => return Err(io::ErrorKind::TimedOut.into()),
            },
        };
        self.has_deadline = deadline.is_some();
        self.transport.set_read_timeout(timeout)
    }
}

/// Empties a buffer, and frees what a large request has taken.
pub(super) fn empty(buffer: &mut Vec<u8>) {
    buffer.clear();
    buffer.shrink_to(RECEIVE_SIZE);
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}
