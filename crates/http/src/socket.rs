//! What all sockets of clients have in common: keepalive, and how they are written to.

use std::io;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::SendFlags;
use socket2::TcpKeepalive;

/// How long a client may take to accept a piece of its response, at most: the socket's own time-out
/// for a send may be shorter.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// How much is sent at a time, in bytes. Most responses are smaller.
pub(super) const SEND_SIZE: usize = 64 * 1024;

/// The kernel probes the host of a silent client after 30 s, then three times every 10 s.
pub(super) const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(30))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Sends all of `piece`, within about [`WRITE_TIMEOUT`].
pub(super) fn send_piece(socket: &TcpStream, mut piece: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + WRITE_TIMEOUT;
    loop {
        let sent =
            rustix::io::retry_on_intr(|| rustix::net::send(socket, piece, SendFlags::NOSIGNAL))?;
        piece = &piece[sent..];
        if piece.is_empty() {
            return Ok(());
        }
        // A blocking send returns early on a time-out or a signal.
        if Instant::now() >= deadline {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}

/// Sends as much as the socket's buffer has room for, without blocking.
pub(super) fn send_at_once(socket: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    match rustix::io::retry_on_intr(|| rustix::net::send(socket, bytes, flags)) {
        Ok(sent) => Ok(sent),
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
