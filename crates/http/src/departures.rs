//! Notices when a client that waits for its response ends the connection.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::lingering::Lingering;
use super::socket::KEEPALIVE;
use super::tls::Tls;
use super::transport::Transport;
use log::error;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, epoll::EventFlags, poll};
use smol_str::SmolStr;
use socket2::{SockRef, TcpKeepalive};

/// The host of a client that waits is probed every second.
const WAITING_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(1))
    .with_interval(Duration::from_secs(1))
    .with_retries(5);

/// After so long without a sign of life its host counts as gone, even if an earlier response is still
/// in transit. A shorter interruption of the network ends no wait.
const SILENCE: Duration = Duration::from_secs(5);

/// The same for a client that receives a stream, and may read it slowly.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// How many events are taken from the kernel at a time.
const BATCH: usize = 64;

type OnDeparture = Box<dyn FnOnce() + Send>;

/// The watched clients and the lingering connections, with a thread each.
pub struct Departures {
    watcher: Arc<Watcher>,
    lingering: Lingering,
}

struct Watcher {
    epoll: OwnedFd,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    watched: HashMap<u64, Watched>,
    last: u64,
}

/// A client that has not left yet.
struct Watched {
    on_departure: OnDeparture,
    /// May announce the end by a close_notify, before the connection ends.
    tls: Option<Arc<Tls>>,
    state: ConnectionState,
}

impl Watched {
    /// Which events epoll reports, once; errors and resets are always reported.
    fn interest(&self) -> EventFlags {
        let input = match &self.tls {
            // A close_notify is found by reading; not while a pipelined request is buffered.
            Some(tls) if !tls.has_received() => EventFlags::IN,
            _ => EventFlags::empty(),
        };
        let end = match self.state {
            // The kernel would report the server's own shutdown.
            ConnectionState::Ended => EventFlags::empty(),
            ConnectionState::Normal | ConnectionState::NoWaiting => EventFlags::RDHUP,
        };
        input | end | EventFlags::ONESHOT
    }
}

impl Departures {
    /// Starts the threads.
    ///
    /// # Errors
    /// The operating system refused a thread or a descriptor.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watcher = Arc::new(Watcher { epoll, clients: Mutex::default() });
        thread::Builder::new().name("departures".into()).spawn({
            let watcher = Arc::clone(&watcher);
            move || watcher.run()
        })?;
        Ok(Self { watcher, lingering: Lingering::new()? })
    }

    /// Ends a connection on this side, and closes it once the client has done so, or soon.
    pub(super) fn linger(&self, transport: &Transport) {
        self.lingering.end(transport);
    }
}

impl Watcher {
    /// The body of the thread, which lasts as long as the process.
    fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        loop {
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), None);
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                error!("departing clients are no longer noticed: {error}");
                return;
            }
            for event in events.drain(..) {
                let flags = event.flags;
                let connection_ends = flags != EventFlags::IN;
                if let Some(on_departure) = self.departed(event.data.u64(), connection_ends) {
                    on_departure();
                }
            }
        }
    }

    /// The callback of a client with an event, if it has left. The session is looked into under the
    /// mutex: while the client is in the map, its own thread does not receive.
    fn departed(&self, id: u64, connection_ends: bool) -> Option<OnDeparture> {
        let mut clients = self.clients();
        let client = clients.watched.get(&id)?;
        if let Some(tls) = &client.tls
            && !connection_ends
            && !tls.has_ended()
        {
            let data = epoll::EventData::new_u64(id);
            // If it fails, so does the next call on the socket.
            let _ = epoll::modify(&self.epoll, tls.socket(), data, client.interest());
            return None;
        }
        clients.watched.remove(&id).map(|client| client.on_departure)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        // Each change of the map is a single call, so a panic leaves it whole.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the server restricts a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// Its client may wait for locks.
    Normal,
    /// Requests are answered, but none may wait: the thread is one of a few in reserve.
    NoWaiting,
    /// The server shut down its receiving side to make room, just as a request arrived. That request
    /// is answered, but may not wait: nobody would notice if the client left.
    Ended,
}

/// The client that sent a request.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    transport: &'a Transport,
    address: &'a SmolStr,
    departures: &'a Departures,
    state: ConnectionState,
}

impl<'a> Client<'a> {
    /// The client at the other end of `transport`; `address` is for display.
    pub fn new(transport: &'a Transport, address: &'a SmolStr, departures: &'a Departures) -> Self {
        Self { transport, address, departures, state: ConnectionState::Normal }
    }

    /// The same client, on a connection with this state.
    pub(super) fn with(self, state: ConnectionState) -> Self {
        Self { state, ..self }
    }

    /// Whether the server restricts its connection.
    pub fn state(self) -> ConnectionState {
        self.state
    }

    /// Whether its requests may wait for locks.
    pub fn may_wait(self) -> bool {
        self.state == ConnectionState::Normal
    }

    /// Its IP address.
    pub fn address(self) -> &'a SmolStr {
        self.address
    }

    /// Whether the connection uses TLS.
    pub fn is_encrypted(self) -> bool {
        self.transport.tls().is_some()
    }

    /// The user named by its certificate, if it has presented one.
    pub fn certified_user(self) -> Option<&'a SmolStr> {
        self.transport.user()
    }

    /// Its connection.
    pub(super) fn transport(self) -> &'a Transport {
        self.transport
    }

    /// Calls `on_departure`, on another thread, when the client closes its side of the connection or
    /// its host is gone; at once if it has left already. Dropping the result ends the watch. A client
    /// in memory never leaves.
    ///
    /// # Errors
    /// The operating system cannot watch more connections.
    pub fn watch(
        self,
        on_departure: impl FnOnce() + Send + 'static,
    ) -> io::Result<Option<Watch<'a>>> {
        let Some(socket) = self.transport.socket() else { return Ok(None) };
        SockRef::from(socket).set_tcp_keepalive(&WAITING_KEEPALIVE)?;
        self.watch_within(SILENCE, on_departure)
    }

    /// The same for a client that receives a stream: it may leave it unread for a minute.
    ///
    /// # Errors
    /// As above.
    pub fn watch_stream(
        self,
        on_departure: impl FnOnce() + Send + 'static,
    ) -> io::Result<Option<Watch<'a>>> {
        self.watch_within(LONG_SILENCE, on_departure)
    }

    fn watch_within(
        self,
        silence: Duration,
        on_departure: impl FnOnce() + Send + 'static,
    ) -> io::Result<Option<Watch<'a>>> {
        let Some(socket) = self.transport.socket() else { return Ok(None) };
        SockRef::from(socket).set_tcp_user_timeout(Some(silence))?;
        let watcher = &*self.departures.watcher;
        let tls = self.transport.tls().cloned().filter(|_| self.state != ConnectionState::Ended);
        if tls.as_ref().is_some_and(|tls| tls.has_ended()) {
            on_departure();
            return Ok(None);
        }
        let client = Watched { on_departure: Box::new(on_departure), tls, state: self.state };
        let interest = client.interest();
        let id = {
            let mut clients = watcher.clients();
            clients.last += 1;
            let id = clients.last;
            clients.watched.insert(id, client);
            id
        };
        let watch = Watch { id, watcher, socket };
        epoll::add(&watcher.epoll, socket, epoll::EventData::new_u64(id), interest)?;
        Ok(Some(watch))
    }

    /// Whether the client has closed its side of the connection, or is gone.
    pub fn has_left(self) -> bool {
        has_left(self.transport, self.state)
    }

    /// Answers the same question later, when the request is gone.
    pub fn presence(self) -> Presence {
        Presence { transport: self.transport.clone(), state: self.state }
    }
}

/// Tells whether a client is still there.
pub struct Presence {
    transport: Transport,
    state: ConnectionState,
}

impl Presence {
    /// Whether the client has closed its side of the connection, or is gone.
    pub fn has_left(&self) -> bool {
        has_left(&self.transport, self.state)
    }
}

fn has_left(transport: &Transport, state: ConnectionState) -> bool {
    let Some(socket) = transport.socket() else { return false };
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let was_ended = state == ConnectionState::Ended;
    // RDHUP would report the server's own shutdown. Resets and errors are reported in any case.
    let end = if was_ended { PollFlags::empty() } else { PollFlags::RDHUP };
    let mut socket = [PollFd::from_borrowed_fd(socket.as_fd(), end)];
    poll(&mut socket, Some(&at_once)).is_ok_and(|events| events > 0)
        || !was_ended && transport.tls().is_some_and(|tls| tls.has_ended())
}

/// Watches a client until it is dropped.
pub struct Watch<'a> {
    id: u64,
    watcher: &'a Watcher,
    socket: &'a TcpStream,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watcher.clients().watched.remove(&self.id);
        // Fails if it was never added.
        let _ = epoll::delete(&self.watcher.epoll, self.socket);
        // Back to what the listener has set. Fails if the client is gone.
        let socket = SockRef::from(self.socket);
        let _ = socket.set_tcp_user_timeout(None);
        let _ = socket.set_tcp_keepalive(&KEEPALIVE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Shutdown, TcpListener};
    use std::sync::mpsc::{RecvTimeoutError, channel};

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (client, listener.accept().unwrap().0)
    }

    const PATIENCE: Duration = Duration::from_secs(60);
    static ADDRESS: SmolStr = SmolStr::new_static("127.0.0.1");

    #[test]
    fn a_client_that_closes_or_half_closes_has_left() {
        let departures = Departures::new().unwrap();
        let leave: [fn(TcpStream); 2] = [drop, |socket| {
            socket.shutdown(Shutdown::Write).unwrap();
            std::mem::forget(socket);
        }];
        for leave in leave {
            let (mut remote, socket) = pair();
            let socket = Transport::from(socket);
            let client = Client::new(&socket, &ADDRESS, &departures);
            let (sender, left) = channel();
            let watch = client.watch(move || sender.send(()).unwrap()).unwrap();
            // A pipelined request is no departure.
            remote.write_all(b"GET / HTTP/1.1\r\n").unwrap();
            assert_eq!(
                left.recv_timeout(Duration::from_millis(50)),
                Err(RecvTimeoutError::Timeout)
            );
            assert!(!client.has_left());
            leave(remote);
            left.recv_timeout(PATIENCE).unwrap();
            assert!(client.has_left());
            drop(watch);
        }
    }

    #[test]
    fn an_earlier_departure_is_noticed_and_one_after_the_watch_is_not() {
        let departures = Departures::new().unwrap();
        let (remote, socket) = pair();
        let socket = Transport::from(socket);
        let client = Client::new(&socket, &ADDRESS, &departures);
        let (unused, never) = channel();
        drop(client.watch(move || unused.send(()).unwrap()).unwrap());
        drop(remote);
        let (sender, left) = channel();
        let _watch = client.watch(move || sender.send(()).unwrap()).unwrap();
        left.recv_timeout(PATIENCE).unwrap();
        assert!(never.try_recv().is_err());
    }

    use std::io::Write;
}
