//! The rules, each a function over what is certain of a history.

mod departure;
mod durability;
mod exclusion;
mod lifetime;
mod order;
mod release;
mod retry;
mod starvation;
mod tokens;

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::facts::{Facts, Lock};
use crate::history::{Action, Call, History, Outcome, Time};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) enum Rule {
    /// At most what mode and limit allow is held at once.
    Exclusion,
    /// Tokens grow in the order of grants, across restarts.
    Tokens,
    /// No lock ends before its lifetime or is seen after it.
    Lifetime,
    /// What was acknowledged survives a kill: grants, renewals and releases.
    Durability,
    /// An acknowledged release or deletion stays one.
    Release,
    /// First come, first served.
    Order,
    /// A free lock with a waiter is granted within 100 ms, and nobody is turned away early.
    Starvation,
    /// Who has left the line is never granted the lock.
    Departure,
    /// Requests with one key have one effect.
    Retry,
}

type Check = fn(&Facts<'_>) -> Verdict;

impl Rule {
    pub(crate) const ALL: [(Self, Check); 9] = [
        (Self::Exclusion, exclusion::check),
        (Self::Tokens, tokens::check),
        (Self::Lifetime, lifetime::check),
        (Self::Durability, durability::check),
        (Self::Release, release::check),
        (Self::Order, order::check),
        (Self::Starvation, starvation::check),
        (Self::Departure, departure::check),
        (Self::Retry, retry::check),
    ];
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{self:?}").to_lowercase())
    }
}

/// What a rule says of a history.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    /// How many operations it could judge with certainty.
    pub(crate) judged: u64,
    pub(crate) violations: Vec<Violation>,
}

#[derive(Debug)]
pub(crate) struct Violation {
    /// What happened, in a sentence.
    pub(crate) what: String,
    /// The calls that show it.
    pub(crate) calls: Vec<Call>,
}

impl Verdict {
    /// Counts one more operation as judged; `wrong` says what is wrong with it, if anything.
    fn judge<'c>(
        &mut self,
        is_right: bool,
        what: impl FnOnce() -> String,
        calls: impl IntoIterator<Item = &'c Call>,
    ) {
        self.judged += 1;
        if !is_right {
            let calls = calls.into_iter().cloned().collect();
            self.violations.push(Violation { what: what(), calls });
        }
    }
}

pub(crate) fn check_all(history: &History) -> Vec<(Rule, Verdict)> {
    history.parts().iter().flat_map(check_part).collect()
}

fn check_part(history: &History) -> Vec<(Rule, Verdict)> {
    let facts = Facts::of(history);
    Rule::ALL.iter().map(|(rule, check)| (*rule, check(&facts))).collect()
}

/// A lock that was certainly held is missing in an answer.
struct Missing<'f, 'h> {
    lock: &'f Lock<'h>,
    call: &'h Call,
}

/// Calls after the grant of a lock, while it was certainly held: calls `judge` with each, and
/// whether the lock was there.
fn for_each_look<'f, 'h>(facts: &'f Facts<'h>, mut judge: impl FnMut(Missing<'f, 'h>, bool)) {
    for resource in &facts.resources {
        for call in &resource.calls {
            if let Some(lock) = call.uid().and_then(|uid| facts.lock(uid)) {
                let there = match call.outcome {
                    Outcome::Refused(404) => false,
                    Outcome::Shown(_) | Outcome::Done => true,
                    _ => continue,
                };
                let certain = call.sent >= lock.granted()
                    && call.returned < facts.held_until_without(lock, call);
                if certain {
                    judge(Missing { lock, call }, there);
                }
                continue;
            }
            let seen = match (&call.action, &call.outcome) {
                (Action::List, Outcome::Shown(seen)) => seen.as_slice(),
                // There was nothing to delete.
                (Action::Delete, Outcome::Refused(404)) => &[],
                _ => continue,
            };
            let held = facts.locks_on(resource);
            for lock in held.filter(|lock| lock.is_held_during(call.sent, call.returned)) {
                let there = seen.iter().any(|seen| seen.uid == lock.uid && seen.active);
                judge(Missing { lock, call }, there);
            }
        }
    }
}

/// Calls `judge` with each call that was sent when a lock was certainly gone since some time,
/// and whether it showed the lock or changed it all the same.
fn for_each_look_after<'f, 'h>(
    facts: &'f Facts<'h>,
    gone: impl Fn(&Lock<'h>) -> Time,
    mut judge: impl FnMut(Missing<'f, 'h>, bool),
) {
    for call in &facts.history.calls {
        let named = call.uid().into_iter().filter_map(|uid| facts.lock(uid));
        let listed = matches!(call.action, Action::List).then(|| call.shown()).unwrap_or_default();
        let listed = listed.iter().filter_map(|seen| facts.lock(&seen.uid));
        for lock in named.chain(listed).filter(|lock| gone(lock) < call.sent) {
            let there = match call.outcome {
                Outcome::Refused(404) => false,
                Outcome::Shown(_) | Outcome::Done => true,
                _ => continue,
            };
            judge(Missing { lock, call }, there);
        }
    }
}

/// `1.234 s`, counted from the request of a lock, which is shown beside it.
fn after(time: Time, start: Time) -> String {
    format!("{:.3} s", time.since(start).as_secs_f64())
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}
