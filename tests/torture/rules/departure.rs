//! A waiter without a key whose connection was gone is out of the line within a second, and is
//! never granted the lock.

use std::time::Duration;

use super::{Verdict, millis};
use crate::facts::{Facts, Resource};
use crate::history::{Action, Call, Outcome, Wish};

/// Of time in which the server was free to notice.
const BOUND: Duration = Duration::from_secs(1);

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        for call in resource.calls.iter().filter(|call| call.outcome == Outcome::Left) {
            let wish = call.wish().filter(|wish| wish.key.is_none());
            if let Some(wish) = wish.filter(|wish| left_while_waiting(facts, resource, call, wish))
            {
                never_seen_again(facts, resource, call, wish, &mut verdict);
            }
        }
    }
    verdict
}

/// It was seen in line, and from then on until it had left, somebody certainly held the lock.
fn left_while_waiting(
    facts: &Facts<'_>,
    resource: &Resource<'_>,
    call: &Call,
    wish: &Wish,
) -> bool {
    let lists = resource.calls.iter().filter(|list| matches!(list.action, Action::List));
    let mut seen = lists.filter(|list| {
        list.returned < call.returned
            && list.shown().iter().any(|seen| seen.title == wish.title && !seen.active)
    });
    seen.any(|list| {
        facts.locks_on(resource).any(|lock| {
            lock.wish.limit == 1
                && lock.wish.mode.conflicts(wish.mode)
                && lock.is_held_during(list.sent, call.returned)
        })
    })
}

fn never_seen_again(
    facts: &Facts<'_>,
    resource: &Resource<'_>,
    call: &Call,
    wish: &Wish,
    verdict: &mut Verdict,
) {
    let lists = resource.calls.iter().filter(|list| {
        matches!(list.action, Action::List)
            && matches!(list.outcome, Outcome::Shown(_))
            && facts.fair_time(call.returned, list.sent) > BOUND
    });
    for list in lists {
        let seen = list.shown().iter().find(|seen| seen.title == wish.title);
        let what = || {
            let active = seen.is_some_and(|seen| seen.active);
            let state = if active { "holds the lock" } else { "is in line" };
            let since = millis(list.sent.since(call.returned));
            format!("{} {state} {since} after its connection ended", wish.title)
        };
        verdict.judge(seen.is_none(), what, [call, *list]);
    }
}
