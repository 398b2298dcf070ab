//! `--fleetlock`: how many nodes of each group may reboot at a time.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::lock::Limit;

/// How many nodes of each group may reboot at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slots {
    default: Limit,
    of_groups: BTreeMap<String, Limit>,
}

/// A number for every group, and numbers of some: `1,workers=3`.
impl FromStr for Slots {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        let expected = "a number of slots for every group, and for some, as in 1,workers=3";
        let limit = |text: &str| text.parse().ok().and_then(Limit::new).ok_or(expected);
        let mut parts = text.split(',');
        let default = limit(parts.next().unwrap_or_default())?;
        let mut of_groups = BTreeMap::new();
        for part in parts {
            let (group, slots) = part.split_once('=').ok_or(expected)?;
            let named = is_group(group) && of_groups.insert(group.into(), limit(slots)?).is_none();
            if !named {
                return Err(expected);
            }
        }
        Ok(Self { default, of_groups })
    }
}

impl Slots {
    pub(super) fn of(&self, group: &str) -> Limit {
        self.of_groups.get(group).copied().unwrap_or(self.default)
    }
}

/// Whether it can be the name of a group.
pub(super) fn is_group(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    !text.is_empty() && text.bytes().all(is_allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_a_number_and_those_of_some_groups() {
        let slots: Slots = "1,workers=3,db.eu-1=2".parse().unwrap();
        let of = |group| slots.of(group).get();
        assert_eq!((of("workers"), of("db.eu-1"), of("default")), (3, 2, 1));
        for wrong in ["", "0", "x", "workers=3", "1,", "1,workers", "1,w=0", "1,a b=1", "1,a=1,a=2"]
        {
            assert!(wrong.parse::<Slots>().is_err(), "{wrong}");
        }
    }
}
