//! The connections of the client. ureq's own would wait for the answer of a host that is gone
//! for as long as the lock is waited for; these notice within 40 seconds.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use socket2::{SockRef, TcpKeepalive};
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};

/// Asks a silent host whether it is still there.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(10))
    .with_interval(Duration::from_secs(10))
    .with_retries(3);

/// Opens connections that notice when the other host is gone.
#[derive(Debug)]
pub(super) struct WithKeepalive;

impl<In: Transport> Connector<In> for WithKeepalive {
    type Out = Socket;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _chained: Option<In>,
    ) -> Result<Option<Socket>, Error> {
        let stream = connect(details)?;
        stream.set_nodelay(true)?;
        SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Socket { stream, buffers }))
    }
}

/// Tries one address after the other; those that are left share the time that is left.
fn connect(details: &ConnectionDetails<'_>) -> Result<TcpStream, Error> {
    let until = limit(details.timeout).map(|limit| Instant::now() + limit);
    let mut last = Error::HostNotFound;
    let mut left = u32::try_from(details.addrs.len()).unwrap_or(u32::MAX);
    for address in &details.addrs {
        let connected = match until {
            None => TcpStream::connect(address),
            Some(until) => {
                let share = until.saturating_duration_since(Instant::now()) / left.max(1);
                TcpStream::connect_timeout(address, share.max(Duration::from_millis(1)))
            }
        };
        left = left.saturating_sub(1);
        match connected {
            Ok(stream) => return Ok(stream),
            Err(error) if error.kind() == ErrorKind::TimedOut => {
                last = Error::Timeout(ureq::Timeout::Connect);
            }
            Err(error) => last = error.into(),
        }
    }
    Err(last)
}

/// A connection.
#[derive(Debug)]
pub(super) struct Socket {
    stream: TcpStream,
    buffers: LazyBuffers,
}

impl Transport for Socket {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        self.stream.set_write_timeout(not_zero(timeout)?)?;
        let sent = self.stream.write_all(&self.buffers.output()[..amount]);
        sent.map_err(|error| in_time(error, timeout))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let until = not_zero(timeout)?.map(|limit| Instant::now() + limit);
        let received = loop {
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Err(Error::Timeout(timeout.reason));
            }
            self.stream.set_read_timeout(left)?;
            match self.stream.read(self.buffers.input_append_buf()) {
                // By a signal, which is not for this thread.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.map_err(|error| in_time(error, timeout))?,
            }
        };
        self.buffers.input_appended(received);
        Ok(received > 0)
    }

    fn is_open(&mut self) -> bool {
        // Nothing was asked, so the only thing that may have come is the end.
        let mut byte = [0];
        self.stream.set_nonblocking(true).is_ok()
            && matches!(self.stream.peek(&mut byte), Err(error) if error.kind() == ErrorKind::WouldBlock)
            && self.stream.set_nonblocking(false).is_ok()
    }
}

fn limit(timeout: NextTimeout) -> Option<Duration> {
    if timeout.after.is_not_happening() { None } else { Some(*timeout.after) }
}

fn not_zero(timeout: NextTimeout) -> Result<Option<Duration>, Error> {
    match limit(timeout) {
        Some(Duration::ZERO) => Err(Error::Timeout(timeout.reason)),
        limit => Ok(limit),
    }
}

/// A time-out of the socket is one of the request; that of keep-alive is the end of the host.
fn in_time(error: std::io::Error, timeout: NextTimeout) -> Error {
    if error.raw_os_error() == Some(Errno::AGAIN.raw_os_error()) {
        Error::Timeout(timeout.reason)
    } else {
        error.into()
    }
}
