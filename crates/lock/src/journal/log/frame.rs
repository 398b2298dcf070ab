//! What frames a record in a segment: its length, its number and a checksum. Pure.
//!
//! ```text
//! frame           = checksum (u32) length of the body (u32) number (u64) body; little-endian
//! record          = a frame with a body
//! acknowledgement = a frame without: the record of this number was acknowledged
//! ```
//! The checksum (CRC-32C) is over all that follows it, and starts from the salt of the segment:
//! no text of a client's can look like a frame, nor can a frame of an earlier use of the file.

use std::ops::Range;

/// The bytes of a frame before its body, which are all of an acknowledgement.
pub(super) const HEAD_BYTES: usize = 16;

/// A frame as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) number: u64,
    /// Where its body is.
    pub(super) body: Range<usize>,
}

/// Appends a frame whose body is what `write` appends. `None` if that is over 4 GiB or failed.
pub(super) fn append(
    out: &mut Vec<u8>,
    salt: u32,
    number: u64,
    write: impl FnOnce(&mut Vec<u8>) -> Option<()>,
) -> Option<()> {
    let start = out.len();
    out.extend_from_slice(&[0; HEAD_BYTES]);
    write(out)?;
    let frame = &mut out[start..];
    let length = u32::try_from(frame.len() - HEAD_BYTES).ok()?;
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    let checksum = crc32c::crc32c_append(salt, &frame[4..]);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

/// The acknowledgement of a record.
pub(super) fn acknowledgement(salt: u32, number: u64) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES);
    // A body of nothing is neither too long nor fails.
    let _ = append(&mut frame, salt, number, |_| Some(()));
    frame
}

/// The frame that begins at `at`; `None` if there is none.
pub(super) fn read(bytes: &[u8], at: usize, salt: u32) -> Option<Frame> {
    let head = bytes.get(at..at.checked_add(HEAD_BYTES)?)?;
    let checksum = u32::from_le_bytes(head[..4].try_into().ok()?);
    let length = u32::from_le_bytes(head[4..8].try_into().ok()?);
    let number = u64::from_le_bytes(head[8..].try_into().ok()?);
    let body = at + HEAD_BYTES..(at + HEAD_BYTES).checked_add(usize::try_from(length).ok()?)?;
    let checked = bytes.get(at + 4..body.end)?;
    (crc32c::crc32c_append(salt, checked) == checksum).then_some(Frame { number, body })
}

/// Whether a record with a number over this one was acknowledged, anywhere in these bytes.
pub(super) fn acknowledges_after(bytes: &[u8], salt: u32, number: u64) -> bool {
    (0..bytes.len().saturating_sub(HEAD_BYTES - 1)).any(|at| {
        let of_frame = <[u8; 8]>::try_from(&bytes[at + 8..at + HEAD_BYTES]);
        // What was never written, and most of the rest, is no frame at the first look.
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
