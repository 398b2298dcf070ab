//! Whether a history of one lock is linearizable: whether each call can have happened at one moment
//! between its request and its answer.

pub mod history;
mod lock;

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use stateright::semantics::{ConsistencyTester, LinearizabilityTester};

use history::{Action, Call, History, Outcome, Span};
use lock::{Lock, Op, Ret, Title};

/// The search takes exponential time at worst.
const PATIENCE: Duration = Duration::from_secs(5);

/// A lock that lives longer does not end within a history.
const LONG: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Linearizable,
    Violated,
    /// It took too long.
    Undecided,
}

/// All calls for one lock, in order of their requests.
#[derive(Debug, Clone, Default)]
pub struct Single {
    pub calls: Vec<Call>,
    /// When a server was killed, stopped or replaced.
    pub faults: Vec<Span>,
}

impl Single {
    /// Each lock of a history.
    pub fn all(history: History) -> Vec<Self> {
        let mut singles: BTreeMap<String, Vec<Call>> = BTreeMap::new();
        for call in history.calls {
            singles.entry(call.resource.clone()).or_default().push(call);
        }
        let spans: Vec<_> = history.faults.iter().map(|fault| fault.span).collect();
        let singles = singles.into_values().map(|mut calls| {
            calls.sort_by_key(|call| call.sent);
            let end = calls.iter().map(|call| call.returned).max().unwrap_or(0);
            let start = calls.first().map_or(0, |call| call.sent);
            let faults = spans.iter().filter(|span| span.from < end && start < span.to);
            Self { faults: faults.copied().collect(), calls }
        });
        singles.collect()
    }

    pub fn has_grant(&self) -> bool {
        self.calls.iter().any(|call| matches!(call.outcome, Outcome::Granted { .. }))
    }

    pub fn judge(&self) -> Verdict {
        let tester = self.tester();
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            // Nobody listens if it took too long.
            let _ = sender.send(tester.is_consistent());
        });
        match receiver.recv_timeout(PATIENCE) {
            Ok(true) => Verdict::Linearizable,
            Ok(false) => Verdict::Violated,
            Err(_) => Verdict::Undecided,
        }
    }

    /// Told what happened in the order of time. Each client is a thread; what has no answer, and
    /// what may happen by itself, is in flight for ever in a thread of its own.
    fn tester(&self) -> LinearizabilityTester<usize, Lock> {
        let titles = self.titles();
        let steps = self.steps(&titles);
        let mut events = Vec::new();
        for (place, step) in steps.iter().enumerate() {
            let thread = match step.ret {
                Some(_) => step.client,
                None => usize::MAX - place,
            };
            events.push((step.from, 0, thread, place));
            if let Some((to, _)) = &step.ret {
                events.push((*to, 1, thread, place));
            }
        }
        events.sort();
        let mut tester = LinearizabilityTester::new(Lock::default());
        for (_, kind, thread, place) in events {
            let step = &steps[place];
            match (kind, &step.ret) {
                (0, _) => tester.on_invoke(thread, step.op.clone()),
                (_, Some((_, ret))) => tester.on_return(thread, ret.clone()),
                (_, None) => continue,
            }
            .expect("a client has one call at a time");
        }
        tester
    }

    /// By uid, and each request's own.
    fn titles(&self) -> Titles {
        let mut titles = Titles::default();
        for call in &self.calls {
            match (&call.action, &call.outcome) {
                (Action::Acquire(wish), Outcome::Granted { uid, .. }) => {
                    titles.learn(uid, &wish.title);
                }
                (_, Outcome::Shown(seen)) => {
                    seen.iter().for_each(|seen| titles.learn(&seen.uid, &seen.title));
                }
                _ => {}
            }
        }
        titles
    }

    fn steps(&self, titles: &Titles) -> Vec<Step> {
        let mut titles = titles.clone();
        let mut steps = Vec::new();
        for call in &self.calls {
            let (op, ret) = match titles.step(call) {
                Some(step) => step,
                None => continue,
            };
            if let (Op::Acquire(title), Action::Acquire(wish)) = (&op, &call.action) {
                self.add_ends(*title, wish.lifetime, call, &titles, &mut steps);
            }
            let ret = ret.map(|ret| (call.returned, ret));
            steps.push(Step { client: call.client as usize, from: call.sent, op, ret });
        }
        steps
    }

    /// What may end the lock if this call was granted it, and what may bring it back.
    fn add_ends(
        &self,
        title: Title,
        lifetime: Duration,
        call: &Call,
        titles: &Titles,
        steps: &mut Vec<Step>,
    ) {
        let mut add = |op, from| steps.push(Step { client: 0, from, op, ret: None });
        match call.outcome {
            // What cannot be answered is released.
            Outcome::Unknown => add(Op::End(title), call.sent),
            Outcome::Granted { .. } if lifetime < LONG => {
                let lifetime = u64::try_from(lifetime.as_nanos()).unwrap_or(u64::MAX);
                add(Op::End(title), call.sent.saturating_add(lifetime));
            }
            _ => return,
        }
        for fault in self.faults.iter().filter(|fault| fault.to > call.sent) {
            if self.calls.iter().any(|look| look.returned > fault.from && titles.shows(look, title))
            {
                add(Op::Revive(title), fault.from);
                add(Op::End(title), fault.from);
            }
        }
    }
}

/// An operation with what came of it; none, if nobody was told.
struct Step {
    client: usize,
    from: u64,
    op: Op,
    ret: Option<(u64, Ret)>,
}

/// Numbers for titles.
#[derive(Debug, Clone, Default)]
struct Titles {
    numbers: HashMap<String, Title>,
    by_uid: HashMap<String, Title>,
}

impl Titles {
    fn learn(&mut self, uid: &str, title: &str) {
        let number = self.number(title);
        self.by_uid.insert(uid.into(), number);
    }

    fn number(&mut self, title: &str) -> Title {
        let next = self.numbers.len();
        *self.numbers.entry(title.into()).or_insert(next)
    }

    /// `None` if the call certainly had no effect, and tells nothing.
    fn step(&mut self, call: &Call) -> Option<(Op, Option<Ret>)> {
        let op = match &call.action {
            Action::Acquire(wish) => Op::Acquire(self.number(&wish.title)),
            Action::Get { uid } => Op::Get(self.by_uid[uid]),
            Action::Release { uid } => Op::Release(self.by_uid[uid]),
            Action::List => Op::List,
        };
        let ret = match (&op, &call.outcome) {
            (Op::List | Op::Get(_), Outcome::Unknown) => return None,
            (_, Outcome::Unknown) => return Some((op, None)),
            (_, Outcome::Granted { token, .. }) => Ret::Granted(*token),
            (Op::Acquire(_), Outcome::Refused(408)) => Ret::Busy,
            (Op::List, Outcome::Shown(seen)) => {
                assert!(seen.len() <= 1, "nobody waits, and one holds it: {seen:?}");
                Ret::Holder(seen.first().map(|seen| self.by_uid[&seen.uid]))
            }
            (Op::Get(_), Outcome::Shown(_)) => Ret::There,
            (Op::Release(_), Outcome::Done) => Ret::Released,
            (Op::Release(_) | Op::Get(_), Outcome::Refused(404)) => Ret::Gone,
            (_, Outcome::Refused(503)) => return None,
            _ => panic!("an answer that nobody expects: {call:?}"),
        };
        Some((op, Some(ret)))
    }

    /// Whether somebody saw the lock there.
    fn shows(&self, call: &Call, title: Title) -> bool {
        let is_it = |uid: &str| self.by_uid.get(uid) == Some(&title);
        match (&call.action, &call.outcome) {
            (_, Outcome::Shown(seen)) => seen.iter().any(|seen| is_it(&seen.uid)),
            (Action::Release { uid }, Outcome::Done) => is_it(uid),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
