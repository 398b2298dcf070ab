//! The names of resources, locks and requests.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use smol_str::SmolStr;
use uuid::Uuid;

/// The name of a resource: 1 to [`ResourceName::MAX_LEN`] of `A-Z a-z 0-9 . _ : ~ @ - /`.
///
/// Of the parts between slashes none is empty, `.` or `..`, and the last is not 32 hex digits: such
/// a name in a path would be another one, or the URL of a lock, behind a proxy that decodes `%2F`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResourceName(SmolStr);

impl ResourceName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 255;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether names can begin with this text, which is not empty.
    pub fn is_beginning(text: &str) -> bool {
        let whole_parts = text.rsplit_once('/').map(|(parts, _)| parts);
        Self::is_spelt_right(text) && whole_parts.is_none_or(are_parts)
    }

    fn is_spelt_right(text: &str) -> bool {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:~@-/".contains(&byte);
        (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed)
    }
}

fn are_parts(path: &str) -> bool {
    path.split('/').all(|part| !["", ".", ".."].contains(&part))
}

impl FromStr for ResourceName {
    type Err = InvalidResourceName;

    fn from_str(name: &str) -> Result<Self, InvalidResourceName> {
        let is_uid = |part: &str| part.len() == 32 && part.bytes().all(|b| b.is_ascii_hexdigit());
        let last_of_several = name.rsplit_once('/').map(|(_, last)| last);
        let is_path = |last: &str| are_parts(name) && !is_uid(last);
        if Self::is_spelt_right(name) && last_of_several.is_none_or(is_path) {
            Ok(Self(name.into()))
        } else {
            Err(InvalidResourceName)
        }
    }
}

impl fmt::Display for ResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is not a [`ResourceName`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidResourceName;

impl fmt::Display for InvalidResourceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = ResourceName::MAX_LEN;
        write!(
            f,
            "a resource name is 1 to {max} of A-Z a-z 0-9 . _ : ~ @ - and /, with no empty part, \
             . or .. between slashes, and no 32 hex digits behind the last one"
        )
    }
}

impl std::error::Error for InvalidResourceName {}

/// Marks a request as a repetition of an earlier one: 1 to [`IdempotencyKey::MAX_LEN`] visible
/// ASCII characters of the client's choice.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 128;

    /// The key as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The key of a client of another protocol, which has this id there. It contains a blank, which
    /// no `Idempotency-Key` does: a client that reads the id in a list cannot pass it as a key to
    /// get the URL of the lock.
    ///
    /// # Errors
    /// The id is not visible ASCII, or too long beside the name of the door.
    pub fn of_door(door: &str, id: &str) -> Result<Self, InvalidIdempotencyKey> {
        let Self(id) = id.parse()?;
        let key = format!("{door} {id}");
        if key.len() <= Self::MAX_LEN { Ok(Self(key.into())) } else { Err(InvalidIdempotencyKey) }
    }

    /// The id in the protocol of this door, if it is a key of that.
    pub fn id_at_door(&self, door: &str) -> Option<&str> {
        self.0.strip_prefix(door)?.strip_prefix(' ')
    }

    /// Parses what [`IdempotencyKey::as_str`] returned.
    pub fn stored(text: &str) -> Option<Self> {
        match text.split_once(' ') {
            Some((door, id)) => Self::of_door(door, id).ok(),
            None => text.parse().ok(),
        }
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidIdempotencyKey;

    fn from_str(key: &str) -> Result<Self, InvalidIdempotencyKey> {
        let visible = key.bytes().all(|byte| byte.is_ascii_graphic());
        if (1..=Self::MAX_LEN).contains(&key.len()) && visible {
            Ok(Self(key.into()))
        } else {
            Err(InvalidIdempotencyKey)
        }
    }
}

/// The text is not an [`IdempotencyKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidIdempotencyKey;

impl fmt::Display for InvalidIdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let max = IdempotencyKey::MAX_LEN;
        write!(f, "an Idempotency-Key is 1 to {max} visible ASCII characters")
    }
}

impl std::error::Error for InvalidIdempotencyKey {}

/// The unique name of one lock: a random UUID (version 4, RFC 9562), written as 32
/// lower-case hex digits. It is a secret: it is all that is needed to release the lock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockId(Uuid);

impl LockId {
    pub(crate) fn to_u128(self) -> u128 {
        self.0.as_u128()
    }

    pub(crate) fn from_u128(id: u128) -> Self {
        Self(Uuid::from_u128(id))
    }

    /// A new one.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for LockId {
    type Err = InvalidLockId;

    fn from_str(text: &str) -> Result<Self, InvalidLockId> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 32 || !text.bytes().all(hex) {
            return Err(InvalidLockId);
        }
        Uuid::try_parse(text).map(Self).map_err(|_| InvalidLockId)
    }
}

impl fmt::Display for LockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

/// The text is not a [`LockId`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InvalidLockId;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_resource_name_is_1_to_255_of_the_allowed_characters() {
        let longest = "x".repeat(255);
        let hex = "aa4e181e17374148a21b30d9dcb941f9";
        let names = ["a", "Z9", "nightly-job", "a.b_c:d~e@f-g", "..", "org/proj", "a/.b/c..", hex];
        for name in names.into_iter().chain([&*longest, &format!("{hex}/a"), &format!("a/{hex}0")])
        {
            assert_eq!(name.parse::<ResourceName>().unwrap().as_str(), name);
        }
        let too_long = "x".repeat(256);
        let upper = format!("a/{}", hex.to_uppercase());
        for name in [
            "",
            "a b",
            "a%20b",
            "é",
            "a\0",
            "a\n",
            "a+b",
            "/",
            "/a",
            "a/",
            "a//b",
            "a/.",
            "a/../b",
            "./a",
            &too_long,
            &format!("a/{hex}"),
            &upper,
        ] {
            assert_eq!(name.parse::<ResourceName>(), Err(InvalidResourceName), "{name:?}");
        }
    }

    #[test]
    fn names_begin_with_what_a_pattern_ends_with() {
        for beginning in ["a", "org/", "org/.", "a/b/", "."] {
            assert!(ResourceName::is_beginning(beginning), "{beginning}");
        }
        for beginning in ["", "/", "a//", "a/../", "a b", "é"] {
            assert!(!ResourceName::is_beginning(beginning), "{beginning}");
        }
    }

    #[test]
    fn a_lock_id_is_32_lower_case_hex_digits() {
        let id = LockId::random();
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "aa4e181e17374148a21b30d9dcb941f",
            "aa4e181e17374148a21b30d9dcb941f90",
            "AA4E181E17374148A21B30D9DCB941F9",
            "aa4e181e-1737-4148-a21b-30d9dcb941f9",
            "ga4e181e17374148a21b30d9dcb941f9",
        ] {
            assert_eq!(text.parse::<LockId>(), Err(InvalidLockId), "{text:?}");
        }
    }
}
