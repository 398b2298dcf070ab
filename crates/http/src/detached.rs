//! Responses that another thread sends while the connection's own thread waits for the next request,
//! so that it need not be woken.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use log::debug;

use super::request::Request;
use super::response::Response;
use super::transport::Transport;

/// How many responses to slow clients are sent at a time, by a thread each. One more, and its client
/// loses its connection.
const MAX_SLOW: usize = 64;

/// Whether another thread has yet to send a response on a connection, which nothing may overtake.
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

/// What may follow on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    /// No other thread has sent anything since the last call.
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

/// A request that any thread may answer. When it is dropped, so is `busy`, and then the next request
/// may begin; or the connection ends, if the response was the last one or was not sent whole.
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

    /// Sends a response that is not a stream, without blocking: what does not fit into the socket's
    /// buffer is sent by a separate thread.
    pub fn respond(self, response: Response) {
        let request = Request { http_1_0: self.http_1_0, keep_alive: true, ..Request::UNREADABLE };
        let is_last = response.is_last(&request);
        #[expect(clippy::disallowed_methods, reason = "it is shown")]
        let bytes = response.to_bytes(&request, self.idle_timeout, SystemTime::now());
        match self.transport.send_at_once(&bytes) {
            Ok(sent) if sent == bytes.len() => self.sent(response, is_last),
            Ok(sent) => {
                let Some(slow) = SlowResponse::one_more() else {
                    return debug!("a client does not take its response, nor do many others");
                };
                let send_rest = move || {
                    let _slow = slow;
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
            self.transport.shutdown_handle().end();
        }
    }
}

/// A response to a slow client, counted as long as it exists; also the one too many.
struct SlowResponse;

static SLOW_RESPONSES: AtomicUsize = AtomicUsize::new(0);

impl SlowResponse {
    fn one_more() -> Option<Self> {
        let earlier = SLOW_RESPONSES.fetch_add(1, Ordering::Relaxed);
        let slow = Self;
        (earlier < MAX_SLOW).then_some(slow)
    }
}

impl Drop for SlowResponse {
    fn drop(&mut self) {
        SLOW_RESPONSES.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};

    use socket2::SockRef;

    use crate::Status;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Says when it is dropped.
    struct Busy(#[expect(dead_code, reason = "its drop is observed")] Sender<()>);

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
        let _alone = slow_clients();
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

    /// A client that does not read the response to its request, which is too large for the kernel.
    /// `None`: its connection has ended.
    fn client_that_does_not_read() -> Option<(TcpStream, Receiver<()>)> {
        let (remote, socket) = pair();
        SockRef::from(&remote).set_recv_buffer_size(4_096).unwrap();
        SockRef::from(&socket).set_send_buffer_size(4_096).unwrap();
        let (sender, finished) = channel();
        let response = Response::new(Status::Ok).body("text/plain", vec![b'x'; LARGE]);
        detached(socket, &Arc::default(), Busy(sender)).respond(response);
        let refused = finished.try_recv() == Err(TryRecvError::Disconnected);
        (!refused).then_some((remote, finished))
    }

    const LARGE: usize = 128 * 1024;

    /// Held by a test that has slow clients: they are counted in the whole process.
    static SLOW_CLIENTS: Mutex<()> = Mutex::new(());

    fn slow_clients() -> MutexGuard<'static, ()> {
        SLOW_CLIENTS.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[test]
    fn there_are_as_many_slow_clients_as_may_be_also_after_a_crowd_of_them() {
        let _alone = slow_clients();
        for _ in 0..3 {
            let crowd: Vec<_> = (0..200).filter_map(|_| client_that_does_not_read()).collect();
            assert_eq!(crowd.len(), MAX_SLOW);
            let (mut remotes, finished): (Vec<_>, Vec<_>) = crowd.into_iter().unzip();
            let mut late = remotes.pop().unwrap();
            let mut response = Vec::new();
            late.read_to_end(&mut response).unwrap();
            assert!(response.len() > LARGE, "all of it");
            drop(remotes);
            for finished in finished {
                assert_eq!(finished.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
            }
        }
    }

    #[test]
    fn a_request_without_a_response_ends_the_connection() {
        let (_remote, socket) = pair();
        let outstanding = Arc::new(Outstanding::default());
        let own_end = Transport::from(socket.try_clone().unwrap());
        drop(detached(socket, &outstanding, ()));
        assert_eq!(outstanding.wait(), After::LastResponse);
        assert_eq!(own_end.receive(&mut Vec::new()).unwrap(), 0);
    }

    #[test]
    fn a_response_that_cannot_be_delivered_is_reported() {
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
