//! Servers whose clocks run at different rates, and a network between them and the store that
//! drops, doubles, delays and reorders. They decide by the same functions as the real ones.
//!
//! Whatever happens: what was acknowledged is one history, which every later active server has
//! loaded; and while a server may answer, nobody else has become active.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::tenure::{Answer, ClusterClock, Pace, Sighting, Silence, Verdict};

const PACE: Pace = Pace { failover_after: Duration::from_secs(10) };
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
    /// This server begins anew, knowing nothing.
    Restarted(usize),
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

#[derive(Debug, Clone)]
struct Write {
    expected: i64,
    id: u64,
    /// The tenure.
    by: u64,
    clock: Duration,
}

#[derive(Debug, Clone)]
enum Message {
    Read { server: usize, number: u64 },
    Shown { server: usize, number: u64, revision: i64, head: Option<Write> },
    Swap { server: usize, write: Write, sent: Duration },
    Answered { server: usize, id: u64, sent: Duration, answer: Answer },
}

impl Message {
    fn server(&self) -> usize {
        match self {
            Self::Read { server, .. }
            | Self::Shown { server, .. }
            | Self::Swap { server, .. }
            | Self::Answered { server, .. } => *server,
        }
    }
}

#[derive(Debug)]
struct InFlight {
    write: Write,
    first_sent: Duration,
    latest_sent: Duration,
}

#[derive(Debug)]
enum Doing {
    Standby {
        silence: Silence,
        /// The number of the read that is awaited, and when it was sent.
        awaited: Option<(u64, Duration)>,
        /// The revision at which it has read the rows.
        ahead: Option<i64>,
    },
    Active {
        by: u64,
        /// See above; `None`: it reads them when it has taken over.
        ahead: Option<i64>,
        revision: i64,
        clock: ClusterClock,
        confirmed: Option<Duration>,
        in_flight: Option<InFlight>,
    },
}

impl Doing {
    fn standby() -> Self {
        Self::Standby { silence: Silence::new(PACE), awaited: None, ahead: None }
    }
}

#[derive(Debug)]
struct Server {
    /// Of its clock, in thousandths of the real rate.
    rate: u32,
    doing: Doing,
}

impl Server {
    fn local(&self, real: Duration) -> Duration {
        real * self.rate / 1000
    }
}

#[derive(Debug, Default)]
struct Store {
    revision: i64,
    head: Option<(i64, Write)>,
    /// The writes in order.
    history: Vec<Write>,
}

#[derive(Debug)]
struct World {
    real: Duration,
    servers: Vec<Server>,
    store: Store,
    network: Vec<Message>,
    numbers: u64,
    acknowledged: Vec<u64>,
    /// What each tenure has found.
    loaded: Vec<(u64, BTreeSet<u64>)>,
}

impl World {
    fn new(rates: [u32; SERVERS]) -> Self {
        let standby = |rate| Server { rate, doing: Doing::standby() };
        let servers = rates.into_iter().map(standby).collect();
        Self {
            real: Duration::ZERO,
            servers,
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
                self.servers[*server].doing = Doing::standby();
            }
            Action::Doubled(_) | Action::Hurried(_) | Action::Dropped(_) => {}
        }
        self.check();
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
        match &mut self.servers[at].doing {
            Doing::Standby { silence, awaited, .. } => {
                match awaited {
                    Some((_, sent)) if now - *sent < PACE.attempt() => return,
                    Some(_) => silence.missed(),
                    None => {}
                }
                *awaited = Some((number, now));
                self.network.push(Message::Read { server: at, number });
            }
            Doing::Active { by, revision, clock, in_flight, .. } => {
                match in_flight {
                    Some(in_flight) if now - in_flight.latest_sent < PACE.attempt() => return,
                    // The same again.
                    Some(in_flight) => in_flight.latest_sent = now,
                    None => {
                        let clock = clock.at(now);
                        let write = Write { expected: *revision, id: number, by: *by, clock };
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
                let (revision, head) = match &self.store.head {
                    Some((revision, head)) => (*revision, Some(head.clone())),
                    None => (0, None),
                };
                self.network.push(Message::Shown { server, number, revision, head });
            }
            Message::Swap { server, write, sent } => {
                let id = write.id;
                let answer = self.swap(write);
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

    fn swap(&mut self, write: Write) -> Answer {
        let current = self.store.head.as_ref().map_or(0, |(revision, _)| *revision);
        if current != write.expected {
            let id = self.store.head.as_ref().map(|(_, head)| head.id.to_string());
            return Answer::Other(current, id);
        }
        self.store.revision += 1;
        self.store.history.push(write.clone());
        self.store.head = Some((self.store.revision, write));
        Answer::Swapped(self.store.revision)
    }

    /// A standby sees `head`, and takes over if that has not changed for too long.
    fn shown(&mut self, at: usize, number: u64, revision: i64, head: Option<Write>) {
        let now = self.servers[at].local(self.real);
        let Doing::Standby { silence, awaited, ahead } = &mut self.servers[at].doing else {
            return;
        };
        if awaited.is_none_or(|(awaited, _)| awaited != number) {
            return;
        }
        *awaited = None;
        let Sighting { first_seen, .. } = silence.saw(revision, now);
        *ahead = silence.may_read_ahead().then_some(ahead.unwrap_or(revision));
        let ahead = ahead.filter(|ahead| *ahead == revision);
        if head.is_some() && !silence.is_over() {
            return;
        }
        self.numbers += 1;
        let by = self.numbers;
        let clock = ClusterClock::taken_over(head.map_or(Duration::ZERO, |h| h.clock), first_seen);
        let write = Write { expected: revision, id: by, by, clock: clock.at(now) };
        let in_flight = Some(InFlight { write: write.clone(), first_sent: now, latest_sent: now });
        let confirmed = None;
        self.servers[at].doing = Doing::Active { by, ahead, revision, clock, confirmed, in_flight };
        self.network.push(Message::Swap { server: at, write, sent: now });
    }

    fn answered(&mut self, at: usize, id: u64, sent: Duration, answer: &Answer) {
        let Doing::Active { by, ahead, revision, confirmed, in_flight, .. } =
            &mut self.servers[at].doing
        else {
            return;
        };
        let Some(write) = in_flight.take_if(|in_flight| in_flight.write.id == id) else { return };
        let (new_revision, sent) = match Verdict::of(answer, &id.to_string()) {
            Verdict::Done(revision) => (revision, sent),
            Verdict::DoneEarlier(revision) => (revision, write.first_sent),
            Verdict::Unknown => return,
            Verdict::Deposed => {
                self.servers[at].doing = Doing::standby();
                return;
            }
        };
        (*revision, *confirmed) = (new_revision, Some(sent));
        if id == *by {
            // It has taken over: what it loads is what there is at that revision, or was at the one
            // before.
            let until = usize::try_from(ahead.unwrap_or(new_revision)).unwrap();
            let found = self.store.history[..until].iter().map(|write| write.id).collect();
            self.loaded.push((*by, found));
        } else {
            self.acknowledged.push(id);
        }
    }

    fn check(&self) {
        for server in &self.servers {
            if let Doing::Active { by, confirmed: Some(sent), .. } = &server.doing
                && PACE.may_answer(*sent, server.local(self.real))
            {
                let (_, head) = self.store.head.as_ref().unwrap();
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
            assert!(pair[0].by == pair[1].by || pair[1].id == pair[1].by, "tenures interleave");
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
        actions in prop::collection::vec(action(), 1..60),
    ) {
        let mut world = World::new(rates);
        for action in &actions {
            world.run(action);
        }
        world.check_history();
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
    let mut world = World::new([1000; SERVERS]);
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
    let tenures = world.loaded.len();
    world.run(&Action::CutOff(active, 40));
    assert_eq!(world.loaded.len(), tenures + 1);
    world.check_history();
}

#[test]
fn a_silent_server_is_taken_over_from_and_its_changes_are_loaded() {
    let mut world = World::new([1000, 910, 1090]);
    world.run(&Action::Calm(20));
    assert!(!world.acknowledged.is_empty());
    let tenures = world.loaded.len();
    let active = world.active();
    world.run(&Action::Frozen(active, 80));
    assert_eq!(world.loaded.len(), tenures + 1);
    world.run(&Action::Calm(4));
    assert!(matches!(world.servers[active].doing, Doing::Standby { .. }));
    world.check_history();
}
