//! Lists that begin with what hurts most: the first so many of all resources, found in one walk.

use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::ops::ControlFlow;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::lock::{LockManager, ResourceName, Standing};

/// What a list is sorted by; by name where this is equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Who has waited longest comes first.
    LongestWait,
    /// The longest line comes first.
    Line,
    /// What is held longest comes first.
    Age,
    /// What ends soonest comes first.
    Ends,
}

impl Sort {
    pub(super) const NAMES: &str = "name, longest-wait, line, age or ends";

    const ALL: [Self; 4] = [Self::LongestWait, Self::Line, Self::Age, Self::Ends];

    pub(super) fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|sort| sort.name() == name)
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::LongestWait => "longest-wait",
            Self::Line => "line",
            Self::Age => "age",
            Self::Ends => "ends",
        }
    }

    /// The smallest comes first. Times do not pass in it, so it changes only with the locks.
    fn key(self, standing: &Standing) -> u64 {
        match self {
            Self::LongestWait => microseconds(standing.waited_for_since),
            Self::Line => u64::MAX - standing.waiting as u64,
            Self::Age => microseconds(standing.held_since),
            Self::Ends => microseconds(standing.ends),
        }
    }
}

/// What there is not comes last.
fn microseconds(time: Option<SystemTime>) -> u64 {
    let since_epoch = time.map(|time| time.duration_since(UNIX_EPOCH).unwrap_or_default());
    since_epoch.and_then(|since| u64::try_from(since.as_micros()).ok()).unwrap_or(u64::MAX)
}

/// A position in a sorted list.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    key: u64,
    name: ResourceName,
}

impl fmt::Display for Rank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key, self.name)
    }
}

impl FromStr for Rank {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (key, name) = text.split_once('.').ok_or(())?;
        Ok(Self { key: key.parse().map_err(|_| ())?, name: name.parse().map_err(|_| ())? })
    }
}

/// A page of a sorted list.
#[derive(Debug, Default)]
pub(super) struct Top {
    pub(super) names: Vec<ResourceName>,
    /// The last of them, if there are more.
    pub(super) last: Option<Rank>,
}

/// The first `limit` resources after `after`. `wants` is asked only for those that would be among
/// them; an error of it ends the walk.
pub(super) fn top(
    locks: &dyn LockManager,
    sort: Sort,
    after: Option<&Rank>,
    limit: usize,
    mut wants: impl FnMut(&ResourceName, &Standing) -> io::Result<bool>,
) -> io::Result<Top> {
    let mut best = BinaryHeap::<Rank>::new();
    let mut walked = Ok(());
    locks.survey(&mut |name, standing| {
        let key = sort.key(standing);
        let is_after = |rank: &Rank| (rank.key, &rank.name) < (key, name);
        let is_too_late = best.len() > limit && best.peek().is_some_and(is_after);
        if is_too_late || !after.is_none_or(is_after) {
            return ControlFlow::Continue(());
        }
        match wants(name, standing) {
            Ok(true) => best.push(Rank { key, name: name.clone() }),
            Ok(false) => {}
            Err(error) => {
                walked = Err(error);
                return ControlFlow::Break(());
            }
        }
        // One more than are wanted: then there is a next page.
        if best.len() > limit + 1 {
            best.pop();
        }
        ControlFlow::Continue(())
    });
    walked?;
    let mut ranks = best.into_sorted_vec();
    let is_all = ranks.len() <= limit;
    ranks.truncate(limit);
    let last = ranks.last().cloned().filter(|_| !is_all);
    Ok(Top { names: ranks.into_iter().map(|rank| rank.name).collect(), last })
}
