//! The changes that have not been handed to the store, in order.

use std::collections::{BTreeMap, HashMap};

use super::Submitted;
use crate::ResourceName;

/// A queue out of which a change can be taken by its resource, which has at most one here.
pub(super) struct Queue<T> {
    changes: BTreeMap<u64, Submitted<T>>,
    /// The number of the next change.
    next: u64,
    /// The number of each resource's change. Only there between the first withdrawal and the next
    /// time that the queue is empty: when the store does not answer, clients withdraw many.
    numbers: Option<HashMap<ResourceName, u64>>,
}

impl<T> Queue<T> {
    pub(super) fn new() -> Self {
        Self { changes: BTreeMap::new(), next: 0, numbers: None }
    }

    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(super) fn push(&mut self, submitted: Submitted<T>) {
        if let Some(numbers) = &mut self.numbers {
            numbers.insert(submitted.0.resource.clone(), self.next);
        }
        self.changes.insert(self.next, submitted);
        self.next += 1;
    }

    /// Takes up to `count` changes from the front.
    pub(super) fn take(&mut self, count: usize) -> Vec<Submitted<T>> {
        let mut taken = Vec::with_capacity(count.min(self.len()));
        while taken.len() < count
            && let Some((_, submitted)) = self.changes.pop_first()
        {
            if let Some(numbers) = &mut self.numbers {
                numbers.remove(&submitted.0.resource);
            }
            taken.push(submitted);
        }
        if self.is_empty() {
            self.numbers = None;
        }
        taken
    }

    /// Takes out the change of this resource.
    pub(super) fn withdraw(&mut self, resource: &ResourceName) -> Option<T> {
        let number_of =
            |(number, (change, _)): (&u64, &Submitted<T>)| (change.resource.clone(), *number);
        let numbers =
            self.numbers.get_or_insert_with(|| self.changes.iter().map(number_of).collect());
        let number = numbers.remove(resource)?;
        self.changes.remove(&number).map(|(_, ticket)| ticket)
    }
}

#[cfg(test)]
#[cfg(not(shuttle))]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::store::Change;

    fn resource(number: usize) -> ResourceName {
        format!("r{number}").parse().unwrap()
    }

    proptest! {
        /// Whatever is withdrawn, and whenever.
        #[test]
        fn a_queue_does_what_a_list_does(steps in prop::collection::vec((0..3u8, 0..6usize), 0..60)) {
            let (mut queue, mut list) = (Queue::new(), Vec::new());
            for (step, number) in steps {
                match step {
                    0 if !list.contains(&number) => {
                        let resource = resource(number);
                        let change = Change { resource, removed: vec![1], added: Vec::new() };
                        queue.push((change, number));
                        list.push(number);
                    }
                    0 | 1 => {
                        let at = list.iter().position(|it| *it == number);
                        prop_assert_eq!(queue.withdraw(&resource(number)), at.map(|at| list.remove(at)));
                    }
                    _ => {
                        let taken: Vec<_> = queue.take(number).into_iter().map(|(_, it)| it).collect();
                        prop_assert_eq!(taken, list.drain(..number.min(list.len())).collect::<Vec<_>>());
                    }
                }
                prop_assert_eq!((queue.len(), queue.is_empty()), (list.len(), list.is_empty()));
            }
        }
    }
}
