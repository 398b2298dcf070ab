//! A lock that somebody was told to be released, deleted or gone stays so.

use super::{Verdict, for_each_look_after};
use crate::facts::Facts;

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for_each_look_after(
        facts,
        |lock| lock.told_gone,
        |look, there| {
            let (lock, call) = (look.lock, look.call);
            if !facts.is_killed_between(lock.told_gone, call.sent) {
                let what = || format!("{} was gone and is there again", lock.wish.title);
                let told =
                    facts.history.calls.iter().filter(|told| told.returned == lock.told_gone);
                verdict.judge(!there, what, [lock.grant].into_iter().chain(told).chain([call]));
            }
        },
    );
    verdict
}
