//! A body that is sent while it is produced.

use std::io::{self, Write};

use super::departures::Client;

/// How much is buffered before it is sent, in bytes: all the memory that a slow client costs.
const SIZE: usize = 16 * 1024;

/// Of a fixed width, so that it can be filled in when the size is known.
const SIZE_LINE: &[u8] = b"000000\r\n";

/// Buffers a body, and sends it as chunks whenever the buffer is full or flushed.
pub struct BodyWriter<'a> {
    client: Client<'a>,
    /// What is sent next; at first the head, too.
    buffer: Vec<u8>,
    /// Where the data of the next chunk begins in the buffer; `None` if there are no chunks.
    chunk: Option<usize>,
    /// Sending has failed, so no later write blocks on the client.
    broken: bool,
}

impl<'a> BodyWriter<'a> {
    /// A body after `head`, in chunks or up to the end of the connection.
    pub(super) fn new(client: Client<'a>, head: Vec<u8>, chunked: bool) -> Self {
        let mut body_writer = Self { client, buffer: head, chunk: None, broken: false };
        if chunked {
            body_writer.begin_chunk();
        }
        body_writer
    }

    /// The client that receives it.
    pub fn client(&self) -> Client<'a> {
        self.client
    }

    /// Sends the rest and the end.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.end_chunk();
        if self.chunk.is_some() {
            self.buffer.extend_from_slice(b"0\r\n\r\n");
        }
        self.send()
    }

    fn send(&mut self) -> io::Result<()> {
        if self.broken {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.client.transport().send(&self.buffer).inspect_err(|_| self.broken = true)
    }

    fn begin_chunk(&mut self) {
        self.buffer.extend_from_slice(SIZE_LINE);
        self.chunk = Some(self.buffer.len());
    }

    /// Completes the chunk, or removes it if it is empty: an empty chunk would end the body.
    fn end_chunk(&mut self) {
        let Some(data) = self.chunk else { return };
        let line = data - SIZE_LINE.len();
        match self.buffer.len() - data {
            0 => self.buffer.truncate(line),
            size => {
                let digits = format!("{size:06x}");
                self.buffer[line..line + digits.len()].copy_from_slice(digits.as_bytes());
                self.buffer.extend_from_slice(b"\r\n");
            }
        }
    }
}

impl Write for BodyWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let len = bytes.len().min(SIZE);
        self.buffer.extend_from_slice(&bytes[..len]);
        if self.buffer.len() >= SIZE {
            self.flush()?;
        }
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.end_chunk();
        self.send()?;
        self.buffer.clear();
        if self.chunk.is_some() {
            self.begin_chunk();
        }
        Ok(())
    }
}
