//! Notices when a client that waits for its response ends the connection.

use std::collections::HashMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::listener::KEEPALIVE;
use super::tls::Tls;
use super::transport::Transport;
use log::error;
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, epoll::EventFlags, poll};
use smol_str::SmolStr;
use socket2::{SockRef, TcpKeepalive};

/// A client that waits is asked every second whether its host is still there.
const WAITING_KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(1))
    .with_interval(Duration::from_secs(1))
    .with_retries(5);

/// Its host is gone when it has been silent for so long, even if an earlier response is still
/// on the way. A shorter silence is an interruption of the network, which ends no wait.
const SILENCE: Duration = Duration::from_secs(5);

/// The same for a client that is sent something now and then, and may be slow to take it.
const LONG_SILENCE: Duration = Duration::from_secs(60);

/// How many departures are taken from the kernel at a time.
const BATCH: usize = 64;

type Farewell = Box<dyn FnOnce() + Send>;

/// The clients that are watched, and the thread that watches them.
pub struct Departures(Arc<Watched>);

struct Watched {
    epoll: OwnedFd,
    clients: Mutex<Clients>,
}

#[derive(Default)]
struct Clients {
    watched: HashMap<u64, Present>,
    last: u64,
}

/// A client that has not left.
struct Present {
    farewell: Farewell,
    /// By which it may say that it leaves, before its connection ends.
    tls: Option<Arc<Tls>>,
}

impl Present {
    /// What is to be reported of it, once; errors and resets always are.
    fn interest(&self) -> EventFlags {
        let input = match &self.tls {
            // What it has to say is told when that is read, and not before.
            Some(tls) if !tls.has_received() => EventFlags::IN,
            _ => EventFlags::empty(),
        };
        input | EventFlags::RDHUP | EventFlags::ONESHOT
    }
}

impl Departures {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system refused the thread or a descriptor.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let watched = Arc::new(Watched { epoll, clients: Mutex::default() });
        thread::Builder::new().name("departures".into()).spawn({
            let watched = Arc::clone(&watched);
            move || watched.run()
        })?;
        Ok(Self(watched))
    }
}

impl Watched {
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
                if let Some(farewell) = self.departed(event.data.u64(), connection_ends) {
                    farewell();
                }
            }
        }
    }

    /// What is to be called for a client of which something was reported, if it has left. Under
    /// the mutex, or its thread could begin to receive at the same time.
    fn departed(&self, id: u64, connection_ends: bool) -> Option<Farewell> {
        let mut clients = self.clients();
        let present = clients.watched.get(&id)?;
        if let Some(tls) = &present.tls
            && !connection_ends
            && !tls.has_ended()
        {
            let data = epoll::EventData::new_u64(id);
            // Fails at what fails when it is read.
            let _ = epoll::modify(&self.epoll, tls.socket(), data, present.interest());
            return None;
        }
        clients.watched.remove(&id).map(|present| present.farewell)
    }

    fn clients(&self) -> MutexGuard<'_, Clients> {
        // A farewell is in the map or not, at any moment.
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whoever sent a request.
#[derive(Clone, Copy)]
pub struct Client<'a> {
    transport: &'a Transport,
    address: &'a SmolStr,
    departures: &'a Departures,
}

impl<'a> Client<'a> {
    /// The client at the other end of `transport`; `address` is for display.
    pub fn new(transport: &'a Transport, address: &'a SmolStr, departures: &'a Departures) -> Self {
        Self { transport, address, departures }
    }

    /// Where it is.
    pub fn address(self) -> &'a SmolStr {
        self.address
    }

    /// Whether nobody on the way can read what is sent.
    pub fn is_encrypted(self) -> bool {
        self.transport.tls().is_some()
    }

    /// Whom its certificate names, if it has shown one.
    pub fn certified_user(self) -> Option<&'a SmolStr> {
        self.transport.user()
    }

    /// The connection to it.
    pub(super) fn transport(self) -> &'a Transport {
        self.transport
    }

    /// Calls `farewell`, on another thread, if the client closes its side of the connection,
    /// or its host is gone, as long as the result lives; at once if it has left already. A client
    /// in memory never leaves.
    ///
    /// # Errors
    /// The operating system does not watch any more connections.
    pub fn watch(self, farewell: impl FnOnce() + Send + 'static) -> io::Result<Option<Watch<'a>>> {
        let Some(socket) = self.transport.socket() else { return Ok(None) };
        SockRef::from(socket).set_tcp_keepalive(&WAITING_KEEPALIVE)?;
        self.watch_within(SILENCE, farewell)
    }

    /// The same for a client that is sent something all the time: its host may be silent, and the
    /// client not read, for a minute.
    ///
    /// # Errors
    /// As above.
    pub fn watch_stream(
        self,
        farewell: impl FnOnce() + Send + 'static,
    ) -> io::Result<Option<Watch<'a>>> {
        self.watch_within(LONG_SILENCE, farewell)
    }

    fn watch_within(
        self,
        silence: Duration,
        farewell: impl FnOnce() + Send + 'static,
    ) -> io::Result<Option<Watch<'a>>> {
        let Some(socket) = self.transport.socket() else { return Ok(None) };
        SockRef::from(socket).set_tcp_user_timeout(Some(silence))?;
        let watched = &*self.departures.0;
        let tls = self.transport.tls().cloned();
        if tls.as_ref().is_some_and(|tls| tls.has_ended()) {
            farewell();
            return Ok(None);
        }
        let present = Present { farewell: Box::new(farewell), tls };
        let interest = present.interest();
        let id = {
            let mut clients = watched.clients();
            clients.last += 1;
            let id = clients.last;
            clients.watched.insert(id, present);
            id
        };
        let watch = Watch { id, watched, socket };
        epoll::add(&watched.epoll, socket, epoll::EventData::new_u64(id), interest)?;
        Ok(Some(watch))
    }

    /// Whether the client has closed its side of the connection, or is gone.
    pub fn has_left(self) -> bool {
        has_left(self.transport)
    }

    /// The same question for later.
    pub fn presence(self) -> Presence {
        Presence(self.transport.clone())
    }
}

/// Knows whether a client is still there.
pub struct Presence(Transport);

impl Presence {
    /// Whether the client has closed its side of the connection, or is gone.
    pub fn has_left(&self) -> bool {
        has_left(&self.0)
    }
}

fn has_left(transport: &Transport) -> bool {
    let Some(socket) = transport.socket() else { return false };
    let at_once = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut socket = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::RDHUP)];
    poll(&mut socket, Some(&at_once)).is_ok_and(|events| events > 0)
        || transport.tls().is_some_and(|tls| tls.has_ended())
}

/// As long as this lives, a client is watched.
pub struct Watch<'a> {
    id: u64,
    watched: &'a Watched,
    socket: &'a TcpStream,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.watched.clients().watched.remove(&self.id);
        // Fails if it was never added.
        let _ = epoll::delete(&self.watched.epoll, self.socket);
        // A client that does not wait may be silent for longer. Fails if it is gone.
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
    fn whoever_closes_or_half_closes_has_left() {
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
            // A request that is sent behind the one that waits is no departure.
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
    fn whoever_has_left_before_is_noticed_and_whoever_is_not_watched_is_not() {
        let departures = Departures::new().unwrap();
        let (remote, socket) = pair();
        let socket = Transport::from(socket);
        let client = Client::new(&socket, &ADDRESS, &departures);
        let (unheard, never) = channel();
        drop(client.watch(move || unheard.send(()).unwrap()).unwrap());
        drop(remote);
        let (sender, left) = channel();
        let _watch = client.watch(move || sender.send(()).unwrap()).unwrap();
        left.recv_timeout(PATIENCE).unwrap();
        assert!(never.try_recv().is_err());
    }

    use std::io::Write;
}
