//! When a standby may take over, the clock that lifetimes end by, and what became of a write. Pure:
//! the time is an argument, that of a clock which also counts while the host is suspended.
//!
//! No two servers acknowledge at once, whatever the clocks do: every write replaces exactly the
//! one before it. Clocks decide only how old an answer may be that changes nothing; for that, they
//! may differ in rate by a tenth.

use std::time::Duration;

use super::history::Version;
use crate::cluster::term::Pace;

/// What a standby knows of a `head` that it has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sighting {
    /// The revision at which it was written; 0: there is none.
    pub(crate) revision: i64,
    /// When this standby first saw it.
    pub(crate) first_seen: Duration,
}

/// How long `head` has not changed, as a standby sees it.
#[derive(Debug)]
pub(crate) struct Silence {
    pace: Pace,
    /// How long the active server may be silent.
    patience: Duration,
    sighting: Option<Sighting>,
    /// The latest look, if it succeeded.
    latest: Option<Duration>,
    silent: Duration,
}

impl Silence {
    pub(crate) fn new(pace: Pace) -> Self {
        let patience = pace.failover_after;
        Self { pace, patience, sighting: None, latest: None, silent: Duration::ZERO }
    }

    /// A poll at `now` has shown a `head` of this revision. `theirs`: the `--failover-after` by which
    /// the active server answers, if it says so.
    pub(crate) fn saw(
        &mut self,
        revision: i64,
        theirs: Option<Duration>,
        now: Duration,
    ) -> Sighting {
        self.patience = theirs.unwrap_or_default().max(self.pace.failover_after);
        match self.sighting {
            Some(sighting) if sighting.revision == revision => {
                if let Some(latest) = self.latest {
                    let interval = now.saturating_sub(latest);
                    self.silent += interval.min(self.pace.interval());
                }
            }
            _ => {
                self.sighting = Some(Sighting { revision, first_seen: now });
                self.silent = Duration::ZERO;
            }
        }
        self.latest = Some(now);
        self.sighting.unwrap_or(Sighting { revision, first_seen: now })
    }

    /// A look has failed.
    pub(crate) fn missed(&mut self) {
        self.latest = None;
    }

    /// Whether the active server has been silent for so long that its locks are worth reading. A
    /// take-over replaces the very `head` that was seen all the while, so no later row is missed.
    pub(crate) fn may_read_ahead(&self) -> bool {
        self.silent >= self.patience / 5 * 2
    }

    /// Whether the active server has been silent for so long that another may take over.
    pub(crate) fn is_over(&self) -> bool {
        self.silent >= self.patience
    }

    /// How long the active server may be silent.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }
}

/// The clock that lifetimes end by. It goes on from one active server to the next and never
/// gains on real time: what a failover loses makes lifetimes longer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ClusterClock {
    /// What it showed at `since`.
    at_first: Duration,
    since: Duration,
}

impl ClusterClock {
    /// The clock of a server that takes over from a `head` with the time `clock`.
    pub(crate) fn taken_over(clock: Duration, first_seen: Duration) -> Self {
        Self { at_first: clock, since: first_seen }
    }

    pub(crate) fn at(self, now: Duration) -> Duration {
        self.at_first.saturating_add(now.saturating_sub(self.since))
    }
}

/// etcd's answer to a compare-and-swap of `head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum SwapAnswer {
    /// It was done, at this revision.
    Swapped(i64),
    /// It was not, because `head` is another one, or there is none.
    Other(Option<Version>),
    /// It was not, because something else is in its place.
    Foreign,
    /// Anything else.
    Unclear,
}

/// What is known of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// It was done by the attempt that was answered.
    Done(i64),
    /// It was done by an earlier attempt.
    DoneEarlier(i64),
    /// Another server has written `head`, or somebody deleted it: this server is fenced.
    Fenced,
    /// The same bytes have to be sent again.
    Unknown,
}

impl WriteResult {
    /// The result of the write with this id.
    pub(crate) fn of(answer: &SwapAnswer, id: &str) -> Self {
        match answer {
            SwapAnswer::Swapped(revision) => Self::Done(*revision),
            SwapAnswer::Other(Some(other)) if other.id == id => Self::DoneEarlier(other.revision),
            SwapAnswer::Other(_) | SwapAnswer::Foreign => Self::Fenced,
            SwapAnswer::Unclear => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { failover_after: Duration::from_secs(10) };

    fn s(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Looks, each at a time in seconds: what revision was seen, or that it failed; whether
    /// silence is over then.
    fn check(looks: &[(f64, Option<i64>, bool)]) {
        let mut silence = Silence::new(PACE);
        for (at, seen, over) in looks {
            match seen {
                Some(revision) => {
                    silence.saw(*revision, None, s(*at));
                }
                None => silence.missed(),
            }
            assert_eq!(silence.is_over(), *over, "at {at}: {silence:?}");
        }
    }

    #[test]
    fn silence_grows_while_the_same_head_is_seen() {
        let looks: Vec<_> = (0..=10).map(|n| (f64::from(n), Some(7), n == 10)).collect();
        check(&looks);
    }

    #[test]
    fn locks_are_read_ahead_when_two_heartbeats_are_missed() {
        let mut silence = Silence::new(PACE);
        for (at, revision, may) in
            [(0.0, 7, false), (2.0, 7, false), (3.9, 7, false), (4.1, 7, true), (6.0, 8, false)]
        {
            silence.saw(revision, None, s(at));
            assert_eq!(silence.may_read_ahead(), may, "at {at}");
        }
    }

    #[test]
    fn a_standby_waits_for_the_larger_of_its_own_time_and_that_of_the_active_server() {
        for (theirs, patience) in
            [(None, 10), (Some(2), 10), (Some(60), 60), (Some(u64::MAX), u64::MAX)]
        {
            let mut silence = Silence::new(PACE);
            let theirs = theirs.map(Duration::from_secs);
            let look = |silence: &mut Silence, at: u64| {
                silence.saw(7, theirs, Duration::from_secs(at));
                silence.is_over()
            };
            let is_over: Vec<_> = (0..100).filter(|at| look(&mut silence, *at)).collect();
            assert_eq!(is_over.first(), (patience < 100).then_some(&patience), "{theirs:?}");
            assert_eq!(silence.may_read_ahead(), patience < 100);
        }
        // One that is replaced by another, which says something else.
        let mut silence = Silence::new(PACE);
        for (at, revision, theirs, over) in
            [(0, 7, 2, false), (9, 7, 2, false), (11, 8, 60, false), (13, 8, 60, false)]
        {
            silence.saw(revision, Some(Duration::from_secs(theirs)), Duration::from_secs(at));
            assert_eq!(silence.is_over(), over);
        }
    }

    #[test]
    fn another_head_ends_the_silence() {
        let mut looks: Vec<_> = (0..=9).map(|n| (f64::from(n), Some(7), false)).collect();
        looks.push((10.0, Some(8), false));
        looks.extend((11..=20).map(|n| (f64::from(n), Some(8), n == 20)));
        check(&looks);
    }

    #[test]
    fn time_without_etcd_is_no_silence() {
        check(&[
            (0.0, Some(7), false),
            (1.0, None, false),
            (30.0, None, false),
            (31.0, Some(7), false),
            (32.0, Some(7), false),
        ]);
    }

    #[test]
    fn an_etcd_that_answers_every_other_time_is_no_silence() {
        let look = |n: i32| (f64::from(n), (n % 2 == 0).then_some(7), false);
        check(&(0..100).map(look).collect::<Vec<_>>());
    }

    #[test]
    fn only_a_part_of_a_long_interval_counts() {
        let looks: Vec<_> = (0..=5).map(|n| (f64::from(n) * 100.0, Some(7), n == 5)).collect();
        check(&looks);
    }

    #[test]
    fn the_clock_goes_on_from_when_the_last_head_was_seen() {
        let clock = ClusterClock::taken_over(s(500.0), s(20.0));
        assert_eq!(clock.at(s(20.0)), s(500.0));
        assert_eq!(clock.at(s(25.5)), s(505.5));
        assert_eq!(clock.at(s(10.0)), s(500.0));
        let last = ClusterClock::taken_over(Duration::MAX, s(1.0));
        assert_eq!(last.at(s(2.0)), Duration::MAX);
    }

    #[test]
    fn only_a_comparison_decides() {
        let version = |id: &str| Version { number: 4, revision: 9, id: id.into() };
        let other = |id: Option<&str>| SwapAnswer::Other(id.map(version));
        for (answer, result) in [
            (SwapAnswer::Swapped(8), WriteResult::Done(8)),
            (other(Some("mine")), WriteResult::DoneEarlier(9)),
            (other(Some("theirs")), WriteResult::Fenced),
            (other(None), WriteResult::Fenced),
            (SwapAnswer::Foreign, WriteResult::Fenced),
            (SwapAnswer::Unclear, WriteResult::Unknown),
        ] {
            assert_eq!(WriteResult::of(&answer, "mine"), result);
        }
    }
}
