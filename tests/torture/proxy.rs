//! A TCP proxy that delays, swallows and cuts what goes through it, in the middle of a message
//! if it comes so.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

pub(crate) struct Proxy {
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
    address: SocketAddr,
}

struct Shared {
    server: SocketAddr,
    delay_ms: AtomicU64,
    swallows: AtomicBool,
    swallows_answers: AtomicBool,
    ended: AtomicBool,
    connections: Mutex<Vec<Arc<Pair>>>,
}

/// The two halves of a connection.
struct Pair {
    client: TcpStream,
    server: TcpStream,
    /// The next message is cut in two, and the connection with it.
    is_doomed: AtomicBool,
}

impl Pair {
    fn cut(&self) {
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
    }
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            server,
            delay_ms: AtomicU64::new(0),
            swallows: AtomicBool::new(false),
            swallows_answers: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            connections: Mutex::default(),
        });
        let acceptor = thread::spawn({
            let shared = Arc::clone(&shared);
            move || shared.accept(&listener)
        });
        Self { shared, acceptor: Some(acceptor), address }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Every message takes longer from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(0);
        self.shared.delay_ms.store(millis, Ordering::Relaxed);
    }

    /// Nothing goes through any more, and nobody is told.
    pub(crate) fn swallow(&self, swallows: bool) {
        self.shared.swallows.store(swallows, Ordering::Relaxed);
    }

    /// Nothing that the server says goes through any more, and nobody is told.
    pub(crate) fn swallow_answers(&self, swallows: bool) {
        self.shared.swallows_answers.store(swallows, Ordering::Relaxed);
    }

    /// Cuts the connections that `choose` takes: at once, or in the middle of the next message.
    pub(crate) fn cut(&self, mut choose: impl FnMut() -> Option<Cut>) {
        let mut connections = self.shared.connections();
        connections.retain(|pair| match choose() {
            Some(Cut::AtOnce) => {
                pair.cut();
                false
            }
            Some(Cut::InTheNextMessage) => {
                pair.is_doomed.store(true, Ordering::Relaxed);
                true
            }
            None => true,
        });
    }
}

#[derive(Clone, Copy)]
pub(crate) enum Cut {
    AtOnce,
    InTheNextMessage,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        self.cut(|| Some(Cut::AtOnce));
        // It looks at the mark with the next connection.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn connections(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Pair>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        for client in listener.incoming().filter_map(Result::ok) {
            if self.ended.load(Ordering::Relaxed) {
                return;
            }
            // If there is no server, the client sees the end of its connection.
            let Ok(server) = TcpStream::connect(self.server) else { continue };
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let pair = Arc::new(Pair { client, server, is_doomed: AtomicBool::new(false) });
            self.connections().push(Arc::clone(&pair));
            for to_server in [true, false] {
                let (shared, pair) = (Arc::clone(self), Arc::clone(&pair));
                thread::spawn(move || {
                    let (from, to) = match to_server {
                        true => (&pair.client, &pair.server),
                        false => (&pair.server, &pair.client),
                    };
                    shared.pump(from, to, to_server, &pair);
                    pair.cut();
                    shared.connections().retain(|other| !Arc::ptr_eq(other, &pair));
                });
            }
        }
    }

    fn pump(&self, mut from: &TcpStream, mut to: &TcpStream, to_server: bool, pair: &Pair) {
        let mut bytes = [0; 16 * 1024];
        while let Ok(len @ 1..) = from.read(&mut bytes) {
            thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)));
            let of_answers = !to_server && self.swallows_answers.load(Ordering::Relaxed);
            if of_answers || self.swallows.load(Ordering::Relaxed) {
                // What follows would make no sense without it.
                pair.is_doomed.store(true, Ordering::Relaxed);
                continue;
            }
            let is_doomed = pair.is_doomed.load(Ordering::Relaxed);
            let len = if is_doomed { len / 2 } else { len };
            if to.write_all(&bytes[..len]).is_err() || is_doomed {
                return;
            }
        }
    }
}
