//! Signals as messages of a channel.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::thread;

use crossbeam_channel::{Receiver, unbounded};
use rustix::process::{Signal, getpid, kill_process};
use signal_hook::consts::{
    SIGALRM, SIGCHLD, SIGCONT, SIGHUP, SIGINT, SIGPROF, SIGQUIT, SIGTERM, SIGTSTP, SIGUSR1,
    SIGUSR2, SIGVTALRM, SIGWINCH,
};
use signal_hook::iterator::Signals;

use super::Error;
use crate::client;
use crate::signals::Ignored;

/// Those that ask for an end, for a pause and for going on, and those that only the command
/// can have a meaning for.
const WANTED: [i32; 12] = [
    SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
    SIGPROF, SIGWINCH,
];

/// The signals that are for the command, but for those that are ignored from the start.
pub(super) fn start() -> Result<Receiver<i32>, Error> {
    let refused =
        |error| Error::Client(client::Error::System(format!("cannot receive signals: {error}")));
    let ignored = Ignored::from_start();
    let wanted = WANTED.iter().filter(|signal| !ignored.contains(**signal));
    let mut signals = Signals::new(wanted).map_err(refused)?;
    if ignored.contains(SIGCHLD) {
        // Or the kernel would keep to itself how the command ends. Any handler will do.
        signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false))).map_err(refused)?;
    }
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
