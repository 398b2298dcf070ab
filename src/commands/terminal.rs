//! The terminal, which belongs to one process group at a time.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcgetwinsize, tcsetpgrp};

/// Gives the terminal to a group, if this process's group has it. Returns whether it did.
pub(super) fn give_to(group: Pid) -> bool {
    hand_over(getpgrp(), group)
}

/// Takes the terminal back from a group.
pub(super) fn take_back_from(group: Pid) {
    hand_over(group, getpgrp());
}

/// Whether a group has the terminal.
pub(super) fn is_held_by(group: Pid) -> bool {
    tcgetpgrp(io::stdin()).ok() == Some(group)
}

/// Whether the session has a controlling terminal.
pub(super) fn controls_jobs() -> bool {
    File::open("/dev/tty").is_ok()
}

/// The width of a terminal; 80 if unknown.
pub(super) fn columns(terminal: impl AsFd) -> usize {
    let size = tcgetwinsize(terminal).map_or(0, |size| usize::from(size.ws_col));
    if size == 0 { 80 } else { size }
}

fn hand_over(from: Pid, to: Pid) -> bool {
    let stdin = io::stdin();
    if !stdin.is_terminal() || tcgetpgrp(&stdin).ok() != Some(from) {
        return false;
    }
    // The kernel stops a background process that changes the terminal, unless that process blocks
    // SIGTTOU.
    let mut signal = SigSet::empty();
    signal.add(Signal::SIGTTOU);
    if signal.thread_block().is_err() {
        return false;
    }
    let handed_over = tcsetpgrp(&stdin, to).is_ok();
    let _ = signal.thread_unblock();
    handed_over
}
