//! ureq on these connections. Its own would wait for the response of a host that is gone for as
//! long as a lock is waited for, and start a thread for each look-up of a name; its TLS panics at
//! the first connection if a certificate cannot be used.

use std::io::{self, ErrorKind, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{AlertDescription, ClientConfig};
use socket2::{SockRef, TcpKeepalive};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Error};

use super::names::Names;
use super::stream::{Stream, connect};
use super::tls::server_name;

/// A silent host counts as gone after 40 seconds.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// How a server begins that received a request without TLS and expects a handshake: the type of the
/// record, and the major version.
const TLS_ALERT: [u8; 2] = [21, 3];

/// A pool of connections. Statuses are not errors, and redirects are not followed.
pub fn agent(names: Names, tls: Arc<ClientConfig>) -> Agent {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .max_redirects_will_error(false)
        // Lock servers and etcd are inside; a proxy for the outside does not reach them.
        .proxy(None)
        .user_agent(concat!("rdlm/", env!("CARGO_PKG_VERSION")))
        .build();
    Agent::with_parts(config, Connect { names: names.clone(), tls }, names)
}

#[derive(Debug)]
struct Connect {
    names: Names,
    tls: Arc<ClientConfig>,
}

impl Connector for Connect {
    type Out = Connection;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<()>,
    ) -> Result<Option<Connection>, Error> {
        let deadline = deadline(details.timeout)?;
        // The host may have moved.
        let tcp = connect(&details.addrs, deadline).inspect_err(|_| self.names.refresh());
        let tcp = tcp.map_err(|error| match error.kind() {
            ErrorKind::TimedOut => Error::Timeout(ureq::Timeout::Connect),
            ErrorKind::NotFound => Error::HostNotFound,
            _ => error.into(),
        })?;
        SockRef::from(&tcp).set_tcp_keepalive(&KEEPALIVE)?;
        let stream = if details.needs_tls() {
            let name = details.uri.host().and_then(server_name).ok_or(Error::HostNotFound)?;
            tcp.set_write_timeout(limit(details.timeout)?)?;
            let encrypted = Stream::encrypted(tcp, Arc::clone(&self.tls), name, deadline);
            encrypted.map_err(|error| or_timeout(error, details.timeout))?
        } else {
            Stream::plain(tcp)
        };
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        let is_tls = details.needs_tls();
        Ok(Some(Connection { stream, buffers, is_tls, has_input: false }))
    }
}

#[derive(Debug)]
struct Connection {
    stream: Stream,
    buffers: LazyBuffers,
    is_tls: bool,
    /// Whether any byte was received.
    has_input: bool,
}

impl Transport for Connection {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.tcp().set_write_timeout(limit(timeout)?)?;
        let output = &self.buffers.output()[..amount];
        let sent = self.stream.write_all(output).and_then(|()| self.stream.flush());
        sent.map_err(|error| or_timeout(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        self.stream.set_deadline(deadline(timeout)?)?;
        let received = io::Read::read(&mut self.stream, self.buffers.input_append_buf());
        let received = received.map_err(|error| or_timeout(error, timeout))?;
        self.buffers.input_appended(received);
        let is_first = received > 0 && !std::mem::replace(&mut self.has_input, true);
        if is_first && !self.is_tls && self.buffers.input().starts_with(&TLS_ALERT) {
            let alert = rustls::Error::AlertReceived(AlertDescription::UnexpectedMessage);
            return Err(io::Error::new(ErrorKind::InvalidData, alert).into());
        }
        Ok(received > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.is_idle()
    }

    fn is_tls(&self) -> bool {
        self.is_tls
    }
}

/// What is left of a time-out, which is more than nothing; `None`: there is no time-out.
fn limit(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    match *timeout.after {
        _ if timeout.after.is_not_happening() => Ok(None),
        Duration::ZERO => Err(Error::Timeout(timeout.reason)),
        limit => Ok(Some(limit)),
    }
}

fn deadline(timeout: NextTimeout) -> Result<Option<Instant>, Error> {
    Ok(limit(timeout)?.map(|limit| Instant::now() + limit))
}

/// A time-out of the socket is one of the request, and has the kind `WouldBlock`. `TimedOut` is
/// that of keep-alive: the host is gone.
fn or_timeout(error: io::Error, timeout: NextTimeout) -> Error {
    match error.kind() {
        ErrorKind::WouldBlock => Error::Timeout(timeout.reason),
        _ => error.into(),
    }
}
