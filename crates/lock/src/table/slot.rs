//! The slot of one resource in the table: its name, its mutex, and what that guards.

use std::borrow::Borrow;
use std::cmp;
use std::sync::Arc;

use super::gate::Gate;
use super::waiter::{Resource, Waiter};
use crate::ResourceName;
use crate::nanos::Instant;
use crate::resource::{Plan, Reply};
use crate::sync::{Mutex, MutexGuard, locked, now, poisoned};

/// In the map for as long as the resource has locks.
///
/// Slots are ordered by name, and a set of them is searched by name, so that the name is in memory
/// once.
pub(crate) struct Slot {
    name: ResourceName,
    inner: Mutex<Inner>,
}

pub(super) struct Inner {
    pub(super) resource: Resource,
    pub(super) gate: Gate,
}

impl Slot {
    pub(super) fn new(name: ResourceName, resource: Resource) -> Self {
        Self { name, inner: Mutex::new(Inner { resource, gate: Gate::Open }) }
    }

    pub(crate) fn name(&self) -> &ResourceName {
        &self.name
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        locked(&self.inner)
    }

    /// Sleeps until the result is there; `None`: the client has departed, or the deadline is over.
    pub(super) fn wait(&self, waiter: &Waiter, deadline: Option<Instant>) -> Option<Reply> {
        let mut inner = self.lock();
        loop {
            let result = waiter.result();
            if result.is_some() || waiter.has_departed() {
                return result;
            }
            inner = match deadline {
                None => waiter.awake.wait(inner).unwrap_or_else(|_| poisoned()),
                Some(deadline) => {
                    let remaining = deadline.saturating_duration_since(now());
                    if remaining.is_zero() {
                        return None;
                    }
                    waiter.awake.wait_timeout(inner, remaining).unwrap_or_else(|_| poisoned()).0
                }
            };
        }
    }

    /// Sleeps until the result is there, which is certain to come.
    pub(super) fn wait_for_certain(&self, waiter: &Waiter) -> Reply {
        self.wait(waiter, None).unwrap_or_else(|| poisoned())
    }

    /// Tells a waiter that its client has departed.
    pub(super) fn depart(&self, waiter: &Waiter) {
        // Under the mutex, or the thread could fall asleep between its check and the wake-up.
        let inner = self.lock();
        waiter.depart();
        drop(inner);
        waiter.wake();
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

impl Inner {
    /// The plan that is being written.
    pub(super) fn plan(&self) -> Option<&Plan> {
        match &self.gate {
            Gate::Closed(writing) => Some(&writing.plan),
            Gate::Open | Gate::Retired => None,
        }
    }

    /// Whether an expiry has to come before every other input.
    pub(super) fn is_behind(&self) -> bool {
        self.resource.is_behind(now)
    }

    /// Whether the slot can be removed from the map.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.gate, Gate::Open) && self.resource.is_empty()
    }
}

#[cfg(all(test, not(shuttle)))]
#[cfg(target_pointer_width = "64")]
mod tests {
    use super::*;

    /// With the two counts of its Arc and the eight bytes that malloc puts before a block. Blocks
    /// are multiples of sixteen.
    #[test]
    fn a_slot_takes_no_more_memory_than_this() {
        assert_eq!(size_of::<Slot>() + 2 * size_of::<usize>() + 8, 192);
    }
}
