//! Expires locks at the end of their lifetime.
//!
//! [`Deadlines`] is the index of what expires when; [`run`] is the thread that sleeps until
//! the earliest of them. Nothing ticks: without a deadline the reaper sleeps for ever.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex};
use std::time::Instant;

use super::ResourceName;
use super::table::{locked, poisoned};

/// The reaper's loop: calls `expire` for each resource whose deadline has come, until
/// [`Deadlines::close`].
///
/// `expire` has to move the resource's deadline; the reaper only reads the index.
pub(super) fn run(deadlines: &Deadlines, expire: impl Fn(&ResourceName)) {
    while let Some(due) = deadlines.wait_until_due() {
        due.iter().for_each(&expire);
    }
}

/// How many resources the reaper takes out of the index at a time.
const MAX_BATCH: usize = 1024;

/// When each resource's holder expires, one entry a held resource: a released lock leaves
/// nothing behind.
#[derive(Default)]
pub(super) struct Deadlines {
    index: Mutex<Index>,
    /// Signalled when there is an earlier deadline than the reaper sleeps for, or to close.
    earlier: Condvar,
}

#[derive(Default)]
struct Index {
    entries: BTreeSet<(Instant, ResourceName)>,
    reaper: ReaperState,
    closed: bool,
}

#[derive(Default, Clone, Copy)]
enum ReaperState {
    /// It will look at the index before it sleeps.
    #[default]
    Awake,
    SleepsUntil(Instant),
    SleepsForever,
}

impl Deadlines {
    /// Moves a resource's deadline; `None` stands for no holder.
    pub(super) fn change(
        &self,
        resource: &ResourceName,
        from: Option<Instant>,
        to: Option<Instant>,
    ) {
        let mut index = locked(&self.index);
        if let Some(from) = from {
            index.entries.remove(&(from, resource.clone()));
        }
        if let Some(to) = to {
            index.entries.insert((to, resource.clone()));
            let wakes_too_late = match index.reaper {
                ReaperState::Awake => false,
                ReaperState::SleepsUntil(wakes) => to < wakes,
                ReaperState::SleepsForever => true,
            };
            if wakes_too_late {
                index.reaper = ReaperState::Awake;
                self.earlier.notify_one();
            }
        }
    }

    /// Ends [`run`].
    pub(super) fn close(&self) {
        locked(&self.index).closed = true;
        self.earlier.notify_one();
    }

    /// Sleeps until a deadline has come and returns whose; `None` when closed.
    fn wait_until_due(&self) -> Option<Vec<ResourceName>> {
        let mut index = locked(&self.index);
        loop {
            if index.closed {
                return None;
            }
            let now = Instant::now();
            index = match index.entries.first() {
                None => {
                    index.reaper = ReaperState::SleepsForever;
                    self.earlier.wait(index).unwrap_or_else(|_| poisoned())
                }
                Some(&(deadline, _)) if deadline > now => {
                    index.reaper = ReaperState::SleepsUntil(deadline);
                    let woken = self.earlier.wait_timeout(index, deadline - now);
                    woken.unwrap_or_else(|_| poisoned()).0
                }
                Some(_) => {
                    let due = index.entries.iter().take_while(|(deadline, _)| *deadline <= now);
                    let names = due.map(|(_, resource)| resource.clone());
                    return Some(names.take(MAX_BATCH).collect());
                }
            };
            index.reaper = ReaperState::Awake;
        }
    }
}

#[cfg(test)]
impl Deadlines {
    pub(super) fn len(&self) -> usize {
        locked(&self.index).entries.len()
    }
}
