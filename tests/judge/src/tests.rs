use super::*;
use history::{Seen, Wish};

/// Calls of two clients; times are milliseconds.
#[derive(Default)]
struct Made(Single);

impl Made {
    fn call(
        mut self,
        client: u32,
        (sent, returned): (u64, u64),
        action: Action,
        outcome: Outcome,
    ) -> Self {
        let (resource, [sent, returned]) = ("r".into(), [sent, returned].map(|ms| ms * 1_000_000));
        self.0.calls.push(Call { client, resource, action, sent, returned, outcome });
        self
    }

    fn acquire(self, client: u32, span: (u64, u64), lifetime: u64, outcome: Outcome) -> Self {
        let lifetime = Duration::from_millis(lifetime);
        // The time makes it unique.
        let title = format!("{client}-{}", span.0);
        self.call(client, span, Action::Acquire(Wish { title, lifetime }), outcome)
    }

    fn granted(self, client: u32, span: (u64, u64), lifetime: u64, token: u64) -> Self {
        self.acquire(client, span, lifetime, Outcome::Granted { uid: token.to_string(), token })
    }

    fn release(self, client: u32, span: (u64, u64), token: u64, outcome: Outcome) -> Self {
        self.call(client, span, Action::Release { uid: token.to_string() }, outcome)
    }

    fn list(self, client: u32, span: (u64, u64), seen: &[(u64, &str)]) -> Self {
        let seen =
            seen.iter().map(|(uid, title)| Seen { uid: uid.to_string(), title: (*title).into() });
        self.call(client, span, Action::List, Outcome::Shown(seen.collect()))
    }

    fn fault(mut self, from: u64, to: u64) -> Self {
        let [from, to] = [from, to].map(|ms| ms * 1_000_000);
        self.0.faults.push(Span { from, to });
        self
    }

    fn is(self, verdict: Verdict) {
        assert_eq!(self.0.judge(), verdict);
    }
}

const LIFE: u64 = 60_000;

use Verdict::{Linearizable, Violated};

#[test]
fn one_holder_after_the_other() {
    Made::default()
        .granted(1, (0, 10), LIFE, 1)
        .acquire(2, (5, 20), LIFE, Outcome::Refused(408))
        .release(1, (30, 40), 1, Outcome::Done)
        .granted(2, (35, 50), LIFE, 2)
        .list(1, (60, 61), &[(2, "2-35")])
        .is(Linearizable);
}

#[test]
fn two_holders() {
    Made::default().granted(1, (0, 10), LIFE, 1).granted(2, (20, 30), LIFE, 2).is(Violated);
}

#[test]
fn two_holders_after_a_release_that_comes_later() {
    Made::default()
        .granted(1, (0, 10), LIFE, 1)
        .granted(2, (20, 30), LIFE, 2)
        .release(1, (40, 50), 1, Outcome::Done)
        .is(Violated);
}

#[test]
fn a_token_that_is_not_larger() {
    for token in [3, 4, 5] {
        let verdict = if token > 4 { Linearizable } else { Violated };
        Made::default()
            .granted(1, (0, 10), LIFE, 4)
            .release(1, (20, 30), 4, Outcome::Done)
            .granted(2, (40, 50), LIFE, token)
            .is(verdict);
    }
}

#[test]
fn a_lock_that_nobody_holds_is_not_busy() {
    Made::default()
        .granted(1, (0, 10), LIFE, 1)
        .release(1, (20, 30), 1, Outcome::Done)
        .acquire(2, (40, 50), LIFE, Outcome::Refused(408))
        .is(Violated);
}

#[test]
fn a_release_that_was_acknowledged_is_not_undone() {
    Made::default()
        .granted(1, (0, 10), LIFE, 1)
        .release(1, (20, 30), 1, Outcome::Done)
        .fault(35, 40)
        .list(2, (50, 51), &[(1, "1-0")])
        .is(Violated);
}

#[test]
fn a_grant_that_was_acknowledged_is_not_lost() {
    Made::default().granted(1, (0, 10), LIFE, 1).fault(20, 30).list(2, (40, 50), &[]).is(Violated);
}

#[test]
fn a_lock_ends_by_itself_and_not_earlier() {
    for (sent, verdict) in [(80, Violated), (101, Linearizable)] {
        Made::default()
            .granted(1, (0, 10), 100, 1)
            .granted(2, (sent, sent + 5), LIFE, 2)
            .is(verdict);
    }
}

#[test]
fn what_ended_is_back_only_if_the_server_was_killed() {
    let ended = || Made::default().granted(1, (0, 10), 100, 1).list(2, (150, 160), &[]);
    ended().list(2, (200, 210), &[(1, "1-0")]).is(Violated);
    ended().fault(170, 180).list(2, (200, 210), &[(1, "1-0")]).is(Linearizable);
    ended()
        .fault(170, 180)
        .granted(2, (190, 200), LIFE, 2)
        .list(2, (210, 220), &[(1, "1-0")])
        .is(Violated);
}

#[test]
fn what_has_no_answer_may_have_happened() {
    let unknown = || Made::default().acquire(1, (0, 10), LIFE, Outcome::Unknown);
    unknown().acquire(2, (20, 30), LIFE, Outcome::Refused(408)).is(Linearizable);
    unknown().granted(2, (20, 30), LIFE, 1).is(Linearizable);
    unknown().list(2, (20, 30), &[(1, "1-0")]).is(Linearizable);
    // Not before it was sent.
    Made::default()
        .acquire(2, (20, 30), LIFE, Outcome::Refused(408))
        .acquire(1, (40, 50), LIFE, Outcome::Unknown)
        .is(Violated);
}
