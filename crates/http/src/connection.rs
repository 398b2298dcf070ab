//! One client's connection: requests in, responses out, one [`Exchange`] after the other.
//!
//! A request is an [`Incoming`] once its head is parsed, and an [`Exchange`] once its body is there.

use std::io;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use log::{debug, error};
use smol_str::{SmolStr, ToSmolStr};

use super::body_writer::BodyWriter;
use super::certificates::Certificates;
use super::departures::{Client, ConnectionState, Departures};
use super::detached::{After, Detached, Outstanding};
use super::head::{BodyLength, RequestHead};
use super::input::{Input, empty};
use super::request::{Request, Unreadable};
use super::response::{Response, Stream};
pub use super::tls::NotEncrypted;
use super::tls::Tls;
use super::transport::{ShutdownHandle, Transport};

/// One client's connection.
pub struct Connection {
    input: Input,
    head: Vec<u8>,
    body: Vec<u8>,
    client: SmolStr,
    departures: Arc<Departures>,
    outstanding: Arc<Outstanding>,
    state: ConnectionState,
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
    /// Serves `client` at the other end of `transport`. A connection on which no request begins within
    /// `idle_timeout` ends.
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn new(
        transport: Transport,
        client: IpAddr,
        idle_timeout: Duration,
        departures: Arc<Departures>,
    ) -> io::Result<Self> {
        let input = Input::new(transport, idle_timeout)?;
        // On a dual-stack socket, an IPv4 address arrives as ::ffff:a.b.c.d.
        let client = client.to_canonical().to_smolstr();
        Ok(Self {
            input,
            head: Vec::new(),
            body: Vec::new(),
            client,
            departures,
            outstanding: Arc::default(),
            state: ConnectionState::Normal,
        })
    }

    /// Lets no request of this connection wait for a lock, and gives its client little time for
    /// sending and reading: its thread is one of a few in reserve.
    pub fn forbid_waiting(&mut self) {
        self.state = ConnectionState::NoWaiting;
        self.input.hurry();
    }

    /// Performs a TLS handshake. The client has as much time for it as for a head.
    ///
    /// # Errors
    /// The client does not speak TLS, or the handshake fails.
    pub fn encrypt(&mut self, certificates: &Certificates) -> Result<(), NotEncrypted> {
        let Transport::Plain(socket) = &self.input.transport else { return Ok(()) };
        let config = Arc::clone(&certificates.current().config);
        let session = Tls::accept(Arc::clone(socket), config, self.input.deadline())?;
        self.input.transport = Transport::Tls(Arc::new(session));
        Ok(self.input.reset_timeouts()?)
    }

    /// A handle that ends the connection from another thread.
    pub fn shutdown_handle(&self) -> ShutdownHandle {
        self.input.transport.shutdown_handle()
    }

    /// Waits for the next request, and until the previous one has its response; `None` at the end of
    /// the connection.
    ///
    /// # Errors
    /// The input is not a request: answer by [`Connection::refuse`].
    pub fn next_request(&mut self) -> Result<Option<Incoming<'_>>, Unreadable> {
        let Some(len) = self.read_head()? else { return Ok(None) };
        empty(&mut self.head);
        self.head.extend(self.input.bytes.drain(..len));
        let RequestHead { request, body: length, expects_continue } =
            RequestHead::parse(&self.head)?;
        let Self { input, body, client, departures, outstanding, state, .. } = self;
        Ok(Some(Incoming {
            request,
            length,
            expects_continue,
            input,
            body,
            client,
            departures,
            outstanding,
            state: *state,
        }))
    }

    /// Receives a head, and returns when the response to the previous request is sent.
    fn read_head(&mut self) -> Result<Option<usize>, Unreadable> {
        loop {
            let read = self.input.read_head();
            match (self.outstanding.wait(), &read) {
                (After::LastResponse, _) => return Ok(None),
                // The idle time-out counts from the response, as the client was told.
                (After::Response(at), Ok(None)) if at.elapsed() < self.input.idle_timeout => {}
                _ => return read,
            }
        }
    }

    /// Answers a request that could not be read, and ends the connection.
    pub fn refuse(self, response: &Response) {
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&Request::UNREADABLE, Duration::ZERO, SystemTime::now());
        match self.input.transport.send(&bytes) {
            Ok(()) => self.linger(),
            Err(error) => debug!("a client does not take its response: {error}"),
        }
    }

    /// Ends the connection so that a client which is still sending can read the last response.
    pub fn linger(self) {
        self.departures.linger(&self.input.transport);
    }
}

/// A request whose head has been received.
pub struct Incoming<'a> {
    /// The request, its body still empty.
    pub request: Request<'a>,
    length: BodyLength,
    expects_continue: bool,
    input: &'a mut Input,
    body: &'a mut Vec<u8>,
    client: &'a SmolStr,
    departures: &'a Departures,
    outstanding: &'a Arc<Outstanding>,
    state: ConnectionState,
}

impl<'a> Incoming<'a> {
    /// The client that sends it.
    pub fn client(&self) -> Client<'_> {
        Client::new(&self.input.transport, self.client, self.departures).with(self.state)
    }

    /// Notes that [`ShutdownHandle::end`] has been called for the connection, while the request was arriving.
    pub fn came_too_late(&mut self) {
        self.state = ConnectionState::Ended;
    }

    /// Whether some of the body has yet to arrive.
    pub fn lacks_body(&self) -> bool {
        match self.length {
            BodyLength::Known(len) => self.input.bytes.len() < len,
            BodyLength::Chunked => self.input.bytes.is_empty(),
        }
    }

    /// Receives the body.
    ///
    /// # Errors
    /// It is malformed or incomplete: answer by [`Connection::refuse`].
    pub fn receive(self) -> Result<Exchange<'a>, Unreadable> {
        if self.expects_continue && self.lacks_body() {
            let sent = self.input.transport.send(b"HTTP/1.1 100 Continue\r\n\r\n");
            sent.map_err(|_| Unreadable::Incomplete)?;
        }
        let received = self.input.read_body(self.length, self.body);
        received.map_err(|error| match self.state {
            // The server has cut the request off, so the client may send it again.
            ConnectionState::Ended => Unreadable::TooSlow,
            ConnectionState::Normal | ConnectionState::NoWaiting => error,
        })?;
        if self.input.bytes.is_empty() {
            empty(&mut self.input.bytes);
        }
        let request = Request { body: self.body, ..self.request };
        let client = Client::new(&self.input.transport, self.client, self.departures);
        let client = client.with(self.state);
        Ok(Exchange {
            request,
            client,
            idle_timeout: self.input.idle_timeout,
            is_pipelined: !self.input.bytes.is_empty(),
            outstanding: self.outstanding,
        })
    }

    /// Answers without receiving the body. The rest of the input is not a request, so the connection
    /// has to end: call [`Connection::linger`].
    ///
    /// # Errors
    /// The client is gone, or it does not read.
    pub fn refuse(self, response: &Response) -> io::Result<()> {
        let last = Request { keep_alive: false, ..self.request };
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&last, Duration::ZERO, SystemTime::now());
        self.input.transport.send(&bytes)
    }
}

/// A whole request, which waits for its response.
pub struct Exchange<'a> {
    /// The request.
    pub request: Request<'a>,
    /// The client that sent it.
    pub client: Client<'a>,
    idle_timeout: Duration,
    /// The client pipelines: it has not waited for the response.
    is_pipelined: bool,
    outstanding: &'a Arc<Outstanding>,
}

impl Exchange<'_> {
    /// Lets another thread send the response; not for a HEAD request. `busy` is dropped when it is
    /// sent.
    ///
    /// # Errors
    /// `busy`, if the connection's own thread has to send the response: the connection ends with it,
    /// or uses TLS, or is restricted, or its client pipelines.
    pub fn detach<B: Send + 'static>(&self, busy: B) -> Result<Detached<B>, B> {
        let Self { request, client, idle_timeout, is_pipelined, outstanding } = self;
        let is_plain = matches!(client.transport(), Transport::Plain(_));
        if !is_plain || !client.may_wait() || !request.keep_alive || *is_pipelined {
            return Err(busy);
        }
        let (transport, outstanding) = (client.transport().clone(), Arc::clone(outstanding));
        Ok(Detached::new(transport, request.http_1_0, *idle_timeout, outstanding, busy))
    }

    /// Sends a part of a response that comes from another server.
    ///
    /// # Errors
    /// The client is gone, or it does not read.
    pub fn pass(&self, bytes: &[u8]) -> io::Result<()> {
        self.client.transport().send(bytes)
    }

    /// Sends the response, in one write unless it is a stream.
    ///
    /// # Errors
    /// The client is gone, or does not read, or a stream has failed. `on_undelivered` has run, and the
    /// connection has to end.
    pub fn respond(self, mut response: Response) -> io::Result<Next> {
        let last = response.is_last(&self.request);
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let head = response.to_bytes(&self.request, self.idle_timeout, SystemTime::now());
        let sent = match response.take_stream() {
            Some(stream) if self.request.method != "HEAD" => {
                self.send_stream(head, stream, || response.is_still_valid())
            }
            _ => self.client.transport().send(&head),
        };
        match sent {
            Ok(()) => {
                response.delivered();
                Ok(if last { Next::Close } else { Next::Request })
            }
            Err(error) => Err(error),
        }
    }

    fn send_stream(
        &self,
        head: Vec<u8>,
        stream: Stream,
        still_valid: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let send = || {
            let mut body_writer = BodyWriter::new(self.client, head, !self.request.http_1_0);
            stream(&mut body_writer)?;
            if !still_valid() {
                return Err(io::ErrorKind::Other.into());
            }
            body_writer.finish()
        };
        panic::catch_unwind(AssertUnwindSafe(send)).unwrap_or_else(|_| {
            error!(
                "a response ended in a panic: {} {:?}",
                self.request.method,
                self.request.target.as_str()
            );
            Err(io::ErrorKind::Other.into())
        })
    }
}

#[cfg(test)]
mod tests;
