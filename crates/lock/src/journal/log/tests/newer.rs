//! What a newer version would write is refused as such, and left alone.

use super::super::frame;
use super::super::record::LAST_ENTRY;
use super::super::segment::{BEGIN, SegmentHeader};
use super::*;

/// A directory with some locks, and its only segment with one record more, which has this body
/// behind the header of the record before it.
fn with_a_record_of(entries: &[u8]) -> (Host, Files) {
    let host = Host::new();
    some_locks(&host);
    let (path, mut files) = (host.segment(1), host.files());
    let bytes = files.get_mut(&path).unwrap();
    let header = SegmentHeader::read(bytes, 1).unwrap();
    let (mut end, mut next, mut body) = (BEGIN, header.first_record, 0..0);
    while let Some(frame) = frame::read(bytes, end + frame::HEADER_BYTES, header.salt) {
        (end, next, body) = (frame.body.end, frame.number + 1, frame.body);
    }
    let body = [&bytes[body], entries].concat();
    let mut record = Vec::new();
    frame::append(&mut record, header.salt, next, |out| {
        out.extend_from_slice(&body);
        Some(())
    })
    .unwrap();
    let at = end + frame::HEADER_BYTES;
    bytes[at..at + record.len()].copy_from_slice(&record);
    (host, files)
}

fn refused(host: &Host, files: &Files) -> OpenError {
    host.put(files, None);
    let error = host.start().map(drop).unwrap_err();
    assert!(host.files() == *files, "refused, yet changed");
    error
}

#[test]
fn an_entry_of_a_newer_version_is_refused_by_name() {
    let newer = u8::try_from(LAST_ENTRY + 1).unwrap();
    let (host, files) = with_a_record_of(&[newer, 1, 2, 3]);
    let error = refused(&host, &files);
    let OpenError::Newer(path) = &error else { panic!("{error}") };
    assert_eq!(*path, host.segment(1));
    assert!(error.to_string().contains("was written by a newer rdlm"), "{error}");
    // A known entry that is cut off.
    let (host, files) = with_a_record_of(&[1]);
    assert!(matches!(refused(&host, &files), OpenError::Damaged(..)));
}

#[test]
fn a_segment_of_a_newer_version_is_refused_by_name() {
    let host = Host::new();
    some_locks(&host);
    let mut files = host.files();
    let bytes = files.get_mut(&host.segment(1)).unwrap();
    assert_eq!(&bytes[..14], b"rdlm locks v2\r");
    bytes[12] = b'3';
    assert!(matches!(refused(&host, &files), OpenError::Damaged(..)), "a flipped bit");
    // Its header has one number more.
    let mut header = Vec::new();
    frame::append(&mut header, 3, 1, |out| {
        out.extend_from_slice(&[1, 2, 3, 4]);
        Some(())
    });
    files.get_mut(&host.segment(1)).unwrap()[16..16 + header.len()].copy_from_slice(&header);
    assert!(matches!(refused(&host, &files), OpenError::Newer(_)));
}
