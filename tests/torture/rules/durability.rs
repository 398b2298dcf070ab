//! With a data directory, every acknowledged grant, renewal, release and deletion survives a
//! kill of the server.

use super::{Verdict, after, for_each_look, for_each_look_after};
use crate::facts::Facts;
use crate::history::Seen;

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    if !facts.history.durable {
        return verdict;
    }
    for_each_look(facts, |look, there| {
        let (lock, call) = (look.lock, look.call);
        if facts.is_killed_between(lock.granted(), call.returned) {
            let when = || after(call.returned, lock.asked);
            let what = || format!("{} is lost: gone after {}", lock.wish.title, when());
            verdict.judge(there, what, [lock.grant, call]);
        }
    });
    for_each_look_after(
        facts,
        |lock| lock.released,
        |look, there| {
            let (lock, call) = (look.lock, look.call);
            // Places in line are notes in etcd, which may be older than a grant and its release:
            // such a place is passed over, and nobody holds a lock by it.
            let is_place = |seen: &&Seen| seen.uid == lock.uid && !seen.active;
            let is_back = there && !call.shown().iter().any(|seen| is_place(&seen));
            if facts.is_killed_between(lock.released, call.sent) {
                let what =
                    || format!("{} was released and is back after a restart", lock.wish.title);
                verdict.judge(!is_back, what, [lock.grant, call]);
            }
        },
    );
    verdict
}
