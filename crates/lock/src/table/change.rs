//! How every change is made: an input is decided under the mutex of its resource, its facts are
//! applied at once, and its plan is written, without the mutex, before it is applied.
//!
//! While a plan is being written, the gate of its resource is closed. Inputs that arrive meanwhile
//! queue up there, and are decided by the thread that finishes the write. Without a store nothing
//! is written, and the gate is never closed.

use std::cell::LazyCell;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use super::Shared;
use super::gate::{Gate, InputQueue, QueuedInput, Writing};
use super::report::{log_end, next};
use super::slot::{Inner, Slot};
use super::waiter::{Input, OnTimeout, Resource, Waiter};
use crate::events::Event;
use crate::journal::store::{Change, KeptPlace, PlaceNote};
use crate::journal::{By, Finish, Journal, Submitted};
use crate::nanos::Instant;
use crate::resource::{Answer, Decision, Effects, Now, Place, Reply};
use crate::sync::atomic::Ordering;
use crate::sync::{MutexGuard, now};
use crate::{Kind, NotWritten, Refusal, ResourceName};

/// Identifies the resource whose write has completed.
pub(super) type Ticket = Arc<Slot>;

/// How far an input has come.
pub(super) enum Progress {
    Done(Reply),
    /// Its plan is being written.
    Writing(Arc<Waiter>),
    /// It is in the queue of a closed gate.
    Queued(Arc<Waiter>),
}

/// What is left to do once the mutex of the resource is unlocked.
#[derive(Default)]
pub(super) struct Afterwards {
    woken: Vec<Arc<Waiter>>,
    events: Vec<Event>,
    places: Vec<(u64, Option<Place>)>,
    /// The slot can be removed from the map.
    over: bool,
}

/// A resource whose mutex is locked, while it is changed.
struct Locked<'a> {
    shared: &'a Shared,
    slot: &'a Arc<Slot>,
    inner: MutexGuard<'a, Inner>,
    /// When the resource is due according to the index of deadlines.
    due: Option<Instant>,
    after: Afterwards,
}

impl Shared {
    /// Runs an input until its result is there; `None` if the slot is retired, so that the resource
    /// has no locks.
    pub(super) fn run(&self, slot: &Arc<Slot>, input: Input) -> Option<Reply> {
        Some(match self.begin(slot, input).ok()? {
            Progress::Done(reply) => reply,
            Progress::Writing(waiter) | Progress::Queued(waiter) => {
                self.wait(slot, &waiter, OnTimeout::Cancel)
            }
        })
    }

    /// Begins an input, or queues it if the gate is closed. If the resource is behind, that comes
    /// first, piece by piece.
    ///
    /// # Errors
    /// The slot is retired, and nothing has happened: the input is given back.
    pub(super) fn begin(&self, slot: &Arc<Slot>, mut input: Input) -> Result<Progress, Input> {
        let _guard = PanicGuard::new(self);
        loop {
            match self.begin_piece(slot, input)? {
                (progress, None) => return Ok(progress),
                (_, Some(rest)) => input = rest,
            }
        }
    }

    /// Begins an input, or an expiry that has to come before it. Then the input is returned.
    fn begin_piece(
        &self,
        slot: &Arc<Slot>,
        input: Input,
    ) -> Result<(Progress, Option<Input>), Input> {
        let mut locked = Locked::new(self, slot);
        let is_open = matches!(locked.inner.gate, Gate::Open);
        let is_behind = is_open && !matches!(input, Input::Expire) && locked.inner.is_behind();
        let (input, rest) = match is_behind {
            true => (Input::Expire, Some(input)),
            false => (input, None),
        };
        let is_client_request = input.is_client_request();
        let (progress, change) = match locked.inner.gate {
            Gate::Retired => return Err(input),
            Gate::Closed(_) => (locked.note_or_queue(input), None),
            Gate::Open => locked.start(input, None),
        };
        let after = locked.unlock();
        self.finish_up(slot, after);
        let (Some(change), Some(journal)) = (change, &self.journal) else {
            return Ok((progress, rest));
        };
        // Only a request that waits for this very write may write it itself, and only if the store
        // takes a bounded time for it.
        let by = match progress {
            Progress::Writing(_) if is_client_request && self.patience.is_none() => By::Submitter,
            _ => By::Journal,
        };
        self.submit(journal, (change, Arc::clone(slot)), by);
        let progress = match progress {
            Progress::Writing(waiter) => match waiter.result() {
                Some(reply) => Progress::Done(reply),
                None => Progress::Writing(waiter),
            },
            progress => progress,
        };
        Ok((progress, rest))
    }

    pub(super) fn submit(&self, journal: &Journal<Ticket>, submitted: Submitted<Ticket>, by: By) {
        if let Some(own) = journal.submit(submitted, by) {
            self.or_fail(|| journal.write_own(own, self));
        }
    }

    /// Decides an input within the limits. If it would exceed one, it is refused as a whole.
    fn decide(&self, resource: &Resource, input: Input, now: Now) -> Decision<Arc<Waiter>> {
        if matches!(input, Input::Acquire(..) | Input::Convert(..))
            && self.shutting_down.load(Ordering::SeqCst)
        {
            return Decision::refused(Refusal::ShuttingDown);
        }
        let input = self.within_limits(input);
        let decision = resource.decide(input, now, &mut || self.numbers.next());
        let (waiting, in_line) = (self.counts.waiting(), resource.tally().waiting);
        let limits = &self.limits;
        if decision.lengthens_line(resource)
            && (waiting >= limits.waiting || in_line >= limits.waiting_per_resource)
        {
            return Decision::refused(Refusal::TooManyWaiting);
        }
        if decision.adds_lock(resource) && self.counts.locks() >= limits.locks {
            return Decision::refused(Refusal::TooManyLocks);
        }
        decision
    }

    /// Whether the journal takes what a client asks for. What happens by itself, such as the end of
    /// a lifetime, is bounded by the number of locks.
    fn admits(&self, input: &Input) -> Result<(), Refusal> {
        match &self.journal {
            Some(journal) if input.is_client_request() || matches!(input, Input::Delete(..)) => {
                journal.admits().map_err(Refusal::NotWritten)
            }
            _ => Ok(()),
        }
    }

    /// The input, but a place is not kept if that would exceed the limit on locks.
    fn within_limits(&self, input: Input) -> Input {
        match input {
            Input::Withdraw(claim, _) if self.counts.locks() >= self.limits.locks => {
                Input::Withdraw(claim, Duration::ZERO)
            }
            input => input,
        }
    }

    fn finish_up(&self, slot: &Slot, after: Afterwards) {
        after.woken.iter().for_each(|waiter| waiter.wake());
        if let Some(journal) = self.journal.as_ref().filter(|_| !after.places.is_empty()) {
            let places = after.places.into_iter();
            journal.note(places.map(|place| place_note(slot.name(), place)));
        }
        if after.over {
            self.retire(slot);
        }
        if after.events.is_empty() {
            return;
        }
        self.events.notify();
        let next = LazyCell::new(|| next(&after.events));
        for event in &after.events {
            if let Kind::Ended(end) = event.details.kind {
                self.observer.ended(end, event.lasted());
                log_end(event, end, || &next);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is shown")]
    pub(super) fn now(&self) -> Now {
        Now { instant: now(), wall: SystemTime::now() }
    }
}

impl<'a> Locked<'a> {
    fn new(shared: &'a Shared, slot: &'a Arc<Slot>) -> Self {
        let inner = slot.lock();
        let due = match &inner.gate {
            Gate::Open => inner.resource.next_due(),
            Gate::Closed(writing) => writing.due,
            Gate::Retired => None,
        };
        Self { shared, slot, inner, due, after: Afterwards::default() }
    }

    /// Decides an input and applies what need not be written. If its plan has to be, closes the
    /// gate and returns the change. `waiter`, if there is one yet, gets the result if it is not
    /// there at once.
    fn start(&mut self, input: Input, waiter: Option<Arc<Waiter>>) -> (Progress, Option<Change>) {
        let shared = self.shared;
        let now = shared.now();
        let admitted = shared.admits(&input);
        let Decision { facts, plan, answer } = shared.decide(&self.inner.resource, input, now);
        let name = self.slot.name();
        let change = shared.journal.as_ref().and_then(|_| Change::of(&plan, name, now.instant));
        if let (Some(_), Err(refusal)) = (&change, admitted) {
            return (Progress::Done(Reply::Refused(refusal)), None);
        }
        let unwritten = self.apply(now.wall, |resource, effects| {
            resource.note(facts, effects);
            if change.is_some() {
                return Some(plan);
            }
            resource.apply(plan, now, effects);
            None
        });
        let Some(plan) = unwritten else {
            return (Progress::Done(self.inner.resource.answer(answer)), None);
        };
        let (progress, caller) = match answer {
            Answer::Now(reply) => (Progress::Done(reply), None),
            answer => {
                let waiter = waiter.unwrap_or_default();
                (Progress::Writing(Arc::clone(&waiter)), Some((answer, waiter)))
            }
        };
        let writing = Writing { plan, caller, due: self.due, queue: InputQueue::default() };
        self.inner.gate = Gate::Closed(Box::new(writing));
        (progress, change)
    }

    /// While a plan is being written: applies the facts of an input that need not wait for it, or
    /// queues the input.
    fn note_or_queue(&mut self, input: Input) -> Progress {
        let shared = self.shared;
        let input = shared.within_limits(input);
        if let Err(refusal) = shared.admits(&input) {
            return Progress::Done(Reply::Refused(refusal));
        }
        let now = shared.now();
        let Inner { resource, gate: Gate::Closed(writing) } = &mut *self.inner else {
            return Progress::Done(Reply::Done);
        };
        if let Some(facts) = resource.facts_beside(&input, &writing.plan, now) {
            self.apply(now.wall, |resource, effects| resource.note(facts, effects));
            return Progress::Done(Reply::Done);
        }
        let waiter = Arc::<Waiter>::default();
        writing.queue.push_back(QueuedInput { input, waiter: Arc::clone(&waiter) });
        Progress::Queued(waiter)
    }

    /// Changes the resource, and notes whom that concerns.
    fn apply<T>(
        &mut self,
        wall: SystemTime,
        change: impl FnOnce(&mut Resource, &mut Effects<Arc<Waiter>>) -> T,
    ) -> T {
        let Self { shared, slot, inner, after, .. } = self;
        let mut effects = Effects::default();
        let before = inner.resource.tally();
        let result = change(&mut inner.resource, &mut effects);
        shared.counts.change(before, inner.resource.tally());
        effects.results.into_iter().for_each(|(waiter, result)| after.complete(waiter, result));
        let events = effects.events.into_iter();
        after.events.extend(events.map(|what| shared.events.record(slot.name(), wall, what)));
        if shared.keeps_places {
            after.places.extend(effects.places);
        }
        result
    }

    /// Decides what the resource is behind with and then the inputs that have queued up, until a
    /// plan has to be written. Returns its change.
    fn catch_up(&mut self, mut queue: InputQueue, can_write: bool) -> Option<Change> {
        let mut following = None;
        // If the store has just refused, it would refuse an expiry, too.
        while can_write && following.is_none() && self.inner.is_behind() {
            following = self.start(Input::Expire, None).1;
        }
        while following.is_none()
            && let Some(QueuedInput { input, waiter }) = queue.pop_front()
        {
            let (progress, change) = self.start(input, Some(Arc::clone(&waiter)));
            if let Progress::Done(reply) = progress {
                self.after.complete(waiter, reply);
            }
            following = change;
        }
        if let Gate::Closed(writing) = &mut self.inner.gate {
            writing.queue = queue;
        }
        following
    }

    /// Unlocks the mutex. While the gate is closed, the index of deadlines stays as it is: what is
    /// due next is known when the gate opens.
    fn unlock(self) -> Afterwards {
        let Self { shared, slot, inner, due, mut after } = self;
        if matches!(inner.gate, Gate::Open) {
            let next_due = inner.resource.next_due();
            if next_due != due {
                shared.deadlines.change(slot, due, next_due);
            }
        }
        after.over = inner.is_over();
        after
    }
}

impl Finish<Ticket> for Shared {
    type News = Option<(Ticket, Afterwards)>;

    /// Applies a plan that was written, or drops it; then decides the inputs that have queued up.
    /// Returns the change that has to be written next.
    fn finish(
        &self,
        slot: Ticket,
        written: Result<(), NotWritten>,
    ) -> (Option<Submitted<Ticket>>, Self::News) {
        let _guard = PanicGuard::new(self);
        let mut locked = Locked::new(self, &slot);
        let Gate::Closed(writing) = mem::replace(&mut locked.inner.gate, Gate::Open) else {
            return (None, None);
        };
        let Writing { plan, caller, due: _, queue } = *writing;
        if written.is_ok() {
            let now = self.now();
            locked.apply(now.wall, |resource, effects| resource.apply(plan, now, effects));
        } else if self.shutting_down.load(Ordering::SeqCst) {
            // The waits that the plan was to end were not dismissed while it was being written.
            locked.start(Input::Dismiss, None);
        }
        if let Some((answer, waiter)) = caller {
            let reply = match written.clone() {
                Ok(()) => locked.inner.resource.answer(answer),
                Err(why) => Reply::Refused(Refusal::NotWritten(why)),
            };
            locked.after.complete(waiter, reply);
        }
        let following = locked.catch_up(queue, written.is_ok());
        let after = locked.unlock();
        let following = following.map(|change| (change, Arc::clone(&slot)));
        (following, Some((slot, after)))
    }

    /// Wakes those whom the change concerns, once the whole batch is applied.
    fn tell(&self, news: Self::News) {
        let _guard = PanicGuard::new(self);
        if let Some((slot, after)) = news {
            self.finish_up(&slot, after);
        }
    }
}

fn place_note(resource: &ResourceName, (arrival, place): (u64, Option<Place>)) -> PlaceNote {
    let resource = resource.clone();
    match place {
        Some(Place { id, terms, key: Some(key), since, .. }) => {
            PlaceNote::Joined(Box::new(KeptPlace { id, resource, terms, key, arrival, since }))
        }
        _ => PlaceNote::Left(resource, arrival),
    }
}

impl Afterwards {
    /// Gives a waiter its result. It is woken once the mutex is unlocked.
    fn complete(&mut self, waiter: Arc<Waiter>, result: Reply) {
        waiter.complete(result);
        self.woken.push(waiter);
    }
}

pub(super) const CORE_PANICKED: &str = "a thread panicked while it changed the locks";

/// Reports that the core cannot go on if its thread panics, since a change may be half made. The
/// process then ends.
pub(super) struct PanicGuard<'a> {
    shared: &'a Shared,
    /// The thread panics already, elsewhere, and takes its request out of the line.
    panicked: bool,
}

impl<'a> PanicGuard<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, panicked: thread::panicking() }
    }
}

impl Drop for PanicGuard<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.panicked {
            self.shared.observer.failed(CORE_PANICKED);
        }
    }
}
