//! A connection to the active server: sends requests as bytes, and relays responses as they come.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};

use super::framing::ResponseHead;
use super::trust::{Trust, server_name};
use crate::client::raw::net::{self, Names, Stream};
use crate::http::connection::Next;

/// How long a name that is not known may be looked up, then how long a connection may take to come
/// about, and then a handshake.
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
    /// No response is outstanding: the next request may be sent.
    is_idle: bool,
}

impl Upstream {
    /// Connects to `http://HOST:PORT`, or to `https://HOST:PORT` if the server is one to trust.
    pub(super) fn connect(url: &str, names: &Names, trust: Option<&Trust>) -> io::Result<Self> {
        let wrong = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        let stream = match url.split_once("://") {
            Some(("http", authority)) => Stream::plain(connect(authority, 80, names)?),
            Some(("https", authority)) => {
                let trust = trust.ok_or_else(|| {
                    wrong("it speaks TLS: this server needs --tls-cert or --advertise-ca, too")
                })?;
                let tcp = connect(authority, 443, names)?;
                let name = server_name(url).ok_or_else(|| wrong("the URL has no host"))?;
                let config = trust.current().as_ref().clone();
                Stream::encrypted(tcp, config, name, Some(Instant::now() + CONNECT))?
            }
            _ => return Err(wrong("it is not at http://HOST:PORT or https://HOST:PORT")),
        };
        Ok(Self { url: url.into(), stream, input: Vec::new(), is_idle: true })
    }

    /// Whether another request may be sent: the previous response was complete, and since then the
    /// server has neither closed the connection nor sent anything.
    pub(super) fn is_open(&self) -> bool {
        self.is_idle && self.stream.is_idle()
    }

    /// The socket, for another thread to shut it down.
    pub(super) fn socket(&self) -> Arc<TcpStream> {
        Arc::clone(self.stream.tcp())
    }

    /// Sends a request.
    pub(super) fn send(&mut self, request: &[u8]) -> io::Result<()> {
        self.is_idle = false;
        self.stream.write_all(request)?;
        self.stream.flush()
    }

    /// Waits for the response up to `within`; whether something has come.
    pub(super) fn wait(&mut self, within: Duration) -> bool {
        let in_time = self.stream.set_deadline(Some(Instant::now() + within)).is_ok();
        let came = in_time && self.receive().is_ok();
        self.stream.set_deadline(None).is_ok() && came
    }

    /// The head of the response, without `RDLM-If-Undelivered`. `None`: there is none, and the outcome
    /// is unknown. `to_head`: the request is HEAD.
    pub(super) fn response(&mut self, to_head: bool) -> Option<ResponseHead> {
        loop {
            match ResponseHead::parse(&self.input, to_head) {
                Ok(Some(head)) if head.len > MAX_HEAD => return None,
                Ok(Some(head)) if (100..200).contains(&head.status) => {
                    self.input.drain(..head.len);
                }
                Ok(Some(mut head)) => {
                    if let Some(grant) = &head.grant {
                        head.len -= self.input.drain(grant.line.clone()).len();
                    }
                    return Some(head);
                }
                Ok(None) if self.input.len() < MAX_HEAD => {
                    if !matches!(self.receive(), Ok(1..)) {
                        return None;
                    }
                }
                Ok(None) | Err(_) => return None,
            }
        }
    }

    /// Relays the response as it comes.
    ///
    /// # Errors
    /// It breaks off, or the client does not take it.
    pub(super) fn relay(
        &mut self,
        head: &ResponseHead,
        mut pass: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> io::Result<Next> {
        let (mut end, mut done) = (head.end.clone(), head.len);
        loop {
            done += end.take(&self.input[done..]).map_err(|_| io::ErrorKind::InvalidData)?;
            pass(&self.input[..done])?;
            self.input.drain(..done);
            done = 0;
            if end.is_there() {
                self.input.shrink_to(PIECE);
                // Surplus bytes must not become the response to the next request.
                self.is_idle = !head.close && self.input.is_empty();
                return Ok(if self.is_idle { Next::Request } else { Next::Close });
            }
            match self.receive()? {
                1.. => {}
                0 if head.close => return Ok(Next::Close),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
        }
    }

    /// Receives some more; 0: the server has ended the connection.
    fn receive(&mut self) -> io::Result<usize> {
        let len = self.input.len();
        self.input.resize(len + PIECE, 0);
        let received = self.stream.read(&mut self.input[len..]);
        self.input.truncate(len + received.as_ref().copied().unwrap_or(0));
        received
    }
}

fn connect(authority: &str, default_port: u16, names: &Names) -> io::Result<TcpStream> {
    let with_port =
        if has_port(authority) { authority.into() } else { format!("{authority}:{default_port}") };
    let addresses = names.addresses(&with_port, CONNECT)?;
    let limit = CONNECT * u32::try_from(addresses.len()).unwrap_or(u32::MAX);
    let tcp = net::connect(&addresses, Some(Instant::now() + limit))
        // It may have moved.
        .inspect_err(|_| names.refresh())?;
    tcp.set_write_timeout(Some(SILENCE))?;
    let options = SockRef::from(&tcp);
    options.set_tcp_keepalive(&KEEPALIVE)?;
    options.set_tcp_user_timeout(Some(SILENCE))?;
    Ok(tcp)
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
        (Upstream::connect(&url, &Names::default(), None).unwrap(), server)
    }

    /// The head of the response, what follows after it, and what the client got.
    fn ask(upstream: &mut Upstream) -> (Option<ResponseHead>, Option<Next>, String) {
        let mut passed = Vec::new();
        upstream.send(b"ask\n").unwrap();
        let head = upstream.response(false);
        let next = head.as_ref().filter(|head| !head.not_done).map(|head| {
            let relayed = upstream.relay(head, |bytes| {
                passed.extend_from_slice(bytes);
                Ok(())
            });
            relayed.unwrap()
        });
        (head, next, String::from_utf8(passed).unwrap())
    }

    const OK: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    const NOT_DONE: &[u8] = b"HTTP/1.1 503 x\r\nRDLM-Not-Done: 1\r\nContent-Length: 4\r\n\r\nrest";

    #[test]
    fn the_rest_of_a_refusal_is_no_answer_to_the_next_request() {
        let (mut upstream, server) = asked(&[OK, NOT_DONE]);
        assert!(upstream.is_open());
        let (_, next, passed) = ask(&mut upstream);
        assert_eq!((next, passed.as_bytes()), (Some(Next::Request), OK));
        assert!(upstream.is_open());
        let (head, next, passed) = ask(&mut upstream);
        assert!(head.unwrap().not_done);
        assert_eq!((next, &*passed), (None, ""), "the client is told nothing");
        assert!(!upstream.is_open(), "its rest is there: {:?}", upstream.input);
        drop(upstream);
        server.join().unwrap();
    }

    #[test]
    fn what_nobody_has_asked_for_ends_the_connection() {
        let (mut upstream, server) = asked(&[b"HTTP/1.1 204 x\r\n\r\nHTTP/1.1 200 x\r\n\r\n"]);
        let (_, next, passed) = ask(&mut upstream);
        assert_eq!((next, &*passed), (Some(Next::Close), "HTTP/1.1 204 x\r\n\r\n"));
        assert!(!upstream.is_open());
        drop(upstream);
        server.join().unwrap();
    }

    #[test]
    fn what_is_for_this_server_alone_is_not_passed_on() {
        let (mut upstream, server) = asked(&[
            b"HTTP/1.1 201 x\r\nrdlm-if-undelivered: /locks/a/1\r\nContent-Length: 2\r\n\r\nok",
        ]);
        let (head, next, passed) = ask(&mut upstream);
        assert_eq!(head.unwrap().grant.unwrap().lock, "/locks/a/1");
        assert_eq!(passed, "HTTP/1.1 201 x\r\nContent-Length: 2\r\n\r\nok");
        assert_eq!(next, Some(Next::Request));
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
            let (_, next, passed) = ask(&mut upstream);
            assert_eq!(next.is_some(), is_response);
            assert_eq!(passed.len(), if is_response { head } else { 0 });
            drop(upstream);
            server.join().unwrap();
        }
    }
}
