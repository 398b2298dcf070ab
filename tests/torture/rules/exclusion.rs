//! At most what mode and limit allow is held at once.

use super::{Verdict, after};
use crate::facts::{Facts, Lock, Resource};
use crate::history::{Call, Mode};

pub(super) fn check(facts: &Facts<'_>) -> Verdict {
    let mut verdict = Verdict::default();
    for resource in &facts.resources {
        certain_holds(facts, resource, &mut verdict);
        snapshots(resource, &mut verdict);
    }
    verdict
}

/// Whenever a grant is answered, it fits beside all that are certainly held then.
fn certain_holds(facts: &Facts<'_>, resource: &Resource<'_>, verdict: &mut Verdict) {
    let mut held: Vec<&Lock<'_>> = Vec::new();
    for lock in facts.locks_on(resource) {
        held.retain(|other| lock.granted() < other.held_until);
        if lock.granted() >= lock.held_until {
            continue;
        }
        let modes: Vec<_> = held.iter().map(|other| (other.wish.mode, other.wish.limit)).collect();
        let fits = fits(lock.wish.mode, lock.wish.limit, &modes);
        let what = || {
            let others: Vec<_> = held.iter().map(|lock| describe(lock)).collect();
            format!("{} was granted while held: {}", describe(lock), others.join(", "))
        };
        let calls = held.iter().map(|lock| lock.grant).chain([lock.grant]);
        verdict.judge(fits, what, calls.collect::<Vec<&Call>>());
        held.push(lock);
    }
}

fn describe(lock: &Lock<'_>) -> String {
    let (mode, limit) = (lock.wish.mode.name(), lock.wish.limit);
    let from = after(lock.granted(), lock.asked);
    let until = after(lock.held_until, lock.asked);
    format!("{mode} (limit {limit}) {} from {from} to {until} after its request", lock.wish.title)
}

/// A list shows one moment: what is active in it has to fit.
fn snapshots(resource: &Resource<'_>, verdict: &mut Verdict) {
    for call in &resource.calls {
        let active = call.shown().iter().filter(|seen| seen.active);
        let mut modes = Vec::new();
        let mut all_fit = true;
        for seen in active {
            all_fit &= fits(seen.mode, seen.limit, &modes);
            modes.push((seen.mode, seen.limit));
        }
        if !modes.is_empty() {
            let what = || format!("a list of {} shows at once {modes:?}", resource.name);
            verdict.judge(all_fit, what, [*call]);
        }
    }
}

fn fits(mode: Mode, limit: usize, held: &[(Mode, usize)]) -> bool {
    let semaphore = held.iter().filter(|(other, _)| *other == Mode::Ex);
    let counted = mode != Mode::Ex
        || (semaphore.clone().count() < limit && semaphore.clone().all(|(_, own)| *own == limit));
    let is_pair_of_semaphore = |other: Mode| mode == Mode::Ex && other == Mode::Ex;
    counted && held.iter().all(|(other, _)| is_pair_of_semaphore(*other) || !mode.conflicts(*other))
}
