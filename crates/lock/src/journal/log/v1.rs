//! The rows of rdlm 1.0, which are read but not written. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::LockId;
use crate::stored::{StoredLock, Text};

/// A held lock. The order of the fields is the format.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RowV1<'a> {
    token: u64,
    /// When it ends, by the journal's clock; the longest duration: never.
    end: Duration,
    pub(super) graced: bool,
    resource: &'a str,
    id: [u8; 16],
    key: Option<&'a str>,
    title: &'a str,
    client: &'a str,
    mode: &'a str,
    /// 0 unless it is a semaphore.
    limit: u32,
    wait: Duration,
    /// Zero: endless.
    lifetime: Duration,
    since: Duration,
    user: Option<&'a str>,
}

impl<'a> From<RowV1<'a>> for StoredLock<'a> {
    fn from(row: RowV1<'a>) -> Self {
        Self {
            resource: row.resource.into(),
            token: row.token,
            id: LockId::from_u128(u128::from_be_bytes(row.id)),
            key: row.key.map(Text::from),
            title: row.title.into(),
            client: row.client.into(),
            user: row.user.map(Text::from),
            mode: row.mode.into(),
            limit: Some(row.limit).filter(|limit| *limit != 0),
            wait: row.wait,
            lifetime: Some(row.lifetime).filter(|lifetime| !lifetime.is_zero()),
            since: row.since,
            end: Some(row.end).filter(|end| *end != Duration::MAX),
            other_limits: false,
        }
    }
}
