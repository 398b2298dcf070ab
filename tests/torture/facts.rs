//! What follows with certainty from a history: which lock was held at least and at most when.
//!
//! Every bound is on the safe side. A grant happened after its request was sent and before its
//! answer came; a call without an answer may have happened from when it was sent on, until the
//! server that it was sent to was killed.

use std::collections::HashMap;
use std::time::Duration;

use crate::history::{Action, Call, Fault, FaultKind, History, Outcome, Span, Time, Wish};

/// A lock lives so much longer than its lifetime, because its holder counts from the answer.
const ANSWER_GRACE: Duration = Duration::from_millis(1);

/// How much longer it may live after a restart (docs/durability.md).
const COMMIT_GRACE: Duration = Duration::from_secs(1);

/// The default of `--reconnect-grace`.
pub(crate) const RECONNECT_GRACE: Duration = Duration::from_secs(5);

/// How long the server may need to be its old self after it was stopped or restarted.
const RECOVERY: Duration = Duration::from_millis(300);

/// The same after a disk that refused writes: an expiry is tried again after a second.
const DISK_RECOVERY: Duration = Duration::from_millis(1500);

pub(crate) struct Facts<'h> {
    pub(crate) history: &'h History,
    /// All that were granted with an answer, in order of these answers.
    pub(crate) locks: Vec<Lock<'h>>,
    by_uid: HashMap<&'h str, usize>,
    pub(crate) resources: Vec<Resource<'h>>,
    /// When the server was not free to act; disjoint, in order.
    unfair: Vec<Span>,
    kills: Vec<Span>,
}

/// A lock that somebody was told to hold.
pub(crate) struct Lock<'h> {
    pub(crate) uid: &'h str,
    pub(crate) token: u64,
    pub(crate) wish: &'h Wish,
    pub(crate) resource: &'h str,
    /// The call that was answered first.
    pub(crate) grant: &'h Call,
    /// It was not granted before: the first request with its key was sent then.
    pub(crate) asked: Time,
    /// It was certainly held from the grant's answer until then.
    pub(crate) held_until: Time,
    /// Its release or deletion was acknowledged then.
    pub(crate) released: Time,
    /// Somebody was told that it is gone, whatever the reason.
    pub(crate) told_gone: Time,
    /// It has certainly expired by then.
    pub(crate) expired: Time,
}

impl Lock<'_> {
    pub(crate) fn granted(&self) -> Time {
        self.grant.returned
    }

    pub(crate) fn gone(&self) -> Time {
        // Not since somebody was told: an expiry that is not on disk yet is undone by a kill.
        self.released.min(self.expired)
    }

    pub(crate) fn is_held_during(&self, from: Time, to: Time) -> bool {
        self.granted() <= from && to <= self.held_until
    }
}

/// All that concerns one resource.
pub(crate) struct Resource<'h> {
    pub(crate) name: &'h str,
    pub(crate) calls: Vec<&'h Call>,
    /// Of [`Facts::locks`].
    pub(crate) locks: Vec<usize>,
}

impl<'h> Facts<'h> {
    pub(crate) fn of(history: &'h History) -> Self {
        let kills = history.faults.iter().filter(|fault| fault.kind.is_restart());
        let mut facts = Self {
            history,
            locks: Vec::new(),
            by_uid: HashMap::new(),
            resources: by_resource(history),
            unfair: unfair(history),
            kills: kills.map(|fault| fault.span).collect(),
        };
        for place in 0..facts.resources.len() {
            let locks = facts.locks_of(&facts.resources[place]);
            facts.resources[place].locks =
                (facts.locks.len()..facts.locks.len() + locks.len()).collect();
            facts.locks.extend(locks);
        }
        let uids = facts.locks.iter().enumerate();
        facts.by_uid = uids.map(|(place, lock)| (lock.uid, place)).collect();
        facts
    }

    pub(crate) fn lock(&self, uid: &str) -> Option<&Lock<'h>> {
        self.by_uid.get(uid).map(|place| &self.locks[*place])
    }

    pub(crate) fn locks_on<'a>(
        &'a self,
        resource: &'a Resource<'h>,
    ) -> impl Iterator<Item = &'a Lock<'h>> + Clone {
        resource.locks.iter().map(|place| &self.locks[*place])
    }

    /// How much of this time the server was free to act.
    pub(crate) fn fair_time(&self, from: Time, to: Time) -> Duration {
        let first = self.unfair.partition_point(|span| span.to <= from);
        let unfair = self.unfair[first..].iter().take_while(|span| span.from < to);
        let unfair: Duration = unfair.map(|span| span.to.min(to).since(span.from.max(from))).sum();
        to.since(from).saturating_sub(unfair)
    }

    pub(crate) fn is_killed_between(&self, from: Time, to: Time) -> bool {
        self.kills.iter().any(|kill| from < kill.to && kill.from < to)
    }

    /// When a call without an answer can have had its effect at the latest.
    pub(crate) fn latest_effect(&self, call: &Call) -> Time {
        if call.outcome != Outcome::Unknown && call.outcome != Outcome::Left {
            return call.returned;
        }
        self.dead_with_its_server(call).unwrap_or(Time::NEVER)
    }

    /// When whatever this request may have been granted without an answer is certainly gone.
    pub(crate) fn doubt_ends(&self, call: &Call, wish: &Wish) -> Time {
        if let Some(forgotten) = self.dead_with_its_server(call).filter(|_| !self.history.durable) {
            return forgotten;
        }
        // What is swallowed on the way is out of the world within these spans, too.
        let mut end = self.fair_end(call.returned + RECOVERY) + wish.wait + wish.lifetime;
        end = end + RECONNECT_GRACE + Duration::from_secs(2);
        self.prolonged_by_kills(end)
    }

    /// When the server was killed that a call was sent to. A proxy may have sent it to the next.
    fn dead_with_its_server(&self, call: &Call) -> Option<Time> {
        let slack = if call.timely { Duration::ZERO } else { RECOVERY };
        let kill = self.kills.iter().find(|kill| kill.from > call.sent + slack);
        kill.map(|kill| kill.to)
    }

    fn fair_end(&self, time: Time) -> Time {
        let within = self.unfair.iter().find(|span| span.from <= time && time < span.to);
        within.map_or(time, |span| span.to)
    }

    /// What is held until `end` may be held for longer if the server is killed meanwhile.
    fn prolonged_by_kills(&self, end: Time) -> Time {
        self.kills.iter().fold(end, |end, kill| {
            // Or shortly after it, before that is on disk.
            if kill.from < self.fair_end(end + DISK_RECOVERY) {
                let grace = kill.to + self.history.restart_grace + COMMIT_GRACE;
                (end + COMMIT_GRACE).max(grace)
            } else {
                end
            }
        })
    }

    fn locks_of(&self, resource: &Resource<'h>) -> Vec<Lock<'h>> {
        let asked = first_asked(&resource.calls);
        let mut by_uid: HashMap<&str, Vec<&Call>> = HashMap::new();
        for call in &resource.calls {
            if let Some(uid) = call.uid() {
                by_uid.entry(uid).or_default().push(call);
            }
        }
        let deletions: Vec<_> =
            resource.calls.iter().filter(|call| matches!(call.action, Action::Delete)).collect();
        let mut grants: Vec<_> = resource
            .calls
            .iter()
            .filter_map(|call| match (&call.outcome, call.wish()) {
                (Outcome::Granted { uid, token }, Some(wish)) => Some((*call, wish, uid, *token)),
                _ => None,
            })
            .collect();
        grants.sort_by_key(|(call, ..)| call.returned);
        let mut locks: Vec<Lock<'h>> = Vec::new();
        let mut known = std::collections::HashSet::new();
        for (grant, wish, uid, token) in grants {
            if !known.insert(uid.as_str()) {
                continue;
            }
            let key = wish.key.as_deref().and_then(|key| asked.get(key));
            let asked = key.map_or(grant.sent, |asked| (*asked).min(grant.sent));
            let own = by_uid.get(uid.as_str()).map_or(&[][..], Vec::as_slice);
            let held_until = self.held_until(asked, wish, own, &deletions, grant, None);
            locks.push(Lock {
                uid,
                token,
                wish,
                resource: resource.name,
                grant,
                asked,
                held_until,
                released: self.released(grant, own, &deletions),
                told_gone: self.told_gone(grant, own, &deletions),
                expired: self.expired(grant, wish, own),
            });
        }
        locks
    }

    /// The same as [`Lock::held_until`], as if `except` had not been sent: whether that one
    /// was answered rightly is the question.
    pub(crate) fn held_until_without(&self, lock: &Lock<'h>, except: &Call) -> Time {
        let resource = self.resources.iter().find(|resource| resource.name == lock.resource);
        let calls = resource.map_or(&[][..], |resource| &resource.calls);
        let own: Vec<_> =
            calls.iter().filter(|call| call.uid() == Some(lock.uid)).copied().collect();
        let deletions: Vec<_> =
            calls.iter().filter(|call| matches!(call.action, Action::Delete)).collect();
        self.held_until(lock.asked, lock.wish, &own, &deletions, lock.grant, Some(except))
    }

    fn held_until(
        &self,
        asked: Time,
        wish: &Wish,
        own: &[&Call],
        deletions: &[&&Call],
        grant: &Call,
        except: Option<&Call>,
    ) -> Time {
        let may_end_it = |call: &&Call| {
            !matches!(call.outcome, Outcome::Refused(_))
                && except.is_none_or(|except| !std::ptr::eq(*call, except))
        };
        let releases = own.iter().filter(|call| matches!(call.action, Action::Release { .. }));
        let released = releases.copied().filter(may_end_it).map(|call| call.sent);
        let deleted = deletions.iter().map(|call| **call).filter(may_end_it);
        let deleted =
            deleted.filter(|call| self.latest_effect(call) >= asked).map(|call| call.sent);
        let forgotten =
            self.kills.iter().filter(|kill| !self.history.durable && kill.to > grant.returned);
        let ends = released.chain(deleted).chain(forgotten.map(|kill| kill.from));
        ends.min().unwrap_or(Time::NEVER).min(self.earliest_expiry(asked, wish, own))
    }

    /// The lock was held by then at least, if nobody ended it: counted from when the request was
    /// sent, or the last renewal.
    fn earliest_expiry(&self, asked: Time, wish: &Wish, own: &[&Call]) -> Time {
        let mut until = asked + wish.lifetime;
        let mut in_doubt = Duration::MAX;
        for call in own {
            let Action::Renew { lifetime, .. } = call.action else { continue };
            if call.outcome == Outcome::Done {
                until = call.sent + lifetime.min(in_doubt);
            } else if self.may_have_renewed(call) {
                in_doubt = in_doubt.min(lifetime);
                until = until.min(call.sent + lifetime);
            }
        }
        until
    }

    /// Whether a renewal that was not answered with success may have had an effect all the same. A
    /// standby repeats it at the next active server, where the lock may be over by then.
    fn may_have_renewed(&self, call: &Call) -> bool {
        match call.outcome {
            Outcome::Unknown => true,
            Outcome::Refused(404) => self.is_killed_between(call.sent, call.returned),
            _ => false,
        }
    }

    fn released(&self, grant: &Call, own: &[&Call], deletions: &[&&Call]) -> Time {
        let released = own.iter().filter(|call| matches!(call.action, Action::Release { .. }));
        let deleted = deletions.iter().map(|call| **call);
        let deleted = deleted.filter(|call| call.sent > grant.returned);
        let done = released.copied().chain(deleted).filter(|call| call.outcome == Outcome::Done);
        let kills = self.kills.iter().filter(|_| !self.history.durable);
        let forgotten = kills.filter(|kill| kill.from > grant.returned).map(|kill| kill.to);
        done.map(|call| call.returned).chain(forgotten).min().unwrap_or(Time::NEVER)
    }

    fn told_gone(&self, grant: &Call, own: &[&Call], deletions: &[&&Call]) -> Time {
        let told = own
            .iter()
            .filter(|call| call.outcome == Outcome::Refused(404) && call.sent > grant.returned);
        let released = self.released(grant, own, deletions);
        told.map(|call| call.returned).fold(released, Time::min)
    }

    fn expired(&self, grant: &Call, wish: &Wish, own: &[&Call]) -> Time {
        let renewed = own.iter().filter_map(|call| match (&call.action, &call.outcome) {
            (Action::Renew { lifetime, .. }, outcome) => {
                let renewed = *outcome == Outcome::Done || self.may_have_renewed(call);
                renewed.then(|| self.latest_effect(call) + *lifetime)
            }
            _ => None,
        });
        let last = renewed.fold(grant.returned + wish.lifetime, Time::max);
        if last == Time::NEVER { last } else { self.prolonged_by_kills(last + ANSWER_GRACE) }
    }
}

/// When the first request with each key was sent.
fn first_asked<'h>(calls: &[&'h Call]) -> HashMap<&'h str, Time> {
    let mut asked = HashMap::new();
    for call in calls {
        if let Some(key) = call.wish().and_then(|wish| wish.key.as_deref()) {
            let first = asked.entry(key).or_insert(call.sent);
            *first = call.sent.min(*first);
        }
    }
    asked
}

fn by_resource(history: &History) -> Vec<Resource<'_>> {
    let mut resources: std::collections::BTreeMap<&str, Vec<&Call>> = Default::default();
    for call in &history.calls {
        resources.entry(&call.resource).or_default().push(call);
    }
    let resources = resources.into_iter().map(|(name, mut calls)| {
        calls.sort_by_key(|call| call.sent);
        Resource { name, calls, locks: Vec::new() }
    });
    resources.collect()
}

fn unfair(history: &History) -> Vec<Span> {
    let faults = history.faults.iter().filter_map(|Fault { kind, span }| {
        let recovery = match kind {
            FaultKind::Kill | FaultKind::Terminate | FaultKind::StopServer => RECOVERY,
            FaultKind::DiskRefuses | FaultKind::DiskFull => DISK_RECOVERY,
            _ => return None,
        };
        Some(Span { from: span.from, to: span.to + recovery })
    });
    let mut spans: Vec<_> = faults.chain(history.hiccups.iter().copied()).collect();
    spans.sort_by_key(|span| span.from);
    let mut disjoint: Vec<Span> = Vec::new();
    for span in spans {
        match disjoint.last_mut() {
            Some(last) if span.from <= last.to => last.to = last.to.max(span.to),
            _ => disjoint.push(span),
        }
    }
    disjoint
}
