//! A response that another thread sends, while the thread of the connection waits for the next
//! request: it need not be woken for the response.

use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use log::debug;

use super::request::Request;
use super::response::Response;
use super::transport::Transport;

/// Whether a response of a connection is still to be sent by another thread. Until it is, no
/// other one is.
#[derive(Default)]
pub(super) struct Outstanding {
    state: Mutex<State>,
    sent: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// There is none.
    #[default]
    None,
    One,
    /// There is one, and the thread of the connection waits for it.
    Awaited,
}

impl Outstanding {
    /// Waits until there is none.
    pub(super) fn wait(&self) {
        let mut state = self.state();
        while *state != State::None {
            *state = State::Awaited;
            state = self.sent.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn begin(&self) {
        *self.state() = State::One;
    }

    fn end(&self) {
        if std::mem::take(&mut *self.state()) == State::Awaited {
            self.sent.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose response any thread may send. If it is dropped without one, the connection
/// ends.
pub struct Detached {
    transport: Transport,
    http_1_0: bool,
    idle_timeout: Duration,
    outstanding: Arc<Outstanding>,
    is_sent: bool,
}

impl Detached {
    pub(super) fn new(
        transport: Transport,
        http_1_0: bool,
        idle_timeout: Duration,
        outstanding: Arc<Outstanding>,
    ) -> Self {
        outstanding.begin();
        Self { transport, http_1_0, idle_timeout, outstanding, is_sent: false }
    }

    /// Sends a response that is no stream, without waiting for the client: what that does not take
    /// at once is sent by a thread of its own. `busy` is dropped before the next request is begun.
    pub fn respond(mut self, response: Response, busy: impl Send + 'static) {
        let request = Request { http_1_0: self.http_1_0, keep_alive: true, ..Request::UNREADABLE };
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&request, self.idle_timeout, SystemTime::now());
        match self.transport.send_at_once(&bytes) {
            Ok(sent) if sent == bytes.len() => self.is_sent = true,
            Ok(sent) => {
                let send_rest = move || {
                    let result = self.transport.send(&bytes[sent..]);
                    self.finish(result, response);
                    drop(busy);
                };
                // If there is no thread, the connection ends.
                let _ = thread::Builder::new().name("rest".into()).spawn(send_rest);
            }
            Err(error) => self.finish(Err(error), response),
        }
    }

    fn finish(&mut self, sent: io::Result<()>, response: Response) {
        match sent {
            Ok(()) => self.is_sent = true,
            Err(error) => {
                debug!("a client does not take its response: {error}");
                response.undelivered();
            }
        }
    }
}

impl Drop for Detached {
    fn drop(&mut self) {
        if !self.is_sent {
            self.transport.hang_up().end();
        }
        self.outstanding.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

    use crate::http::Status;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Says when it is dropped.
    struct Busy(#[expect(dead_code, reason = "its end is what is heard of")] Sender<()>);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn detached(socket: TcpStream, outstanding: &Arc<Outstanding>) -> Detached {
        Detached::new(Transport::from(socket), false, PATIENCE, Arc::clone(outstanding))
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody_and_gets_all_of_it() {
        let (mut remote, mut socket) = pair();
        socket.set_nonblocking(true).unwrap();
        let mut unread = 0;
        while let Ok(written) = socket.write(&[b'x'; 1_000]) {
            unread += written;
        }
        socket.set_nonblocking(false).unwrap();
        let outstanding = Arc::new(Outstanding::default());
        let (sender, finished) = channel();
        let response = Response::new(Status::Ok).body("text/plain", "hello".as_bytes());
        detached(socket, &outstanding).respond(response, Busy(sender));
        let early = finished.recv_timeout(Duration::from_millis(50));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "it is still on its way");
        let mut read = vec![0; unread];
        remote.read_exact(&mut read).unwrap();
        // Everything is sent, then the next request may come, then the socket is closed.
        assert_eq!(finished.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        outstanding.wait();
        let mut rest = String::new();
        remote.read_to_string(&mut rest).unwrap();
        assert!(
            rest.starts_with("HTTP/1.1 200 OK\r\n") && rest.ends_with("\r\n\r\nhello"),
            "{rest}"
        );
    }

    #[test]
    fn whoever_makes_no_response_ends_the_connection() {
        let (_remote, socket) = pair();
        let outstanding = Arc::new(Outstanding::default());
        let own_end = Transport::from(socket.try_clone().unwrap());
        drop(detached(socket, &outstanding));
        outstanding.wait();
        assert_eq!(own_end.receive(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn what_cannot_be_delivered_is_told() {
        let (remote, socket) = pair();
        drop(remote);
        // The kernel says so at the second write.
        let _ = (&socket).write(b"x");
        let mut first = Transport::from(socket.try_clone().unwrap());
        while first.send(b"x").is_ok() {
            first = Transport::from(socket.try_clone().unwrap());
        }
        let (sender, undelivered) = channel();
        let response = Response::no_content().on_undelivered(move || sender.send(()).unwrap());
        detached(socket, &Arc::default()).respond(response, ());
        assert_eq!(undelivered.recv_timeout(PATIENCE), Ok(()));
    }
}
