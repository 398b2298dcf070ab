//! The place of one resource in the table: its mutex, its gate, and the threads that sleep there.

use std::borrow::Borrow;
use std::cmp;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{self, AssertUnwindSafe};
use std::sync::{Arc, OnceLock};

use log::error;

use crate::nanos::Instant;
use crate::resource::{self, Answer, Plan, Reply, Resource};
use crate::sync::atomic::{AtomicBool, Ordering};
use crate::sync::{Condvar, Mutex, MutexGuard, locked, now, poisoned};
use crate::{ResourceName, Then};

pub(super) type State = Resource<Arc<Sleeper>>;
pub(super) type Event = resource::Event<Arc<Sleeper>>;

/// The place of one resource. In the map as long as the resource has locks.
///
/// Slots are in order of their names, and a set of them is searched by name: the name is in memory
/// once.
pub(crate) struct Slot {
    name: ResourceName,
    entry: Mutex<Entry>,
}

pub(super) struct Entry {
    pub(super) state: State,
    pub(super) gate: Gate,
}

/// Whether events are decided at once.
pub(super) enum Gate {
    Open,
    /// A plan is being written. Events wait for it in order, but for those that are facts
    /// whatever becomes of it; looks see the state as it is without it.
    Closed(Box<Writing>),
    /// Taken out of the map: whoever comes by an older look-up has to look again.
    Retired,
}

/// What is being written, and what comes after it.
pub(super) struct Writing {
    pub(super) plan: Plan,
    /// Who waits for the plan to be made, and what it then hears. `None`: whoever caused the plan
    /// was answered before, and only those whom the plan concerns are told.
    pub(super) asker: Option<(Answer, Arc<Sleeper>)>,
    /// When the resource was due as the index of deadlines has it.
    pub(super) due: Option<Instant>,
    /// In order of arrival.
    pub(super) turns: VecDeque<Turn>,
}

/// An event that waits at the gate, and the thread that caused it.
pub(super) struct Turn {
    pub(super) event: Event,
    pub(super) asker: Arc<Sleeper>,
}

/// One thread that sleeps until it hears of something, with the mutex of a resource; or what is to
/// be done in its place.
#[derive(Default)]
pub(super) struct Sleeper {
    /// Set once, under the mutex of the resource.
    word: OnceLock<Reply>,
    /// Its client has gone.
    left: AtomicBool,
    awake: Condvar,
    then: Mutex<Option<Then<Reply>>>,
}

/// Why a thread does not sleep any more.
pub(super) enum Woken {
    Told(Reply),
    ClientLeft,
    TimedOut,
}

impl Slot {
    pub(super) fn new(name: ResourceName, state: State) -> Self {
        Self { name, entry: Mutex::new(Entry { state, gate: Gate::Open }) }
    }

    /// What the resource is called.
    pub(crate) fn name(&self) -> &ResourceName {
        &self.name
    }

    pub(super) fn enter(&self) -> MutexGuard<'_, Entry> {
        locked(&self.entry)
    }

    /// Sleeps until the word comes, the client leaves or the deadline is there.
    pub(super) fn sleep(&self, sleeper: &Sleeper, deadline: Option<Instant>) -> Woken {
        let mut entry = self.enter();
        loop {
            if let Some(word) = sleeper.word.get() {
                return Woken::Told(word.clone());
            }
            if sleeper.left.load(Ordering::Relaxed) {
                return Woken::ClientLeft;
            }
            entry = match deadline {
                None => sleeper.awake.wait(entry).unwrap_or_else(|_| poisoned()),
                Some(deadline) => {
                    let left = deadline.saturating_duration_since(now());
                    if left.is_zero() {
                        return Woken::TimedOut;
                    }
                    sleeper.awake.wait_timeout(entry, left).unwrap_or_else(|_| poisoned()).0
                }
            };
        }
    }

    /// Sleeps until the word comes. Only for a thread that is told for certain.
    pub(super) fn hear(&self, sleeper: &Sleeper) -> Reply {
        match self.sleep(sleeper, None) {
            Woken::Told(word) => word,
            Woken::ClientLeft | Woken::TimedOut => poisoned(),
        }
    }

    /// Tells the thread that sleeps there that its client has gone.
    pub(super) fn leave(&self, sleeper: &Sleeper) {
        // Under the mutex, or the thread could fall asleep between its look and the wake.
        let entry = self.enter();
        sleeper.left.store(true, Ordering::Relaxed);
        drop(entry);
        sleeper.wake();
    }
}

impl Borrow<ResourceName> for Arc<Slot> {
    fn borrow(&self) -> &ResourceName {
        &self.name
    }
}

impl Ord for Slot {
    fn cmp(&self, other: &Self) -> cmp::Ordering {
        self.name.cmp(&other.name)
    }
}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Eq for Slot {}

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Writing {
    /// Takes the event of this thread out of the gate, if it still stands there.
    pub(super) fn withdraw(&mut self, asker: &Arc<Sleeper>) -> bool {
        let before = self.turns.len();
        self.turns.retain(|turn| !Arc::ptr_eq(&turn.asker, asker));
        self.turns.len() < before
    }
}

impl Entry {
    /// The plan that is being written.
    pub(super) fn plan(&self) -> Option<&Plan> {
        match &self.gate {
            Gate::Closed(writing) => Some(&writing.plan),
            Gate::Open | Gate::Retired => None,
        }
    }

    /// Whether nothing is left that has to be remembered.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.gate, Gate::Open) && self.state.is_empty()
    }
}

impl Sleeper {
    /// Gives it the word. Under the mutex of the resource.
    pub(super) fn tell(&self, word: Reply) {
        // A waiter leaves its line with the word, so nobody can give it a second one.
        let first = self.word.set(word).is_ok();
        debug_assert!(first);
    }

    pub(super) fn word(&self) -> Option<Reply> {
        self.word.get().cloned()
    }

    /// Has something done with the word when it comes, by whoever gives it, or now if it is there.
    pub(super) fn then(&self, then: Then<Reply>) {
        let mut place = locked(&self.then);
        match self.word() {
            None => *place = Some(then),
            Some(word) => {
                drop(place);
                then(Ok(word));
            }
        }
    }

    /// Outside the mutex of the resource, or the thread would at once sleep again, on the mutex.
    pub(super) fn wake(&self) {
        let Some(word) = self.word() else { return self.awake.notify_one() };
        let Some(then) = locked(&self.then).take() else { return self.awake.notify_one() };
        // What is done with an answer is no part of the change.
        if panic::catch_unwind(AssertUnwindSafe(|| then(Ok(word)))).is_err() {
            error!("a panic at what was to be done with an answer");
        }
    }
}

impl fmt::Debug for Sleeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sleeper").field("word", &self.word).finish_non_exhaustive()
    }
}

#[cfg(all(test, not(shuttle)))]
#[cfg(target_pointer_width = "64")]
mod tests {
    use super::*;

    /// With the two counts of its Arc and the eight bytes that malloc puts before a block. Blocks
    /// are multiples of sixteen.
    #[test]
    fn nobody_makes_a_slot_larger_unawares() {
        assert_eq!(size_of::<Slot>() + 2 * size_of::<usize>() + 8, 192);
    }
}
