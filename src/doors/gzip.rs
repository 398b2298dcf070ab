//! Gzip for long responses (RFC 9110, section 8.4.1.3; RFC 1952).

use std::io::{self, BufWriter, Write};
use std::thread;

use flate2::write::{DeflateEncoder, GzEncoder};
use flate2::{Compression, Crc};

use super::at_most::AtMost;
use crate::http::{BodyWriter, Request, Response, Status};

/// How many responses are compressed at a time: each takes a third of a megabyte. More are sent
/// uncompressed.
const MAX: usize = 16;

/// Small writes are buffered up to this size before compression.
const PIECE: usize = 8 * 1024;

/// Building a compressor needs a larger stack than a connection's thread has.
const STACK: usize = 2 * 1024 * 1024;

/// The gzip header: deflate, no name, no time, no system.
const HEAD: &[u8] = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";

type Encoder = DeflateEncoder<Vec<u8>>;

/// Compresses lists, a few at a time.
#[derive(Default)]
pub(super) struct Gzip(AtMost<MAX>);

impl Gzip {
    /// A body that is generated while it is sent, compressed if the client accepts gzip.
    pub(super) fn stream(
        &self,
        request: &Request<'_>,
        content_type: &'static str,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Response {
        let response = Response::new(Status::Ok).header("Vary", "Accept-Encoding");
        let Some(turn) = is_accepted(request).then(|| self.0.enter()).flatten() else {
            return response.stream(content_type, move |out| body(out));
        };
        let Some(encoder) = with_room(|| Encoder::new(Vec::new(), Compression::fast())) else {
            return response.stream(content_type, move |out| body(out));
        };
        let compressed = move |out: &mut BodyWriter<'_>| {
            let _turn = turn;
            out.write_all(HEAD)?;
            let compressing = Compressing { encoder, crc: Crc::new(), out };
            let mut gathered = BufWriter::with_capacity(PIECE, compressing);
            body(&mut gathered)?;
            gathered.into_inner().map_err(|error| error.into_error())?.finish()
        };
        response.header("Content-Encoding", "gzip").stream(content_type, compressed)
    }
}

/// Compresses what is written to it.
struct Compressing<'a, 'o> {
    encoder: Encoder,
    crc: Crc,
    out: &'a mut BodyWriter<'o>,
}

impl Compressing<'_, '_> {
    fn finish(mut self) -> io::Result<()> {
        self.encoder.try_finish()?;
        self.pass_on()?;
        self.out.write_all(&self.crc.sum().to_le_bytes())?;
        self.out.write_all(&self.crc.amount().to_le_bytes())
    }

    fn pass_on(&mut self) -> io::Result<()> {
        self.out.write_all(self.encoder.get_ref())?;
        self.encoder.get_mut().clear();
        Ok(())
    }
}

impl Write for Compressing<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.encoder.write(bytes)?;
        self.crc.update(&bytes[..written]);
        self.pass_on()?;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.encoder.flush()?;
        self.pass_on()?;
        self.out.flush()
    }
}

/// Whether the client accepts gzip.
pub(super) fn is_accepted(request: &Request<'_>) -> bool {
    request.headers.list("Accept-Encoding").any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let is_gzip = ["gzip", "x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip));
        let refused = parts.any(|parameter| {
            let weight = parameter.split_once('=').map(|(_, weight)| weight.trim());
            weight.is_some_and(|weight| weight.parse() == Ok(0.0))
        });
        is_gzip && !refused
    })
}

/// A text that is sent often, compressed as far as possible; empty on failure.
pub(super) fn compressed(text: &'static [u8]) -> Vec<u8> {
    let compressed = with_room(|| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to a Vec cannot fail.
        let _ = encoder.write_all(text);
        encoder.finish().unwrap_or_default()
    });
    compressed.unwrap_or_default()
}

/// Runs this on a larger stack; `None` if no thread can be started.
fn with_room<T: Send + 'static>(make: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    thread::Builder::new().stack_size(STACK).spawn(make).ok()?.join().ok()
}
