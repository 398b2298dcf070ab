//! How long a thread waits for the result of its input, and what happens if there is none in time.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::change::{CORE_PANICKED, Progress, Ticket};
use super::gate::{Gate, QueuedInput};
use super::slot::Slot;
use super::waiter::{Input, OnTimeout, Waiter};
use super::{Shared, granted};
use crate::journal::{By, Finish, Journal};
use crate::nanos::Instant;
use crate::resource::{Claim, Reply};
use crate::sync::{now, poisoned};
use crate::{Departure, Grant, NotWritten, Pending, Refusal};

/// A request that may have to wait for its turn at a closed gate, and then in line.
pub(super) struct Caller<'a> {
    /// Gets the result if the request has to wait in line.
    pub(super) waiter: Arc<Waiter>,
    /// How long it waits at the gate.
    pub(super) gate_deadline: Instant,
    pub(super) on_timeout: OnTimeout,
    /// Called once it waits in line.
    pub(super) on_wait: &'a mut dyn FnMut(Departure),
}

/// A request that waits in line, on its own thread.
struct InLine<'a> {
    shared: &'a Shared,
    slot: Arc<Slot>,
    claim: Claim,
    waiter: Arc<Waiter>,
}

impl Shared {
    /// Waits for the result of a request for a lock.
    pub(super) fn wait_for_grant(
        &self,
        slot: Arc<Slot>,
        progress: Progress,
        caller: Caller<'_>,
    ) -> Pending<Result<Grant, Refusal>> {
        let Caller { waiter, gate_deadline, on_timeout, on_wait } = caller;
        let reply = match progress {
            Progress::Done(reply) => reply,
            Progress::Writing(waiter) => match self.detach(waiter) {
                Ok(pending) => return pending.map(granted),
                Err(waiter) => self.wait(&slot, &waiter, on_timeout),
            },
            Progress::Queued(waiter) => {
                self.wait_at_gate(&slot, &waiter, gate_deadline, on_timeout)
            }
        };
        let Reply::InLine(claim, deadline) = reply else { return granted(reply).into() };
        let place = InLine { shared: self, slot, claim, waiter };
        on_wait(place.departure());
        granted(place.wait(deadline)).into()
    }

    /// Turns the waiter into a result that comes later. `Err`: its thread has to wait, since the
    /// store may take too long.
    pub(super) fn detach(&self, waiter: Arc<Waiter>) -> Result<Pending<Reply>, Arc<Waiter>> {
        match self.patience {
            None => Ok(Pending::Later(Box::new(move |then| waiter.then(then)))),
            Some(_) => Err(waiter),
        }
    }

    /// Waits for the result, for as long as the store may take: see [`Shared::wait_until`].
    pub(super) fn wait(&self, slot: &Slot, waiter: &Arc<Waiter>, on_timeout: OnTimeout) -> Reply {
        self.wait_until(slot, waiter, self.store_deadline(), on_timeout)
    }

    /// When a thread that begins to wait for the store now gives up.
    pub(super) fn store_deadline(&self) -> Option<Instant> {
        self.patience.map(|patience| now() + patience)
    }

    /// Waits for the result until the deadline. Then a change that was not handed to the store is
    /// withdrawn, so that nothing has happened. Else the result is unknown, and `on_timeout` says
    /// what happens to the input.
    pub(super) fn wait_until(
        &self,
        slot: &Slot,
        waiter: &Arc<Waiter>,
        deadline: Option<Instant>,
        on_timeout: OnTimeout,
    ) -> Reply {
        if let Some(reply) = slot.wait(waiter, deadline) {
            return reply;
        }
        let mut inner = slot.lock();
        if let Some(reply) = waiter.result() {
            return reply;
        }
        let Gate::Closed(writing) = &mut inner.gate else {
            drop(inner);
            return slot.wait_for_certain(waiter);
        };
        if writing.is_awaited_by(waiter)
            && let Some(journal) = &self.journal
            && let Some(ticket) = journal.withdraw(slot.name())
        {
            // Nobody else can finish this change, so the gate stays closed until it is finished.
            drop(inner);
            self.finish_withdrawn(journal, ticket);
            return slot.wait_for_certain(waiter);
        }
        match on_timeout {
            OnTimeout::Abandon(id) => {
                let input = Input::Abandon(id, self.reconnect_grace);
                writing.queue.push_back(QueuedInput { input, waiter: Arc::default() });
            }
            OnTimeout::Cancel if writing.cancel(waiter) => {
                return Reply::Refused(Refusal::NotWritten(too_late()));
            }
            OnTimeout::Cancel | OnTimeout::Keep => {}
        }
        writing.caller.take_if(|(_, caller)| Arc::ptr_eq(caller, waiter));
        Reply::Refused(Refusal::NotWritten(NotWritten::Unknown))
    }

    /// Finishes a change that was withdrawn, and begins what has been waiting for its end.
    fn finish_withdrawn(&self, journal: &Journal<Ticket>, ticket: Ticket) {
        let (following, news) = self.finish(ticket, Err(too_late()));
        if let Some(following) = following {
            self.submit(journal, following, By::Journal);
        }
        self.tell(news);
    }

    /// Like [`Shared::wait`], but if the input is still queued at the deadline, it is cancelled.
    fn wait_at_gate(
        &self,
        slot: &Slot,
        waiter: &Arc<Waiter>,
        deadline: Instant,
        on_timeout: OnTimeout,
    ) -> Reply {
        if let Some(reply) = slot.wait(waiter, Some(deadline)) {
            return reply;
        }
        let mut inner = slot.lock();
        if let Gate::Closed(writing) = &mut inner.gate
            && writing.cancel(waiter)
        {
            return Reply::Refused(Refusal::TimedOut);
        }
        drop(inner);
        self.wait(slot, waiter, on_timeout)
    }
}

impl InLine<'_> {
    fn departure(&self) -> Departure {
        let (slot, waiter) = (Arc::clone(&self.slot), Arc::clone(&self.waiter));
        Departure::new(move || slot.depart(&waiter))
    }

    /// What happens to the end of the wait if the store does not answer in time. A lock whose
    /// conversion ends is held all the same.
    fn on_timeout(&self) -> OnTimeout {
        match self.claim {
            Claim::Place { id, .. } => OnTimeout::Abandon(id),
            Claim::Conversion { .. } => OnTimeout::Keep,
        }
    }

    /// Sleeps until the result is there, or ends the wait.
    fn wait(&self, deadline: Instant) -> Reply {
        if let Some(reply) = self.slot.wait(&self.waiter, Some(deadline)) {
            return reply;
        }
        let input = match self.waiter.has_departed() {
            true => Input::Withdraw(self.claim, self.shared.reconnect_grace),
            false => Input::TimeOut(self.claim),
        };
        let progress = self.shared.begin(&self.slot, input);
        if let Ok(Progress::Writing(waiter) | Progress::Queued(waiter)) = progress
            && let unknown @ Reply::Refused(_) =
                self.shared.wait(&self.slot, &waiter, self.on_timeout())
        {
            return unknown;
        }
        // If a result has come at the same time, it wins.
        self.waiter.result().unwrap_or_else(|| poisoned())
    }
}

impl Drop for InLine<'_> {
    /// A request without a thread must not stay in line.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let leave = || self.shared.run(&self.slot, Input::TimeOut(self.claim));
            // Panics, too, if the core has: a second panic that got out of here would abort the
            // process, which is about to end by itself.
            if panic::catch_unwind(AssertUnwindSafe(leave)).is_err() {
                self.shared.observer.failed(CORE_PANICKED);
            }
        }
    }
}

/// Why a change was withdrawn.
fn too_late() -> NotWritten {
    NotWritten::Refused("what they are written to does not answer in time".into())
}
