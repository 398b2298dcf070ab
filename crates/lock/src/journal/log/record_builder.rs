//! Encodes the entries of the next record.

use std::time::Duration;

use super::record::{LogEntry, Row, append};
use crate::journal::store::Change;

/// Encoded entries, and what they change in the index.
#[derive(Default)]
pub(super) struct RecordBuilder {
    pub(super) bytes: Vec<u8>,
    pub(super) effects: Vec<Effect>,
    /// The largest fencing token among them.
    pub(super) last_token: u64,
}

/// What an entry changes in the index.
pub(super) enum Effect {
    /// The lock's row is here among the encoded entries.
    Held {
        token: u64,
        at: usize,
        len: usize,
    },
    Ended(u64),
}

impl RecordBuilder {
    /// Adds changes that are made when the journal's clock shows `now`.
    pub(super) fn changes(
        &mut self,
        batch: &[Change],
        now: Duration,
        grace: Duration,
    ) -> Option<()> {
        for change in batch {
            for token in &change.removed {
                self.entry(&LogEntry::Ended(*token))?;
            }
            for held in &change.added {
                let end = held
                    .remaining
                    .map(|remaining| now.saturating_add(remaining).saturating_add(grace));
                self.entry(&LogEntry::Held(Row::new(&change.resource, held, end)))?;
            }
        }
        Some(())
    }

    /// Appends another record's entries.
    pub(super) fn extend(&mut self, other: Self) {
        let begin = self.bytes.len();
        self.bytes.extend_from_slice(&other.bytes);
        self.effects.extend(other.effects.into_iter().map(|effect| match effect {
            Effect::Held { token, at, len } => Effect::Held { token, at: begin + at, len },
            ended @ Effect::Ended(_) => ended,
        }));
        self.last_token = self.last_token.max(other.last_token);
    }

    pub(super) fn entry(&mut self, entry: &LogEntry<'_>) -> Option<()> {
        let at = self.bytes.len();
        append(entry, &mut self.bytes)?;
        match entry {
            LogEntry::Held(row) => {
                let len = self.bytes.len() - at;
                self.effects.push(Effect::Held { token: row.lock.token, at, len });
                self.last_token = self.last_token.max(row.lock.token);
            }
            LogEntry::Ended(token) => self.effects.push(Effect::Ended(*token)),
            _ => {}
        }
        Some(())
    }
}
