//! The gate of a resource: closed while a plan is being written.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::waiter::Input;
use super::waiter::Waiter;
use crate::nanos::Instant;
use crate::resource::{Answer, Plan};

/// Whether inputs are decided at once.
pub(super) enum Gate {
    Open,
    /// A plan is being written. Inputs queue up, except those that only change facts. Readers see
    /// the resource without the plan.
    Closed(Box<Writing>),
    /// The slot is no longer in the map: look the resource up again.
    Retired,
}

/// What is being written, and what comes next.
pub(super) struct Writing {
    pub(super) plan: Plan,
    /// Who waits for this write, and for which answer. `None`: the caller has its reply, and only
    /// those whom the plan concerns are told.
    pub(super) caller: Option<(Answer, Arc<Waiter>)>,
    /// When the resource is due according to the index of deadlines.
    pub(super) due: Option<Instant>,
    pub(super) queue: InputQueue,
}

/// The inputs that wait for the gate, in order of arrival. No operation is linear in their number.
#[derive(Default)]
pub(super) struct InputQueue {
    next: u64,
    by_arrival: BTreeMap<u64, QueuedInput>,
    /// By the address of the waiter, which is unique while the queue holds it.
    arrivals: HashMap<usize, u64>,
}

/// An input that waits for the gate, and who waits for its result.
pub(super) struct QueuedInput {
    pub(super) input: Input,
    pub(super) waiter: Arc<Waiter>,
}

impl Writing {
    /// Whether this is the caller that waits for the write.
    pub(super) fn is_awaited_by(&self, waiter: &Arc<Waiter>) -> bool {
        self.caller.as_ref().is_some_and(|(_, caller)| Arc::ptr_eq(caller, waiter))
    }

    /// Takes the input of this waiter out of the queue, if it is still there.
    pub(super) fn cancel(&mut self, waiter: &Arc<Waiter>) -> bool {
        self.queue.remove(waiter)
    }
}

impl InputQueue {
    pub(super) fn push_back(&mut self, queued: QueuedInput) {
        self.arrivals.insert(address(&queued.waiter), self.next);
        self.by_arrival.insert(self.next, queued);
        self.next += 1;
    }

    pub(super) fn pop_front(&mut self) -> Option<QueuedInput> {
        let (_, queued) = self.by_arrival.pop_first()?;
        self.arrivals.remove(&address(&queued.waiter));
        Some(queued)
    }

    fn remove(&mut self, waiter: &Arc<Waiter>) -> bool {
        let arrival = self.arrivals.remove(&address(waiter));
        arrival.is_some_and(|arrival| self.by_arrival.remove(&arrival).is_some())
    }

    #[cfg(all(test, not(shuttle)))]
    pub(super) fn is_empty(&self) -> bool {
        self.by_arrival.is_empty()
    }
}

fn address(waiter: &Arc<Waiter>) -> usize {
    Arc::as_ptr(waiter).addr()
}

#[cfg(all(test, not(shuttle)))]
mod tests {
    use super::*;

    #[test]
    fn inputs_are_in_order_and_one_can_be_taken_out() {
        let mut queue = InputQueue::default();
        let waiters: Vec<_> = (0..4).map(|_| Arc::<Waiter>::default()).collect();
        for waiter in &waiters {
            queue.push_back(QueuedInput { input: Input::Expire, waiter: Arc::clone(waiter) });
        }
        assert!(queue.remove(&waiters[1]) && !queue.remove(&waiters[1]));
        for waiter in [&waiters[0], &waiters[2], &waiters[3]] {
            assert!(queue.pop_front().is_some_and(|queued| Arc::ptr_eq(&queued.waiter, waiter)));
        }
        assert!(queue.pop_front().is_none() && queue.is_empty() && queue.arrivals.is_empty());
    }
}
