//! Keys and values in etcd. The values are JSON, for `etcdctl get --prefix`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::history::Version;
use crate::cluster::term::Term;
use crate::lock::{HeldLock, KeptPlace, ResourceName, StoredLock};

/// The format that this version writes into `head`, from its first write on. It reads this one and
/// all before it.
///
/// A row may get a new field only together with a new format: an older server refuses a `head` of
/// a format that it does not know, so it cannot lose what it does not know either. Version 1.0.0
/// writes and reads format 1 alone.
pub(crate) const FORMAT: u32 = 2;

/// Fencing tokens, arrivals and the numbers of heads are smaller, so that there is room to count on.
const MAX_NUMBER: u64 = 1 << 53;

/// Far more than the largest `--failover-after`.
const LONGEST_SILENCE: Duration = Duration::from_secs(3600);

/// The keys, all below one prefix.
#[derive(Debug, Clone)]
pub(crate) struct Keys(String);

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        Self(prefix.into())
    }

    pub(crate) fn prefix(&self) -> &str {
        &self.0
    }

    pub(crate) fn head(&self) -> String {
        format!("{}head", self.0)
    }

    pub(crate) fn term(&self) -> String {
        format!("{}tenure", self.0)
    }

    /// The prefix of all locks.
    pub(crate) fn locks(&self) -> String {
        format!("{}lock/", self.0)
    }

    /// The prefix of all places in line.
    pub(crate) fn places(&self) -> String {
        format!("{}wait/", self.0)
    }

    /// Whether this version may have written the key.
    pub(crate) fn is_ours(&self, key: &[u8]) -> bool {
        let below = [self.locks(), self.places()];
        let alone = [self.head(), self.term()];
        below.iter().any(|prefix| key.starts_with(prefix.as_bytes()))
            || alone.iter().any(|ours| ours.as_bytes() == key)
    }

    pub(crate) fn place(&self, resource: &ResourceName, arrival: u64) -> String {
        format!("{}wait/{resource}/{arrival:016x}", self.0)
    }

    pub(crate) fn lock(&self, resource: &ResourceName, token: u64) -> String {
        format!("{}lock/{resource}/{token:016x}", self.0)
    }
}

/// The end of the range of keys that begin with `prefix`.
pub(crate) fn range_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // All keys.
    vec![0]
}

/// Replaced by every write, each of which replaces exactly the one before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Head {
    pub(crate) format: u32,
    /// The first is 1, each next one larger by 1.
    pub(crate) number: u64,
    /// Unique to this write.
    pub(crate) id: String,
    /// The term in which it was written.
    pub(crate) by: String,
    /// The largest fencing token that was ever written.
    pub(crate) last_token: u64,
    /// What the cluster clock showed when it was sent.
    pub(crate) clock: Duration,
}

impl Head {
    /// `None`: no server has written this value.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let head: Self = serde_json::from_slice(value).ok()?;
        let is_possible = head.number.max(head.last_token) < MAX_NUMBER;
        is_possible.then_some(head)
    }

    /// Identifies it, written at this revision.
    pub(crate) fn version(&self, revision: i64) -> Version {
        Version { number: self.number, revision, id: self.id.clone() }
    }
}

/// Who is active. Written when a server takes over, and when it steps down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TermRecord {
    /// The id of the term.
    pub(crate) by: String,
    /// Where the others reach the server.
    pub(crate) url: String,
    /// What the others prove themselves with.
    pub(crate) secret: String,
    /// It has stepped down: nobody is active.
    pub(crate) vacant: bool,
    /// Its `--failover-after`. 1.0.0 does not write it, and ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) failover_after: Option<Duration>,
}

impl TermRecord {
    pub(crate) fn new(term: &Term, url: &str) -> Self {
        Self {
            by: term.id.clone(),
            url: url.into(),
            secret: term.secret.clone(),
            vacant: false,
            failover_after: Some(term.pace.failover_after),
        }
    }

    /// `None`: no server has written this value.
    pub(crate) fn read(value: &[u8]) -> Option<Self> {
        let record: Self = serde_json::from_slice(value).ok()?;
        let is_possible = record.failover_after.is_none_or(|time| time <= LONGEST_SILENCE);
        is_possible.then_some(record)
    }
}

/// The lock of a row, without its remaining lifetime. `None`: no server has written such a row.
pub(crate) fn lock(row: &StoredLock<'_>) -> Option<(ResourceName, HeldLock)> {
    row.held(None).filter(|_| row.token < MAX_NUMBER)
}

/// The place in line of a request with a key, which is stored as the lock that it waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PlaceRow<'a> {
    arrival: u64,
    #[serde(flatten, borrow)]
    lock: StoredLock<'a>,
}

impl<'a> PlaceRow<'a> {
    pub(crate) fn new(place: &'a KeptPlace) -> Self {
        Self { arrival: place.arrival, lock: StoredLock::waiting(place) }
    }

    /// The place; `None` if no server has written such a row.
    pub(crate) fn place(&self) -> Option<KeptPlace> {
        self.lock.place(self.arrival).filter(|_| self.arrival < MAX_NUMBER)
    }
}

/// The bytes of a value. Serializing strings and numbers cannot fail.
pub(crate) fn bytes(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lock::{Grant, HeldLock, Limit, LockId, Mode, Terms};

    pub(crate) fn held(mode: Mode, key: Option<&str>, token: u64) -> HeldLock {
        let since = UNIX_EPOCH + Duration::from_nanos(1_795_582_118_265_849_001);
        let terms = Terms {
            client: "::1".into(),
            mode,
            wait: Duration::from_millis(1500),
            ..Terms::exclusive("\"a\" \u{1f512}", Duration::from_nanos(1))
        };
        let expires = Some(since + Duration::from_nanos(1));
        let grant = Grant { id: LockId::random(), terms, since, expires, fencing_token: token };
        let remaining = grant.terms.lifetime.duration();
        HeldLock { grant, key: key.map(|key| key.parse().unwrap()), remaining }
    }

    #[test]
    fn a_row_is_read_as_it_was_written() {
        let resource: ResourceName = "a.b:c".parse().unwrap();
        let semaphore = Mode::Exclusive { limit: Limit::new(7).unwrap() };
        let modes = Mode::ALL.into_iter().chain([semaphore]);
        for (mode, key) in modes.flat_map(|mode| [(mode, None), (mode, Some("k{}\""))]) {
            let held = held(mode, key, (1 << 53) - 1);
            let row = bytes(&StoredLock::new(&resource, &held, Some(Duration::MAX)));
            let row: StoredLock<'_> = serde_json::from_slice(&row).unwrap();
            let (name, read) = row.held(held.remaining).unwrap();
            assert_eq!((name, format!("{read:?}")), (resource.clone(), format!("{held:?}")));
            assert_eq!(row.end, Some(Duration::MAX));
        }
    }

    /// Also where there is no etcd to see the rest of it in.
    #[test]
    fn what_earlier_versions_have_written_is_read() {
        let read = |key: &str, row: &str| match key {
            key if key.contains("/lock/") => {
                serde_json::from_str::<StoredLock<'_>>(row).unwrap().held(None).is_some()
            }
            key if key.contains("/wait/") => {
                serde_json::from_str::<PlaceRow<'_>>(row).unwrap().place().is_some()
            }
            key if key.ends_with("head") => Head::read(row.as_bytes()).is_some(),
            _ => TermRecord::read(row.as_bytes()).is_some(),
        };
        for written in [
            include_str!("../../tests/fixtures/etcd-37c8086.txt"),
            include_str!("../../tests/fixtures/etcd-1.0.0.txt"),
        ] {
            let lines: Vec<_> = written.lines().collect();
            for pair in lines.chunks(2) {
                assert!(read(pair[0], pair[1]), "{pair:?}");
            }
        }
    }

    /// As 1.0.0 reads it.
    #[test]
    fn a_term_can_be_read_by_1_0_0() {
        #[derive(Debug, PartialEq, Deserialize)]
        struct Of100 {
            by: String,
            url: String,
            secret: String,
            vacant: bool,
        }
        let text = |it: &str| it.to_string();
        let failover_after = Some(Duration::from_millis(1500));
        let (by, url, secret) = (text("b"), text("http://a:1"), text("s"));
        let ours = TermRecord { by, url, secret, vacant: true, failover_after };
        let (by, url, secret) = (text("b"), text("http://a:1"), text("s"));
        let theirs = Of100 { by, url, secret, vacant: true };
        assert_eq!(serde_json::from_slice::<Of100>(&bytes(&ours)).unwrap(), theirs);
        assert_eq!(TermRecord::read(&bytes(&ours)).as_ref(), Some(&ours));
        let endless = TermRecord { failover_after: Some(Duration::MAX), ..ours };
        assert_eq!(TermRecord::read(&bytes(&endless)), None);
    }

    /// Each number and time is as large as it goes.
    #[test]
    fn a_number_with_no_room_to_count_on_is_refused() {
        let resource: ResourceName = "a".parse().unwrap();
        let held = held(Mode::EXCLUSIVE, Some("k"), 7);
        let mut row = StoredLock::new(&resource, &held, Some(Duration::from_secs(9)));
        assert!(lock(&row).is_some());
        row.token = MAX_NUMBER;
        assert!(lock(&row).is_none());
        let head = |number: u64, last_token: u64| {
            let (id, by, clock) = (String::new(), String::new(), Duration::MAX);
            let head = Head { format: FORMAT, number, id, by, last_token, clock };
            Head::read(&bytes(&head)).is_some()
        };
        assert!(head(MAX_NUMBER - 1, MAX_NUMBER - 1));
        assert!(!head(MAX_NUMBER, 1) && !head(1, u64::MAX));
    }

    #[test]
    fn a_range_ends_behind_the_last_key_of_its_prefix() {
        for (prefix, end) in [("/rdlm/lock/", "/rdlm/lock0"), ("a", "b"), ("", "\0")] {
            assert_eq!(range_end(prefix), end.as_bytes());
        }
    }
}
