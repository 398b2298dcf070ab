//! Fencing tokens strictly grow in the order of grants.

use std::collections::HashMap;

use super::Verdict;
use crate::facts::{Facts, Lock, Resource};
use crate::history::Outcome;

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    grow_with_time(facts, &mut verdict);
    for resource in &facts.resources {
        grow_with_holders(facts, resource, &mut verdict);
    }
    one_lock_has_one(facts, &mut verdict);
    verdict
}

/// Of two grants on any resources, one was answered before the other was asked for.
fn grow_with_time(facts: &Facts<'_>, verdict: &mut Verdict) {
    let mut by_asked: Vec<&Lock<'_>> = facts.locks.iter().collect();
    let mut by_granted = by_asked.clone();
    by_asked.sort_by_key(|lock| lock.asked);
    by_granted.sort_by_key(|lock| lock.granted());
    let mut earlier = by_granted.into_iter().peekable();
    let mut largest: Option<&Lock<'_>> = None;
    for lock in by_asked {
        while let Some(before) = earlier.next_if(|before| before.granted() < lock.asked) {
            largest = largest.filter(|l| l.token >= before.token).or(Some(before));
        }
        if let Some(before) = largest {
            judge(before, lock, verdict);
        }
    }
}

/// Of two locks that cannot be held at once, the one that was certainly held later was granted
/// later, also if it had waited for long.
fn grow_with_holders(facts: &Facts<'_>, resource: &Resource<'_>, verdict: &mut Verdict) {
    let certain = facts.locks_on(resource).filter(|lock| lock.granted() < lock.held_until);
    let certain: Vec<_> = certain.collect();
    for pair in certain.windows(2) {
        let [before, lock] = pair else { continue };
        let alone = before.wish.limit == 1;
        if alone && before.wish.mode.conflicts(lock.wish.mode) {
            judge(before, lock, verdict);
        }
    }
}

fn judge(before: &Lock<'_>, lock: &Lock<'_>, verdict: &mut Verdict) {
    let what = || {
        let (title, earlier) = (&lock.wish.title, &before.wish.title);
        format!(
            "the token {} of {title} is not larger than {} of {earlier}, which was granted before",
            lock.token, before.token
        )
    };
    verdict.judge(before.token < lock.token, what, [before.grant, lock.grant]);
}

/// A lock has the same token wherever it is shown, and no other lock has it.
fn one_lock_has_one(facts: &Facts<'_>, verdict: &mut Verdict) {
    let mut tokens: HashMap<&str, u64> = HashMap::new();
    let mut owners: HashMap<u64, &str> = HashMap::new();
    for call in &facts.history.calls {
        let shown = call.shown().iter().filter_map(|seen| Some((&seen.uid, seen.token?)));
        let granted = match &call.outcome {
            Outcome::Granted { uid, token } => Some((uid, *token)),
            _ => None,
        };
        for (uid, token) in shown.chain(granted) {
            let own = *tokens.entry(uid).or_insert(token);
            let owner = *owners.entry(token).or_insert(uid);
            let what = || format!("lock {uid} has the tokens {own} and {token}; {owner} has one");
            verdict.judge(own == token && owner == uid, what, [call]);
        }
    }
}
