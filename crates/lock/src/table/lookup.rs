//! The map from names to slots, and reading resources without waiting for anything.

use std::iter;
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use super::Shared;
use super::gate::Gate;
use super::slot::Slot;
use super::waiter::Resource;
use crate::ResourceName;
use crate::journal::store::{KeptPlace, PlaceNote};
use crate::resource::{Place, Plan};
use crate::sync::{locked, now};

/// How many slots of a shard are looked up while its mutex is locked.
const SLOTS_AT_A_TIME: usize = 256;

impl Shared {
    pub(super) fn slot(&self, resource: &ResourceName) -> Option<Arc<Slot>> {
        locked(self.resources.of(resource)).get(resource).cloned()
    }

    pub(super) fn slot_or_new(&self, resource: &ResourceName) -> Arc<Slot> {
        let mut resources = locked(self.resources.of(resource));
        if let Some(slot) = resources.get(resource) {
            return Arc::clone(slot);
        }
        let slot = Arc::new(Slot::new(resource.clone(), Resource::new()));
        resources.insert(Arc::clone(&slot));
        slot
    }

    /// Removes an empty slot from the map, unless it is in use again.
    pub(super) fn retire(&self, slot: &Slot) {
        let mut resources = locked(self.resources.of(slot.name()));
        let mut inner = slot.lock();
        if inner.is_over() {
            inner.gate = Gate::Retired;
            resources.remove(slot.name());
        }
    }

    /// Adds a place in line of an earlier run.
    pub(super) fn restore_place(&self, kept: KeptPlace) {
        let KeptPlace { id, resource, terms, key, arrival, since } = kept;
        let place = Place { id, terms, key: Some(key), attempt: 0, arrival, since };
        let slot = self.slot_or_new(&resource);
        let mut inner = slot.lock();
        let (before, due) = (inner.resource.tally(), inner.resource.next_due());
        let added = inner.resource.restore_place(place, self.reconnect_grace, self.now());
        self.counts.change(before, inner.resource.tally());
        self.deadlines.change(&slot, due, inner.resource.next_due());
        drop(inner);
        if let Some(journal) = self.journal.as_ref().filter(|_| !added) {
            // Its request was granted, and the note of that was still to be written.
            journal.note(iter::once(PlaceNote::Left(resource, arrival)));
        }
    }

    /// Reads a resource, with the plan that is being written.
    pub(super) fn read<T>(
        &self,
        resource: &ResourceName,
        read: impl FnOnce(&Resource, Option<&Plan>) -> T,
    ) -> Option<T> {
        let slot = self.slot(resource)?;
        let inner = slot.lock();
        Some(read(&inner.resource, inner.plan()))
    }

    /// Whether there are locks on a resource with smaller numbers than this one.
    pub(super) fn has_locks_before(&self, resource: &ResourceName, number: u64) -> bool {
        let has = |state: &Resource, _: Option<&Plan>| state.has_locks_before(number, now());
        self.read(resource, has).unwrap_or(false)
    }

    /// Visits every resource, in no order, until `visit` breaks. No mutex is held meanwhile.
    pub(super) fn each_slot(
        &self,
        mut visit: impl FnMut(&Slot) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        for shard in self.resources.iter() {
            let mut after = None;
            loop {
                let from = after.as_deref().map(Slot::name);
                let from = from.map_or(Bound::Unbounded, Bound::Excluded);
                let shard = locked(shard);
                let behind = shard.range::<ResourceName, _>((from, Bound::Unbounded));
                let some: Vec<_> = behind.take(SLOTS_AT_A_TIME).cloned().collect();
                drop(shard);
                some.iter().try_for_each(|slot| visit(slot))?;
                let Some(last) = some.into_iter().next_back() else { break };
                after = Some(last);
            }
        }
        ControlFlow::Continue(())
    }

    /// All names in order after `after`, in batches of about this size.
    pub(super) fn all_names(
        &self,
        mut after: Option<ResourceName>,
        about: usize,
    ) -> impl Iterator<Item = Vec<ResourceName>> {
        iter::from_fn(move || {
            let names = self.names(after.as_ref(), about);
            after = Some(names.last()?.clone());
            Some(names)
        })
    }

    /// About this many names in order, after `after`; none only if there are no more.
    ///
    /// Takes some names of each shard. The list is complete up to the first name at which a shard
    /// that has more was left, and is cut off there.
    pub(super) fn names(&self, after: Option<&ResourceName>, about: usize) -> Vec<ResourceName> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let of_each = about / self.resources.iter().count() + 4;
        let (mut names, mut up_to) = (Vec::new(), None::<ResourceName>);
        for shard in self.resources.iter() {
            let shard = locked(shard);
            let behind = shard.range::<ResourceName, _>((from, Bound::Unbounded));
            let some: Vec<_> = behind.take(of_each).map(|slot| slot.name().clone()).collect();
            drop(shard);
            if some.len() == of_each
                && let Some(last) = some.last()
            {
                let first = up_to.take().filter(|up_to| up_to < last);
                up_to = first.or_else(|| Some(last.clone()));
            }
            names.extend(some);
        }
        // Not the unstable sort: this one is fast for the sorted runs that they come in.
        names.sort();
        let complete = |name: &ResourceName| up_to.as_ref().is_none_or(|end| name <= end);
        names.truncate(names.partition_point(complete));
        names
    }
}
