//! The contents of a record: a [`RecordHeader`], then each [`LogEntry`], encoded by
//! [postcard](https://postcard.jamesmunns.com/wire-format). Pure.
//!
//! # How it grows
//! - `stored.rs` says how a lock gets another field.
//! - A new kind of entry is a new variant at the end of [`LogEntry`]; raise `LAST_ENTRY`.
//! - [`RecordHeader`] has no version: another field is another format of the whole segment, for
//!   which `segment.rs` has the rule.

use std::mem;
use std::ops::Range;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::time::{Expiry, Uptime};
use super::v1::RowV1;
use crate::ResourceName;
use crate::journal::store::HeldLock;
use crate::stored::StoredLock;

/// The beginning of each record. The order of the fields is the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(super) struct RecordHeader {
    /// The journal's clock.
    pub(super) clock: Duration,
    /// The boot of the host, and how long it had been up.
    pub(super) boot: u128,
    pub(super) uptime: Duration,
    /// The largest fencing token so far.
    pub(super) last_token: u64,
    /// The earliest segment that is still needed.
    pub(super) first_segment: u64,
}

/// One change. The order of the variants is the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum LogEntry<'a> {
    /// As rdlm 1.0 wrote it. Read only, as [`LogEntry::Held`].
    #[serde(borrow)]
    HeldV1(RowV1<'a>),
    /// The lock with this fencing token has ended.
    Ended(u64),
    /// The server was restarted: locks that had less than this left have this much left now, once.
    Restarted(Duration),
    /// The last record of the segment: there is a next segment.
    Continued,
    /// A lock is held. Replaces an earlier row of the same lock.
    #[serde(borrow)]
    Held(Row<'a>),
}

/// The number of the last variant.
pub(super) const LAST_ENTRY: u32 = 4;

/// A held lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Row<'a> {
    /// A restart has prolonged it, which happens once.
    pub(super) graced: bool,
    /// Its end is a time of the journal's clock.
    #[serde(borrow)]
    pub(super) lock: StoredLock<'a>,
}

/// Why something cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// No version of rdlm writes this.
    Senseless,
    /// A newer version has written it.
    Newer,
}

/// An entry, and where it is.
pub(super) struct ScannedEntry<'a> {
    /// The number of its record.
    pub(super) record: u64,
    /// The time of its record.
    pub(super) clock: Duration,
    /// Its bytes in the segment.
    pub(super) at: Range<usize>,
    pub(super) entry: LogEntry<'a>,
}

impl<'a> Row<'a> {
    /// A lock that ends at `end`.
    pub(super) fn new(
        resource: &'a ResourceName,
        held: &'a HeldLock,
        end: Option<Duration>,
    ) -> Self {
        Self { graced: false, lock: StoredLock::new(resource, held, end) }
    }

    pub(super) fn expiry(&self) -> Expiry {
        Expiry { end: self.lock.end, graced: self.graced }
    }

    /// The same lock with another expiry.
    pub(super) fn with(self, expiry: Expiry) -> Self {
        let Expiry { end, graced } = expiry;
        Self { graced, lock: StoredLock { end, ..self.lock } }
    }
}

impl RecordHeader {
    /// The host's clock when the record was written.
    pub(super) fn host(&self) -> Uptime {
        Uptime { boot: self.boot, uptime: self.uptime }
    }

    /// Decodes the beginning of a record, and returns the bytes behind it.
    pub(super) fn read(body: &[u8]) -> Option<(Self, &[u8])> {
        postcard::take_from_bytes(body).ok()
    }
}

impl<'a> LogEntry<'a> {
    /// Decodes the first entry, and returns the bytes behind it.
    fn take(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Unreadable> {
        match postcard::take_from_bytes(bytes) {
            Ok((Self::HeldV1(row), rest)) => {
                Ok((Self::Held(Row { graced: row.graced, lock: row.into() }), rest))
            }
            Ok(taken) => Ok(taken),
            Err(_) => Err(match postcard::take_from_bytes::<u32>(bytes) {
                Ok((variant, _)) if variant > LAST_ENTRY => Unreadable::Newer,
                _ => Unreadable::Senseless,
            }),
        }
    }
}

/// Encodes a value behind other bytes, which are lost if that fails.
pub(super) fn append(value: &impl Serialize, out: &mut Vec<u8>) -> Option<()> {
    *out = postcard::to_extend(value, mem::take(out)).ok()?;
    Some(())
}

/// Decodes the entries of a record, which are at `at` in `bytes`, each with its position there.
/// Ends with the first one that cannot be decoded.
pub(super) fn entries(
    bytes: &[u8],
    at: Range<usize>,
) -> impl Iterator<Item = Result<(Range<usize>, LogEntry<'_>), Unreadable>> {
    let mut rest = Some(bytes.get(at.clone()).unwrap_or_default());
    std::iter::from_fn(move || {
        let begin = rest.filter(|rest| !rest.is_empty())?;
        let taken = LogEntry::take(begin);
        rest = taken.as_ref().ok().map(|(_, rest)| *rest);
        let position = |left: &[u8]| at.end - left.len();
        Some(taken.map(|(entry, left)| (position(begin)..position(left), entry)))
    })
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;
    use smol_str::SmolStr;

    use super::*;
    use crate::{Grant, Limit, LockId, Mode, Requester, Terms};

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
            since in 0..4_000_000_000_000_000_000u64, other_limits: bool,
        ) -> (ResourceName, HeldLock) {
            let since = UNIX_EPOCH + Duration::from_nanos(since);
            let lifetime = Duration::from_nanos(lifetime);
            let terms = Terms {
                title: title.into(),
                client: Requester { address: client.into(), user: user.map(SmolStr::from) },
                mode,
                wait: Duration::from_nanos(wait),
                lifetime: lifetime.into(),
                other_limits,
            };
            let (id, expires) = (LockId::random(), Some(since + lifetime));
            let grant = Grant { id, terms, since, expires, fencing_token: token };
            let key = key.map(|key| key.parse().unwrap());
            let remaining = Some(lifetime);
            (resource.parse().unwrap(), HeldLock { grant, key, remaining })
        }
    }

    proptest! {
        #[test]
        fn a_record_is_read_as_it_was_written(
            locks in prop::collection::vec(lock(), 0..4), ended: Vec<u64>, clock: u64, boot: u128
        ) {
            let clock = Duration::from_nanos(clock);
            let header = RecordHeader { clock, boot, uptime: clock, last_token: 7, first_segment: 8 };
            let rows = locks.iter().map(|(name, held)| LogEntry::Held(Row::new(name, held, Some(clock))));
            let ended = ended.into_iter().map(LogEntry::Ended);
            let others = [LogEntry::Restarted(clock), LogEntry::Continued];
            let written: Vec<_> = rows.chain(ended).chain(others).collect();
            let mut bytes = Vec::new();
            append(&header, &mut bytes).unwrap();
            for entry in &written {
                append(entry, &mut bytes).unwrap();
            }
            let (read, rest) = RecordHeader::read(&bytes).unwrap();
            prop_assert_eq!(read, header);
            let begin = bytes.len() - rest.len();
            let read: Result<Vec<_>, _> = entries(&bytes, begin..bytes.len()).collect();
            let read = read.unwrap();
            prop_assert_eq!(read.first().map_or(bytes.len(), |(at, _)| at.start), begin);
            for (pair, next) in read.iter().zip(&read[1..]) {
                prop_assert_eq!(pair.0.end, next.0.start);
            }
            let read: Vec<_> = read.into_iter().map(|(_, entry)| entry).collect();
            prop_assert_eq!(&read, &written);
            for (entry, (resource, held)) in read.iter().zip(&locks) {
                let LogEntry::Held(row) = entry else { panic!("{entry:?}") };
                let (read_resource, read) = row.lock.held(held.remaining).unwrap();
                prop_assert_eq!(&read_resource, resource);
                prop_assert_eq!(format!("{read:?}"), format!("{held:?}"));
            }
        }

        #[test]
        fn anything_can_be_read(bytes: Vec<u8>) {
            let _ = RecordHeader::read(&bytes);
            for (_, entry) in entries(&bytes, 0..bytes.len()).flatten() {
                if let LogEntry::Held(row) = entry {
                    let _ = row.lock.held(None);
                }
            }
        }
    }

    /// If this fails, the format has changed: the top of this file says what to do.
    #[test]
    fn the_layout_of_a_record_is_frozen() {
        let seconds = Duration::from_secs;
        let (clock, uptime) = (seconds(1), seconds(3));
        let header = RecordHeader { clock, boot: 2, uptime, last_token: 4, first_segment: 5 };
        let mut bytes = Vec::new();
        append(&header, &mut bytes).unwrap();
        for entry in [LogEntry::Ended(6), LogEntry::Restarted(seconds(7)), LogEntry::Continued] {
            append(&entry, &mut bytes).unwrap();
        }
        assert_eq!(bytes, [1, 0, 2, 3, 0, 4, 5, /**/ 1, 6, /**/ 2, 7, 0, /**/ 3]);
        let (resource, held) =
            ("r".parse().unwrap(), crate::journal::contract::held("r", 8, Mode::Null));
        let mut row = Vec::new();
        append(&LogEntry::Held(Row::new(&resource, &held, None)), &mut row).unwrap();
        assert_eq!(row[..5], [4, 0, 1, b'r', 8]);
    }

    #[test]
    fn an_unknown_variant_is_newer_and_no_damage() {
        let newer =
            postcard::to_extend(&(LAST_ENTRY + 1, "what else there is"), Vec::new()).unwrap();
        assert_eq!(entries(&newer, 0..newer.len()).next(), Some(Err(Unreadable::Newer)));
        let mut cut = Vec::new();
        append(&LogEntry::Restarted(Duration::MAX), &mut cut).unwrap();
        cut.pop();
        assert_eq!(entries(&cut, 0..cut.len()).next(), Some(Err(Unreadable::Senseless)));
    }
}
