//! What carries the bytes of a connection.

use std::io::{self, Read};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use smol_str::SmolStr;

use super::tls::Tls;

/// How long a client may take to accept a piece of its response.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is received at a time, in bytes. Most requests are smaller.
pub(super) const RECEIVE_SIZE: usize = 2048;

/// How much is sent at a time, in bytes. Most responses are smaller.
pub(super) const SEND_SIZE: usize = 64 * 1024;

/// One end of a connection. A clone is the same end.
#[derive(Clone)]
pub enum Transport {
    /// A socket, with the bytes as they are.
    Plain(Arc<TcpStream>),
    /// A socket, with the bytes encrypted.
    Tls(Arc<Tls>),
    /// What is received is there already, and what is sent is kept: for tests.
    Memory(Memory),
}

/// Ends a connection from another thread, which then receives nothing more. What has been received
/// can still be answered.
pub struct HangUp(Option<Arc<TcpStream>>);

impl HangUp {
    /// Ends it.
    pub fn end(&self) {
        if let Some(socket) = &self.0 {
            // Fails if the client has gone, too.
            let _ = socket.shutdown(Shutdown::Read);
        }
    }
}

impl From<TcpStream> for Transport {
    fn from(socket: TcpStream) -> Self {
        Self::Plain(Arc::new(socket))
    }
}

/// What a client in memory has sent, and what it got.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Exchanged>>);

#[derive(Default)]
struct Exchanged {
    input: io::Cursor<Vec<u8>>,
    output: Vec<u8>,
}

impl Memory {
    /// A client that has sent this, and will not send any more.
    pub fn new(input: impl Into<Vec<u8>>) -> Self {
        let input = io::Cursor::new(input.into());
        Self(Arc::new(Mutex::new(Exchanged { input, output: Vec::new() })))
    }

    /// What it has been sent since the last call.
    pub fn take_output(&self) -> Vec<u8> {
        std::mem::take(&mut self.exchanged().output)
    }

    fn exchanged(&self) -> MutexGuard<'_, Exchanged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Transport {
    /// Limits how long a call may wait for the client.
    pub(super) fn set_timeouts(&self, read: Duration) -> io::Result<()> {
        if let Some(socket) = self.socket() {
            socket.set_write_timeout(Some(WRITE_TIMEOUT))?;
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

    /// Waits for input, which is appended. 0: the client will not send anything more.
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

    /// Sends bytes; each [`SEND_SIZE`] of them has to be taken within about [`WRITE_TIMEOUT`].
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

    /// Sends what the client takes without being waited for, and tells how much that is; all of it
    /// where nobody knows before.
    pub(super) fn send_at_once(&self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Plain(socket) = self else { return self.send(bytes).map(|()| bytes.len()) };
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        match rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, flags)) {
            Ok(sent) => Ok(sent),
            Err(Errno::AGAIN) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that nothing more will be sent.
    pub(super) fn end_sending(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.shutdown(Shutdown::Write),
            Self::Tls(tls) => tls.end_sending(),
            Self::Memory(_) => Ok(()),
        }
    }

    /// By which it is ended.
    pub(super) fn hang_up(&self) -> HangUp {
        match self {
            Self::Plain(socket) => HangUp(Some(Arc::clone(socket))),
            Self::Tls(tls) => HangUp(Some(Arc::clone(tls.socket()))),
            Self::Memory(_) => HangUp(None),
        }
    }

    /// The socket below; a client in memory has none.
    pub(super) fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(tls) => Some(tls.socket()),
            Self::Memory(_) => None,
        }
    }

    /// The session, if the bytes are encrypted.
    pub(super) fn tls(&self) -> Option<&Arc<Tls>> {
        match self {
            Self::Tls(tls) => Some(tls),
            Self::Plain(_) | Self::Memory(_) => None,
        }
    }

    /// Whom the client's certificate names.
    pub(super) fn user(&self) -> Option<&SmolStr> {
        self.tls()?.user()
    }
}

pub(super) fn send_piece(socket: &TcpStream, mut piece: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    loop {
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(socket, piece, SendFlags::NOSIGNAL))?;
        piece = &piece[sent..];
        if piece.is_empty() {
            return Ok(());
        }
        // A send that has to wait ends short when its time is up, or for a signal.
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
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
        socket.set_write_timeout(Some(WRITE_TIMEOUT)).unwrap();
        // So much that the kernel takes it only in parts.
        const LEN: usize = 32 * 1024 * 1024;
        let interrupted = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(SIGUSR1, Arc::clone(&interrupted)).unwrap();
        let (sender, ids) = std::sync::mpsc::channel();
        let sending = thread::spawn(move || {
            sender.send(pthread_self()).unwrap();
            Transport::from(socket).send(&vec![b'x'; LEN])
        });
        let id = ids.recv().unwrap();
        // It waits within a piece, as nobody reads yet.
        for _ in 0..100 {
            pthread_kill(id, Signal::SIGUSR1).unwrap();
            // The thread sends nothing more there: this is a pause.
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
