//! TLS over a socket.
//!
//! The session is behind a mutex, which is never held while a call waits for the client: the thread
//! of the connection waits on the socket alone, and the one that notices departures looks into a
//! session whose connection sleeps.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SendFlags};
use rustls::ServerConfig;
use rustls::server::ServerConnection;
use smol_str::SmolStr;
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

use super::transport::{SEND_SIZE, send_piece};

/// How much is received at a time, in bytes.
const RECEIVE_SIZE: usize = 4096;

/// The first byte of whoever begins a handshake.
const HANDSHAKE: u8 = 0x16;

/// A session, whose handshake is over.
pub struct Tls {
    socket: Arc<TcpStream>,
    session: Mutex<Session>,
    /// Whom the client's certificate names.
    user: Option<SmolStr>,
}

struct Session {
    connection: ServerConnection,
    /// What has come and was not asked for yet.
    received: Vec<u8>,
    /// How long a call waits for the client.
    read_timeout: Duration,
    /// The client has said that it will send nothing more.
    ended: bool,
    /// It was told the same.
    ending: bool,
}

/// Why there is no session.
#[derive(Debug)]
pub enum NotEncrypted {
    /// The client speaks something else; perhaps HTTP as it is.
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
    /// Shakes hands, until the deadline.
    pub(super) fn accept(
        socket: Arc<TcpStream>,
        config: Arc<ServerConfig>,
        deadline: Instant,
    ) -> Result<Self, NotEncrypted> {
        let mut connection = ServerConnection::new(config).map_err(io::Error::other)?;
        // What is sent is cut into pieces before.
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
            // Also the alert that says why it failed.
            let sent = send_piece(&socket, &session.take_outgoing()?);
            fed?;
            sent?;
        }
        let user = session.connection.peer_certificates().and_then(|chain| user_of(chain.first()?));
        Ok(Self { socket, session: Mutex::new(session), user })
    }

    /// The socket below.
    pub(super) fn socket(&self) -> &Arc<TcpStream> {
        &self.socket
    }

    /// Whom the client's certificate names: its first DNS name, or else its common name.
    pub(super) fn user(&self) -> Option<&SmolStr> {
        self.user.as_ref()
    }

    pub(super) fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        self.session().read_timeout = timeout;
        self.socket.set_read_timeout(Some(timeout))
    }

    /// Waits for input, which is appended. 0: the client will not send anything more.
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

    /// What has come; `None` if there is nothing yet.
    fn take_received(&self, into: &mut Vec<u8>) -> Option<usize> {
        let mut session = self.session();
        let len = session.received.len();
        into.append(&mut session.received);
        session.received.shrink_to(RECEIVE_SIZE);
        if len > 0 || session.ended { Some(len) } else { None }
    }

    /// Receives once. `again`: not with the time-out that the socket has, but until the deadline.
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

    /// Sends bytes, in pieces that each have to be taken in time.
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

    /// Says that nothing more will be sent.
    pub(super) fn end_sending(&self) -> io::Result<()> {
        let to_send = self.session().end()?;
        if !to_send.is_empty() {
            send_piece(&self.socket, &to_send)?;
        }
        self.socket.shutdown(Shutdown::Write)
    }

    /// Whether the client has said, as far as it has come here, that it will send nothing more.
    /// Takes what has come, and waits for nothing. Only while nobody receives.
    pub(super) fn has_ended(&self) -> bool {
        let mut session = self.session();
        // Behind a request that has come already, there may be any number of others.
        if session.ended || !session.received.is_empty() {
            return session.ended;
        }
        let mut buffer = [0; RECEIVE_SIZE];
        match receive(&self.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(len @ 1..) => session.feed(&buffer[..len]).is_err() || session.ended,
            // The end of the connection is told by the socket.
            Ok(0) | Err(_) => false,
        }
    }

    /// Whether something has come that was not asked for yet.
    pub(super) fn has_received(&self) -> bool {
        !self.session().received.is_empty()
    }

    fn session(&self) -> MutexGuard<'_, Session> {
        // A session that was left in the middle has failed, and says so.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client that is not told of the end could not tell it from somebody who cuts the connection.
impl Drop for Tls {
    fn drop(&mut self) {
        if let Ok(to_send) = self.session().end() {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            // Fails if the client is gone, or has not read for long.
            let _ = rustix::net::send(&*self.socket, &to_send, flags);
        }
    }
}

impl Session {
    /// Takes bytes of the client.
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

    /// What is to be sent, encrypted.
    fn take_outgoing(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        while self.connection.wants_write() {
            self.connection.write_tls(&mut bytes)?;
        }
        Ok(bytes)
    }

    /// What says that nothing more will be sent, the first time.
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

/// Whom a certificate names.
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
