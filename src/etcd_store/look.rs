//! One look at etcd: what `head` and `tenure` say, or why that cannot be used.

use super::chain::{Backend, StoredHead};
use super::etcd::{Failure, wire};
use super::history::Loss;
use super::records::{FORMAT, Head, TermRecord, range_end};
use crate::cluster::term::Pace;

/// What a look has shown, all at one revision.
pub(super) struct Seen {
    pub(super) revision: i64,
    pub(super) head: Option<StoredHead>,
    pub(super) term: Option<TermRecord>,
}

impl Seen {
    /// The revision of `head`; 0: there is none.
    pub(super) fn head_revision(&self) -> i64 {
        self.head.as_ref().map_or(0, |stored| stored.revision)
    }
}

/// Why a look has shown nothing.
pub(super) enum NoLook {
    Failed(Failure),
    /// A value is not one that this version reads.
    Foreign(String),
    /// etcd has lost writes.
    Lost(Loss),
    /// The first write of all came in between.
    TooEarly,
}

impl Backend {
    /// `is_first`: nothing of this service was seen yet, so there may be somebody else's keys.
    pub(super) fn look(&self, pace: Pace, is_first: bool) -> Result<Seen, NoLook> {
        if let Some(loss) = self.history.lost() {
            return Err(NoLook::Lost(loss));
        }
        let known = self.history.latest();
        let (head_key, term_key) = (self.keys.head(), self.keys.term());
        let body = wire::look(&[&head_key, &term_key]);
        let answer = self.etcd.txn(&body, pace.attempt()).map_err(NoLook::Failed)?;
        let revision = answer.header.revision;
        let mut found = answer.found();
        let (Some(found_head), Some(found_term)) = (found.next(), found.next()) else {
            return Err(NoLook::Failed(Failure::Unreadable));
        };
        let head = match found_head {
            Some(found) => Some(StoredHead {
                revision: found.mod_revision,
                head: read_head(&head_key, &found.value)?,
                value: found.value,
            }),
            None => None,
        };
        let version = head.as_ref().map(|stored| stored.head.version(stored.revision));
        self.history.show(known.as_ref(), version.as_ref()).map_err(NoLook::Lost)?;
        if head.is_none() && is_first {
            self.look_below_prefix(pace)?;
        }
        let read = |value: &[u8]| TermRecord::read(value).ok_or_else(|| foreign(&term_key));
        let term = found_term.map(|found| read(&found.value)).transpose();
        Ok(Seen { revision, head, term: term.map_err(NoLook::Foreign)? })
    }

    /// Without a `head`, nothing else may be below the prefix: this server writes neither beside
    /// somebody else's keys, nor beside locks whose `head` was lost.
    fn look_below_prefix(&self, pace: Pace) -> Result<(), NoLook> {
        let prefix = self.keys.prefix();
        let body = wire::range(prefix.as_bytes(), &range_end(prefix), 2);
        let found = self.etcd.range(&body, pace.attempt()).map_err(NoLook::Failed)?;
        let keys: Vec<_> = found.kvs.into_iter().map(|found| found.key).collect();
        if let Some(key) = keys.iter().find(|key| !self.keys.is_ours(key)) {
            return Err(NoLook::Foreign(foreign(&String::from_utf8_lossy(key))));
        }
        if keys.iter().any(|key| *key == self.keys.head().as_bytes()) {
            return Err(NoLook::TooEarly);
        }
        match keys.is_empty() {
            true => Ok(()),
            false => self.history.show_locks_without_head().map_err(NoLook::Lost),
        }
    }
}

fn read_head(key: &str, value: &[u8]) -> Result<Head, NoLook> {
    #[derive(serde::Deserialize)]
    struct Format {
        format: u32,
    }
    match serde_json::from_slice(value) {
        Ok(Format { format: 1..=FORMAT }) => {}
        Ok(Format { format: newer }) if newer > FORMAT => {
            return Err(NoLook::Foreign(format!(
                "--etcd: {key} has format {newer}, written by a newer rdlm: this version reads \
                 formats up to {FORMAT}"
            )));
        }
        Ok(_) => return Err(NoLook::Foreign(foreign(key))),
        Err(_) => return Err(NoLook::Foreign(foreign(key))),
    }
    Head::read(value).ok_or_else(|| NoLook::Foreign(foreign(key)))
}

fn foreign(key: &str) -> String {
    format!("--etcd: {key} does not belong to rdlm: choose another --etcd-prefix")
}
