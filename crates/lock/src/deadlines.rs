//! When something on a resource ends by itself: an index, and a sleep until the earliest.
//!
//! Nothing ticks: without a deadline the sleep lasts for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ResourceName;
use super::nanos::Instant;
use super::sharded::Sharded;
use super::sync::{Condvar, Mutex, locked, now, poisoned};
use super::table::Slot;

/// How many resources the reaper takes out of a shard of the index at a time.
const MAX_BATCH: usize = 128;

/// When something on a resource ends by itself next, at most one entry a resource: a released
/// lock leaves nothing behind.
pub(super) struct Deadlines {
    /// In the shards of the table.
    index: Sharded<BTreeSet<(Instant, Arc<Slot>)>>,
    alarm: Mutex<Alarm>,
    /// Signalled when the alarm has been set to an earlier time, or closed.
    earlier: Condvar,
}

/// Resources on which nothing could be ended, and when that is tried again.
pub(super) type Retries = BTreeMap<ResourceName, Instant>;

/// What the reaper sleeps for.
#[derive(Default)]
struct Alarm {
    /// The earliest deadline that the reaper knows of. It forgets it when it begins to look
    /// at the index, so that it hears of every deadline that it may just have missed.
    next: Option<Instant>,
    closed: bool,
}

impl Deadlines {
    /// An index in the shards of this table.
    pub(super) fn like<T>(table: &Sharded<T>) -> Self {
        Self { index: Sharded::like(table), alarm: Mutex::default(), earlier: Condvar::default() }
    }

    /// Sets the deadlines of the resources of one shard, of which none was known.
    pub(super) fn fill(&self, shard: usize, due: impl Iterator<Item = (Instant, Arc<Slot>)>) {
        let mut index = locked(self.index.shard(shard));
        *index = due.collect();
        let first = index.first().map(|(due, _)| *due);
        drop(index);
        first.into_iter().for_each(|first| self.set_alarm(first));
    }

    /// Moves a resource's deadline; `None` stands for none.
    pub(super) fn change(&self, slot: &Arc<Slot>, from: Option<Instant>, to: Option<Instant>) {
        let mut index = locked(self.index.of(slot.name()));
        if let Some(from) = from {
            index.remove(&(from, Arc::clone(slot)));
        }
        if let Some(to) = to {
            index.insert((to, Arc::clone(slot)));
        }
        drop(index);
        if let Some(to) = to {
            self.set_alarm(to);
        }
    }

    /// Ends every wait for a deadline.
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

    /// Sleeps until a deadline has come, or the time of a retry, and returns whose; `None` when
    /// closed.
    pub(super) fn wait_until_due(&self, retries: &Retries) -> Option<Vec<ResourceName>> {
        loop {
            let mut alarm = locked(&self.alarm);
            if alarm.closed {
                return None;
            }
            alarm.next = None;
            drop(alarm);
            let (due, next) = self.look(now(), retries);
            if !due.is_empty() {
                return Some(due);
            }
            let mut alarm = locked(&self.alarm);
            if alarm.closed {
                return None;
            }
            alarm.next = alarm.next.into_iter().chain(next).min();
            match alarm.next {
                None => drop(self.earlier.wait(alarm).unwrap_or_else(|_| poisoned())),
                Some(next) => {
                    let left = next.saturating_duration_since(now());
                    drop(self.earlier.wait_timeout(alarm, left).unwrap_or_else(|_| poisoned()));
                }
            }
        }
    }

    /// Whose deadline has come at `now`, and the earliest of the others.
    fn look(&self, now: Instant, retries: &Retries) -> (Vec<ResourceName>, Option<Instant>) {
        let mut due = Vec::new();
        let mut next = retries.values().copied().filter(|at| now < *at).min();
        let is_later = |resource: &ResourceName| retries.get(resource).is_some_and(|at| now < *at);
        for shard in self.index.iter() {
            let index = locked(shard);
            let come = index.iter().take_while(|(deadline, _)| *deadline <= now);
            let come = come.map(|(_, slot)| slot.name()).filter(|name| !is_later(name));
            due.extend(come.take(MAX_BATCH).cloned());
            let first = index.iter().map(|(deadline, _)| *deadline).find(|at| now < *at);
            next = next.into_iter().chain(first).min();
        }
        (due, next)
    }
}

#[cfg(test)]
impl Deadlines {
    pub(super) fn len(&self) -> usize {
        self.index.iter().map(|shard| locked(shard).len()).sum()
    }
}
