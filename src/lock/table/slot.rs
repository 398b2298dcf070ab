//! The place of one resource in the table: its mutex, its gate, and the threads that sleep there.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use super::{locked, poisoned};
use crate::lock::resource::{Resource, Verdict};
use crate::lock::sync::{Condvar, Mutex, MutexGuard, now};

pub(super) type State = Resource<Arc<Wait<Verdict>>>;

/// The place of one resource. In the map as long as it has locks.
pub(super) struct Slot {
    pub(super) entry: Mutex<Entry>,
}

pub(super) struct Entry {
    pub(super) state: State,
    /// Taken out of the map: whoever comes by an older look-up has to look again.
    pub(super) retired: bool,
    /// Closed while a change is being written, and until everybody who came meanwhile has had
    /// a turn. Nobody looks at the state of a closed resource, or changes it, out of turn; but
    /// at the end of the server its line is told so at once.
    pub(super) gate: Option<Box<ClosedGate>>,
}

/// Who wants to enter, in order of arrival.
#[derive(Default)]
pub(super) struct ClosedGate {
    queue: VecDeque<Arc<Wait<()>>>,
}

/// One thread that waits to be told a `T`; it sleeps on `over`, together with the mutex of a
/// resource.
pub(super) struct Wait<T> {
    /// Set once, under the mutex of the resource.
    pub(super) told: OnceLock<T>,
    pub(super) over: Condvar,
}

impl Slot {
    pub(super) fn new(state: State) -> Self {
        Self { entry: Mutex::new(Entry { state, retired: false, gate: None }) }
    }

    /// Takes the mutex; if the gate is closed, when its turn has come.
    pub(super) fn enter(&self) -> MutexGuard<'_, Entry> {
        let mut entry = locked(&self.entry);
        if let Some(gate) = &mut entry.gate {
            let turn = Arc::new(Wait::new());
            gate.queue.push_back(Arc::clone(&turn));
            while turn.told.get().is_none() {
                entry = turn.over.wait(entry).unwrap_or_else(|_| poisoned());
            }
        }
        entry
    }
}

impl Entry {
    /// Gives the next one its turn, or opens the gate.
    pub(super) fn pass_gate(&mut self) -> Option<Arc<Wait<()>>> {
        let next = self.gate.as_mut()?.queue.pop_front();
        if next.is_none() {
            self.gate = None;
        }
        next.map(|turn| turn.tell(()))
    }
}

impl<T> Wait<T> {
    pub(super) fn new() -> Self {
        Self { told: OnceLock::new(), over: Condvar::new() }
    }

    pub(super) fn tell(self: Arc<Self>, word: T) -> Arc<Self> {
        // A waiter leaves its line with the word, so nobody can give it a second one.
        let first = self.told.set(word).is_ok();
        debug_assert!(first);
        self
    }
}

/// Sleeps until the wait is over; `None` if it was not by the deadline.
pub(super) fn wait_until(slot: &Slot, wait: &Wait<Verdict>, deadline: Instant) -> Option<Verdict> {
    let mut entry = locked(&slot.entry);
    loop {
        if let Some(verdict) = wait.told.get() {
            return Some(verdict.clone());
        }
        let left = deadline.saturating_duration_since(now());
        if left.is_zero() {
            return None;
        }
        entry = wait.over.wait_timeout(entry, left).unwrap_or_else(|_| poisoned()).0;
    }
}
