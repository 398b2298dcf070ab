//! What this process inherited: ignored signals, and the terminal it was started in.

use std::fs::{self, File};

use rustix::process::getpgrp;
use rustix::termios::tcgetpgrp;

/// The signals that were ignored when this process started, as under `nohup`: they should stay so.
/// Read them before a handler is installed. Without /proc there are none.
///
/// SIGPIPE is always among them, because Rust's runtime ignores it before `main`.
pub struct Ignored(u64);

impl Ignored {
    /// Reads them from /proc.
    pub fn from_start() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether this signal is ignored.
    pub fn contains(&self, signal: i32) -> bool {
        let bit = u32::try_from(signal - 1).ok().and_then(|bit| self.0.checked_shr(bit));
        bit.is_some_and(|bits| bits & 1 == 1)
    }
}

/// Whether this process was started in the foreground of a terminal.
#[derive(Debug, Clone, Copy)]
pub struct Foreground(bool);

impl Foreground {
    /// Looks, before anybody can have moved the process to the background.
    pub fn at_start() -> Self {
        let terminal = File::open("/dev/tty");
        Self(terminal.is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|it| it == getpgrp())))
    }

    /// Whether that terminal has hung up: the process then has no controlling terminal.
    pub fn has_hung_up(self) -> bool {
        self.0 && File::open("/dev/tty").is_err()
    }
}
