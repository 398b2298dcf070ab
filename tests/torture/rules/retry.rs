//! Requests with one key have one effect: one lock, one place in line.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::Verdict;
use crate::facts::{Facts, Lock, RECONNECT_GRACE, Resource};
use crate::history::{Action, Call, Outcome, Time};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        same_lock(facts, resource, &mut verdict);
        one_place(resource, &mut verdict);
        kept_place(facts, resource, &mut verdict);
    }
    verdict
}

/// A key that is sent again while its lock is certainly held gets that lock.
fn same_lock(facts: &Facts<'_>, resource: &Resource<'_>, verdict: &mut Verdict) {
    let mut locks: HashMap<&str, Vec<&Lock<'_>>> = HashMap::new();
    for lock in facts.locks_on(resource) {
        if let Some(key) = &lock.wish.key {
            locks.entry(key).or_default().push(lock);
        }
    }
    for call in &resource.calls {
        let key = call.wish().and_then(|wish| wish.key.as_deref());
        let Some(locks) = key.and_then(|key| locks.get(key)) else { continue };
        let held = locks.iter().find(|lock| {
            !std::ptr::eq(lock.grant, *call) && lock.is_held_during(call.sent, call.returned)
        });
        if let Some(lock) = held
            && let Some(is_right) = is_answered_with(lock, call)
        {
            let what =
                || format!("{}, sent again, was not answered with its lock", lock.wish.title);
            verdict.judge(is_right, what, [lock.grant, *call]);
        }
    }
}

/// `None` when the answer tells nothing.
fn is_answered_with(lock: &Lock<'_>, call: &Call) -> Option<bool> {
    match &call.outcome {
        Outcome::Granted { uid, token } => Some(uid == lock.uid && *token == lock.token),
        // The journal could not be written.
        Outcome::Refused(503) | Outcome::Unknown | Outcome::Left => None,
        _ => Some(false),
    }
}

/// All requests with one key have one title, which no list shows twice.
fn one_place(resource: &Resource<'_>, verdict: &mut Verdict) {
    let keyed = resource.calls.iter().filter_map(|call| call.wish());
    let keyed: HashSet<_> =
        keyed.filter(|wish| wish.key.is_some()).map(|wish| wish.title.as_str()).collect();
    for call in &resource.calls {
        let mut titles = HashSet::new();
        for seen in call.shown().iter().filter(|seen| keyed.contains(seen.title.as_str())) {
            let what = || format!("a list shows {} twice", seen.title);
            verdict.judge(titles.insert(&seen.title), what, [*call]);
        }
    }
}

/// A client with a key that leaves the line is in the lists for the grace, as it was.
fn kept_place(facts: &Facts<'_>, resource: &Resource<'_>, verdict: &mut Verdict) {
    let lists: Vec<_> =
        resource.calls.iter().filter(|call| matches!(call.outcome, Outcome::Shown(_))).collect();
    let left = resource.calls.iter().filter(|call| call.outcome == Outcome::Left);
    for call in left.filter(|call| call.timely) {
        let Some(wish) = call.wish().filter(|wish| wish.key.is_some()) else { continue };
        // A second for the server to notice, one more for the list.
        let end = call.returned + RECONNECT_GRACE.saturating_sub(Duration::from_secs(2));
        let waiting = lists.iter().rfind(|list| list.returned < call.returned);
        let waiting = waiting.and_then(|list| {
            list.shown().iter().find(|seen| seen.title == wish.title && !seen.active)
        });
        let Some(waiting) = waiting else { continue };
        let until = end.min(may_be_over(facts, resource, call, &wish.title));
        let kept = lists.iter().filter(|list| matches!(list.action, Action::List));
        for list in kept.filter(|list| list.sent > call.returned && list.returned < until) {
            let is_kept = list.shown().iter().any(|seen| seen.uid == waiting.uid);
            let what = || format!("the place of {}, which has a key, was not kept", wish.title);
            verdict.judge(is_kept, what, [*call, **list]);
        }
    }
}

/// A request that was granted is there until it may have been released.
fn may_have_ended(facts: &Facts<'_>, call: &Call) -> Option<Time> {
    match &call.outcome {
        Outcome::Granted { uid, .. } => facts.lock(uid).map(|lock| lock.held_until),
        // Nothing has changed, says the server.
        Outcome::Refused(503) => None,
        _ => Some(call.sent),
    }
}

/// When the request may be over for another reason: it was granted after it had been sent
/// again, its wait was over, it was deleted, or the server was killed.
fn may_be_over(facts: &Facts<'_>, resource: &Resource<'_>, left: &Call, title: &str) -> Time {
    let ends = resource.calls.iter().filter(|call| call.returned > left.sent);
    let ends = ends.filter_map(|call| match &call.action {
        Action::Acquire(wish) if wish.title == title && call.sent > left.sent => {
            may_have_ended(facts, call)
        }
        Action::Delete => Some(call.sent),
        _ => None,
    });
    let kills = facts.history.faults.iter().filter(|fault| fault.kind.is_restart());
    let kills = kills.filter(|kill| kill.span.to > left.sent).map(|kill| kill.span.from);
    ends.chain(kills).min().unwrap_or(Time::NEVER)
}
