//! Threads that notice when the machine did not let the test run, or when its disk was slow, so
//! that the server is not blamed for it.

use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use crate::history::{Log, Span, Time};

/// A thread that wanted to sleep for a moment and slept longer than this was held up.
const HELD_UP: Duration = Duration::from_millis(8);

/// A change waits for two commits at most, and others on its resource go before it.
const SLOW_SYNC: Duration = Duration::from_millis(5);

/// Until the end of the run.
pub(crate) fn watch_the_processor(log: &Log, ended: &AtomicBool) {
    let nap = Duration::from_millis(2);
    let mut last = Time::now();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(nap);
        let now = Time::now();
        if now.since(last) > HELD_UP {
            log.hiccup(Span { from: last, to: now });
        }
        last = now;
    }
}

/// Syncs a file of its own in the directory.
pub(crate) fn watch_the_disk(log: &Log, dir: &Path, ended: &AtomicBool) {
    let path = dir.join("witness");
    let mut file = File::create(&path).unwrap();
    while !ended.load(Ordering::Relaxed) {
        let from = Time::now();
        // It may be full, which is a fault that is known.
        let _ = file.rewind().and_then(|()| file.write_all(b"x")).and_then(|()| file.sync_data());
        let to = Time::now();
        if to.since(from) > SLOW_SYNC {
            log.hiccup(Span { from, to: to + to.since(from) });
        }
        thread::sleep(Duration::from_millis(15));
    }
    drop(file);
    let _ = std::fs::remove_file(path);
}
