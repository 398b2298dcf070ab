//! How many connections the system has descriptors, threads and mappings for.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Options, pids};
use crate::http::lingering;

/// Descriptors that are not for connections: standard streams, the listener, the signal
/// pipe, what watches clients, the file of administrators.
const OTHER_DESCRIPTORS: u64 = 32;

/// Threads that live as long as the server: they accept, log, expire, write, watch.
const OTHER_THREADS: u64 = 24;

/// Threads for connections that live as long as the server, for when no others can be started.
pub(super) const RESERVE: usize = 8;

/// The most short-lived threads, which send responses to slow clients and compress lists; an eighth of
/// all threads if that is less.
const MOMENTARY_THREADS: u64 = 80;

/// Memory mappings of a thread: its stack, the stack for signals, a guard for each, and one to
/// spare. A thread that starts without a mapping left ends the whole process.
const MAPPINGS_PER_THREAD: u64 = 5;

/// Linux's default of vm.max_map_count, for where it cannot be read.
const DEFAULT_MAX_MAPPINGS: u64 = 65_530;

/// How many there may be of what takes a thread and a descriptor each.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) connections: usize,
    /// Requests that wait for locks.
    pub(super) waiters: usize,
    /// Subscribers of events.
    pub(super) subscribers: usize,
}

impl Capacity {
    /// What `options` ask for, as far as the system has resources, if a connection takes
    /// `descriptors_each`. Raises the process's soft limits.
    pub(super) fn of_system(options: &Options, descriptors_each: u64) -> Self {
        let fit = by_descriptors(descriptors_each).min(by_threads()).min(by_mappings());
        let fit = usize::try_from(fit).unwrap_or(usize::MAX).max(1);
        Self::among(
            options.max_connections.min(fit),
            options.lock_limits.waiting,
            options.doors.max_subscribers,
        )
    }

    /// Keeps connections free for releases while others wait for locks or follow events.
    fn among(connections: usize, waiters: usize, subscribers: usize) -> Self {
        let reserved = (connections / 8).clamp(1, 64);
        let subscribers = subscribers.min(connections / 8);
        let waiters = waiters.min(connections.saturating_sub(reserved + subscribers));
        Self { connections, waiters, subscribers }
    }
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files_limit() -> u64 {
    raise(Resource::Nofile)
}

fn raise(resource: Resource) -> u64 {
    let limit = getrlimit(resource);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let limit = setrlimit(resource, raised).map_or(limit, |()| raised);
    // None: unlimited.
    limit.current.unwrap_or(u64::MAX)
}

fn by_descriptors(each: u64) -> u64 {
    let all = raise_open_files_limit();
    let lingering = (lingering::MAX as u64).min(all / 8);
    all.saturating_sub(OTHER_DESCRIPTORS + lingering) / each.max(1)
}

/// Threads of the user's other processes count, too, but are not looked up: if there are fewer threads
/// than this, the reserve serves connections.
fn by_threads() -> u64 {
    let of_system = ["/proc/sys/kernel/threads-max", "/proc/sys/kernel/pid_max"];
    let of_system = of_system.into_iter().filter_map(number_in).min().unwrap_or(u64::MAX);
    let all = raise(Resource::Nproc).min(of_system).min(pids::left().unwrap_or(u64::MAX));
    let momentary = MOMENTARY_THREADS.min(all / 8);
    all.saturating_sub(OTHER_THREADS + RESERVE as u64 + momentary)
}

fn by_mappings() -> u64 {
    let all = number_in("/proc/sys/vm/max_map_count").unwrap_or(DEFAULT_MAX_MAPPINGS);
    all / MAPPINGS_PER_THREAD
}

fn number_in(path: &str) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_wanted_some_connections_are_left_for_releases() {
        for connections in (1..300).chain([12_000]) {
            let all = Capacity::among(connections, usize::MAX, usize::MAX);
            let rest = connections - all.waiters - all.subscribers;
            assert!((1..=64).contains(&rest) && rest >= (connections / 8).min(64), "{all:?}");
        }
        let usual = Capacity::among(12_000, 10_000, 64);
        assert_eq!((usual.waiters, usual.subscribers), (10_000, 64));
    }
}
