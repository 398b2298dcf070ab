//! What this process was told about signals when it was started.

use std::fs;

/// The signals that whoever started this process ignores, as `nohup` does. They are to stay
/// ignored. To be asked before any handler is there; without /proc there are none.
///
/// SIGPIPE is always one of them: the runtime of the language ignores it before `main`.
pub struct Ignored(u64);

impl Ignored {
    /// Looks.
    pub fn from_start() -> Self {
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
        Self(line.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0))
    }

    /// Whether a signal is one of them.
    pub fn contains(&self, signal: i32) -> bool {
        let bit = u32::try_from(signal - 1).ok().and_then(|bit| self.0.checked_shr(bit));
        bit.is_some_and(|bits| bits & 1 == 1)
    }
}
