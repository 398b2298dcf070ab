//! What a record says: the time, and what has changed. Pure.
//!
//! The bytes are [postcard](https://postcard.jamesmunns.com/wire-format)'s: a [`Stamp`], then
//! each [`Entry`] one behind the other, in order.

use std::mem;
use std::ops::Range;
use std::time::{Duration, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::journal::store::Held;
use crate::{Grant, IdempotencyKey, Lifetime, Limit, LockId, Mode, Requester, ResourceName};

/// The end of a lock that has none.
pub(super) const NO_END: Duration = Duration::MAX;

/// The beginning of each record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct Stamp {
    /// What the journal's clock showed.
    pub(super) clock: Duration,
    /// The boot of the host, and how long it had been up.
    pub(super) boot: u128,
    pub(super) uptime: Duration,
    /// The largest fencing token so far.
    pub(super) last_token: u64,
    /// The earliest segment that has something which is still true.
    pub(super) first_segment: u64,
}

/// One thing that has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Entry<'a> {
    /// A lock is held. If it was before, this is what is true now.
    #[serde(borrow)]
    Held(Row<'a>),
    /// The lock with this fencing token is held no more.
    Ended(u64),
    /// The server was restarted: locks that had less than this left have so much from now on,
    /// once.
    Restarted(Duration),
    /// This is the last record of the segment, and there is a next one.
    Continued,
}

/// An entry that was found in a segment.
pub(super) struct Found<'a> {
    /// The number of its record.
    pub(super) record: u64,
    /// What the journal's clock showed.
    pub(super) clock: Duration,
    /// Where it is in the segment.
    pub(super) at: Range<usize>,
    pub(super) entry: Entry<'a>,
}

/// A lock that is held.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row<'a> {
    pub(super) token: u64,
    /// When it ends, by the journal's clock, or [`NO_END`].
    pub(super) end: Duration,
    /// It was let live longer because of a restart; that happens once.
    pub(super) graced: bool,
    resource: &'a str,
    id: [u8; 16],
    key: Option<&'a str>,
    title: &'a str,
    client: &'a str,
    mode: &'a str,
    /// Of a semaphore; 0 in the other modes.
    limit: u32,
    wait: Duration,
    /// Zero: without an end.
    lifetime: Duration,
    /// When it was granted, since the epoch.
    since: Duration,
    user: Option<&'a str>,
}

impl<'a> Row<'a> {
    /// A lock that ends at `end`.
    pub(super) fn new(resource: &'a ResourceName, held: &'a Held, end: Duration) -> Self {
        let Held { grant, key, remaining: _ } = held;
        Self {
            token: grant.fencing_token,
            end,
            graced: false,
            resource: resource.as_str(),
            id: grant.id.to_u128().to_be_bytes(),
            key: key.as_ref().map(|key| key.as_str()),
            title: &grant.title,
            client: &grant.client.address,
            mode: grant.mode.name(),
            limit: grant.mode.limit().map_or(0, Limit::get),
            wait: grant.wait,
            lifetime: grant.lifetime.duration().unwrap_or_default(),
            since: grant.since.duration_since(UNIX_EPOCH).unwrap_or_default(),
            user: grant.client.user.as_deref(),
        }
    }

    /// The same lock with another end.
    pub(super) fn with_end(self, end: Duration, graced: bool) -> Self {
        Self { end, graced, ..self }
    }

    /// The lock, which lives for `remaining`; `None` if no server has written such a row.
    pub(super) fn lock(&self, remaining: Option<Duration>) -> Option<(ResourceName, Held)> {
        let mode = match Mode::named(self.mode)? {
            Mode::Exclusive { .. } => Mode::Exclusive { limit: Limit::new(self.limit)? },
            mode => mode,
        };
        let since = UNIX_EPOCH.checked_add(self.since)?;
        let (lifetime, expires) = match self.lifetime {
            Duration::ZERO => (Lifetime::Endless, None),
            lifetime => (lifetime.into(), Some(since.checked_add(lifetime)?)),
        };
        let grant = Grant {
            id: LockId::from_u128(u128::from_be_bytes(self.id)),
            title: SmolStr::new(self.title),
            client: Requester {
                address: SmolStr::new(self.client),
                user: self.user.map(SmolStr::new),
            },
            mode,
            wait: self.wait,
            lifetime,
            since,
            expires,
            fencing_token: self.token,
        };
        let key = match self.key {
            Some(key) => Some(IdempotencyKey::stored(key)?),
            None => None,
        };
        Some((self.resource.parse().ok()?, Held { grant, key, remaining }))
    }
}

impl Stamp {
    /// Appends the beginning of a record.
    pub(super) fn append(&self, out: &mut Vec<u8>) -> Option<()> {
        append(self, out)
    }

    /// The beginning of a record, and what follows it.
    pub(super) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        postcard::take_from_bytes(body).ok()
    }
}

impl Entry<'_> {
    pub(super) fn append(&self, out: &mut Vec<u8>) -> Option<()> {
        append(self, out)
    }
}

/// Appends the bytes of a value; what was there is lost if there are none.
pub(super) fn append(value: &impl Serialize, out: &mut Vec<u8>) -> Option<()> {
    *out = postcard::to_extend(value, mem::take(out)).ok()?;
    Some(())
}

/// The entries of a record in order, each with where in `bytes` it is; the record's are at `at`.
/// An item is `None` if no server has written that; it is the last one.
pub(super) fn entries(
    bytes: &[u8],
    at: Range<usize>,
) -> impl Iterator<Item = Option<(Range<usize>, Entry<'_>)>> {
    let mut rest = Some(bytes.get(at.clone()).unwrap_or_default());
    std::iter::from_fn(move || {
        let begin = rest.filter(|rest| !rest.is_empty())?;
        let taken = postcard::take_from_bytes(begin).ok();
        rest = taken.as_ref().map(|(_, rest)| *rest);
        let position = |left: &[u8]| at.end - left.len();
        Some(taken.map(|(entry, left)| (position(begin)..position(left), entry)))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in crate::journal::log) fn mode() -> impl Strategy<Value = Mode> {
        let limit = (1..=Limit::MAX).prop_map(|limit| Limit::new(limit).unwrap());
        prop_oneof![
            prop::sample::select(&Mode::ALL[..]),
            limit.prop_map(|limit| Mode::Exclusive { limit }),
        ]
    }

    prop_compose! {
        fn lock()(
            resource in "[A-Za-z0-9._:~@-]{1,255}", key in prop::option::of("[!-~]{1,128}"),
            title in ".{0,100}", client in "[0-9a-f.:]{0,40}",
            user in prop::option::of(".{1,40}"), mode in mode(), token: u64,
            wait in 0..1_000_000_000_000_000_000u64, lifetime in 1..1_000_000_000_000_000_000u64,
            since in 0..4_000_000_000_000_000_000u64,
        ) -> (ResourceName, Held) {
            let since = UNIX_EPOCH + Duration::from_nanos(since);
            let lifetime = Duration::from_nanos(lifetime);
            let grant = Grant {
                id: LockId::random(), title: title.into(), mode,
                client: Requester { address: client.into(), user: user.map(SmolStr::from) },
                wait: Duration::from_nanos(wait), since, expires: Some(since + lifetime),
                lifetime: lifetime.into(),
                fencing_token: token,
            };
            let key = key.map(|key| key.parse().unwrap());
            let remaining = Some(lifetime);
            (resource.parse().unwrap(), Held { grant, key, remaining })
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            locks in prop::collection::vec(lock(), 0..4), ended: Vec<u64>, clock: u64, boot: u128
        ) {
            let clock = Duration::from_nanos(clock);
            let stamp = Stamp { clock, boot, uptime: clock, last_token: 7, first_segment: 8 };
            let rows = locks.iter().map(|(name, held)| Entry::Held(Row::new(name, held, clock)));
            let ended = ended.into_iter().map(Entry::Ended);
            let others = [Entry::Restarted(clock), Entry::Continued];
            let written: Vec<_> = rows.chain(ended).chain(others).collect();
            let mut bytes = Vec::new();
            stamp.append(&mut bytes).unwrap();
            for entry in &written {
                entry.append(&mut bytes).unwrap();
            }
            let (read, rest) = Stamp::read(&bytes).unwrap();
            prop_assert_eq!(read, stamp);
            let begin = bytes.len() - rest.len();
            let read: Option<Vec<_>> = entries(&bytes, begin..bytes.len()).collect();
            let read = read.unwrap();
            prop_assert_eq!(read.first().map_or(bytes.len(), |(at, _)| at.start), begin);
            for (pair, next) in read.iter().zip(&read[1..]) {
                prop_assert_eq!(pair.0.end, next.0.start);
            }
            let read: Vec<_> = read.into_iter().map(|(_, entry)| entry).collect();
            prop_assert_eq!(&read, &written);
            for (entry, (resource, held)) in read.iter().zip(&locks) {
                let Entry::Held(row) = entry else { panic!("{entry:?}") };
                let (read_resource, read) = row.lock(held.remaining).unwrap();
                prop_assert_eq!(&read_resource, resource);
                prop_assert_eq!(format!("{read:?}"), format!("{held:?}"));
            }
        }

        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            let _ = Stamp::read(&bytes);
            for (_, entry) in entries(&bytes, 0..bytes.len()).flatten() {
                if let Entry::Held(row) = entry {
                    let _ = row.lock(None);
                }
            }
        }
    }
}
