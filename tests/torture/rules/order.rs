//! First come, first served, where it is certain who came first.

use std::collections::HashMap;

use super::Verdict;
use crate::facts::{Facts, Lock, Resource};
use crate::history::{Action, Call, Mode, Outcome, Seen, Time, Wish};

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
    wish: &'h Wish,
    /// When the first list that shows it had come.
    seen: Time,
    /// The same, of a list that shows that its client is there: a key keeps the place of a
    /// client that is gone, but is passed over.
    seated: Time,
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
        let before = before.filter(|before| {
            before.seated < lock.asked || was_locked_out(facts, resource, lock, before.seated)
        });
        let before: Vec<_> = before.collect();
        // Over a restart a place is kept at best, and one that is kept is passed over.
        let overtakes = |before: &&&Earlier<'_>| {
            lock.token < before.token
                && lock.granted() < before.until
                && !facts.is_killed_between(before.seen, lock.granted())
        };
        let overtaken = before.iter().find(overtakes);
        if !before.is_empty() {
            let what = || {
                let whom = overtaken.map_or("", |before| &before.wish.title);
                format!("{} overtook {whom}, which was in line before", lock.wish.title)
            };
            let calls = overtaken.map(|before| before.call).into_iter().chain([lock.grant]);
            verdict.judge(overtaken.is_none(), what, calls);
        }
    }
}

/// Whether another one held the lock from when this one was asked for until then.
fn was_locked_out(
    facts: &Facts<'_>,
    resource: &Resource<'_>,
    lock: &Lock<'_>,
    until: Time,
) -> bool {
    facts.locks_on(resource).any(|holder| {
        holder.wish.limit == 1
            && holder.wish.mode.conflicts(lock.wish.mode)
            && holder.is_held_during(lock.asked, until)
    })
}

/// Who was seen waiting, and was granted the lock or waited in vain.
fn seen_in_line<'h>(resource: &Resource<'h>) -> Vec<Earlier<'h>> {
    let mut seen: HashMap<&str, Vec<(Time, &Seen)>> = HashMap::new();
    for call in resource.calls.iter().filter(|call| matches!(call.action, Action::List)) {
        for waiting in call.shown().iter().filter(|seen| !seen.active) {
            seen.entry(&waiting.title).or_default().push((call.returned, waiting));
        }
    }
    let mut sendings: HashMap<&str, Vec<(&'h Call, &'h Wish)>> = HashMap::new();
    for (call, wish) in resource.calls.iter().filter_map(|call| Some((*call, call.wish()?))) {
        sendings.entry(&wish.title).or_default().push((call, wish));
    }
    let waiting = sendings.into_iter().filter_map(|(title, sendings)| {
        let (last, before) = sendings.split_last()?;
        let (call, wish) = *last;
        let over = call.sent + wish.wait;
        let (token, until) = match call.outcome {
            // When its wait was over, a standby that may not pass that on has asked again.
            Outcome::Granted { token, .. } if call.returned > over => (token, over),
            Outcome::Granted { token, .. } => (token, Time::NEVER),
            Outcome::Refused(408) => (u64::MAX, over),
            _ => return None,
        };
        let lists = seen.get(title)?;
        let (first, shown) = lists.first()?;
        // Its last sending is told by its wait.
        let is_told = before.iter().all(|(_, earlier)| earlier.wait != wish.wait);
        let is_last = |(_, seen): &&(Time, &Seen)| seen.wait == wish.wait && seen.uid == shown.uid;
        let (seated, _) = lists.iter().find(is_last).filter(|_| is_told)?;
        Some(Earlier { call, wish, seen: *first, seated: *seated, token, until })
    });
    waiting.collect()
}
