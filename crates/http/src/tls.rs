//! TLS over a socket.
//!
//! The session is behind a mutex that is never held while a call blocks on the client: the thread of
//! the connection blocks on the socket alone, so the thread that notices departures can look into the
//! session meanwhile.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use rustls::ServerConfig;
use rustls::server::ServerConnection;
use smol_str::SmolStr;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::socket::{SEND_SIZE, send_at_once, send_piece};

/// How much is received at a time, in bytes.
const RECEIVE_SIZE: usize = 4096;

/// The first byte of a TLS handshake.
const HANDSHAKE: u8 = 0x16;

/// A session whose handshake is complete.
pub struct Tls {
    socket: Arc<TcpStream>,
    session: Mutex<Session>,
    /// The user named by the client's certificate.
    user: Option<SmolStr>,
}

struct Session {
    connection: ServerConnection,
    /// Decrypted input that no call of `receive` has taken yet.
    received: Vec<u8>,
    /// How long a call of `receive` waits.
    read_timeout: Duration,
    /// The client has ended its side.
    ended: bool,
    /// This side has ended, too.
    ending: bool,
}

/// Why there is no session.
#[derive(Debug)]
pub enum NotEncrypted {
    /// The client does not speak TLS; perhaps plain HTTP.
    NotTls,
    /// The handshake failed, or took too long.
    Failed(io::Error),
}

impl From<io::Error> for NotEncrypted {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl Tls {
    /// Performs the handshake, until the deadline.
    pub(super) fn accept(
        socket: Arc<TcpStream>,
        config: Arc<ServerConfig>,
        deadline: Instant,
    ) -> Result<Self, NotEncrypted> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // Never more than a piece is written at once.
        connection.set_buffer_limit(None);
        let (received, read_timeout) = (Vec::new(), Duration::ZERO);
        let mut session =
            Session { connection, received, read_timeout, ended: false, ending: false };
        let mut buffer = [0; RECEIVE_SIZE];
        let mut begun = false;
        while session.connection.is_handshaking() {
            wait_until(&socket, deadline)?;
            let len = receive(&socket, &mut buffer, RecvFlags::empty())?;
            if len == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            if !begun && buffer[0] != HANDSHAKE {
                return Err(NotEncrypted::NotTls);
            }
            begun = true;
            let fed = session.feed(&buffer[..len]);
            // Includes the alert that says why the handshake failed.
            let sent = send_piece(&socket, &session.take_outgoing()?);
            fed?;
            sent?;
        }
        let user = session.connection.peer_certificates().and_then(|chain| user_of(chain.first()?));
        Ok(Self { socket, session: Mutex::new(session), user })
    }

    /// The socket that carries it.
    pub(super) fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// The user named by the client's certificate: its first DNS name, or else its common name.
    pub(super) fn user(&self) -> Option<&SmolStr> {
        self.user.as_ref()
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.session().read_timeout = timeout;
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Waits for input and appends it; 0 at the end of the input.
    pub(super) fn receive(&self, into: &mut Vec<u8>) -> io::Result<usize> {
        let timeout = self.session().read_timeout;
        let deadline = Instant::now() + timeout;
        let mut receptions = 0;
        let received = loop {
            if let Some(len) = self.take_received(into) {
                break Ok(len);
            }
            if let Err(error) = self.receive_some(deadline, receptions > 0) {
                break Err(error);
            }
            receptions += 1;
        };
        if receptions > 1 {
            self.socket.set_read_timeout(Some(timeout))?;
        }
        received
    }

    /// Appends input that is there already; 0 if there is none.
    pub(super) fn receive_at_once(&self, into: &mut Vec<u8>) -> usize {
        self.has_ended();
        self.take_received(into).unwrap_or(0)
    }

    /// Takes what has been received; `None` if there is nothing yet.
    fn take_received(&self, into: &mut Vec<u8>) -> Option<usize> {
        let mut session = self.session();
        let len = session.received.len();
        into.append(&mut session.received);
        session.received.shrink_to(RECEIVE_SIZE);
        if len > 0 || session.ended { Some(len) } else { None }
    }

    /// Receives once, by the socket's own time-out at first, and `again` until the deadline.
    fn receive_some(&self, deadline: Instant, again: bool) -> io::Result<()> {
        let mut buffer = [0; RECEIVE_SIZE];
        if again {
            wait_until(&self.socket, deadline)?;
        }
        let len = receive(&self.socket, &mut buffer, RecvFlags::empty())?;
        let (fed, to_send) = {
            let mut session = self.session();
            session.ended |= len == 0;
            (session.feed(&buffer[..len]), session.take_outgoing()?)
        };
        if !to_send.is_empty() {
            send_piece(&self.socket, &to_send)?;
        }
        fed
    }

    /// Sends bytes, in pieces with a time-out each.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(SEND_SIZE) {
            let to_send = {
                let mut session = self.session();
                session.connection.writer().write_all(piece)?;
                session.take_outgoing()?
            };
            send_piece(&self.socket, &to_send)?;
        }
        Ok(())
    }

    /// Tells the client that nothing more will be sent.
    pub(super) fn end_sending(&self) -> io::Result<()> {
        let to_send = self.session().end()?;
        if !to_send.is_empty() {
            send_piece(&self.socket, &to_send)?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Whether the client has ended its side, as far as that has arrived. Does not block; must not
    /// run at the same time as `receive`.
    pub(super) fn has_ended(&self) -> bool {
        let mut session = self.session();
        // A client that pipelines could make this buffer grow without limit.
        if session.ended || !session.received.is_empty() {
            return session.ended;
        }
        let mut buffer = [0; RECEIVE_SIZE];
        match receive(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(len @ 1..) => session.feed(&buffer[..len]).is_err() || session.ended,
            // The socket itself reports the end of the connection.
            Ok(0) | Err(_) => false,
        }
    }

    /// Whether there is input that no call of `receive` has taken yet.
    pub(super) fn has_received(&self) -> bool {
        !self.session().received.is_empty()
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // After a panic, a session that is not whole fails with the next call.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Without a close_notify, the client could not tell the end from a truncation by an attacker.
impl Drop for Tls {
    fn drop(&mut self) {
        if let Ok(to_send) = self.session().end() {
            // Fails if the client is gone.
            let _ = send_at_once(&self.socket, &to_send);
        }
    }
}

impl Session {
    /// Decrypts bytes of the client.
    fn feed(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            self.connection.read_tls(&mut bytes)?;
            let state = self.connection.process_new_packets().map_err(malformed)?;
            self.ended |= state.peer_has_closed();
            let len = state.plaintext_bytes_to_read() as u64;
            self.connection.reader().take(len).read_to_end(&mut self.received)?;
        }
        Ok(())
    }

    /// The encrypted bytes to send.
    fn take_outgoing(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// The bytes that end this side; those of close_notify the first time only.
    fn end(&mut self) -> io::Result<Vec<u8>> {
        if !std::mem::replace(&mut self.ending, true) {
            self.connection.send_close_notify();
        }
        self.take_outgoing()
    }
}

fn wait_until(socket: &TcpStream, deadline: Instant) -> io::Result<()> {
    match deadline.checked_duration_since(Instant::now()) {
        Some(left) if !left.is_zero() => socket.set_read_timeout(Some(left)),
        _ => Err(io::ErrorKind::TimedOut.into()),
    }
}

fn receive(socket: &TcpStream, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
    let received = rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *buffer, flags));
    Ok(received?.1)
}

fn malformed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The user named by a certificate.
fn user_of(certificate: &[u8]) -> Option<SmolStr> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let certificate = certificate.tbs_certificate();
    let names = certificate.get_extension::<SubjectAltName>().ok()?;
    let dns_name = names.and_then(|(_, SubjectAltName(names))| {
        names.iter().find_map(|name| match name {
            GeneralName::DnsName(name) => Some(SmolStr::from(name.as_str())),
            _ => None,
        })
    });
    let common_name = || certificate.subject().common_name().ok()?;
    dns_name.or_else(|| common_name().map(|name| SmolStr::from(name.value())))
}
