//! Sockets in, requests out: the only module that knows tiny_http.
//!
//! A connection is accepted by a loop of the caller's own and walked by a thread of its own,
//! one [`Exchange`] after the other. Compared with tiny_http's `Server::recv`, a client that
//! waits for a lock costs one thread instead of two, and accept errors are the caller's to
//! handle.

use std::fmt::Display;
use std::io::{self, Cursor, Read};
use std::net::{SocketAddr, TcpListener};
use std::panic;
use std::time::{Duration, SystemTime};

use log::debug;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

use super::message::{BodyError, Host, MAX_BODY, Method, Request, Response};

/// How many connections the kernel keeps for a server that is too busy to accept them; it
/// lowers this to its own limit (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// How long a client may take to accept some bytes of its response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The kernel asks the host of a silent client for a sign of life after 30 s, then three
/// times every 10 s.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// A listening socket.
pub struct Listener {
    socket: tiny_http::Listener,
    local_addr: SocketAddr,
    no_tls: tiny_http::SslContextWrap,
}

impl Listener {
    /// Listens on `address`; on `[::]` for IPv4, too.
    ///
    /// # Errors
    /// As the operating system gives them: the port is taken, or not allowed.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // Or a restart would have to wait for the connections of the last run to be forgotten.
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit these. Answers to pipelined requests must not wait for the
        // client's acknowledgement of the one before:
        socket.set_tcp_nodelay(true)?;
        // A client that does not read must not keep its thread:
        socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
        // The connection of a client whose host is gone ends some time:
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let local_addr = socket.local_addr()?;
        let no_tls =
            tiny_http::SslContextWrap::build_ssl_capabilities(None).map_err(io::Error::other)?;
        Ok(Self { socket: socket.into(), local_addr, no_tls })
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// As the operating system gives them; also after [`Listener::close`].
    pub fn accept(&self) -> io::Result<Connection<impl Requests + use<>>> {
        // tiny_http duplicates the descriptor and panics when there is none left.
        let accept = || tiny_http::Server::accept_connection(&self.socket, &self.no_tls);
        let accepted = panic::catch_unwind(panic::AssertUnwindSafe(accept))
            .map_err(|_| io::Error::other("no descriptor left for another connection"))??;
        let requests = accepted.ok_or_else(|| io::Error::other("TLS is not supported"))?;
        Ok(Connection { requests: map_errors(requests) })
    }

    /// Refuses new connections from now on and ends [`Listener::accept`].
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn close(&self) -> io::Result<()> {
        SockRef::from(&self.socket).shutdown(std::net::Shutdown::Both)
    }
}

/// What tiny_http makes of a connection.
pub trait Requests: Iterator<Item = Result<tiny_http::Request, String>> + Send + 'static {}

impl<I: Iterator<Item = Result<tiny_http::Request, String>> + Send + 'static> Requests for I {}

fn map_errors<E: Display>(
    requests: impl Iterator<Item = Result<tiny_http::Request, E>> + Send + 'static,
) -> impl Requests {
    requests.map(|request| request.map_err(|error| error.to_string()))
}

/// One client's connection.
pub struct Connection<R> {
    requests: R,
}

impl<R: Requests> Connection<R> {
    /// Waits for the next request; `None` when there will not be any. tiny_http has answered
    /// what it could not make sense of.
    pub fn next_exchange(&mut self) -> Option<Exchange> {
        match self.requests.next()? {
            Ok(request) => Some(Exchange::read(request)),
            Err(error) => {
                debug!("connection ended: {error}");
                None
            }
        }
    }
}

/// A request that waits for its response.
pub struct Exchange {
    request: tiny_http::Request,
    body: Result<Vec<u8>, BodyError>,
    several_hosts: bool,
}

/// What follows after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another request may come.
    Request,
    /// The connection ends.
    Close,
}

impl Exchange {
    fn read(mut request: tiny_http::Request) -> Self {
        let repeated = Repeated::find(&request);
        let body =
            if repeated.framing { Err(BodyError::BadFraming) } else { read_body(&mut request) };
        Self { request, body, several_hosts: repeated.host }
    }

    /// The request.
    pub fn request(&self) -> Request<'_> {
        Request {
            method: method(self.request.method()),
            target: self.request.url(),
            http_1_0: is_http_1_0(&self.request),
            keep_alive: keep_alive(&self.request),
            host: match header(&self.request, "Host") {
                None => Host::None,
                Some(_) if self.several_hosts => Host::Several,
                Some(host) => Host::One(host),
            },
            origin: header(&self.request, "Origin"),
            sec_fetch_site: header(&self.request, "Sec-Fetch-Site"),
            authorization: header(&self.request, "Authorization"),
            body: self.body.as_deref().map_err(|error| *error),
        }
    }

    /// Sends the response, in one write.
    ///
    /// # Errors
    /// The client is gone.
    pub fn respond(self, response: &Response) -> io::Result<Next> {
        if self.body.is_err() {
            return self.respond_before_rest(response);
        }
        let request = self.request();
        let next = if response.close || !request.keep_alive { Next::Close } else { Next::Request };
        let bytes = response.to_bytes(&request, SystemTime::now());
        let mut writer = self.request.into_writer();
        writer.write_all(&bytes)?;
        writer.flush()?;
        Ok(next)
    }

    /// Before it gives out its writer, tiny_http reads the rest of the body. A client that
    /// sends too much is answered first, by way of tiny_http's own response.
    fn respond_before_rest(self, response: &Response) -> io::Result<Next> {
        let (content_type, body) = response.content();
        let len = body.len();
        // It would leave out a Connection header.
        let header = tiny_http::Header::from_str("Content-Type", content_type)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let status = tiny_http::StatusCode(response.status.code());
        let body = Cursor::new(body.to_vec());
        let response = tiny_http::Response::new(status, header.into(), body, Some(len), None);
        self.request.respond(response)?;
        Ok(Next::Close)
    }
}

fn method(method: &tiny_http::Method) -> Method {
    match method {
        tiny_http::Method::Get => Method::Get,
        tiny_http::Method::Head => Method::Head,
        tiny_http::Method::Post => Method::Post,
        tiny_http::Method::Delete => Method::Delete,
        tiny_http::Method::Options => Method::Options,
        _ => Method::Other,
    }
}

fn header<'a>(request: &'a tiny_http::Request, name: &str) -> Option<&'a str> {
    request.headers().get(name).map(|value| value.as_str())
}

/// Which headers that may stand once stand more often.
struct Repeated {
    host: bool,
    framing: bool,
}

impl Repeated {
    /// tiny_http gives the first of several headers only. To see whether there is another,
    /// the first is renamed, in a copy.
    fn find(request: &tiny_http::Request) -> Self {
        let mut headers = request.headers().clone();
        let mut is_repeated = |name| {
            let (Some(first), Ok(other_name)) = (headers.get_header_mut(name), "Seen".parse())
            else {
                return false;
            };
            first.field = other_name;
            headers.get(name).is_some()
        };
        let host = is_repeated("Host");
        let framing = is_repeated("Content-Length") || is_repeated("Transfer-Encoding");
        Self { host, framing }
    }
}

/// Whether tiny_http will look for another request: by RFC 9112, section 9.3, but never after
/// `Connection: upgrade`.
fn keep_alive(request: &tiny_http::Request) -> bool {
    let names = |option| connection_names(request, option);
    !names("close") && !names("upgrade") && (!is_http_1_0(request) || names("keep-alive"))
}

fn connection_names(request: &tiny_http::Request, option: &str) -> bool {
    header(request, "Connection").is_some_and(|value| value.to_ascii_lowercase().contains(option))
}

fn is_http_1_0(request: &tiny_http::Request) -> bool {
    *request.http_version() == (1, 0)
}

fn read_body(request: &mut tiny_http::Request) -> Result<Vec<u8>, BodyError> {
    let (len, limit) = match expected_body(request)? {
        ExpectedBody::None => return Ok(Vec::new()),
        ExpectedBody::Sized(len) => (len, len),
        ExpectedBody::Chunked => (0, MAX_BODY + 1),
    };
    let mut body = Vec::with_capacity(len);
    let mut reader = request.as_reader().take(limit as u64);
    let read = reader.read_to_end(&mut body).map_err(|_| BodyError::Broken)?;
    if read > MAX_BODY {
        Err(BodyError::TooLarge)
    } else if read < len {
        Err(BodyError::Broken)
    } else {
        Ok(body)
    }
}

enum ExpectedBody {
    None,
    Sized(usize),
    Chunked,
}

/// RFC 9112, section 6.3. tiny_http takes a length that it cannot parse for no body.
fn expected_body(request: &tiny_http::Request) -> Result<ExpectedBody, BodyError> {
    let is_chunked = header(request, "Transfer-Encoding").is_some();
    match header(request, "Content-Length") {
        None if !is_chunked => Ok(ExpectedBody::None),
        // HTTP/1.0 has no chunks, and tiny_http does not decode those of an upgrade.
        None if is_http_1_0(request) || connection_names(request, "upgrade") => {
            Err(BodyError::BadFraming)
        }
        None => Ok(ExpectedBody::Chunked),
        Some(length) => {
            let is_number = !length.is_empty() && length.bytes().all(|byte| byte.is_ascii_digit());
            if is_chunked || !is_number {
                return Err(BodyError::BadFraming);
            }
            match length.parse() {
                Ok(0) => Ok(ExpectedBody::None),
                Ok(len) if len <= MAX_BODY => Ok(ExpectedBody::Sized(len)),
                _ => Err(BodyError::TooLarge),
            }
        }
    }
}
