//! No live waiter starves: a lock that is free is granted to whoever waits for it within 100 ms,
//! and nobody is turned away before the wait is over.

use std::time::Duration;

use super::{Verdict, millis};
use crate::facts::{Facts, Resource};
use crate::history::{Call, Outcome, Time, Wish};

/// Of time in which the server was free to act.
const BOUND: Duration = Duration::from_millis(100);

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        for call in resource.calls.iter().filter(|call| call.timely) {
            let Some(wish) = call.wish() else { continue };
            match call.outcome {
                Outcome::Granted { token, .. } => {
                    let free = free_since(facts, resource, call, Some(token));
                    served(facts, call, wish, free, call.returned, &mut verdict);
                }
                Outcome::Refused(408) if !wish.wait.is_zero() => {
                    let free = free_since(facts, resource, call, None);
                    served(facts, call, wish, free, call.sent + wish.wait, &mut verdict);
                    let what =
                        || format!("{} was turned away before its wait was over", wish.title);
                    verdict.judge(call.returned >= call.sent + wish.wait, what, [*call]);
                }
                _ => {}
            }
        }
    }
    verdict
}

fn served(
    facts: &Facts<'_>,
    call: &Call,
    wish: &Wish,
    free: Time,
    end: Time,
    verdict: &mut Verdict,
) {
    if free < end {
        let starved = facts.fair_time(free, end);
        let what = || format!("{} waited for a free lock for {}", wish.title, millis(starved));
        verdict.judge(starved <= BOUND, what, [call]);
    }
}

/// Since when nobody can have held the lock before this request was granted it, by a grant with
/// this token, or was turned away.
fn free_since(facts: &Facts<'_>, resource: &Resource<'_>, call: &Call, token: Option<u64>) -> Time {
    let own = token.and(match &call.outcome {
        Outcome::Granted { uid, .. } => facts.lock(uid),
        _ => None,
    });
    // A key that was sent before: its lock may be older than this call.
    if own.is_some_and(|own| own.asked < call.sent) {
        return Time::NEVER;
    }
    let before = facts
        .locks_on(resource)
        .filter(|lock| token.is_none_or(|token| lock.token < token) && lock.asked < call.returned);
    let held = before.map(|lock| lock.gone());
    let doubtful = resource.calls.iter().filter(|other| {
        matches!(other.outcome, Outcome::Unknown | Outcome::Left) && other.sent < call.returned
    });
    let doubted = doubtful.filter_map(|other| Some(facts.doubt_ends(other, other.wish()?)));
    held.chain(doubted).fold(call.sent, Time::max)
}
