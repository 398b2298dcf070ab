//! The listening socket.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::connection::Connection;
use super::departures::Departures;
use super::socket::KEEPALIVE;
use super::transport::Transport;

/// How many connections the kernel queues until they are accepted; it lowers this to its own limit
/// (net.core.somaxconn).
const BACKLOG: i32 = 4096;

/// A listening socket.
pub struct Listener {
    socket: TcpListener,
    local_addr: SocketAddr,
    idle_timeout: Duration,
    departures: Arc<Departures>,
}

impl Listener {
    /// Listens on `address`; `[::]` includes IPv4. A connection on which no request begins
    /// within `idle_timeout` ends.
    ///
    /// # Errors
    /// As the operating system gives them: the port is taken, or not allowed.
    pub fn bind(address: SocketAddr, idle_timeout: Duration) -> io::Result<Self> {
        let domain = Domain::for_address(address);
        let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // Otherwise a restart would fail while connections of the last run are in TIME_WAIT.
        socket.set_reuse_address(true)?;
        // Accepted sockets inherit both options. Responses to pipelined requests must not wait for
        // the acknowledgement of the previous one, and connections to hosts that are gone must end.
        socket.set_tcp_nodelay(true)?;
        socket.set_tcp_keepalive(&KEEPALIVE)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let socket = TcpListener::from(socket);
        let local_addr = socket.local_addr()?;
        let departures = Arc::new(Departures::new()?);
        Ok(Self { socket, local_addr, idle_timeout, departures })
    }

    /// The address, with the port that was chosen if 0 was asked for.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// As the operating system gives them; also after [`Listener::close`].
    pub fn accept(&self) -> io::Result<Connection> {
        let (socket, client) = self.socket.accept()?;
        let departures = Arc::clone(&self.departures);
        Connection::new(Transport::from(socket), client.ip(), self.idle_timeout, departures)
    }

    /// Refuses new connections from now on and ends [`Listener::accept`].
    ///
    /// # Errors
    /// As the operating system gives them.
    pub fn close(&self) -> io::Result<()> {
        SockRef::from(&self.socket).shutdown(Shutdown::Both)
    }
}
