//! The deadlines of all resources: an index, and a sleep until the earliest. Nothing polls.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::slot::Slot;
use crate::nanos::Instant;
use crate::sharded::Sharded;
use crate::sync::{Condvar, Mutex, locked, now, poisoned};

/// How many resources the reaper takes from one shard at a time: few, so that no shard waits long
/// for its turn.
const MAX_BATCH: usize = 8;

/// At most one deadline for each resource, that of what ends next. A released lock leaves nothing
/// behind.
pub(super) struct Deadlines {
    /// Sharded like the table.
    index: Sharded<Index>,
    alarm: Mutex<Alarm>,
    /// Signalled when the alarm is set to an earlier time, or closed.
    earlier: Condvar,
}

/// A resource, and when it is due.
pub(super) type Due = (Instant, Arc<Slot>);

#[derive(Default)]
struct Index {
    due: BTreeSet<Due>,
    /// Those whose expiry was refused, until all of them are tried again.
    set_aside: BTreeSet<Due>,
}

/// What the reaper sleeps for.
#[derive(Default)]
struct Alarm {
    /// The earliest deadline that the reaper knows of. Cleared before the reaper reads the index, so
    /// that a deadline which is added meanwhile sets it again.
    next: Option<Instant>,
    closed: bool,
}

impl Deadlines {
    /// An empty index, sharded like this table.
    pub(super) fn like<T>(table: &Sharded<T>) -> Self {
        Self { index: Sharded::like(table), alarm: Mutex::default(), earlier: Condvar::default() }
    }

    /// Fills an empty shard.
    pub(super) fn fill(&self, shard: usize, due: impl Iterator<Item = Due>) {
        let mut index = locked(self.index.shard(shard));
        index.due = due.collect();
        let first = index.due.first().map(|(due, _)| *due);
        drop(index);
        first.into_iter().for_each(|first| self.set_alarm(first));
    }

    /// Moves the deadline of a resource; `None`: it has none.
    pub(super) fn change(&self, slot: &Arc<Slot>, from: Option<Instant>, to: Option<Instant>) {
        let mut index = locked(self.index.of(slot.name()));
        if let Some(from) = from {
            index.take(&(from, Arc::clone(slot)));
        }
        if let Some(to) = to {
            index.due.insert((to, Arc::clone(slot)));
        }
        drop(index);
        if let Some(to) = to {
            self.set_alarm(to);
        }
    }

    /// Sets a resource aside until [`Deadlines::retry_set_aside`], unless its deadline has changed.
    pub(super) fn set_aside(&self, due: Due) {
        let mut index = locked(self.index.of(due.1.name()));
        if index.take(&due) {
            index.set_aside.insert(due);
        }
    }

    /// Makes all resources due again that were set aside.
    pub(super) fn retry_set_aside(&self) {
        for shard in self.index.iter() {
            let Index { due, set_aside } = &mut *locked(shard);
            due.append(set_aside);
        }
    }

    /// Ends [`Deadlines::wait_until_due`].
    pub(super) fn close(&self) {
        locked(&self.alarm).closed = true;
        self.earlier.notify_one();
    }

    fn set_alarm(&self, deadline: Instant) {
        let mut alarm = locked(&self.alarm);
        if alarm.next.is_none_or(|next| deadline < next) {
            alarm.next = Some(deadline);
            drop(alarm);
            self.earlier.notify_one();
        }
    }

    /// Sleeps until resources are due, and returns some of them, or until `at_most`; `None` when
    /// closed.
    pub(super) fn wait_until_due(&self, at_most: Option<Instant>) -> Option<Vec<Due>> {
        loop {
            let mut alarm = locked(&self.alarm);
            if alarm.closed {
                return None;
            }
            alarm.next = None;
            drop(alarm);
            let time = now();
            let (due, next) = self.look(time);
            if !due.is_empty() || at_most.is_some_and(|at_most| at_most <= time) {
                return Some(due);
            }
            let mut alarm = locked(&self.alarm);
            if alarm.closed {
                return None;
            }
            alarm.next = alarm.next.into_iter().chain(next).chain(at_most).min();
            match alarm.next {
                None => drop(self.earlier.wait(alarm).unwrap_or_else(|_| poisoned())),
                Some(next) => {
                    let remaining = next.saturating_duration_since(now());
                    drop(
                        self.earlier.wait_timeout(alarm, remaining).unwrap_or_else(|_| poisoned()),
                    );
                }
            }
        }
    }

    /// Some resources of each shard that are due at `now`, and the earliest other deadline.
    fn look(&self, now: Instant) -> (Vec<Due>, Option<Instant>) {
        let (mut due, mut next) = (Vec::new(), None);
        for shard in self.index.iter() {
            let index = locked(shard);
            let come = index.due.iter().take_while(|(deadline, _)| *deadline <= now);
            let before = due.len();
            due.extend(come.take(MAX_BATCH).cloned());
            let first = index.due.iter().nth(due.len() - before).map(|(deadline, _)| *deadline);
            next = next.into_iter().chain(first).min();
        }
        (due, next)
    }
}

impl Index {
    /// Takes one out; `false` if it is not there.
    fn take(&mut self, due: &Due) -> bool {
        self.due.remove(due) || self.set_aside.remove(due)
    }
}

#[cfg(test)]
impl Deadlines {
    pub(super) fn len(&self) -> usize {
        let len = |index: &Index| index.due.len() + index.set_aside.len();
        self.index.iter().map(|shard| len(&locked(shard))).sum()
    }
}
