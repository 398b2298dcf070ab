//! A response that another thread sends, while the thread of the connection waits for the next
//! request: it need not be woken for the response.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::debug;

use super::request::Request;
use super::response::Response;
use super::transport::Transport;

/// How many responses that their clients do not take at once are sent at a time, each by a thread
/// of its own. A client for which there is none loses its connection.
const MAX_UNTAKEN: usize = 64;

/// Whether a response of a connection is still to be sent by another thread. Until it is, nothing
/// else is.
#[derive(Default)]
pub(super) struct Outstanding {
    state: Mutex<State>,
    over: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum State {
    /// There is none.
    #[default]
    None,
    One,
    /// There is one, and the thread of the connection waits for it.
    Awaited,
    /// It was sent, at this time.
    Sent(Instant),
    /// It was the last on this connection, or was not sent whole.
    Last,
}

/// What follows on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// Another thread has sent nothing since the last time that this was asked.
    Nothing,
    /// Another thread has sent a response, at this time.
    Response(Instant),
    /// The connection ends.
    LastResponse,
}

impl Outstanding {
    /// Waits until there is none.
    pub(super) fn wait(&self) -> After {
        let mut state = self.state();
        loop {
            match *state {
                State::None => return After::Nothing,
                State::Sent(at) => {
                    *state = State::None;
                    return After::Response(at);
                }
                State::Last => return After::LastResponse,
                State::One | State::Awaited => *state = State::Awaited,
            }
            state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn begin(&self) {
        *self.state() = State::One;
    }

    fn end(&self, state: State) {
        if std::mem::replace(&mut *self.state(), state) == State::Awaited {
            self.over.notify_one();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request whose response any thread may send. When it is dropped, `busy` is, and then the next
/// request may be begun; or the connection ends, if the response was not sent whole or was the
/// last one.
pub struct Detached<B> {
    transport: Transport,
    http_1_0: bool,
    idle_timeout: Duration,
    outstanding: Arc<Outstanding>,
    busy: Option<B>,
    goes_on: bool,
}

impl<B: Send + 'static> Detached<B> {
    pub(super) fn new(
        transport: Transport,
        http_1_0: bool,
        idle_timeout: Duration,
        outstanding: Arc<Outstanding>,
        busy: B,
    ) -> Self {
        outstanding.begin();
        Self { transport, http_1_0, idle_timeout, outstanding, busy: Some(busy), goes_on: false }
    }

    /// Sends a response that is no stream, without waiting for the client: what that does not take
    /// at once is sent by a thread of its own.
    pub fn respond(self, response: Response) {
        let request = Request { http_1_0: self.http_1_0, keep_alive: true, ..Request::UNREADABLE };
        let is_last = response.is_last(&request);
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&request, self.idle_timeout, SystemTime::now());
        match self.transport.send_at_once(&bytes) {
            Ok(sent) if sent == bytes.len() => self.sent(response, is_last),
            Ok(sent) => {
                let Some(untaken) = Untaken::one_more() else {
                    return debug!("a client does not take its response, nor do many others");
                };
                let send_rest = move || {
                    let _untaken = untaken;
                    match self.transport.send(&bytes[sent..]) {
                        Ok(()) => self.sent(response, is_last),
                        Err(error) => debug!("a client does not take its response: {error}"),
                    }
                };
                let thread = thread::Builder::new().name("response".into()).stack_size(128 * 1024);
                if let Err(error) = thread.spawn(send_rest) {
                    debug!("no thread for a response that its client does not take: {error}");
                }
            }
            Err(error) => debug!("a client does not take its response: {error}"),
        }
    }

    fn sent(mut self, response: Response, is_last: bool) {
        response.delivered();
        self.goes_on = !is_last;
    }
}

impl<B> Drop for Detached<B> {
    fn drop(&mut self) {
        self.busy = None;
        if self.goes_on {
            self.outstanding.end(State::Sent(Instant::now()));
        } else {
            self.outstanding.end(State::Last);
            self.transport.hang_up().end();
        }
    }
}

/// The right to one more thread for a response that its client does not take at once.
struct Untaken;

static UNTAKEN: AtomicUsize = AtomicUsize::new(0);

impl Untaken {
    fn one_more() -> Option<Self> {
        let one_more = |count| (count < MAX_UNTAKEN).then_some(count + 1);
        let room = UNTAKEN.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        room.is_ok().then_some(Self)
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        UNTAKEN.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

    use crate::Status;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Says when it is dropped.
    struct Busy(#[expect(dead_code, reason = "its end is what is heard of")] Sender<()>);

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    fn detached<B: Send + 'static>(
        socket: TcpStream,
        outstanding: &Arc<Outstanding>,
        busy: B,
    ) -> Detached<B> {
        Detached::new(Transport::from(socket), false, PATIENCE, Arc::clone(outstanding), busy)
    }

    #[test]
    fn a_client_that_does_not_read_holds_up_nobody_and_gets_all_of_it() {
        let (mut remote, mut socket) = pair();
        // Until there is no room for some time: what is on its way to the other side makes some.
        socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
        let mut unread = 0;
        while let Ok(written) = socket.write(&[b'x'; 1_000]) {
            unread += written;
        }
        socket.set_write_timeout(None).unwrap();
        let outstanding = Arc::new(Outstanding::default());
        let (sender, finished) = channel();
        let response = Response::new(Status::Ok).body("text/plain", "hello".as_bytes());
        detached(socket, &outstanding, Busy(sender)).respond(response);
        let early = finished.recv_timeout(Duration::from_millis(50));
        assert_eq!(early, Err(RecvTimeoutError::Timeout), "it is still on its way");
        let mut read = vec![0; unread];
        remote.read_exact(&mut read).unwrap();
        // Everything is sent, then the next request may come, then the socket is closed.
        assert_eq!(finished.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
        assert!(matches!(outstanding.wait(), After::Response(_)));
        assert_eq!(outstanding.wait(), After::Nothing);
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
        drop(detached(socket, &outstanding, ()));
        assert_eq!(outstanding.wait(), After::LastResponse);
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
        let outstanding = Arc::default();
        detached(socket, &outstanding, ()).respond(response);
        assert_eq!(undelivered.recv_timeout(PATIENCE), Ok(()));
        assert_eq!(outstanding.wait(), After::LastResponse);
    }
}
