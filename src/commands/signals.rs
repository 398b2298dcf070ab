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

/// Those that end, stop and continue a process, and those that mean something to the command only.
const WANTED: [i32; 12] = [
    SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGCONT, SIGUSR1, SIGUSR2, SIGALRM, SIGVTALRM,
    SIGPROF, SIGWINCH,
];

/// Begins to receive signals, except those that were ignored at the start.
pub(super) fn start() -> Result<Receiver<i32>, Error> {
    let refused =
        |error| Error::Client(client::Error::System(format!("cannot receive signals: {error}")));
    let ignored = Ignored::from_start();
    let wanted = WANTED.iter().filter(|signal| !ignored.contains(**signal));
    let mut signals = Signals::new(wanted).map_err(refused)?;
    if ignored.contains(SIGCHLD) {
        // While it is ignored, the kernel does not report how a child ends. Any handler will do.
        signal_hook::flag::register(SIGCHLD, Arc::new(AtomicBool::new(false))).map_err(refused)?;
    }
    let (sender, receiver) = unbounded();
    let forward = move || {
        for signal in signals.forever() {
            // Fails only if main has returned.
            let _ = sender.send(signal);
        }
    };
    thread::Builder::new().name("signals".into()).spawn(forward).map_err(refused)?;
    Ok(receiver)
}

/// Whether a signal asks the process to end.
pub(super) fn ends(signal: i32) -> bool {
    matches!(signal, SIGINT | SIGTERM | SIGHUP | SIGQUIT)
}

/// Stops this process, as Ctrl-Z does by default. Returns when it is continued.
pub(super) fn stop_here() {
    let _ = kill_process(getpid(), Signal::STOP);
}
