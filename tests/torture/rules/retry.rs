//! Requests with one key have one effect: one lock, one place in line.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::facts::{Facts, Lock, Resource};
use crate::history::{Call, Outcome};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        same_lock(facts, resource, &mut verdict);
        one_place(resource, &mut verdict);
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
