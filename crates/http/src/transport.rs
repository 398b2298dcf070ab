//! What carries the bytes of a connection.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::net::RecvFlags;
use smol_str::SmolStr;

use super::socket::{SEND_SIZE, send_at_once, send_piece};
use super::tls::Tls;

/// How much is received at a time, in bytes. Most requests are smaller.
pub(super) const RECEIVE_SIZE: usize = 2048;

/// One end of a connection. A clone is the same end.
#[derive(Clone)]
pub enum Transport {
    /// A socket without encryption.
    Plain(Arc<TcpStream>),
    /// A socket with TLS.
    Tls(Arc<Tls>),
    /// Two buffers in memory, for tests.
    Memory(Memory),
}

/// Shuts down the receiving side of a connection, from any thread. What has been received can still
/// be answered.
pub struct ShutdownHandle(Option<Arc<TcpStream>>);

impl ShutdownHandle {
    /// Receives nothing more.
    pub fn end(&self) {
        if let Some(socket) = &self.0 {
            // Fails if the connection is gone already.
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(Arc::new(socket))
    }
}

/// What a client in memory has sent and received.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Exchanged>>);

#[derive(Default)]
struct Exchanged {
    input: io::Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Memory {
    /// A client that has sent `input` and ended its side.
    pub fn new(input: impl Into<Vec<u8>>) -> Self {
        let input = io::Cursor::new(input.into());
        Self(Arc::new(Mutex::new(Exchanged { input, output: Vec::new() })))
    }

    /// What it has received since the last call.
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut self.exchanged().output)
    }

    fn exchanged(&self) -> MutexGuard<'_, Exchanged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport {
    /// Limits how long a call may block.
    pub(super) fn set_timeouts(&self, read: Duration, write: Duration) -> io::Result<()> {
        if let Some(socket) = self.socket() {
            socket.set_write_timeout(Some(write))?;
        }
        self.set_read_timeout(read)
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.set_read_timeout(Some(timeout)),
            Self::Tls(tls) => tls.set_read_timeout(timeout),
            Self::Memory(_) => Ok(()),
        }
    }

    /// Waits for input and appends it; 0 at the end of the input.
    pub(super) fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        into.reserve(RECEIVE_SIZE);
        match self {
            Self::Plain(socket) => Ok(rustix::io::retry_on_intr(|| {
                rustix::net::recv(socket, spare_capacity(into), RecvFlags::empty())
            })?
            .1),
            Self::Tls(tls) => tls.receive(into),
            Self::Memory(memory) => {
                let input = &mut memory.exchanged().input;
                input.take(RECEIVE_SIZE as u64).read_to_end(into)
            }
        }
    }

    /// Appends input that is there already; 0 if there is none.
    pub(super) fn receive_at_once(&self, into: &mut Vec<u8>) -> usize {
        into.reserve(RECEIVE_SIZE);
        match self {
            Self::Plain(socket) => {
                rustix::net::recv(socket, spare_capacity(into), RecvFlags::DONTWAIT)
                    .map_or(0, |(len, _)| len)
            }
            Self::Tls(tls) => tls.receive_at_once(into),
            Self::Memory(_) => 0,
        }
    }

    /// Sends bytes; each [`SEND_SIZE`] of them has to be taken in time.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket) => {
                bytes.chunks(SEND_SIZE).try_for_each(|piece| send_piece(socket, piece))
            }
            Self::Tls(tls) => tls.send(bytes),
            Self::Memory(memory) => {
                memory.exchanged().output.extend_from_slice(bytes);
                Ok(())
            }
        }
    }

    /// Sends as much as is possible without blocking, and returns how much; over TLS and in memory,
    /// all of it.
    pub(super) fn send_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => send_at_once(socket, bytes),
            Self::Tls(_) | Self::Memory(_) => self.send(bytes).map(|()| bytes.len()),
        }
    }

    /// Tells the client that nothing more will be sent.
    pub(super) fn end_sending(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(tls) => tls.end_sending(),
            Self::Memory(_) => Ok(()),
        }
    }

    /// A handle that ends the connection from another thread.
    pub(super) fn shutdown_handle(&self) -> ShutdownHandle {
        match self {
            Self::Plain(socket) => ShutdownHandle(Some(Arc::clone(socket))),
            Self::Tls(tls) => ShutdownHandle(Some(Arc::clone(tls.socket()))),
            Self::Memory(_) => ShutdownHandle(None),
        }
    }

    /// The socket; a client in memory has none.
    pub(super) fn socket(&self) -> Option<&Arc<TcpStream>> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.socket()),
            Self::Memory(_) => None,
        }
    }

    /// The TLS session, if there is one.
    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Plain(_) | Self::Memory(_) => None,
        }
    }

    /// The user named by the client's certificate.
    pub(super) fn user(&self) -> Option<&SmolStr> {
        self.tls()?.user()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use nix::sys::pthread::{pthread_kill, pthread_self};
    use nix::sys::signal::Signal;
    use signal_hook::consts::SIGUSR1;

    #[test]
    fn a_send_goes_on_after_a_signal() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut remote = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (socket, _) = listener.accept().unwrap();
        socket.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
        // More than fits into the socket's buffers.
        const LEN: usize = 32 * 1024 * 1024;
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, Arc::clone(&interrupted)).unwrap();
        let (sender, ids) = std::sync::mpsc::channel();
        let sending = thread::spawn(move || {
            sender.send(pthread_self()).unwrap();
            Transport::from(socket).send(&vec![b'x'; LEN])
        });
        let id = ids.recv().unwrap();
        // It blocks within a piece, as nobody reads yet.
        for _ in 0..100 {
            pthread_kill(id, Signal::SIGUSR1).unwrap();
            // Nothing more is sent on this channel: this is a pause.
            let _ = ids.recv_timeout(Duration::from_millis(1));
        }
        let mut received = 0;
        let mut buffer = vec![0; 100_000];
        while received < LEN {
            let read = remote.read(&mut buffer).unwrap();
            assert_ne!(read, 0, "the rest was not sent");
            received += read;
        }
        sending.join().unwrap().unwrap();
        assert!(interrupted.load(Ordering::SeqCst));
    }
}
