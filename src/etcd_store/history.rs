//! Detects that etcd has lost writes. An etcd that was emptied, or restored from a snapshot, shows an
//! older `head` or none, and locks granted since would be granted again. Pure.

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use log::warn;

/// Identifies one write of `head`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) revision: i64,
    pub(crate) id: String,
}

impl Version {
    /// Whether this is `known`, or can have been written after it: each write adds one to the number
    /// and at least one to the revision.
    fn continues(&self, known: &Self) -> bool {
        let Some(writes) = self.number.checked_sub(known.number) else { return false };
        let revisions = self.revision.checked_sub(known.revision);
        let revisions = revisions.and_then(|revisions| u64::try_from(revisions).ok());
        match writes {
            0 => self == known,
            writes => revisions.is_some_and(|revisions| revisions >= writes),
        }
    }
}

/// The latest `head` that this process has seen.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The number of the `head` that the operator has accepted; 0: that there is none.
    accepted: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    latest: Option<Version>,
    lost: Option<Loss>,
}

/// etcd has lost writes. Only a restart clears this, as the operator has to decide.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Loss {
    why: Why,
    /// The number of the `head` that etcd shows; 0: none.
    shown: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Why {
    /// The `head` of this number was seen before.
    Seen(u64),
    /// It is older than the one that the operator has accepted.
    Accepted(u64),
    /// There are locks, but no `head`.
    NoHead,
}

impl History {
    pub(crate) fn new(accepted: Option<u64>) -> Self {
        Self { accepted, state: Mutex::default() }
    }

    /// The latest `head` that was seen. Read it before each request to etcd.
    pub(crate) fn latest(&self) -> Option<Version> {
        self.state().latest.clone()
    }

    /// Why etcd is not trusted any more.
    pub(crate) fn lost(&self) -> Option<Loss> {
        self.state().lost.clone()
    }

    /// etcd shows this `head`, in a linearizable answer to a request that was sent when `known` was
    /// the latest one.
    ///
    /// # Errors
    /// It has lost writes, now or earlier.
    pub(crate) fn show(
        &self,
        known: Option<&Version>,
        shown: Option<&Version>,
    ) -> Result<(), Loss> {
        let mut state = self.state();
        let number = shown.map_or(0, |shown| shown.number);
        let why = match known {
            Some(known) if !shown.is_some_and(|shown| shown.continues(known)) => {
                Some(Why::Seen(known.number))
            }
            Some(_) => None,
            None => self.accepted.filter(|accepted| number < *accepted).map(Why::Accepted),
        };
        if let Some(why) = why {
            state.lost.get_or_insert(Loss { why, shown: number });
        }
        if let Some(lost) = &state.lost {
            return Err(lost.clone());
        }
        let latest = state.latest.as_ref().map_or(0, |latest| latest.number);
        if let Some(shown) = shown.filter(|shown| shown.number > latest) {
            if let Some(accepted) = self.accepted.filter(|accepted| *accepted < number)
                && state.latest.is_none()
            {
                // Left in a unit file, it would accept a later loss that only this option hides.
                warn!(
                    "etcd has gone on to head {number}: remove --etcd-accept-restored {accepted}, \
                     which is not needed any more"
                );
            }
            state.latest = Some(shown.clone());
        }
        Ok(())
    }

    /// etcd shows locks, but no `head`.
    ///
    /// # Errors
    /// The operator has not accepted that.
    pub(crate) fn show_locks_without_head(&self) -> Result<(), Loss> {
        if self.accepted == Some(0) {
            return Ok(());
        }
        let lost = Loss { why: Why::NoHead, shown: 0 };
        Err(self.state().lost.get_or_insert(lost).clone())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each of its fields is valid at any moment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = match self.shown {
            0 => "no head".to_string(),
            number => format!("head {number}"),
        };
        match self.why {
            Why::Seen(number) => {
                write!(f, "etcd was emptied or restored: it shows {shown} after head {number}")?;
            }
            Why::Accepted(number) => {
                write!(f, "etcd shows {shown}, which is older than the accepted head {number}")?;
            }
            Why::NoHead => f.write_str("etcd was emptied in part: it has locks, but no head")?,
        }
        write!(
            f,
            ". No lock is granted until this server is restarted with --etcd-accept-restored {}: \
             docs/high-availability.md says what to do first",
            self.shown
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(number: u64, revision: i64, id: &str) -> Version {
        Version { number, revision, id: id.into() }
    }

    #[test]
    fn a_head_continues_the_history_or_shows_that_writes_were_lost() {
        let known = version(100, 150, "a");
        for (shown, continues) in [
            (Some(version(100, 150, "a")), true),
            (Some(version(101, 151, "b")), true),
            // Others write to the same etcd.
            (Some(version(101, 190, "b")), true),
            (Some(version(130, 190, "b")), true),
            (None, false),
            (Some(version(99, 149, "b")), false),
            // Another write took its place.
            (Some(version(100, 150, "b")), false),
            (Some(version(100, 151, "a")), false),
            (Some(version(99, 151, "b")), false),
            (Some(version(101, 150, "b")), false),
            // A later one, of which not all writes can have happened since.
            (Some(version(170, 180, "b")), false),
            (Some(version(u64::MAX, i64::MIN, "b")), false),
        ] {
            let history = History::default();
            history.show(None, Some(&known)).unwrap();
            let latest = history.latest();
            let result = history.show(latest.as_ref(), shown.as_ref());
            assert_eq!(result.is_ok(), continues, "{shown:?}");
            assert_eq!(history.lost().is_none(), continues, "{shown:?}");
        }
    }

    #[test]
    fn an_answer_that_comes_late_is_compared_with_what_was_known_when_it_was_asked_for() {
        let history = History::default();
        let (old, new) = (version(1, 5, "a"), version(2, 6, "b"));
        history.show(None, Some(&old)).unwrap();
        let asked = history.latest();
        history.show(asked.as_ref(), Some(&new)).unwrap();
        history.show(asked.as_ref(), Some(&old)).unwrap();
        history.show(None, None).unwrap();
        assert_eq!(history.latest(), Some(new), "the largest is remembered");
    }

    #[test]
    fn what_was_lost_stays_lost_until_a_restart() {
        let history = History::default();
        let known = version(7, 7, "a");
        history.show(None, Some(&known)).unwrap();
        let lost = history.show(Some(&known), Some(&version(5, 5, "b"))).unwrap_err();
        assert_eq!(history.show(Some(&known), Some(&known)), Err(lost.clone()));
        let text = lost.to_string();
        assert!(text.contains("head 5 after head 7"), "{text}");
        assert!(text.contains("--etcd-accept-restored 5:"), "{text}");
    }

    #[test]
    fn an_accepted_head_is_the_oldest_that_is_trusted() {
        for (accepted, shown, believed) in [
            (Some(5), Some(5), true),
            (Some(5), Some(9), true),
            (Some(5), Some(4), false),
            (Some(5), None, false),
            (Some(0), None, true),
            (None, Some(4), true),
            (None, None, true),
        ] {
            let shown = shown.map(|number| version(number, 50, "a"));
            let result = History::new(accepted).show(None, shown.as_ref());
            assert_eq!(result.is_ok(), believed, "{accepted:?}, {shown:?}");
        }
    }

    #[test]
    fn locks_without_a_head_are_trusted_when_the_operator_says_so() {
        for (accepted, believed) in [(Some(0), true), (Some(5), false), (None, false)] {
            let history = History::new(accepted);
            assert_eq!(history.show_locks_without_head().is_ok(), believed);
            assert_eq!(history.lost().is_none(), believed);
        }
    }
}
