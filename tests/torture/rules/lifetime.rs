//! No lock ends before its lifetime, and none is seen after it: GET, PATCH, DELETE and the lists
//! agree.

use std::time::Duration;

use super::{Verdict, after, for_each_look, for_each_look_after, millis};
use crate::facts::Facts;

/// An answer shows a moment that is just over.
const SLACK: Duration = Duration::from_millis(20);

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for_each_look(facts, |look, there| {
        let (lock, call) = (look.lock, look.call);
        if facts.is_killed_between(lock.granted(), call.returned) {
            return;
        }
        let what = || {
            let until = after(lock.held_until, lock.asked);
            let when = after(call.returned, lock.asked);
            format!("{} was gone after {when}; nobody ended it before {until}", lock.wish.title)
        };
        verdict.judge(there, what, [lock.grant, call]);
    });
    for_each_look_after(
        facts,
        |lock| lock.expired,
        |look, there| {
            let (lock, call) = (look.lock, look.call);
            let late = facts.fair_time(lock.expired, call.sent);
            if late > SLACK {
                let what =
                    || format!("{} was there {} after its end", lock.wish.title, millis(late));
                verdict.judge(!there, what, [lock.grant, call]);
            }
        },
    );
    verdict
}
