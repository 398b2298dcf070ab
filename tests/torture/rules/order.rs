//! First come, first served, where it is certain who came first.

use std::collections::{HashMap, HashSet};

use super::Verdict;
use crate::facts::{Facts, Lock, Resource};
use crate::history::{Action, Call, Mode, Outcome, Time};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        check_resource(facts, resource, &mut verdict);
    }
    verdict
}

/// A request that was seen in line.
struct Earlier<'h> {
    call: &'h Call,
    /// When the list that shows it had come.
    seen: Time,
    /// It was in line at least until a grant with this token, ...
    token: u64,
    /// ... or until this time.
    until: Time,
}

fn check_resource(facts: &Facts<'_>, resource: &Resource<'_>, verdict: &mut Verdict) {
    let mut earlier = seen_in_line(resource);
    earlier.sort_by_key(|earlier| earlier.seen);
    let mut later: Vec<&Lock<'_>> = facts.locks_on(resource).collect();
    later.retain(|lock| lock.wish.mode != Mode::Nl);
    later.sort_by_key(|lock| lock.asked);
    for lock in later {
        let before = earlier.iter().take_while(|before| before.seen < lock.asked);
        let overtaken = before
            .clone()
            .find(|before| lock.token < before.token && lock.granted() < before.until);
        if before.count() > 0 {
            let what = || {
                let overtaken = overtaken.and_then(|before| before.call.wish());
                let whom = overtaken.map_or("", |wish| &wish.title);
                format!("{} overtook {whom}, which was in line before", lock.wish.title)
            };
            let calls = overtaken.map(|before| before.call).into_iter().chain([lock.grant]);
            verdict.judge(overtaken.is_none(), what, calls);
        }
    }
}

/// Who had one sending, was seen waiting, and was granted the lock or waited in vain.
fn seen_in_line<'h>(resource: &Resource<'h>) -> Vec<Earlier<'h>> {
    let mut seen: HashMap<&str, Time> = HashMap::new();
    for call in resource.calls.iter().filter(|call| matches!(call.action, Action::List)) {
        for waiting in call.shown().iter().filter(|seen| !seen.active) {
            let first = seen.entry(&waiting.title).or_insert(call.returned);
            *first = call.returned.min(*first);
        }
    }
    let (mut once, mut again) = (HashSet::new(), HashSet::new());
    for wish in resource.calls.iter().filter_map(|call| call.wish()) {
        if !once.insert(wish.title.as_str()) {
            again.insert(wish.title.as_str());
        }
    }
    let waiting = resource.calls.iter().filter_map(|call| {
        let wish = call.wish().filter(|wish| !again.contains(wish.title.as_str()))?;
        let seen = *seen.get(wish.title.as_str())?;
        let (token, until) = match call.outcome {
            Outcome::Granted { token, .. } => (token, Time::NEVER),
            Outcome::Refused(408) => (u64::MAX, call.sent + wish.wait),
            _ => return None,
        };
        Some(Earlier { call, seen, token, until })
    });
    waiting.collect()
}
