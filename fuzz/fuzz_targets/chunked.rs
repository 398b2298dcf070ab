//! Bodies in chunks: the same whether they come at once or byte by byte, and never too large.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rdlm_http::chunked::ChunkedBody;
use rdlm_http::request::{MAX_BODY, Unreadable};

fuzz_target!(|input: &[u8]| {
    let whole = decode(&[input]);
    let bytes: Vec<_> = input.chunks(1).collect();
    assert_eq!(whole.is_ok(), decode(&bytes).is_ok());
    if let (Ok(whole), Ok(by_bytes)) = (&whole, decode(&bytes)) {
        assert_eq!(whole, &by_bytes);
    }
});

/// The body, if it is complete, and the rest behind it.
fn decode(pieces: &[&[u8]]) -> Result<Option<(Vec<u8>, Vec<u8>)>, Unreadable> {
    let (mut chunks, mut body, mut pending) = (ChunkedBody::default(), Vec::new(), Vec::new());
    for piece in pieces {
        pending.extend_from_slice(piece);
        let used = chunks.decode(&pending, &mut body)?;
        pending.drain(..used);
        assert!(body.len() <= MAX_BODY);
    }
    Ok(chunks.is_complete().then_some((body, pending)))
}
