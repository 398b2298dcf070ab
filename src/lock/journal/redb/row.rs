//! One held lock as it is on disk.

use std::time::{Duration, UNIX_EPOCH};

use redb::TableDefinition;

use crate::lock::journal::clock::BootClock;
use crate::lock::journal::store::Held;
use crate::lock::{Grant, Limit, LockId, Mode};

/// Resource and fencing token, then the columns of [`Row`]; times in nanoseconds.
pub(super) const LOCKS: TableDefinition<'_, (&str, u64), Columns<'static>> =
    TableDefinition::new("locks");

pub(super) type Columns<'a> = (Identity<'a>, Asked<'a>, Times, bool);
/// Id, idempotency key or nothing.
type Identity<'a> = (u128, &'a str);
/// Title, client, mode, limit or 0.
type Asked<'a> = (&'a str, &'a str, &'a str, u32);
/// Wait, lifetime, since when, remaining, boot, deadline.
type Times = (u64, u64, u64, u64, u128, u64);

/// A held lock, and what is needed to know how long it lives.
///
/// The time that is left is counted by the clock of the boot, which goes on while no server
/// runs. After another boot that clock tells nothing, and what was left when it was last
/// written is left again.
#[derive(Debug, Clone)]
pub(super) struct Row {
    pub(super) held: Held,
    /// What is left if the host restarts; brought up to date now and then.
    pub(super) remaining: Duration,
    /// The boot whose clock `deadline` is by.
    boot: u128,
    /// When the lifetime ends.
    deadline: Duration,
    /// It was let live longer because of a restart; that happens once.
    graced: bool,
}

impl Row {
    /// A lock whose lifetime begins within `grace` from now.
    pub(super) fn new(held: &Held, clock: BootClock, grace: Duration) -> Self {
        let remaining = held.grant.lifetime + grace;
        Self {
            held: held.clone(),
            remaining,
            boot: clock.boot(),
            deadline: clock.now() + remaining,
            graced: false,
        }
    }

    /// The row after a restart of the server or of the host; `None` if the lock has expired.
    pub(super) fn revived(&self, boot: u128, now: Duration, grace: Duration) -> Option<Self> {
        let left = match self.boot == boot {
            true => self.deadline.saturating_sub(now),
            false => self.remaining,
        };
        let grant_grace = !self.graced && left < grace;
        let left = if grant_grace { grace } else { left };
        (!left.is_zero()).then(|| Self {
            held: self.held.clone(),
            remaining: left,
            boot,
            deadline: now + left,
            graced: self.graced || grant_grace,
        })
    }

    /// The row with what is left now, if that is so much less that it should be written: an
    /// eighth of the lifetime, and `at_least`.
    pub(super) fn checkpointed(&self, now: Duration, at_least: Duration) -> Option<Self> {
        let remaining = self.deadline.saturating_sub(now);
        let passed = self.remaining.saturating_sub(remaining);
        let due = passed >= at_least && passed >= self.held.grant.lifetime / 8;
        due.then(|| Self { remaining, ..self.clone() })
    }

    /// Whether a revived row differs from this one on disk.
    pub(super) fn needs_writing(&self, revived: &Self) -> bool {
        self.boot != revived.boot || self.graced != revived.graced
    }

    pub(super) fn fencing_token(&self) -> u64 {
        self.held.grant.fencing_token
    }

    pub(super) fn to_columns(&self) -> Columns<'_> {
        let Held { grant, key } = &self.held;
        let Grant { id, title, client, mode, wait, lifetime, since, .. } = grant;
        (
            (id.to_u128(), key.as_ref().map_or("", |key| key.as_str())),
            (title, client, mode.name(), mode.limit().map_or(0, Limit::get)),
            (
                nanos(*wait),
                nanos(*lifetime),
                nanos(since.duration_since(UNIX_EPOCH).unwrap_or_default()),
                nanos(self.remaining),
                self.boot,
                nanos(self.deadline),
            ),
            self.graced,
        )
    }

    /// `None` if no server has written such a row.
    pub(super) fn from_columns(fencing_token: u64, columns: Columns<'_>) -> Option<Self> {
        let ((id, key), (title, client, mode, limit), times, graced) = columns;
        let (wait, lifetime, since, remaining, boot, deadline) = times;
        let lifetime = Duration::from_nanos(lifetime);
        let since = UNIX_EPOCH + Duration::from_nanos(since);
        let mode = match Mode::named(mode)? {
            Mode::Exclusive { .. } => Mode::Exclusive { limit: Limit::new(limit)? },
            mode => mode,
        };
        let grant = Grant {
            id: LockId::from_u128(id),
            title: title.into(),
            client: client.into(),
            mode,
            wait: Duration::from_nanos(wait),
            lifetime,
            since,
            expires: since + lifetime,
            fencing_token,
        };
        let key = if key.is_empty() { None } else { Some(key.parse().ok()?) };
        Some(Self {
            held: Held { grant, key },
            remaining: Duration::from_nanos(remaining),
            boot,
            deadline: Duration::from_nanos(deadline),
            graced,
        })
    }
}

/// Saturates after 584 years.
fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A lock of 600 s, granted on boot 1 when its clock was at 1,000 s.
    fn row() -> Row {
        let grant = Grant {
            id: LockId::random(),
            title: "t".into(),
            client: "127.0.0.1".into(),
            mode: Mode::Exclusive { limit: Limit::new(8).unwrap() },
            wait: seconds(1),
            lifetime: seconds(600),
            since: UNIX_EPOCH,
            expires: UNIX_EPOCH,
            fencing_token: 7,
        };
        let held = Held { grant, key: Some("a-key".parse().unwrap()) };
        let remaining = seconds(600);
        Row { held, remaining, boot: 1, deadline: seconds(1_600), graced: false }
    }

    #[test]
    fn a_restart_of_the_server_leaves_what_remains() {
        let revived = row().revived(1, seconds(1_250), GRACE).unwrap();
        assert_eq!((revived.remaining, revived.graced), (seconds(350), false));
        assert!(!row().needs_writing(&revived));
    }

    #[test]
    fn a_lock_gets_the_grace_once_however_often_the_server_restarts() {
        for restart in [1_598, 1_600, 9_999] {
            let revived = row().revived(1, seconds(restart), GRACE).unwrap();
            assert_eq!((revived.remaining, revived.graced), (GRACE, true));
            assert!(row().needs_writing(&revived));
            let again = revived.revived(1, seconds(restart + 3), GRACE).unwrap();
            assert_eq!(again.remaining, seconds(2));
            assert!(again.revived(1, seconds(restart + 5), GRACE).is_none());
        }
    }

    #[test]
    fn a_restart_of_the_host_gives_again_what_was_left_when_last_written() {
        // The new boot's clock is behind or ahead of the old one's.
        for now in [10, 5_000] {
            let revived = row().revived(2, seconds(now), GRACE).unwrap();
            assert_eq!(revived.remaining, seconds(600));
            let left = revived.revived(2, seconds(now + 100), GRACE).unwrap().remaining;
            assert_eq!(left, seconds(500));
        }
    }

    #[test]
    fn checkpoints_let_a_lock_end_on_a_host_that_restarts_in_a_loop() {
        let uptime = seconds(100);
        let (mut row, mut boots) = (row(), 0);
        loop {
            boots += 1;
            let revived = row.revived(100 + boots, seconds(10), GRACE).unwrap();
            if revived.remaining <= uptime {
                break;
            }
            let checkpointed = revived.checkpointed(seconds(10) + uptime, seconds(60));
            row = checkpointed.unwrap_or(revived);
            assert!(boots < 20, "held for ever");
        }
        assert_eq!(boots, 6, "600 s in boots of 100 s");
    }

    #[test]
    fn a_checkpoint_waits_until_it_is_worth_it() {
        assert!(row().checkpointed(seconds(1_050), seconds(60)).is_none());
        assert!(row().checkpointed(seconds(1_070), seconds(60)).is_none(), "an eighth is 75 s");
        let due = row().checkpointed(seconds(1_080), seconds(60)).unwrap();
        assert_eq!(due.remaining, seconds(520));
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let row = row();
        let read = Row::from_columns(row.fencing_token(), row.to_columns()).unwrap();
        assert_eq!(read.to_columns(), row.to_columns());
        assert_eq!(read.fencing_token(), 7);
    }
}
