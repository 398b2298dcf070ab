//! The way of every change: an event is decided under the mutex of its resource; the facts are
//! made at once; the plan is written, without the mutex, and then made.
//!
//! While a plan is being written the gate of its resource is closed. Events that come meanwhile
//! wait there as data, in order, and are decided by whoever has written the plan and finishes it.
//! Without a journal, nothing is written and the gate is never closed.

use std::cell::LazyCell;
use std::mem;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use log::{Level, info, log_enabled};

use super::Shared;
use super::slot::{Entry, Event, Gate, Sleeper, Slot, State, Turn, Turns, Writing};
use super::waiting::Unheard;
use crate::journal::store::{Change, KeptPlace, PlaceNote};
use crate::journal::{By, Finish, Journal, Submitted};
use crate::nanos::Instant;
use crate::resource::{Answer, Decision, Now, Outcome, Place, Reply, Tally};
use crate::sync::atomic::{AtomicUsize, Ordering};
use crate::sync::now;
use crate::{End, EventDetails, Kind, NotWritten, Refusal, ResourceName, Terms, events};

/// By which a change that was written is finished.
pub(super) type Ticket = Arc<Slot>;

/// What became of an event so far.
pub(super) enum Begun {
    Done(Reply),
    /// The answer comes when its plan was written.
    Writing(Arc<Sleeper>),
    /// It stands at the gate, and is decided when its turn comes.
    Queued(Arc<Sleeper>),
}

impl Begun {
    /// What became of it by now.
    fn now(self) -> Self {
        match self {
            Self::Writing(asker) => match asker.word() {
                Some(reply) => Self::Done(reply),
                None => Self::Writing(asker),
            },
            begun => begun,
        }
    }
}

/// What is left to do when the mutex of the resource has been given up.
#[derive(Default)]
pub(super) struct Afterwards {
    woken: Vec<Arc<Sleeper>>,
    happened: Vec<events::Event>,
    places: Vec<(u64, Option<Place>)>,
    /// Nothing is left there that has to be remembered.
    over: bool,
}

impl Shared {
    /// Runs an event to its end; `None` if the slot is retired, so that the resource has no
    /// locks.
    pub(super) fn run(&self, slot: &Arc<Slot>, event: Event) -> Option<Reply> {
        Some(match self.begin(slot, event).ok()? {
            Begun::Done(reply) => reply,
            Begun::Writing(asker) | Begun::Queued(asker) => {
                self.hear(slot, &asker, Unheard::NeverWas)
            }
        })
    }

    /// Begins an event, or leaves it at the gate if that is closed. What the resource is behind
    /// with comes first, piece by piece.
    ///
    /// # Errors
    /// The slot is retired, and nothing has happened: the event is given back.
    pub(super) fn begin(&self, slot: &Arc<Slot>, mut event: Event) -> Result<Begun, Event> {
        let _panics = FailsIfItPanics::new(self);
        loop {
            match self.begin_piece(slot, event)? {
                (begun, None) => return Ok(begun),
                (_, Some(rest)) => event = rest,
            }
        }
    }

    /// Begins an event, or what comes before it: then that event is returned.
    fn begin_piece(&self, slot: &Arc<Slot>, event: Event) -> Result<(Begun, Option<Event>), Event> {
        let resource = slot.name();
        let mut afterwards = Afterwards::default();
        let mut entry = slot.enter();
        let is_open = matches!(entry.gate, Gate::Open);
        let (event, rest) = match is_open && entry.comes_before(&event) {
            true => (Event::Expire, Some(event)),
            false => (event, None),
        };
        let is_asked_for = event.is_asked_for();
        let (begun, change) = match entry.gate {
            Gate::Retired => return Err(event),
            Gate::Closed(_) => {
                (self.pass_or_queue(resource, &mut entry, event, &mut afterwards), None)
            }
            Gate::Open => {
                let due = entry.state.next_due();
                let started = self.start(&mut entry, resource, due, event, None, &mut afterwards);
                self.note_due(slot, due, &entry);
                started
            }
        };
        afterwards.over = entry.is_over();
        drop(entry);
        self.finish_up(slot, afterwards);
        let (Some(change), Some(journal)) = (change, &self.journal) else {
            return Ok((begun, rest));
        };
        // Who has heard its answer, or waits for somebody else, does not wait for the store; nor
        // does anybody for longer than it has patience.
        let by = match begun {
            Begun::Writing(_) if is_asked_for && self.patience.is_none() => By::Submitter,
            _ => By::Journal,
        };
        self.submit(journal, (change, Arc::clone(slot)), by);
        Ok((begun.now(), rest))
    }

    pub(super) fn submit(&self, journal: &Journal<Ticket>, submitted: Submitted<Ticket>, by: By) {
        if let Some(own) = journal.submit(submitted, by) {
            self.or_fail(|| journal.write_own(own, self));
        }
    }

    /// Decides an event and makes of it what can be made at once. If its plan has to be written,
    /// closes the gate and returns the change. `due` is when the resource was due as the index
    /// has it; `asker`, if there is one yet, hears the answer when that cannot be given at once.
    fn start(
        &self,
        entry: &mut Entry,
        resource: &ResourceName,
        due: Option<Instant>,
        event: Event,
        asker: Option<Arc<Sleeper>>,
        afterwards: &mut Afterwards,
    ) -> (Begun, Option<Change>) {
        let now = self.now();
        let admitted = self.admits(&event);
        let Decision { facts, plan, answer } = self.decide(&entry.state, event, now);
        let change = self.journal.as_ref().and_then(|_| Change::of(&plan, resource, now.instant));
        if let (Some(_), Err(refusal)) = (&change, admitted) {
            return (Begun::Done(Reply::Refused(refusal)), None);
        }
        let made = (resource, now.wall);
        let unwritten = self.make(made, &mut entry.state, afterwards, |state, outcome| {
            state.note(facts, outcome);
            if change.is_some() {
                return Some(plan);
            }
            state.apply(plan, now, outcome);
            None
        });
        let Some(plan) = unwritten else {
            return (Begun::Done(entry.state.answer(answer)), None);
        };
        let (begun, asker) = match answer {
            Answer::Now(answer) => (Begun::Done(answer.into()), None),
            answer => {
                let asker = asker.unwrap_or_default();
                (Begun::Writing(Arc::clone(&asker)), Some((answer, asker)))
            }
        };
        entry.gate = Gate::Closed(Box::new(Writing { plan, asker, due, turns: Turns::default() }));
        (begun, change)
    }

    /// What becomes of an event while a plan is being written.
    fn pass_or_queue(
        &self,
        resource: &ResourceName,
        entry: &mut Entry,
        event: Event,
        afterwards: &mut Afterwards,
    ) -> Begun {
        let Entry { state, gate: Gate::Closed(writing) } = entry else {
            return Begun::Done(Reply::Done);
        };
        let event = self.within_limits(event);
        if let Err(refusal) = self.admits(&event) {
            return Begun::Done(Reply::Refused(refusal));
        }
        let now = self.now();
        match state.facts_beside(&event, &writing.plan, now) {
            Some(facts) => {
                let made = (resource, now.wall);
                self.make(made, state, afterwards, |state, outcome| state.note(facts, outcome));
                Begun::Done(Reply::Done)
            }
            None => {
                let asker = Arc::<Sleeper>::default();
                writing.turns.push_back(Turn { event, asker: Arc::clone(&asker) });
                Begun::Queued(asker)
            }
        }
    }

    /// Decides an event within the limits. What would exceed one is refused, and nothing of it
    /// has happened.
    fn decide(&self, state: &State, event: Event, now: Now<'_>) -> Decision<Arc<Sleeper>> {
        if matches!(event, Event::Acquire(..) | Event::Convert(..))
            && self.shutting_down.load(Ordering::SeqCst)
        {
            return Decision::refused(Refusal::ShuttingDown);
        }
        let decision = state.decide(self.within_limits(event), now);
        let (waiting, in_line) = (self.counts.waiting(), state.tally().waiting);
        let limits = &self.limits;
        if decision.lengthens_line(state)
            && (waiting >= limits.waiting || in_line >= limits.waiting_per_resource)
        {
            return Decision::refused(Refusal::TooManyWaiting);
        }
        if decision.adds_lock(state) && self.counts.locks() >= limits.locks {
            return Decision::refused(Refusal::TooManyLocks);
        }
        decision
    }

    /// Whether what a client asks for may be written. What happens anyway, such as the end of a
    /// lifetime, is bounded by the locks that there are.
    fn admits(&self, event: &Event) -> Result<(), Refusal> {
        match &self.journal {
            Some(journal) if event.is_asked_for() || matches!(event, Event::Delete(_)) => {
                journal.admits().map_err(Refusal::NotWritten)
            }
            _ => Ok(()),
        }
    }

    /// The event, but for a place that would be kept: there is no room for one more.
    fn within_limits(&self, event: Event) -> Event {
        match event {
            Event::Withdraw(claim, _) if self.counts.locks() >= self.limits.locks => {
                Event::Withdraw(claim, Duration::ZERO)
            }
            event => event,
        }
    }

    /// Changes the state, keeps count, and notes what has happened and who has to hear of it.
    fn make<T>(
        &self,
        (resource, wall): (&ResourceName, SystemTime),
        state: &mut State,
        afterwards: &mut Afterwards,
        change: impl FnOnce(&mut State, &mut Outcome<Arc<Sleeper>>) -> T,
    ) -> T {
        let mut outcome = Outcome::default();
        let before = state.tally();
        let result = change(state, &mut outcome);
        self.counts.change(before, state.tally());
        for (waiter, word) in outcome.told {
            afterwards.tell(waiter, word);
        }
        let happened = outcome.happened.into_iter();
        afterwards.happened.extend(happened.map(|what| self.events.record(resource, wall, what)));
        if self.keeps_places {
            afterwards.places.extend(outcome.places);
        }
        result
    }

    /// Brings the index of deadlines up to date, unless the gate is closed: what is due then is
    /// known when it opens.
    fn note_due(&self, slot: &Arc<Slot>, due: Option<Instant>, entry: &Entry) {
        let next_due = entry.state.next_due();
        if next_due != due && matches!(entry.gate, Gate::Open) {
            self.deadlines.change(slot, due, next_due);
        }
    }

    fn finish_up(&self, slot: &Slot, afterwards: Afterwards) {
        afterwards.woken.iter().for_each(|sleeper| sleeper.wake());
        if let Some(journal) = self.journal.as_ref().filter(|_| !afterwards.places.is_empty()) {
            let places = afterwards.places.into_iter();
            journal.note(places.map(|place| place_note(slot.name(), place)));
        }
        if afterwards.over {
            self.retire(slot);
        }
        if afterwards.happened.is_empty() {
            return;
        }
        self.events.notify();
        let next = LazyCell::new(|| next(&afterwards.happened));
        for event in &afterwards.happened {
            if let Kind::Ended(end) = event.details.kind {
                self.observer.ended(end, event.lasted());
                log_end(event, end, || &next);
            }
        }
    }

    #[expect(clippy::disallowed_methods, reason = "it is shown")]
    pub(super) fn now(&self) -> Now<'_> {
        Now { instant: now(), wall: SystemTime::now(), numbers: &self.numbers }
    }
}

impl Finish<Ticket> for Shared {
    type News = Option<(Ticket, Afterwards)>;

    /// Makes a plan that was written, or forgets it; then decides the events that have come
    /// meanwhile, up to the first whose plan has to be written, which is returned.
    fn finish(
        &self,
        slot: Ticket,
        written: Result<(), NotWritten>,
    ) -> (Option<Submitted<Ticket>>, Self::News) {
        let _panics = FailsIfItPanics::new(self);
        let resource = slot.name();
        let mut afterwards = Afterwards::default();
        let mut entry = slot.enter();
        let Gate::Closed(writing) = mem::replace(&mut entry.gate, Gate::Open) else {
            return (None, None);
        };
        let Writing { plan, asker, due, mut turns } = *writing;
        if written.is_ok() {
            let now = self.now();
            let made = (resource, now.wall);
            self.make(made, &mut entry.state, &mut afterwards, |state, outcome| {
                state.apply(plan, now, outcome);
            });
        } else if self.shutting_down.load(Ordering::SeqCst) {
            // Whom the plan was about could not be told while it was being written.
            self.start(&mut entry, resource, due, Event::Dismiss, None, &mut afterwards);
        }
        if let Some((answer, asker)) = asker {
            let reply = match written.clone() {
                Ok(()) => entry.state.answer(answer),
                Err(why) => Reply::Refused(Refusal::NotWritten(why)),
            };
            afterwards.tell(asker, reply);
        }
        let mut following = None;
        // Where nothing can be written, it would not be either.
        while written.is_ok() && following.is_none() && entry.is_behind() {
            let event = Event::Expire;
            following = self.start(&mut entry, resource, due, event, None, &mut afterwards).1;
        }
        while following.is_none()
            && let Some(Turn { event, asker }) = turns.pop_front()
        {
            let asked = Some(Arc::clone(&asker));
            let (begun, change) =
                self.start(&mut entry, resource, due, event, asked, &mut afterwards);
            if let Begun::Done(reply) = begun {
                afterwards.tell(asker, reply);
            }
            following = change;
        }
        if let Gate::Closed(writing) = &mut entry.gate {
            writing.turns = turns;
        }
        self.note_due(&slot, due, &entry);
        afterwards.over = entry.is_over();
        drop(entry);
        let following = following.map(|change| (change, Arc::clone(&slot)));
        (following, Some((slot, afterwards)))
    }

    /// Does what is left of a change when all that were written with it are made.
    fn tell(&self, told: Self::News) {
        let _panics = FailsIfItPanics::new(self);
        if let Some((slot, afterwards)) = told {
            self.finish_up(&slot, afterwards);
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
    fn tell(&mut self, sleeper: Arc<Sleeper>, word: Reply) {
        sleeper.tell(word);
        self.woken.push(sleeper);
    }
}

/// Tells of the end of a lock, and of who has it next: a line for each lock.
fn log_end<'a>(event: &events::Event, end: End, next: impl FnOnce() -> &'a str) {
    if end == End::Renewed || !log_enabled!(Level::Info) {
        return;
    }
    let (resource, held) = (&event.resource, seconds(event.lasted()));
    let EventDetails { kind, id, terms: Terms { title, client, .. }, .. } = &event.details;
    let how = kind.name();
    info!("{how}: {resource}/{id} {title:?} of {client}, held for {held} s{}", next());
}

/// Who was granted the lock that others have lost: the same for each of these.
fn next(happened: &[events::Event]) -> String {
    let mut granted = happened.iter().filter(|event| event.details.kind == Kind::Granted);
    let Some(event) = granted.next() else { return String::new() };
    let Terms { title, client, .. } = &event.details.terms;
    let more = match granted.count() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    format!("; next: {title:?} of {client}, after {} s{more}", seconds(event.lasted()))
}

/// With milliseconds.
fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 1000.0).round() / 1000.0
}

/// How many locks, waiters and kept places there are in all.
#[derive(Debug, Default)]
pub(super) struct Counts {
    held: AtomicUsize,
    waiting: AtomicUsize,
    kept: AtomicUsize,
}

impl Counts {
    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    pub(super) fn kept(&self) -> usize {
        self.kept.load(Ordering::Relaxed)
    }

    fn locks(&self) -> usize {
        self.held() + self.kept()
    }

    /// Under the mutex of the resource, if others know of it: nothing is taken off before it was
    /// added.
    pub(super) fn change(&self, before: Tally, after: Tally) {
        for (count, before, after) in [
            (&self.held, before.held, after.held),
            (&self.waiting, before.waiting, after.waiting),
            (&self.kept, before.kept, after.kept),
        ] {
            if after > before {
                count.fetch_add(after - before, Ordering::Relaxed);
            } else if after < before {
                count.fetch_sub(before - after, Ordering::Relaxed);
            }
        }
    }
}

pub(super) const CORE_PANICKED: &str = "a thread panicked while it changed the locks";

/// Says that the core cannot go on if its thread panics: the change that it was at is half made.
pub(super) struct FailsIfItPanics<'a> {
    shared: &'a Shared,
    /// The thread had panicked before, elsewhere, and takes its request out of the line.
    panicked: bool,
}

impl<'a> FailsIfItPanics<'a> {
    pub(super) fn new(shared: &'a Shared) -> Self {
        Self { shared, panicked: thread::panicking() }
    }
}

impl Drop for FailsIfItPanics<'_> {
    fn drop(&mut self) {
        if thread::panicking() && !self.panicked {
            self.shared.observer.failed(CORE_PANICKED);
        }
    }
}
