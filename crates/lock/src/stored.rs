//! A held lock in its stored form, for the disk and for etcd.
//!
//! # How it grows
//! On disk the fields follow each other without names, so another field is another format. To store
//! something more of a lock:
//! 1. Add the field at the end of [`StoredLock`] with `#[serde(default)]`, set it in
//!    [`StoredLock::of`], and read it in [`StoredLock::terms`]. Rows in etcd that lack it get the
//!    default.
//! 2. In `journal/log`, keep the present fields as a struct that is only read, in a file like
//!    `v1.rs`. In `record.rs`, let the variant `LogEntry::Held` read that, add a variant for the
//!    new rows at the end, and raise `LAST_ENTRY`.
//! 3. Raise `FORMAT` in the records of etcd. An older server stops at a format that it does not
//!    know, instead of losing the field.
//!
//! Never remove or reorder fields or variants. A newer format is refused by name, not as damage. The
//! test `the_layout_of_a_row_is_frozen` fails if the fields change.

use std::borrow::Cow;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

use crate::journal::store::{HeldLock, KeptPlace};
use crate::{Grant, IdempotencyKey, Lifetime, Limit, LockId, Mode, Requester, ResourceName, Terms};

/// Longer than any time of a lock. The sum of several does not overflow.
const LONGEST: Duration = Duration::from_secs(10_000_000_000);

/// A held lock, with borrowed texts. The names of the fields are those of the JSON in etcd.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredLock<'a> {
    #[serde(borrow)]
    pub(crate) resource: Text<'a>,
    /// The fencing token.
    #[serde(default)]
    pub token: u64,
    #[serde(with = "id")]
    pub(crate) id: LockId,
    pub(crate) key: Option<Text<'a>>,
    pub(crate) title: Text<'a>,
    pub(crate) client: Text<'a>,
    pub(crate) user: Option<Text<'a>>,
    pub(crate) mode: Text<'a>,
    pub(crate) limit: Option<u32>,
    pub(crate) wait: Duration,
    /// `None`: endless.
    pub(crate) lifetime: Option<Duration>,
    /// When it was granted, or joined the line, since the epoch; for display.
    pub(crate) since: Duration,
    /// When it expires, by the clock of the store; `None`: never.
    pub end: Option<Duration>,
    #[serde(default)]
    pub(crate) other_limits: bool,
}

impl<'a> StoredLock<'a> {
    /// A lock that expires at `end`.
    pub fn new(resource: &'a ResourceName, held: &'a HeldLock, end: Option<Duration>) -> Self {
        let HeldLock { grant, key, remaining: _ } = held;
        let Grant { id, terms, since, expires: _, fencing_token } = grant;
        let lock = Self::of(resource, *id, key.as_ref(), terms, *since);
        Self { token: *fencing_token, end, ..lock }
    }

    /// The lock that a place in line waits for, without a token and an end.
    pub fn waiting(place: &'a KeptPlace) -> Self {
        let KeptPlace { id, resource, terms, key, arrival: _, since } = place;
        Self::of(resource, *id, Some(key), terms, *since)
    }

    fn of(
        resource: &'a ResourceName,
        id: LockId,
        key: Option<&'a IdempotencyKey>,
        terms: &'a Terms,
        since: SystemTime,
    ) -> Self {
        let Terms { title, client, mode, wait, lifetime, other_limits } = terms;
        Self {
            resource: resource.as_str().into(),
            token: 0,
            id,
            key: key.map(|key| key.as_str().into()),
            title: title.as_str().into(),
            client: client.address.as_str().into(),
            user: client.user.as_deref().map(Text::from),
            mode: mode.name().into(),
            limit: mode.limit().map(Limit::get),
            wait: *wait,
            lifetime: lifetime.duration(),
            since: since.duration_since(UNIX_EPOCH).unwrap_or_default(),
            end: None,
            other_limits: *other_limits,
        }
    }

    /// The lock, which lives for `remaining`. `None`: rdlm does not store such a lock.
    pub fn held(&self, remaining: Option<Duration>) -> Option<(ResourceName, HeldLock)> {
        if self.end.is_some() != self.lifetime.is_some() {
            return None;
        }
        let since = UNIX_EPOCH.checked_add(self.since)?;
        let expires = match self.lifetime {
            Some(lifetime) => Some(since.checked_add(lifetime)?),
            None => None,
        };
        let grant =
            Grant { id: self.id, terms: self.terms()?, since, expires, fencing_token: self.token };
        let key = match &self.key {
            Some(key) => Some(IdempotencyKey::stored(&key.0)?),
            None => None,
        };
        Some((self.resource.0.parse().ok()?, HeldLock { grant, key, remaining }))
    }

    /// The place in line with this arrival. `None`: rdlm does not store such a place.
    pub fn place(&self, arrival: u64) -> Option<KeptPlace> {
        Some(KeptPlace {
            id: self.id,
            resource: self.resource.0.parse().ok()?,
            terms: self.terms()?,
            key: IdempotencyKey::stored(&self.key.as_ref()?.0)?,
            arrival,
            since: UNIX_EPOCH.checked_add(self.since)?,
        })
    }

    fn terms(&self) -> Option<Terms> {
        let times = [self.wait, self.since, self.lifetime.unwrap_or_default()];
        if times.iter().any(|time| *time > LONGEST) {
            return None;
        }
        let mode = match Mode::named(&self.mode.0)? {
            Mode::Exclusive { .. } => Mode::Exclusive { limit: Limit::new(self.limit?)? },
            mode => mode,
        };
        let user = self.user.as_ref().map(|user| SmolStr::new(&user.0));
        Some(Terms {
            title: SmolStr::new(&self.title.0),
            client: Requester { address: SmolStr::new(&self.client.0), user },
            mode,
            wait: self.wait,
            lifetime: self.lifetime.map_or(Lifetime::Endless, Lifetime::from),
            other_limits: self.other_limits,
        })
    }
}

/// Text, borrowed unless JSON escapes it. A plain `Cow` would not be borrowed inside an `Option`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self(Cow::Borrowed(text))
    }
}

/// An id: hex digits in JSON, bytes on disk.
mod id {
    use super::*;

    pub(super) fn serialize<S: Serializer>(id: &LockId, serializer: S) -> Result<S::Ok, S::Error> {
        match serializer.is_human_readable() {
            true => serializer.collect_str(id),
            false => id.to_u128().to_be_bytes().serialize(serializer),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(source: D) -> Result<LockId, D::Error> {
        if source.is_human_readable() {
            let text = Text::deserialize(source)?;
            return text.0.parse().map_err(|_| serde::de::Error::custom("no id of a lock"));
        }
        let bytes = <[u8; 16]>::deserialize(source)?;
        Ok(LockId::from_u128(u128::from_be_bytes(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lock() -> StoredLock<'static> {
        StoredLock {
            resource: "r".into(),
            token: 1,
            id: LockId::from_u128(2),
            key: Some("k".into()),
            title: "t".into(),
            client: "c".into(),
            user: Some("u".into()),
            mode: "EX".into(),
            limit: Some(3),
            wait: Duration::from_secs(4),
            lifetime: Some(Duration::from_secs(5)),
            since: Duration::from_secs(6),
            end: Some(Duration::from_secs(7)),
            other_limits: true,
        }
    }

    /// If this fails, the format has changed: the top of this file says what to do.
    #[test]
    fn the_layout_of_a_row_is_frozen() {
        let bytes = postcard::to_extend(&lock(), Vec::new()).unwrap();
        let id = "00000000000000000000000000000002";
        let on_disk = format!("017201{id}01016b0174016301017502455801030400010500060001070001");
        let hex = bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        assert_eq!(hex, on_disk);
        assert_eq!(
            serde_json::to_string(&lock()).unwrap(),
            format!(
                r#"{{"resource":"r","token":1,"id":"{id}","key":"k","title":"t","client":"c","#
            ) + r#""user":"u","mode":"EX","limit":3,"wait":{"secs":4,"nanos":0},"#
                + r#""lifetime":{"secs":5,"nanos":0},"since":{"secs":6,"nanos":0},"#
                + r#""end":{"secs":7,"nanos":0},"other_limits":true}"#
        );
    }

    #[test]
    fn a_time_that_could_overflow_is_refused() {
        assert!(lock().held(None).is_some());
        for wrong in [
            StoredLock { wait: Duration::MAX, ..lock() },
            StoredLock { since: Duration::MAX, ..lock() },
            StoredLock { lifetime: Some(Duration::MAX), ..lock() },
            StoredLock { lifetime: None, ..lock() },
            StoredLock { end: None, ..lock() },
        ] {
            assert!(wrong.held(None).is_none(), "{wrong:?}");
        }
    }
}
