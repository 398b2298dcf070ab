//! The frame around a record: its length, its number and a checksum. Pure.
//!
//! ```text
//! frame           = checksum (u32) length of the body (u32) number (u64) body; little-endian
//! record          = a frame with a body
//! acknowledgement = a frame without one: the record with this number was acknowledged
//! ```
//! The checksum (CRC-32C) is over everything behind it, and starts from the salt of the segment. So
//! neither a client's text nor an earlier use of the file can look like a frame.

use std::ops::Range;

/// The bytes of a frame before its body: all bytes of an acknowledgement.
pub(super) const HEADER_BYTES: usize = 16;

/// A decoded frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u64,
    /// The position of its body.
    pub(super) body: Range<usize>,
}

/// Appends a frame whose body `write` appends. `None` if that fails or is over 4 GiB.
pub(super) fn append(
    out: &mut Vec<u8>,
    salt: u32,
    number: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
) -> Option<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    write(out)?;
    let frame = &mut out[start..];
    let length = u32::try_from(frame.len() - HEADER_BYTES).ok()?;
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c_append(salt, &frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

/// The acknowledgement of a record.
pub(super) fn acknowledgement(salt: u32, number: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEADER_BYTES);
    // An empty body cannot fail.
    let _ = append(&mut frame, salt, number, |_| Some(()));
    frame
}

/// Decodes the frame at `at`; `None` if there is none.
pub(super) fn read(bytes: &[u8], at: usize, salt: u32) -> Option<Frame> {
    let head = bytes.get(at..at.checked_add(HEADER_BYTES)?)?;
    let checksum = u32::from_le_bytes(head[..4].try_into().ok()?);
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let number = u64::from_le_bytes(head[8..].try_into().ok()?);
    let body = at + HEADER_BYTES..(at + HEADER_BYTES).checked_add(usize::try_from(length).ok()?)?;
    let checked = bytes.get(at + 4..body.end)?;
    (crc32c::crc32c_append(salt, checked) == checksum).then_some(Frame { number, body })
}

/// Whether there is an acknowledgement of a later record than this, anywhere in these bytes.
pub(super) fn acknowledges_after(bytes: &[u8], salt: u32, number: u64) -> bool {
    (0..bytes.len().saturating_sub(HEADER_BYTES - 1)).any(|at| {
        let of_frame = <[u8; 8]>::try_from(&bytes[at + 8..at + HEADER_BYTES]);
        // A cheap test that unused space fails, and most other bytes.
        of_frame.is_ok_and(|of_frame| u64::from_le_bytes(of_frame) > number)
            && bytes[at + 4..at + 8] == [0; 4]
            && read(bytes, at, salt).is_some()
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn framed(salt: u32, number: u64, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let write = |out: &mut Vec<u8>| {
            out.extend_from_slice(body);
            Some(())
        };
        append(&mut out, salt, number, write).unwrap();
        out
    }

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(
            salt: u32, number: u64, body: Vec<u8>, before: Vec<u8>, after: Vec<u8>
        ) {
            let bytes = [&before[..], &framed(salt, number, &body), &after].concat();
            let frame = read(&bytes, before.len(), salt).unwrap();
            prop_assert_eq!(frame.number, number);
            prop_assert_eq!(&bytes[frame.body], &body[..]);
        }

        #[test]
        fn a_frame_with_a_flipped_bit_cut_off_or_of_another_use_is_none(
            salt: u32, number: u64, body: Vec<u8>, at: prop::sample::Index, other: u32
        ) {
            let mut bytes = framed(salt, number, &body);
            prop_assume!(other != salt);
            prop_assert_eq!(read(&bytes, 0, other), None);
            let bit = at.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(read(&bytes, 0, salt), None);
            bytes[bit / 8] ^= 1 << (bit % 8);
            bytes.truncate(bit / 8);
            prop_assert_eq!(read(&bytes, 0, salt), None);
        }

        #[test]
        fn anything_can_be_read(bytes: Vec<u8>, at: usize, salt: u32) {
            let _ = read(&bytes, at, salt);
            let _ = acknowledges_after(&bytes, salt, 0);
        }

        #[test]
        fn an_acknowledgement_is_found_wherever_it_is(
            salt: u32, number in 1..u64::MAX, before: Vec<u8>, after: Vec<u8>
        ) {
            let bytes = [&before[..], &acknowledgement(salt, number), &after].concat();
            prop_assert!(acknowledges_after(&bytes, salt, number - 1));
            prop_assert!(!acknowledges_after(&bytes, salt, number));
        }
    }
}
