//! What the machine did not let the server and its clients do: waits for a processor, and a slow
//! disk. The server is not blamed for them.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{Seek, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use crate::history::{Log, Span, Time};

/// A thread that waited longer than this for a processor, or for the end of its nap, was held
/// up.
pub(crate) const HELD_UP: Duration = Duration::from_millis(8);

/// A change waits for two commits at most, and others on its resource go before it.
const SLOW_SYNC: Duration = Duration::from_millis(5);

/// How often the threads of the server are looked at.
const LOOK: Duration = Duration::from_millis(20);

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

/// How long this thread has been ready to run and did not, as the kernel counts it; zero where
/// it does not.
pub(crate) fn held_up_so_far() -> Duration {
    waited_for_a_processor(Path::new("/proc/thread-self/schedstat")).unwrap_or_default()
}

fn waited_for_a_processor(schedstat: &Path) -> Option<Duration> {
    let text = fs::read_to_string(schedstat).ok()?;
    text.split(' ').nth(1)?.parse().ok().map(Duration::from_nanos)
}

/// Looks at the threads of a process, which may be replaced by another one.
pub(crate) fn watch_the_threads(log: &Log, pid: &AtomicU32, ended: &AtomicBool) {
    let mut waited: HashMap<std::ffi::OsString, Duration> = HashMap::new();
    let mut last = Time::now();
    while !ended.load(Ordering::Relaxed) {
        thread::sleep(LOOK);
        let tasks = fs::read_dir(format!("/proc/{}/task", pid.load(Ordering::Relaxed)));
        let mut longest = Duration::ZERO;
        for task in tasks.into_iter().flatten().filter_map(Result::ok) {
            let so_far = waited_for_a_processor(&task.path().join("schedstat"));
            let so_far = so_far.unwrap_or_default();
            let before = waited.insert(task.file_name(), so_far).unwrap_or_default();
            longest = longest.max(so_far.saturating_sub(before));
        }
        let now = Time::now();
        if longest > HELD_UP {
            // It is counted when it is over.
            log.hiccup(Span { from: last.before(longest), to: now });
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
    let _ = fs::remove_file(path);
}
