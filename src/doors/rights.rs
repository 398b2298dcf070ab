//! What a user may do with which resources. Pure.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, LazyLock};

use smol_str::SmolStr;

use crate::lock::ResourceName;

/// What may be done with a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Right {
    /// Acquire, renew, release and look at a lock by its URL or key.
    Lock,
    /// See who holds and who waits.
    See,
    /// Both, and end the locks of others.
    Administrate,
}

/// What a caller needs for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requirement {
    /// Nothing: credentials are not looked at.
    Nothing,
    /// A right to the resource that the path names; to some, if it names none.
    Some(Right),
    /// A right to every resource.
    All(Right),
}

impl Requirement {
    pub(super) const LOCK: Self = Self::Some(Right::Lock);
    pub(super) const SEE: Self = Self::Some(Right::See);
    pub(super) const END: Self = Self::Some(Right::Administrate);
    pub(super) const END_ALL: Self = Self::All(Right::Administrate);
    /// They count all resources, and name none.
    pub(super) const METRICS: Self = Self::All(Right::See);

    /// Whether the response shows the locks of others.
    pub(super) fn shows_locks(self) -> bool {
        self == Self::SEE
    }

    /// Whether it is for those who may see or end what is not theirs.
    pub(super) fn is_administrative(self) -> bool {
        !matches!(self, Self::Nothing | Self::LOCK | Self::METRICS)
    }
}

/// The resources with one name, or all whose names begin alike.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Name(SmolStr),
    Beginning(SmolStr),
}

/// What one user may do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rights(Vec<(Right, Pattern)>);

impl Rights {
    /// Everything.
    pub(super) fn all() -> Arc<Self> {
        static ALL: LazyLock<Arc<Rights>> = LazyLock::new(|| of_everything(Right::Administrate));
        Arc::clone(&ALL)
    }

    /// To lock anything.
    pub(super) fn to_lock() -> Arc<Self> {
        static TO_LOCK: LazyLock<Arc<Rights>> = LazyLock::new(|| of_everything(Right::Lock));
        Arc::clone(&TO_LOCK)
    }

    /// Nothing.
    pub(super) fn none() -> Arc<Self> {
        static NONE: LazyLock<Arc<Rights>> = LazyLock::new(Arc::default);
        Arc::clone(&NONE)
    }

    /// `None` if a rule is malformed.
    pub(super) fn from_rules(rules: &[String]) -> Option<Self> {
        let mut rights = Self::default();
        rules.iter().try_for_each(|rule| rights.add(rule)).ok()?;
        Some(rights)
    }

    /// The rules, as a file has them.
    pub(super) fn rules(&self) -> impl Iterator<Item = String> {
        self.0.iter().map(|(right, pattern)| format!("{right} {pattern}"))
    }

    /// Adds `RIGHT PATTERN`, as a file has it.
    ///
    /// # Errors
    /// What was expected instead.
    pub(super) fn add(&mut self, rule: &str) -> Result<(), &'static str> {
        let expected = "a right (lock, see or admin), a blank and a pattern, as in lock deploy-*";
        let (right, pattern) = rule.split_once(' ').ok_or(expected)?;
        let right = match right {
            "lock" => Right::Lock,
            "see" => Right::See,
            "admin" => Right::Administrate,
            _ => return Err(expected),
        };
        self.0.push((right, pattern.parse()?));
        Ok(())
    }

    /// Whether this may be done with the resource.
    pub(super) fn allow(&self, right: Right, resource: &ResourceName) -> bool {
        self.of(right).any(|pattern| pattern.matches(resource.as_str()))
    }

    /// Whether it may be done with some resource.
    pub(super) fn allow_some(&self, right: Right) -> bool {
        self.of(right).next().is_some()
    }

    /// Whether it may be done with every resource.
    pub(super) fn allow_all(&self, right: Right) -> bool {
        self.of(right).any(|pattern| *pattern == Pattern::Beginning(SmolStr::default()))
    }

    fn of(&self, wanted: Right) -> impl Iterator<Item = &Pattern> {
        let gives = move |right| right == wanted || right == Right::Administrate;
        self.0.iter().filter(move |(right, _)| gives(*right)).map(|(_, pattern)| pattern)
    }
}

fn of_everything(right: Right) -> Arc<Rights> {
    Arc::new(Rights(vec![(right, Pattern::Beginning(SmolStr::default()))]))
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lock => "lock",
            Self::See => "see",
            Self::Administrate => "admin",
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Beginning(beginning) => write!(f, "{beginning}*"),
        }
    }
}

impl Pattern {
    fn matches(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => own == name,
            Self::Beginning(beginning) => name.starts_with(&**beginning),
        }
    }
}

impl FromStr for Pattern {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let expected = "a pattern that is the name of a resource, or the beginning of one and *";
        match text.strip_suffix('*') {
            Some("") => Ok(Self::Beginning(SmolStr::default())),
            Some(beginning) if ResourceName::is_beginning(beginning) => {
                Ok(Self::Beginning(beginning.into()))
            }
            Some(_) => Err(expected),
            None => {
                let name = text.parse::<ResourceName>().map_err(|_| expected)?;
                Ok(Self::Name(name.as_str().into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rights(rules: &[&str]) -> Rights {
        let mut rights = Rights::default();
        rules.iter().for_each(|rule| rights.add(rule).unwrap());
        rights
    }

    #[test]
    fn rights_are_for_a_name_or_a_beginning_and_admin_has_all_of_them() {
        use Right::{Administrate, Lock, See};
        let rights = rights(&["lock a", "lock ci-*", "see b", "admin ops:*", "lock org/*"]);
        for (right, name, expected) in [
            (Lock, "a", true),
            (Lock, "ab", false),
            (Lock, "ci-", true),
            (Lock, "ci-1", true),
            (Lock, "ci", false),
            (Lock, "b", false),
            (Lock, "org/a/b", true),
            (Lock, "organ", false),
            (See, "b", true),
            (See, "a", false),
            (Administrate, "b", false),
            (Lock, "ops:1", true),
            (See, "ops:1", true),
            (Administrate, "ops:1", true),
        ] {
            assert_eq!(rights.allow(right, &name.parse().unwrap()), expected, "{right} {name}");
        }
        assert!(rights.allow_some(See) && !rights.allow_all(See));
        let see = super::tests::rights(&["see *"]);
        assert!(see.allow_all(See) && !see.allow_some(Lock) && !see.allow_all(Administrate));
        assert!(super::tests::rights(&["admin *"]).allow_all(See));
        assert!(!super::tests::rights(&["see x*"]).allow_all(See));
    }

    #[test]
    fn what_is_no_right_or_no_pattern_is_refused() {
        for rule in [
            "",
            "lock",
            "lock ",
            "write a",
            "Lock a",
            "lock a*b",
            "lock **",
            "lock a b",
            "see é*",
            "lock a/",
            "lock /*",
            "lock a/../*",
        ] {
            assert!(Rights::default().add(rule).is_err(), "{rule:?}");
        }
    }
}
