//! What the two threads of a table do: the journal writes, and the reaper ends what is due.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;

use super::Shared;
use super::change::{PanicGuard, Progress};
use super::deadlines::Due;
use super::reaper;
use super::waiter::Input;
use super::waiter::OnTimeout;
use crate::journal::store::Store;
use crate::journal::{self, Journal};
use crate::resource::{PIECE, Plan, Reply};
use crate::{Refusal, ResourceName};

impl Shared {
    /// The body of the journal's thread.
    pub(super) fn write(&self, store: Box<dyn Store>) {
        let Some(journal) = &self.journal else { return };
        self.or_fail(|| journal::run(journal, store, self));
    }

    /// Reports that the core cannot go on if a write fails or panics, since it is not known what is
    /// in the store then.
    pub(super) fn or_fail(&self, write: impl FnOnce() -> Result<(), Arc<str>>) {
        let why = match panic::catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(())) => return,
            Ok(Err(why)) => why,
            Err(_) => "a thread panicked while it wrote the locks".into(),
        };
        self.observer.failed(&why);
        self.journal.iter().for_each(Journal::break_off);
    }

    /// The body of the reaper's thread. Without it no lock would expire.
    pub(super) fn reap(&self) {
        let _guard = PanicGuard::new(self);
        let expire = |due: &[Due]| {
            let refused = self.run_each(due, |(_, slot)| slot.name(), || Input::Expire);
            refused.into_iter().map(|(due, _)| due.clone()).collect()
        };
        let is_writable = || match &self.journal {
            Some(journal) => journal.writable().and(journal.admits()).is_ok(),
            None => true,
        };
        reaper::run(&self.deadlines, expire, is_writable);
    }

    /// Runs an input on each of these resources, and returns those that could not be written. The
    /// changes are begun up to a piece before the first is waited for, to be written together.
    pub(super) fn run_each<'a, T>(
        &self,
        resources: &'a [T],
        name: impl Fn(&T) -> &ResourceName,
        input: impl Fn() -> Input,
    ) -> Vec<(&'a T, Refusal)> {
        let mut refused = Vec::new();
        let mut resources = resources.iter();
        loop {
            let mut begun = Vec::new();
            let mut room = PIECE;
            while room > 0 {
                let Some(resource) = resources.next() else { break };
                let Some(slot) = self.slot(name(resource)) else { continue };
                let Ok(progress) = self.begin(&slot, input()) else { continue };
                let size = slot.lock().plan().map_or(1, Plan::len);
                room = room.saturating_sub(size);
                begun.push((resource, slot, progress));
            }
            if begun.is_empty() {
                return refused;
            }
            let deadline = self.store_deadline();
            for (resource, slot, progress) in begun {
                let reply = match progress {
                    Progress::Done(reply) => reply,
                    Progress::Writing(waiter) | Progress::Queued(waiter) => {
                        self.wait_until(&slot, &waiter, deadline, OnTimeout::Cancel)
                    }
                };
                if let Reply::Refused(refusal @ Refusal::NotWritten(_)) = reply {
                    refused.push((resource, refusal));
                }
            }
        }
    }
}
