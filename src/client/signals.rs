//! Signals as messages of a channel.

use std::fs;
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTSTP};
use signal_hook::iterator::Signals;

use super::Error;

/// The signals that ask for an end, for a pause and for going on. What whoever started this
/// process ignores, as `nohup` does, stays ignored.
pub(super) fn start() -> Result<Receiver<i32>, Error> {
    let refused = |error| Error::System(format!("cannot receive signals: {error}"));
    let ignored = ignored();
    let wanted = [SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT];
    let mut signals =
        Signals::new(wanted.iter().filter(|signal| !is_in(ignored, **signal))).map_err(refused)?;
    let (sender, receiver) = unbounded();
    let forward = move || {
        for signal in signals.forever() {
            // Fails only when main has returned, and the process with it.
            let _ = sender.send(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(refused)?;
    Ok(receiver)
}

/// Whether a signal asks for an end.
pub(super) fn ends(signal: i32) -> bool {
    matches!(signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT)
}

/// Stops this process, as Ctrl-Z would if nobody listened to it. Returns when it goes on.
pub(super) fn stop_here() {
    // Fails only if there is no such process.
    let _ = kill_process(getpid(), Signal::STOP);
}

/// The set of ignored signals, a bit each. Without /proc: none.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0)
}

fn is_in(set: u64, signal: i32) -> bool {
    set >> (signal - 1) & 1 == 1
}
