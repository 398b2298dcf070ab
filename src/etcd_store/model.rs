//! Servers whose clocks run at different rates, and a network between them and the store that
//! drops, doubles, delays and reorders. They decide by the same functions as the real ones.
//!
//! Whatever happens: what was acknowledged is one history, which every later active server has
//! loaded; and while a server may answer, nobody else has become active. If the store loses what all
//! servers have seen, none becomes active any more.

mod parts;

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::failover::{ClusterClock, Sighting, SwapAnswer, WriteResult};
use crate::cluster::term::Pace;
use parts::{Doing, InFlight, Message, Server, Store, Write};

/// Seconds of `--failover-after`, the same for all.
const SAME: [u64; SERVERS] = [10; SERVERS];
const STEP: Duration = Duration::from_millis(250);

/// What happens next.
#[derive(Debug, Clone)]
enum Action {
    /// Time passes; all that is not frozen does what it has to, and the network delivers.
    Calm(u8),
    /// The same, while the network loses everything of this server.
    CutOff(usize, u8),
    /// The same, while this server is not run.
    Frozen(usize, u8),
    /// Everybody does what it has to, and nothing is delivered.
    Delayed(u8),
    /// One message is delivered, and stays on its way for another time.
    Doubled(prop::sample::Index),
    /// One message is delivered before all others.
    Hurried(prop::sample::Index),
    /// One message is lost.
    Dropped(prop::sample::Index),
    /// This server restarts and knows nothing.
    Restarted(usize),
    /// The store has lost this many of its latest writes.
    Restored(u8),
}

/// Servers that are restarted one after the other may differ in `--failover-after`.
fn pace() -> impl Strategy<Value = u64> {
    prop_oneof![Just(2), Just(10), Just(30)]
}

/// The store is put back now and then, too.
fn action_or_restore() -> impl Strategy<Value = Action> {
    prop_oneof![12 => action(), 1 => (0..100u8).prop_map(Action::Restored)]
}

fn action() -> impl Strategy<Value = Action> {
    let server = 0..SERVERS;
    let index = any::<prop::sample::Index>;
    prop_oneof![
        4 => (1..30u8).prop_map(Action::Calm),
        2 => (server.clone(), 1..80u8).prop_map(|(server, n)| Action::CutOff(server, n)),
        2 => (server.clone(), 1..80u8).prop_map(|(server, n)| Action::Frozen(server, n)),
        1 => (1..12u8).prop_map(Action::Delayed),
        3 => index().prop_map(Action::Doubled),
        2 => index().prop_map(Action::Hurried),
        2 => index().prop_map(Action::Dropped),
        1 => server.prop_map(Action::Restarted),
    ]
}

const SERVERS: usize = 3;

#[derive(Debug)]
struct World {
    real: Duration,
    servers: Vec<Server>,
    store: Store,
    network: Vec<Message>,
    numbers: u64,
    acknowledged: Vec<u64>,
    /// What each term has found.
    loaded: Vec<(u64, BTreeSet<u64>)>,
    /// The store has lost writes.
    restored: bool,
    /// Each server has seen some of those.
    all_know: bool,
}

impl World {
    fn new(rates: [u32; SERVERS], paces: [u64; SERVERS]) -> Self {
        let pace = |seconds| Pace { failover_after: Duration::from_secs(seconds) };
        let servers = rates.into_iter().zip(paces.map(pace));
        Self {
            real: Duration::ZERO,
            restored: false,
            all_know: false,
            servers: servers.map(|(rate, pace)| Server::standby(rate, pace)).collect(),
            store: Store::default(),
            network: Vec::new(),
            numbers: 0,
            acknowledged: Vec::new(),
            loaded: Vec::new(),
        }
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Calm(steps) => self.steps(*steps, None, None, true),
            Action::CutOff(server, steps) => self.steps(*steps, Some(*server), None, true),
            Action::Frozen(server, steps) => self.steps(*steps, None, Some(*server), true),
            Action::Delayed(steps) => self.steps(*steps, None, None, false),
            Action::Doubled(index) if !self.network.is_empty() => {
                let message = index.get(&self.network).clone();
                self.deliver(message);
            }
            Action::Hurried(index) if !self.network.is_empty() => {
                let message = self.network.remove(index.index(self.network.len()));
                self.deliver(message);
            }
            Action::Dropped(index) if !self.network.is_empty() => {
                self.network.remove(index.index(self.network.len()));
            }
            Action::Restarted(server) => {
                let Server { rate, pace, .. } = self.servers[*server];
                self.servers[*server] = Server::standby(rate, pace);
                self.all_know = false;
            }
            Action::Restored(lost) => self.restore((*lost).into()),
            Action::Doubled(_) | Action::Hurried(_) | Action::Dropped(_) => {}
        }
        self.check();
    }

    /// The store stops, loses its latest writes and all requests to it, and starts again.
    fn restore(&mut self, lost: usize) {
        let left = self.store.history.len().saturating_sub(lost);
        let lost: BTreeSet<_> = self.store.history.drain(left..).map(|write| write.id).collect();
        self.restored |= !lost.is_empty();
        self.all_know |= self.servers.iter().all(|server| !server.seen.is_disjoint(&lost));
        self.network
            .retain(|message| matches!(message, Message::Shown { .. } | Message::Answered { .. }));
    }

    fn steps(&mut self, steps: u8, cut_off: Option<usize>, frozen: Option<usize>, deliver: bool) {
        for _ in 0..steps {
            self.real += STEP;
            for server in (0..SERVERS).filter(|server| Some(*server) != frozen) {
                self.tick(server);
            }
            // What is said in answer is delivered at once, too.
            for _ in 0..if deliver { 2 } else { 0 } {
                for message in std::mem::take(&mut self.network) {
                    if Some(message.server()) == cut_off {
                        continue;
                    }
                    if Some(message.server()) == frozen
                        && matches!(message, Message::Shown { .. } | Message::Answered { .. })
                    {
                        self.network.push(message);
                        continue;
                    }
                    self.deliver(message);
                }
            }
            self.check();
        }
    }

    /// A server does what its clock says.
    fn tick(&mut self, at: usize) {
        let now = self.servers[at].local(self.real);
        self.numbers += 1;
        let number = self.numbers;
        let pace = self.servers[at].pace;
        match &mut self.servers[at].doing {
            Doing::Standby { silence, awaited, .. } => {
                match awaited {
                    Some((_, sent)) if now - *sent < pace.attempt() => return,
                    Some(_) => silence.missed(),
                    None => {}
                }
                *awaited = Some((number, now));
                self.network.push(Message::Read { server: at, number });
            }
            Doing::Active { by, stored, clock, in_flight, .. } => {
                match in_flight {
                    Some(in_flight) if now - in_flight.latest_sent < pace.attempt() => return,
                    // The same again.
                    Some(in_flight) => in_flight.latest_sent = now,
                    None => {
                        let write = Write::after(stored.clone(), number, *by, pace, clock.at(now));
                        *in_flight = Some(InFlight { write, first_sent: now, latest_sent: now });
                    }
                }
                if let Some(in_flight) = in_flight {
                    let (write, sent) = (in_flight.write.clone(), now);
                    self.network.push(Message::Swap { server: at, write, sent });
                }
            }
        }
    }

    fn deliver(&mut self, message: Message) {
        match message {
            Message::Read { server, number } => {
                let (revision, head) = (self.store.revision(), self.store.history.last().cloned());
                self.network.push(Message::Shown { server, number, revision, head });
            }
            Message::Swap { server, write, sent } => {
                let id = write.id;
                let answer = self.store.swap(write);
                let is_done = matches!(answer, SwapAnswer::Swapped(_));
                assert!(!(self.all_know && is_done), "it has seen what was lost, and goes on");
                self.network.push(Message::Answered { server, id, sent, answer });
            }
            Message::Shown { server, number, revision, head } => {
                self.shown(server, number, revision, head);
            }
            Message::Answered { server, id, sent, answer } => {
                self.answered(server, id, sent, &answer);
            }
        }
    }

    /// A standby sees `head`, and takes over if that has not changed for too long.
    fn shown(&mut self, at: usize, number: u64, revision: i64, head: Option<Write>) {
        let now = self.servers[at].local(self.real);
        let Server { pace, doing, history, seen, .. } = &mut self.servers[at];
        let pace = *pace;
        let Doing::Standby { silence, awaited, ahead } = doing else { return };
        if awaited.is_none_or(|(awaited, _)| awaited != number) {
            return;
        }
        *awaited = None;
        let version = head.as_ref().map(|head| head.version(revision));
        // Since it was asked for, nothing else was seen.
        if history.show(history.latest().as_ref(), version.as_ref()).is_err() {
            silence.missed();
            return;
        }
        seen.extend(head.as_ref().map(|head| head.id));
        let theirs = head.as_ref().map(|head| head.failover_after);
        let Sighting { first_seen, .. } = silence.saw(revision, theirs, now);
        *ahead = silence.may_read_ahead().then_some(ahead.unwrap_or(revision));
        let ahead = ahead.filter(|ahead| *ahead == revision);
        if head.is_some() && !silence.is_over() {
            return;
        }
        self.numbers += 1;
        let by = self.numbers;
        let clock = ClusterClock::taken_over(head.map_or(Duration::ZERO, |h| h.clock), first_seen);
        let write = Write::after(version.clone(), by, by, pace, clock.at(now));
        let in_flight = Some(InFlight { write: write.clone(), first_sent: now, latest_sent: now });
        let confirmed = None;
        let stored = version;
        self.servers[at].doing = Doing::Active { by, ahead, stored, clock, confirmed, in_flight };
        self.network.push(Message::Swap { server: at, write, sent: now });
    }

    fn answered(&mut self, at: usize, id: u64, sent: Duration, answer: &SwapAnswer) {
        let Server { pace, doing, history, seen, .. } = &mut self.servers[at];
        let Doing::Active { by, ahead, stored, confirmed, in_flight, .. } = doing else { return };
        let Some(write) = in_flight.take_if(|in_flight| in_flight.write.id == id) else { return };
        let (new_revision, sent) = match WriteResult::of(answer, &id.to_string()) {
            WriteResult::Done(revision) => (revision, sent),
            WriteResult::DoneEarlier(revision) => (revision, write.first_sent),
            WriteResult::Unknown => return,
            WriteResult::Fenced => {
                if let SwapAnswer::Other(shown) = answer {
                    let _ = history.show(history.latest().as_ref(), shown.as_ref());
                }
                *doing = Doing::standby(*pace);
                return;
            }
        };
        let version = write.write.version(new_revision);
        if history.show(history.latest().as_ref(), Some(&version)).is_err() {
            *doing = Doing::standby(*pace);
            return;
        }
        (*stored, *confirmed) = (Some(version), Some(sent));
        seen.insert(id);
        if id == *by {
            // It has taken over: what it loads is what there is at that revision, or was at the one
            // before.
            let until = usize::try_from(ahead.unwrap_or(new_revision)).unwrap();
            let found = self.store.history.iter().take(until).map(|write| write.id).collect();
            self.loaded.push((*by, found));
        } else {
            self.acknowledged.push(id);
        }
    }

    fn check(&self) {
        for server in &self.servers {
            if let Doing::Active { by, confirmed: Some(sent), .. } = &server.doing
                && server.pace.may_answer(*sent, server.local(self.real))
                && !self.restored
            {
                let head = self.store.history.last().unwrap();
                assert_eq!(head.by, *by, "somebody else is active, and this one may answer");
            }
        }
    }

    fn check_history(&self) {
        let history = &self.store.history;
        let ids: BTreeSet<_> = history.iter().map(|write| write.id).collect();
        assert_eq!(ids.len(), history.len(), "a write was done twice");
        let of: std::collections::BTreeMap<_, _> =
            history.iter().enumerate().map(|(at, write)| (write.id, (at, write.by))).collect();
        for id in &self.acknowledged {
            let (at, by) = of.get(id).expect("what was acknowledged is there");
            for (later, found) in &self.loaded {
                let began = history.iter().position(|write| write.id == *later).unwrap();
                assert!(later == by || began < *at || found.contains(id), "{id} was not loaded");
            }
        }
        for pair in history.windows(2) {
            assert!(pair[0].by == pair[1].by || pair[1].id == pair[1].by, "terms interleave");
            assert!(pair[0].clock <= pair[1].clock, "the cluster clock went back");
        }
        if let Some(last) = history.last() {
            assert!(last.clock <= self.real * 11 / 10, "the cluster clock is ahead");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn one_history_and_never_two_that_answer(
        rates in [910..1090u32, 910..1090u32, 910..1090u32],
        paces in [pace(), pace(), pace()],
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(rates, paces);
        for action in &actions {
            world.run(action);
        }
        world.check_history();
        let lost = world.servers.iter().find_map(|server| server.history.lost());
        prop_assert_eq!(lost, None, "nothing was");
    }

    #[test]
    fn what_all_have_seen_and_the_store_has_lost_ends_all_terms(
        rates in [910..1090u32, 910..1090u32, 910..1090u32],
        actions in prop::collection::vec(action_or_restore(), 1..60),
    ) {
        let mut world = World::new(rates, SAME);
        for action in &actions {
            world.run(action);
        }
    }
}

impl World {
    fn active(&self) -> usize {
        let mut doing = self.servers.iter().map(|server| &server.doing);
        doing.position(|doing| matches!(doing, Doing::Active { .. })).unwrap()
    }
}

#[test]
fn a_write_that_is_found_to_be_done_confirms_no_more_than_its_first_attempt() {
    let mut world = World::new([1000; SERVERS], SAME);
    world.run(&Action::Calm(20));
    let active = world.active();
    world.run(&Action::Delayed(1));
    let written = world.network.iter().position(|message| matches!(message, Message::Swap { .. }));
    let written = world.network.remove(written.unwrap());
    world.deliver(written);
    // The answer is lost; the standbys see the write.
    world.network.retain(|message| message.server() != active);
    world.run(&Action::CutOff(active, 35));
    world.run(&Action::Calm(1));
    assert!(matches!(world.servers[active].doing, Doing::Active { confirmed: Some(_), .. }));
    let terms = world.loaded.len();
    world.run(&Action::CutOff(active, 40));
    assert_eq!(world.loaded.len(), terms + 1);
    world.check_history();
}

#[test]
fn a_silent_server_is_taken_over_from_and_its_changes_are_loaded() {
    let mut world = World::new([1000, 910, 1090], SAME);
    world.run(&Action::Calm(20));
    assert!(!world.acknowledged.is_empty());
    let terms = world.loaded.len();
    let active = world.active();
    world.run(&Action::Frozen(active, 80));
    assert_eq!(world.loaded.len(), terms + 1);
    world.run(&Action::Calm(4));
    assert!(matches!(world.servers[active].doing, Doing::Standby { .. }));
    world.check_history();
}

#[test]
fn a_standby_with_a_shorter_time_does_not_replace_a_server_that_may_answer() {
    let mut world = World::new([1000; SERVERS], [30, 2, 2]);
    // The one with the longest time is active.
    world.steps(1, None, None, false);
    world.network.retain(|message| message.server() == 0);
    world.run(&Action::Calm(4));
    assert_eq!(world.active(), 0);
    world.run(&Action::Frozen(0, 100));
    assert_eq!(world.loaded.len(), 1, "{:?}", world.real);
    world.run(&Action::Frozen(0, 40));
    assert_eq!(world.loaded.len(), 2);
    world.check_history();
}

#[test]
fn an_emptied_store_has_no_active_server_until_one_is_restarted() {
    for lost in [1, 5, 1_000] {
        let mut world = World::new([1000; SERVERS], SAME);
        world.run(&Action::Calm(40));
        let written = world.store.history.len();
        world.restore(lost);
        assert!(world.all_know);
        world.run(&Action::Calm(200));
        assert_eq!(world.store.history.len(), written.saturating_sub(lost));
        assert!(world.servers.iter().all(|server| server.history.lost().is_some()));
        world.run(&Action::Restarted(1));
        world.run(&Action::Calm(60));
        assert_eq!(world.active(), 1, "the operator has accepted it");
    }
}
