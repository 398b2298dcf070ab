//! Connections over TCP or TLS whose reads have a deadline.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

/// Connects to the first of these addresses that answers. Those not yet tried share the time left.
///
/// # Errors
/// That of the last address tried.
pub fn connect(addresses: &[SocketAddr], deadline: Option<Instant>) -> io::Result<TcpStream> {
    let mut last = ErrorKind::NotFound.into();
    for (tried, address) in addresses.iter().enumerate() {
        let connected = match deadline {
            None => TcpStream::connect(address),
            Some(deadline) => {
                let untried = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
                let share = deadline.saturating_duration_since(Instant::now()) / untried;
                TcpStream::connect_timeout(address, share.max(Duration::from_millis(1)))
            }
        };
        match connected {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP alone.
    Plain(Socket),
    /// Over TLS.
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// A TCP connection that another thread can shut down without a second descriptor.
#[derive(Debug)]
pub struct Socket {
    stream: Arc<TcpStream>,
    deadline: Option<Instant>,
}

impl Stream {
    /// A connection without TLS.
    pub fn plain(stream: TcpStream) -> Self {
        Self::Plain(Socket { stream: Arc::new(stream), deadline: None })
    }

    /// Does a TLS handshake, until the deadline at the latest. A read that follows has no deadline.
    ///
    /// # Errors
    /// [`ErrorKind::WouldBlock`] at the deadline, [`ErrorKind::InvalidData`] if the handshake fails.
    pub fn encrypted(
        stream: TcpStream,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        deadline: Option<Instant>,
    ) -> io::Result<Self> {
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut socket = Socket { stream: Arc::new(stream), deadline };
        while session.is_handshaking() {
            while session.wants_write() {
                session.write_tls(&mut socket)?;
            }
            if session.read_tls(&mut socket)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            if let Err(error) = session.process_new_packets() {
                // The alert, for the other side's log.
                let _ = session.write_tls(&mut socket);
                return Err(io::Error::new(ErrorKind::InvalidData, error));
            }
        }
        socket.set_deadline(None)?;
        Ok(Self::Tls(Box::new(StreamOwned::new(session, socket))))
    }

    /// The TCP connection.
    pub fn tcp(&self) -> &Arc<TcpStream> {
        match self {
            Self::Plain(socket) => &socket.stream,
            Self::Tls(session) => &session.sock.stream,
        }
    }

    /// Sets when reads fail with [`ErrorKind::WouldBlock`]; `None`: never.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.set_deadline(deadline),
            Self::Tls(session) => session.sock.set_deadline(deadline),
        }
    }

    /// Whether the connection is open and all its input has been read. To be asked between a
    /// response and the next request, when no input is expected but the end.
    pub fn is_idle(&self) -> bool {
        let mut byte = [0];
        let peeked = self.tcp().set_nonblocking(true).and_then(|()| self.tcp().peek(&mut byte));
        let nothing_came = matches!(peeked, Err(error) if error.kind() == ErrorKind::WouldBlock);
        let all_read = match self {
            Self::Plain(_) => true,
            Self::Tls(session) => session.conn.wants_read(),
        };
        self.tcp().set_nonblocking(false).is_ok() && nothing_came && all_read
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(session) => session.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(session) => session.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(session) => session.flush(),
        }
    }
}

impl Socket {
    fn set_deadline(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.deadline = deadline;
        if deadline.is_none() { self.stream.set_read_timeout(None) } else { Ok(()) }
    }
}

/// TLS may read several times for one read of its user, so each of them gets what is left.
impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if let Some(deadline) = self.deadline {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(ErrorKind::WouldBlock.into());
                }
                self.stream.set_read_timeout(Some(left))?;
            }
            match (&*self.stream).read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        (&*self.stream).flush()
    }
}
