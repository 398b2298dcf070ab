//! How long the thread that caused an event waits for the result, and what happens if none comes in
//! time.

use std::sync::Arc;

use super::Shared;
use super::change::Ticket;
use super::slot::{Event, Gate, Sleeper, Slot, Turn, Woken};
use crate::journal::{By, Finish, Journal};
use crate::nanos::Instant;
use crate::resource::Reply;
use crate::sync::now;
use crate::{LockId, NotWritten, Pending, Refusal};

/// What happens to an event if its thread stops waiting for the result.
#[derive(Clone, Copy)]
pub(super) enum Unheard {
    /// It is cancelled if it is still in the queue of its resource.
    NeverWas,
    /// It is carried out.
    Stays,
    /// It is carried out, and then this lock is released: no client knows of it.
    GivesUp(LockId),
}

impl Shared {
    /// Returns the result as one that comes later. `Err`: somebody has to wait for it, as the store
    /// may take too long.
    pub(super) fn later(&self, asker: Arc<Sleeper>) -> Result<Pending<Reply>, Arc<Sleeper>> {
        match self.patience {
            None => Ok(Pending::Later(Box::new(move |then| asker.then(then)))),
            Some(_) => Err(asker),
        }
    }

    /// Waits for the result, but not longer than the store's patience: see [`Shared::hear_by`].
    pub(super) fn hear(&self, slot: &Slot, asker: &Arc<Sleeper>, unheard: Unheard) -> Reply {
        self.hear_by(slot, asker, self.patience_ends(), unheard)
    }

    /// When a thread that begins to wait now has waited long enough.
    pub(super) fn patience_ends(&self) -> Option<Instant> {
        self.patience.map(|patience| now() + patience)
    }

    /// Waits for the result until the deadline. Then a change that has not been handed to the store
    /// is withdrawn, so that nothing has happened. For one that has been, the result is unknown, and
    /// `unheard` says what happens to the event.
    pub(super) fn hear_by(
        &self,
        slot: &Slot,
        asker: &Arc<Sleeper>,
        deadline: Option<Instant>,
        unheard: Unheard,
    ) -> Reply {
        if let Woken::Told(reply) = slot.sleep(asker, deadline) {
            return reply;
        }
        let mut entry = slot.enter();
        if let Some(reply) = asker.word() {
            return reply;
        }
        let Gate::Closed(writing) = &mut entry.gate else {
            drop(entry);
            return slot.hear(asker);
        };
        if writing.is_asked_for_by(asker)
            && let Some(journal) = &self.journal
            && let Some(ticket) = journal.withdraw(slot.name())
        {
            // Nobody else can finish this change, so the gate stays closed until it is.
            drop(entry);
            self.finish_withdrawn(journal, ticket);
            return slot.hear(asker);
        }
        match unheard {
            Unheard::GivesUp(id) => {
                let event = Event::Abandon(id, self.reconnect_grace);
                writing.turns.push_back(Turn { event, asker: Arc::default() });
            }
            Unheard::NeverWas if writing.withdraw(asker) => {
                return Reply::Refused(Refusal::NotWritten(too_late()));
            }
            Unheard::NeverWas | Unheard::Stays => {}
        }
        writing.asker.take_if(|(_, asks)| Arc::ptr_eq(asks, asker));
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

    /// Like [`Shared::hear`], but if the event is still in the queue of its resource at the deadline,
    /// it is cancelled.
    pub(super) fn hear_until(
        &self,
        slot: &Slot,
        asker: &Arc<Sleeper>,
        deadline: Instant,
        unheard: Unheard,
    ) -> Reply {
        match slot.sleep(asker, Some(deadline)) {
            Woken::Told(reply) => return reply,
            Woken::TimedOut | Woken::ClientLeft => {}
        }
        let mut entry = slot.enter();
        if let Gate::Closed(writing) = &mut entry.gate
            && writing.withdraw(asker)
        {
            return Reply::Refused(Refusal::TimedOut);
        }
        drop(entry);
        self.hear(slot, asker, unheard)
    }
}

/// Why a change was withdrawn.
fn too_late() -> NotWritten {
    NotWritten::Refused("what they are written to does not answer in time".into())
}
