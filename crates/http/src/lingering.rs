//! Lingering close: connections that have ended on this side while their clients may still be sending.
//!
//! A socket that is closed with unread input is reset, and the client could lose its last response
//! (RFC 9112, section 9.6). So further input is received and dropped for a moment. One thread does
//! that for all connections, so a client that does not close its side occupies neither a thread nor one
//! of the connections that may be open.

use std::collections::BTreeMap;
use std::io;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use log::error;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::net::{RecvFlags, recv};

use super::transport::Transport;

/// How many connections linger at a time. One more, and the oldest is closed.
pub const MAX: usize = 64;

/// How long a connection lingers, and how many bytes are received of it.
const TIME: Duration = Duration::from_secs(1);
const MAX_RECEIVED: usize = 4 * 1024 * 1024;

/// How much is received at a time, in bytes.
const PIECE: usize = 16 * 1024;

/// How many sockets with input are taken from the kernel at a time.
const BATCH: usize = 64;

/// Marks the event of the descriptor that wakes the thread. Connections are numbered from 1.
const WAKE: u64 = 0;

/// The lingering connections, and the thread that receives from them.
pub(super) struct Lingering(Arc<Shared>);

struct Shared {
    epoll: OwnedFd,
    wake: OwnedFd,
    ended: Mutex<Ended>,
}

/// In order of their numbers, and so of their deadlines.
#[derive(Default)]
struct Ended {
    connections: BTreeMap<u64, Connection>,
    latest: u64,
}

struct Connection {
    socket: Arc<TcpStream>,
    deadline: Instant,
    received: usize,
}

impl Lingering {
    /// Starts the thread.
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        let shared = Arc::new(Shared { epoll, wake, ended: Mutex::default() });
        thread::Builder::new().name("lingering".into()).spawn({
            let shared = Arc::clone(&shared);
            move || shared.run()
        })?;
        Ok(Self(shared))
    }

    /// Ends this side, and closes the connection once the client has closed its side, or after [`TIME`].
    pub(super) fn end(&self, transport: &Transport) {
        if transport.end_sending().is_ok()
            && let Some(socket) = transport.socket()
        {
            self.0.add(Arc::clone(socket));
        }
    }
}

impl Shared {
    fn add(&self, socket: Arc<TcpStream>) {
        let mut ended = self.ended();
        if ended.connections.len() >= MAX {
            self.close_oldest(&mut ended);
        }
        ended.latest += 1;
        let (number, was_empty) = (ended.latest, ended.connections.is_empty());
        if epoll::add(&self.epoll, &socket, EventData::new_u64(number), EventFlags::IN).is_err() {
            // Dropping the socket closes it.
            return;
        }
        let deadline = Instant::now() + TIME;
        ended.connections.insert(number, Connection { socket, deadline, received: 0 });
        if was_empty {
            // The thread waits without a deadline. A full counter has woken it already.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    /// The body of the thread, which lasts as long as the process.
    fn run(&self) {
        let mut events = Vec::with_capacity(BATCH);
        let mut piece = vec![0; PIECE];
        loop {
            let timeout = self.close_expired();
            let waited = epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref());
            if let Err(error) = waited
                && error != rustix::io::Errno::INTR
            {
                error!("clients may lose the last response of a connection: {error}");
                return;
            }
            for event in events.drain(..) {
                match event.data.u64() {
                    WAKE => drop(rustix::io::read(&self.wake, &mut [0; 8])),
                    number => self.receive(number, &mut piece),
                }
            }
        }
    }

    /// Receives and drops some input.
    fn receive(&self, number: u64, piece: &mut [u8]) {
        let mut ended = self.ended();
        let Some(connection) = ended.connections.get_mut(&number) else { return };
        let received = recv(&connection.socket, piece, RecvFlags::DONTWAIT).map(|(len, _)| len);
        let more = match received {
            Ok(len) => {
                connection.received += len;
                len > 0 && connection.received < MAX_RECEIVED
            }
            Err(error) => matches!(error, rustix::io::Errno::AGAIN | rustix::io::Errno::INTR),
        };
        if !more {
            self.close(&mut ended, number);
        }
    }

    /// Closes those whose time is over, and returns the remaining time of the next one.
    fn close_expired(&self) -> Option<Timespec> {
        let mut ended = self.ended();
        loop {
            let (_, oldest) = ended.connections.first_key_value()?;
            let left = oldest.deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                return Timespec::try_from(left).ok();
            }
            self.close_oldest(&mut ended);
        }
    }

    fn close_oldest(&self, ended: &mut Ended) {
        if let Some(number) = ended.connections.keys().next().copied() {
            self.close(ended, number);
        }
    }

    fn close(&self, ended: &mut Ended, number: u64) {
        if let Some(connection) = ended.connections.remove(&number) {
            // Closing does not remove it while the thread that served it holds the socket.
            let _ = epoll::delete(&self.epoll, &connection.socket);
        }
    }

    fn ended(&self) -> MutexGuard<'_, Ended> {
        // Each change of the map is a single call, so a panic leaves it whole.
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{ErrorKind, Read, Write};
    use std::net::TcpListener;

    fn end_one(lingering: &Lingering) -> TcpStream {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        lingering.end(&Transport::from(listener.accept().unwrap().0));
        client
    }

    /// Whether the other side has closed the socket: it answers what is sent with a reset.
    fn is_closed(mut client: &TcpStream) -> bool {
        client.write_all(b"x").is_err()
            || client.take_error().unwrap().is_some()
            || client.peek(&mut [0]).is_err()
    }

    #[test]
    fn one_too_many_has_the_oldest_closed() {
        let lingering = Lingering::new().unwrap();
        let clients: Vec<_> = (0..MAX + 3).map(|_| end_one(&lingering)).collect();
        for client in &clients[..3] {
            while !is_closed(client) {}
        }
        assert!(lingering.0.ended().connections.len() <= MAX);
    }

    #[test]
    fn what_still_comes_is_received_until_the_client_closes_or_sends_too_much() {
        let lingering = Lingering::new().unwrap();
        let mut client = end_one(&lingering);
        client.write_all(&vec![0; MAX_RECEIVED / 4]).unwrap();
        // The end of what the server sent, and no reset.
        assert_eq!(client.read(&mut [0]).unwrap(), 0);
        drop(client);
        let mut endless = end_one(&lingering);
        let began = Instant::now();
        let error = loop {
            if let Err(error) = endless.write_all(&[0; PIECE]) {
                break error;
            }
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe));
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
