//! Long answers in less, for clients that take gzip (RFC 9110, section 8.4.1.3).

use std::io::{self, BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::http::{Outgoing, Request, Response, Status};

/// How many answers are compressed at a time: each takes a third of a megabyte. Further ones are
/// sent as they are.
const MAX: usize = 16;

/// What comes in small pieces is gathered before it is compressed.
const PIECE: usize = 8 * 1024;

/// Compresses lists, a few at a time.
#[derive(Default)]
pub(super) struct Gzip {
    running: Arc<AtomicUsize>,
}

struct Place(Arc<AtomicUsize>);

impl Gzip {
    /// A body that is made while it is sent, compressed if the client takes that.
    pub(super) fn stream(
        &self,
        request: &Request<'_>,
        content_type: &'static str,
        body: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Response {
        let response = Response::new(Status::Ok).header("Vary", "Accept-Encoding");
        let Some(place) = is_accepted(request).then(|| self.enter()).flatten() else {
            return response.stream(content_type, move |out| body(out));
        };
        let compressed = move |out: &mut Outgoing<'_>| {
            let _place = place;
            let encoder = GzEncoder::new(out, Compression::fast());
            let mut gathered = BufWriter::with_capacity(PIECE, encoder);
            body(&mut gathered)?;
            let encoder = gathered.into_inner().map_err(|error| error.into_error())?;
            encoder.finish().map(drop)
        };
        response.header("Content-Encoding", "gzip").stream(content_type, compressed)
    }

    fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.running));
        (self.running.fetch_add(1, Ordering::SeqCst) < MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Whether a client takes gzip.
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

/// A text that is sent often, in as little as can be.
pub(super) fn compressed(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    // Writing to a Vec cannot fail.
    let _ = encoder.write_all(text);
    encoder.finish().unwrap_or_default()
}
