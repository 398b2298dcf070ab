//! Whether damage is told from a write that a crash has cut off.

use super::*;

/// Starts with damaged files: either all is there, or it is refused and left as it is.
fn starts(host: &Host, files: &Files, path: &PathBuf, bytes: &[u8], what: &str) -> bool {
    host.put(files, Some((path, bytes)));
    match host.start() {
        Ok((_, restored)) => {
            assert_eq!(tokens(&restored), (21..=30).collect::<Vec<_>>(), "{what}");
            true
        }
        Err(OpenError::Damaged(named, why)) => {
            assert_eq!(&named, path, "{what}: {why}");
            let mut expected = files.clone();
            expected.insert(path.clone(), bytes.to_vec());
            assert!(host.files() == expected, "{what}: refused, yet changed");
            false
        }
        Err(error) => panic!("{what}: {error}"),
    }
}

/// The segments among these files, with where the last record of each ends.
fn segments(files: &Files) -> Vec<(&PathBuf, &Vec<u8>, usize)> {
    let logs = files.iter().filter(|(path, _)| path.extension().is_some_and(|e| e == "log"));
    let end = |bytes: &[u8]| bytes.iter().rposition(|byte| *byte != 0).unwrap();
    logs.map(|(path, bytes)| (path, bytes, end(bytes))).collect()
}

#[test]
fn a_file_cut_off_anywhere_is_refused() {
    for locks in [some_locks, some_locks_in_segments] {
        let host = Host::new();
        locks(&host);
        let files = host.files();
        let step = if env::var(EXHAUSTIVE).is_ok() { 1 } else { 9_973 };
        for (path, bytes, end) in segments(&files) {
            assert!(starts(&host, &files, path, bytes, "whole"));
            let of_interest = [0, 1, 40, BEGIN, end / 2, end, end + 1, bytes.len() - 1];
            for length in (0..bytes.len()).step_by(step).chain(of_interest) {
                let what = format!("{} cut off at {length}", path.display());
                assert!(!starts(&host, &files, path, &bytes[..length], &what), "{what}");
            }
        }
    }
}

#[test]
fn a_flipped_bit_is_harmless_or_refused() {
    let exhaustive = env::var(EXHAUSTIVE).is_ok();
    for (locks, step) in [(some_locks as fn(&Host), 37), (some_locks_in_segments, 2_999)] {
        let host = Host::new();
        locks(&host);
        let files = host.files();
        for (path, bytes, end) in segments(&files) {
            let (mut refused, mut bytes) = (0, bytes.clone());
            let step = if exhaustive { 1 } else { step };
            // The head byte by byte, and the beginning and the end of the records; what is
            // between in steps.
            let ends = (0..60).step_by(if exhaustive { 1 } else { 3 }).chain(end - 30..end + 3);
            let all = ends.chain((BEGIN..end).step_by(step)).chain([end + 500, bytes.len() - 1]);
            for at in all.collect::<Vec<_>>() {
                let bit = 1 << (at % 8);
                bytes[at] ^= bit;
                let what = format!("bit {bit} of byte {at} of {} flipped", path.display());
                refused += usize::from(!starts(&host, &files, path, &bytes, &what));
                bytes[at] ^= bit;
            }
            assert!(refused > 20, "only {refused} noticed");
        }
    }
}

#[test]
fn a_write_that_was_cut_off_has_not_happened() {
    let host = Host::new();
    some_locks(&host);
    let before = host.files();
    let end = segments(&before)[0].2;
    let (mut store, _) = host.start().unwrap();
    let batch: Vec<_> = (100..140).map(|token| long(token, seconds(60))).collect();
    store.commit(&batch, GRACE).unwrap();
    drop(store);
    let after = host.files();
    let (path, written, written_end) = segments(&after)[0];
    // Its end is missing, or a page before that; there is no acknowledgement.
    let pages = (end / 4096 + 1..written_end / 4096).map(|page| page * 4096..page * 4096 + 4096);
    let cut = (end + 200..written_end - 16).step_by(1_973).map(|from| from..written_end - 16);
    for missing in cut.chain(pages.step_by(5)) {
        let mut torn = written.clone();
        torn[missing.clone()].fill(0);
        torn[written_end - 20..=written_end].fill(0);
        assert!(starts(&host, &before, path, &torn, &format!("without {missing:?}")));
        let (mut store, _) = host.start().unwrap();
        store.commit(&[grant("next", 300)], GRACE).unwrap();
        drop(store);
        assert_eq!(tokens(&host.start().unwrap().1).last(), Some(&300));
    }
}

#[test]
fn a_segment_that_is_missing_is_noticed() {
    let host = Host::new();
    some_locks_in_segments(&host);
    let files = host.files();
    let paths: Vec<_> = segments(&files).into_iter().map(|(path, ..)| path).collect();
    assert!(paths.len() >= 2, "{paths:?}");
    for path in paths {
        host.put(&files, None);
        fs::remove_file(path).unwrap();
        let mut expected = files.clone();
        expected.remove(path);
        let error = host.start().map(drop).unwrap_err();
        assert!(matches!(error, OpenError::Damaged(..)), "{error}");
        assert!(host.files() == expected, "refused, yet changed");
    }
}

#[test]
fn a_next_segment_that_was_not_used_yet_is_no_damage() {
    let host = Host::new();
    some_locks(&host);
    let (before, last) = (host.files(), host.segment(1));
    let (mut store, _) = host.start().unwrap();
    let batch: Vec<_> = (100..160).map(|token| long(token, seconds(60))).collect();
    store.commit(&batch, GRACE).unwrap();
    drop(store);
    let next = fs::read(host.segment(2)).unwrap();
    let mut files = before.clone();
    files.insert(host.segment(2), next.clone());
    // It was used, yet the record that says so is missing.
    assert!(!starts(&host, &files, &last, &before[&last], "it has records"));
    files.get_mut(&host.segment(2)).unwrap()[BEGIN..].fill(0);
    assert!(starts(&host, &files, &last, &before[&last], "it has none"));
    assert!(!fs::exists(host.segment(2)).unwrap());
}

#[test]
fn locks_that_cannot_be_held_together_are_damage() {
    let host = Host::new();
    some_locks(&host);
    let files = host.files();
    let mut store = FileStore::open(&host.dir(), RESTART_GRACE).unwrap();
    let conflict = Conflict { resource: "r21".parse().unwrap(), token: 21 };
    let locks = Locks { conflict: Some(conflict), ..Locks::default() };
    let error = store.load(&locks).unwrap_err();
    assert!(error.to_string().contains("locks on r21 that cannot be held together"), "{error}");
    assert!(host.files() == files, "refused, yet changed");
}
