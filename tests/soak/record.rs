//! What has happened so far.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Shared by all workers.
#[derive(Default)]
pub(crate) struct Record {
    answers: Mutex<BTreeMap<(&'static str, u16), u64>>,
    left: Mutex<BTreeMap<&'static str, Departures>>,
    violated: AtomicBool,
}

#[derive(Default)]
struct Departures {
    count: u64,
    slowest: Duration,
    over_a_second: u64,
}

impl Record {
    /// An answer to some request, which has to be one of these.
    pub(crate) fn answer(&self, request: &'static str, status: u16, expected: &[u16]) {
        *self.answers.lock().unwrap().entry((request, status)).or_default() += 1;
        self.require(expected.contains(&status), || format!("{request}: {status}"));
    }

    /// A client has left, and this is how long the server took to notice.
    pub(crate) fn left(&self, manner: &'static str, noticed_after: Duration) {
        let mut left = self.left.lock().unwrap();
        let departures = left.entry(manner).or_default();
        departures.count += 1;
        departures.slowest = departures.slowest.max(noticed_after);
        departures.over_a_second += u64::from(noticed_after > Duration::from_secs(1));
    }

    /// What has to hold at all times.
    pub(crate) fn require(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violated.store(true, Ordering::SeqCst);
            println!("VIOLATED: {}", what());
        }
    }

    pub(crate) fn is_violated(&self) -> bool {
        self.violated.load(Ordering::SeqCst)
    }

    pub(crate) fn print(&self) {
        println!("\n| request | status | count |\n|---|---|---|");
        for ((request, status), count) in &*self.answers.lock().unwrap() {
            println!("| {request} | {status} | {count} |");
        }
        println!(
            "\n| clients that left | count | noticed after, at most | over a second |\n|---|---|---|---|"
        );
        for (manner, departures) in &*self.left.lock().unwrap() {
            let Departures { count, slowest, over_a_second } = departures;
            println!("| {manner} | {count} | {} ms | {over_a_second} |", slowest.as_millis());
        }
    }
}
