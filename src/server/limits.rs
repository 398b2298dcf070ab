//! How much the system carries: descriptors and threads.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are not for connections: standard streams, the listener, the signal
/// pipe, what watches clients, the file of administrators.
const OTHER_DESCRIPTORS: u64 = 32;

/// Memory mappings of a thread: its stack, the stack for signals, a guard for each, and one to
/// spare. A thread that starts without a mapping left ends the whole process.
const MAPPINGS_PER_THREAD: u64 = 5;

/// Linux's default of vm.max_map_count, for where it cannot be read.
const DEFAULT_MAX_MAPPINGS: u64 = 65_530;

/// Raises the soft limit to the hard one and tells what it is then.
pub fn raise_open_files_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let limit = setrlimit(Resource::Nofile, raised).map_or(limit, |()| raised);
    // None: there is no limit.
    limit.current.unwrap_or(u64::MAX)
}

/// Raises the limit of open files as far as it goes and keeps to what the system carries, where a
/// connection uses up to `descriptors`. The line in the log that says where the server listens says
/// how many that are.
pub(super) fn max_connections(wanted: usize, descriptors: u64) -> usize {
    let by_files = raise_open_files_limit().saturating_sub(OTHER_DESCRIPTORS) / descriptors.max(1);
    let max_mappings = fs::read_to_string("/proc/sys/vm/max_map_count").ok();
    let max_mappings = max_mappings.and_then(|text| text.trim().parse().ok());
    let by_mappings = max_mappings.unwrap_or(DEFAULT_MAX_MAPPINGS) / MAPPINGS_PER_THREAD;
    let fit = usize::try_from(by_files.min(by_mappings)).unwrap_or(usize::MAX);
    wanted.min(fit.max(1))
}

/// Leaves connections for releases: if all of them waited for locks, nobody could release one.
pub(super) fn max_waiters(wanted: usize, max_connections: usize) -> usize {
    let reserved = (max_connections / 8).clamp(1, 64);
    wanted.min(max_connections - reserved)
}
