//! One client's connection: requests in, responses out, one [`Exchange`] after the other.

use std::io;
use std::net::IpAddr;
use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use log::{debug, error};
use smol_str::{SmolStr, ToSmolStr};

use super::certificates::Certificates;
use super::chunked::ChunkedBody;
use super::departures::{Client, Departures, Standing};
use super::detached::{After, Detached, Outstanding};
use super::head::{BodyLength, HeadScan, RequestHead};
use super::outgoing::Outgoing;
use super::request::{Request, Unreadable};
use super::response::{Response, Stream};
pub use super::tls::NotEncrypted;
use super::tls::Tls;
use super::transport::{HangUp, RECEIVE_SIZE, Transport};

/// How long a head may take to come in, and then a body, however steadily it trickles.
const RECEIVE_TIME: Duration = Duration::from_secs(10);

/// One client's connection.
pub struct Connection {
    input: Input,
    head: Vec<u8>,
    body: Vec<u8>,
    client: SmolStr,
    departures: Arc<Departures>,
    outstanding: Arc<Outstanding>,
    standing: Standing,
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
    /// Serves `client` at the other end of `transport`. A connection on which no request begins within `idle_timeout` ends.
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
        // An IPv4 address looks like one, also on a socket for both.
        let client = client.to_canonical().to_smolstr();
        Ok(Self {
            input,
            head: Vec::new(),
            body: Vec::new(),
            client,
            departures,
            outstanding: Arc::default(),
            standing: Standing::Normal,
        })
    }

    /// Has no request of this connection wait for a lock.
    pub fn forbid_waiting(&mut self) {
        self.standing = Standing::NoWaiting;
    }

    /// Has the bytes encrypted from now on. The client is given as much time as for a head.
    ///
    /// # Errors
    /// It sends something else than a handshake, or that fails.
    pub fn encrypt(&mut self, certificates: &Certificates) -> Result<(), NotEncrypted> {
        let deadline = Instant::now() + RECEIVE_TIME;
        let Transport::Plain(socket) = &self.input.transport else { return Ok(()) };
        let session =
            Tls::accept(Arc::clone(socket), Arc::clone(&certificates.current().config), deadline);
        // A time-out of the socket is another one for the time being.
        self.input.hurried = true;
        match session {
            Ok(session) => {
                self.input.transport = Transport::Tls(Arc::new(session));
                let timeouts = self.input.transport.set_timeouts(self.input.idle_timeout);
                self.input.hurried = false;
                timeouts.map_err(NotEncrypted::Failed)
            }
            Err(refused) => Err(refused),
        }
    }

    /// By which it is ended.
    pub fn hang_up(&self) -> HangUp {
        self.input.transport.hang_up()
    }

    /// Waits for the next request, and until the latest one has its response; `None` when there
    /// will not be any.
    ///
    /// # Errors
    /// What came in is not a request: answer by [`Connection::refuse`].
    pub fn next_request(&mut self) -> Result<Option<Incoming<'_>>, Unreadable> {
        let Some(len) = self.read_head()? else { return Ok(None) };
        empty(&mut self.head);
        self.head.extend(self.input.bytes.drain(..len));
        let RequestHead { request, body: length, expects_continue } =
            RequestHead::parse(&self.head)?;
        let Self { input, body, client, departures, outstanding, standing, .. } = self;
        Ok(Some(Incoming {
            request,
            length,
            expects_continue,
            input,
            body,
            client,
            departures,
            outstanding,
            standing: *standing,
        }))
    }

    /// Receives a head, and returns when what is sent now belongs to it.
    fn read_head(&mut self) -> Result<Option<usize>, Unreadable> {
        loop {
            let read = self.input.read_head();
            match (self.outstanding.wait(), &read) {
                (After::LastResponse, _) => return Ok(None),
                // The client has as much time as it was told, from the response on.
                (After::Response(at), Ok(None)) if at.elapsed() < self.input.idle_timeout => {}
                _ => return read,
            }
        }
    }

    /// Answers what could not be read, and ends the connection.
    pub fn refuse(self, response: &Response) {
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&Request::UNREADABLE, Duration::ZERO, SystemTime::now());
        match self.input.transport.send(&bytes) {
            Ok(()) => self.linger(),
            Err(error) => debug!("a client does not take its response: {error}"),
        }
    }

    /// Ends the connection of a client that may still be sending, so that it can read the last
    /// response.
    pub fn linger(self) {
        self.departures.linger(&self.input.transport);
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
    outstanding: &'a Arc<Outstanding>,
    standing: Standing,
}

impl<'a> Incoming<'a> {
    /// Who sends it.
    pub fn client(&self) -> Client<'_> {
        Client::new(&self.input.transport, self.client, self.departures).with(self.standing)
    }

    /// Says that its connection was ended by [`HangUp::end`], before anybody knew that there was a
    /// request.
    pub fn came_too_late(&mut self) {
        self.standing = Standing::Ended;
    }

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
            let sent = self.input.transport.send(b"HTTP/1.1 100 Continue\r\n\r\n");
            sent.map_err(|_| Unreadable::Incomplete)?;
        }
        let received = self.input.read_body(self.length, self.body);
        received.map_err(|error| match self.standing {
            // It is not the client that has ended the connection: it may send the request again.
            Standing::Ended => Unreadable::TooSlow,
            Standing::Normal | Standing::NoWaiting => error,
        })?;
        if self.input.bytes.is_empty() {
            empty(&mut self.input.bytes);
        }
        let request = Request { body: self.body, ..self.request };
        let client = Client::new(&self.input.transport, self.client, self.departures);
        let client = client.with(self.standing);
        Ok(Exchange {
            request,
            client,
            idle_timeout: self.input.idle_timeout,
            more_came: !self.input.bytes.is_empty(),
            outstanding: self.outstanding,
        })
    }

    /// Answers without the body. What still comes in is none of the next request, so the
    /// connection has to end: call [`Connection::linger`].
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

/// A request that waits for its response.
pub struct Exchange<'a> {
    /// The request.
    pub request: Request<'a>,
    /// Who sent it.
    pub client: Client<'a>,
    idle_timeout: Duration,
    /// The client has not waited for the response to send the next request.
    more_came: bool,
    outstanding: &'a Arc<Outstanding>,
}

impl Exchange<'_> {
    /// Lets another thread send the response, to a request which is no HEAD. As long as it does
    /// not, `busy` lives.
    ///
    /// # Errors
    /// `busy`, if the response is for the thread of the connection: the connection ends with it,
    /// or is to, or is encrypted, or its client does not wait for responses.
    pub fn detach<B: Send + 'static>(&self, busy: B) -> Result<Detached<B>, B> {
        let Self { request, client, idle_timeout, more_came, outstanding } = self;
        let is_plain = matches!(client.transport(), Transport::Plain(_));
        if !is_plain || !client.may_wait() || !request.keep_alive || *more_came {
            return Err(busy);
        }
        let (transport, outstanding) = (client.transport().clone(), Arc::clone(outstanding));
        Ok(Detached::new(transport, request.http_1_0, *idle_timeout, outstanding, busy))
    }

    /// Sends some of a response that another server has made.
    ///
    /// # Errors
    /// The client is gone, or it does not read.
    pub fn pass(&self, bytes: &[u8]) -> io::Result<()> {
        self.client.transport().send(bytes)
    }

    /// Sends the response; in one write, unless it is a stream.
    ///
    /// # Errors
    /// The client is gone, or it does not read; or a stream has failed. The response has been
    /// told that it was not delivered, and the connection has to end.
    pub fn respond(self, mut response: Response) -> io::Result<Next> {
        let last = response.is_last(&self.request);
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let head = response.to_bytes(&self.request, self.idle_timeout, SystemTime::now());
        let sent = match response.take_stream() {
            Some(stream) if self.request.method != "HEAD" => {
                self.send_stream(head, stream, || response.is_true())
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
        is_true: impl FnOnce() -> bool,
    ) -> io::Result<()> {
        let send = || {
            let mut outgoing = Outgoing::new(self.client, head, !self.request.http_1_0);
            stream(&mut outgoing)?;
            if !is_true() {
                return Err(io::ErrorKind::Other.into());
            }
            outgoing.finish()
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

/// What has been received of a connection and not been looked at yet.
struct Input {
    transport: Transport,
    bytes: Vec<u8>,
    idle_timeout: Duration,
    /// The transport's time-out is another than `idle_timeout` at the moment.
    hurried: bool,
}

impl Input {
    fn new(transport: Transport, idle_timeout: Duration) -> io::Result<Self> {
        transport.set_timeouts(idle_timeout)?;
        Ok(Self { transport, bytes: Vec::new(), idle_timeout, hurried: false })
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
        self.transport.receive(&mut self.bytes)
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
        self.transport.set_read_timeout(timeout)
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
    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::sync::mpsc::channel;
    use std::thread;

    use crate::transport::Memory;
    use crate::{Outgoing, Status};

    /// What a client that has sent `request` gets, if the answer is what `respond` says, and what
    /// follows.
    fn exchange(request: &str, response: Response) -> (String, io::Result<Next>) {
        let client = Memory::new(request);
        let transport = Transport::Memory(client.clone());
        let departures = Arc::new(Departures::new().unwrap());
        let address = Ipv4Addr::LOCALHOST.into();
        let idle_timeout = Duration::from_secs(1);
        let mut connection = Connection::new(transport, address, idle_timeout, departures).unwrap();
        let exchange = connection.next_request().unwrap().unwrap().receive().unwrap();
        let next = exchange.respond(response);
        (String::from_utf8(client.take_output()).unwrap(), next)
    }

    fn streaming(
        body: impl FnOnce(&mut Outgoing<'_>) -> io::Result<()> + Send + 'static,
    ) -> Response {
        Response::new(Status::Ok).stream("text/plain", body)
    }

    const GET: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    #[test]
    fn a_stream_is_sent_in_chunks_while_it_is_made() {
        let (sent, next) = exchange(
            GET,
            streaming(|out| {
                out.write_all(b"hello")?;
                out.flush()?;
                out.flush()?;
                out.write_all(&[b'x'; 40_000])
            }),
        );
        let (head, body) = sent.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nTransfer-Encoding: chunked"), "{head}");
        assert!(!head.contains("Content-Length"));
        let rest = body.strip_prefix("000005\r\nhello\r\n").unwrap();
        assert_eq!(rest.matches('x').count(), 40_000);
        assert!(rest.ends_with("\r\n0\r\n\r\n"));
        assert_eq!(next.unwrap(), Next::Request);
        let (empty, _) = exchange(GET, streaming(|_| Ok(())));
        assert!(empty.ends_with("\r\n\r\n0\r\n\r\n"));
    }

    #[test]
    fn who_knows_no_chunks_gets_it_to_the_end_of_the_connection() {
        let request = "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n";
        let (sent, next) = exchange(request, streaming(|out| out.write_all(b"hello")));
        assert!(sent.ends_with("\r\nConnection: close\r\n\r\nhello"), "{sent}");
        assert_eq!(next.unwrap(), Next::Close);
    }

    #[test]
    fn a_head_has_no_stream() {
        let (sent, next) =
            exchange("HEAD / HTTP/1.1\r\nHost: h\r\n\r\n", streaming(|_| panic!("it is made")));
        assert!(sent.ends_with("\r\n\r\n") && sent.contains("chunked"), "{sent}");
        assert_eq!(next.unwrap(), Next::Request);
    }

    #[test]
    fn a_stream_that_fails_has_no_end_and_counts_as_undelivered() {
        for panics in [false, true] {
            let (sender, undelivered) = channel();
            let response = streaming(move |out| {
                out.write_all(b"begun")?;
                assert!(!panics, "as the test wants");
                Err(io::ErrorKind::Other.into())
            });
            let response = response.on_undelivered(move || sender.send(()).unwrap());
            let (sent, next) = exchange(GET, response);
            assert!(!sent.ends_with("0\r\n\r\n"), "{sent}");
            assert!(next.is_err());
            undelivered.try_recv().unwrap();
        }
    }

    /// A client, and the connection that serves it.
    fn served(idle_timeout: Duration) -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let transport = Transport::from(listener.accept().unwrap().0);
        let departures = Arc::new(Departures::new().unwrap());
        let address = Ipv4Addr::LOCALHOST.into();
        (client, Connection::new(transport, address, idle_timeout, departures).unwrap())
    }

    fn detach(connection: &mut Connection) -> Detached<()> {
        connection.next_request().unwrap().unwrap().receive().unwrap().detach(()).unwrap()
    }

    #[test]
    fn a_request_whose_predecessor_was_not_answered_is_not_begun() {
        let (mut client, mut connection) = served(Duration::from_secs(60));
        client.write_all(GET.as_bytes()).unwrap();
        let detached = detach(&mut connection);
        client.write_all(GET.as_bytes()).unwrap();
        let dropper = thread::spawn(move || drop(detached));
        assert!(connection.next_request().unwrap().is_none());
        dropper.join().unwrap();
    }

    #[test]
    fn a_client_is_idle_from_its_response_on() {
        let idle_timeout = Duration::from_millis(500);
        let (mut client, mut connection) = served(idle_timeout);
        client.write_all(GET.as_bytes()).unwrap();
        let detached = detach(&mut connection);
        let slow = thread::spawn(move || {
            // Nothing is sent there: this is a pause.
            let (_sender, never) = channel::<()>();
            let _ = never.recv_timeout(idle_timeout * 3);
            detached.respond(Response::new(Status::Ok));
            let mut first = [0; 8];
            client.read_exact(&mut first).unwrap();
            client.write_all(GET.as_bytes()).unwrap();
            client
        });
        assert!(connection.next_request().unwrap().is_some());
        drop(slow.join().unwrap());
        assert!(connection.next_request().unwrap().is_none());
    }
}
