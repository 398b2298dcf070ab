//! The locks of one resource that are held.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use crate::lock::{IdempotencyKey, Limit, Lock, LockId, Mode};

/// A lock that is held.
#[derive(Debug, Clone)]
pub(in crate::lock) struct Holder {
    pub(in crate::lock) lock: Lock,
    pub(super) expires: Instant,
    /// Most holders have none, and one pointer is what that costs them.
    answers: Option<Box<Answers>>,
}

/// How the client hears of its lock: of a holder that sent a key with its request, or whose
/// answer was lost.
#[derive(Debug, Clone)]
struct Answers {
    key: Option<IdempotencyKey>,
    /// How many answers tell of the grant and have not failed. One may have been read: as long
    /// as there is one, the client knows that it holds the lock.
    count: u32,
    /// No answer is left. The lock goes at this time, unless the request is sent again.
    unclaimed_until: Option<Instant>,
}

impl Answers {
    fn one(key: Option<IdempotencyKey>) -> Box<Self> {
        Box::new(Self { key, count: 1, unclaimed_until: None })
    }
}

impl Holder {
    /// A lock that one answer tells of.
    pub(super) fn new(lock: Lock, expires: Instant, key: Option<IdempotencyKey>) -> Self {
        Self { lock, expires, answers: key.map(|key| Answers::one(Some(key))) }
    }

    /// One more answer tells of the lock.
    pub(super) fn add_answer(&mut self) {
        if let Some(answers) = &mut self.answers {
            answers.count += 1;
            answers.unclaimed_until = None;
        }
    }

    /// An answer could not be delivered. If it was the last, the lock goes at `until`.
    pub(super) fn lose_answer(&mut self, until: Instant) {
        let answers = self.answers.get_or_insert_with(|| Answers::one(None));
        answers.count = answers.count.saturating_sub(1);
        answers.unclaimed_until = (answers.count == 0).then_some(until);
    }

    pub(in crate::lock) fn key(&self) -> Option<&IdempotencyKey> {
        self.answers.as_ref()?.key.as_ref()
    }

    /// When the lock ends by itself.
    pub(super) fn due(&self) -> Instant {
        let unclaimed_until = self.answers.as_ref().and_then(|answers| answers.unclaimed_until);
        unclaimed_until.map_or(self.expires, |until| until.min(self.expires))
    }
}

/// How many hold a resource in each mode, in the order of [`Mode::ALL`].
pub(super) type Counts = [u32; 6];

/// The place of a mode in [`Mode::ALL`] and in [`Counts`].
pub(super) fn index(mode: Mode) -> usize {
    match mode {
        Mode::Null => 0,
        Mode::ConcurrentRead => 1,
        Mode::ConcurrentWrite => 2,
        Mode::ProtectedRead => 3,
        Mode::ProtectedWrite => 4,
        Mode::Exclusive { .. } => 5,
    }
}

/// All holders of a resource. But for lists, nothing here takes longer the more there are.
///
/// Most resources have one at a time, which needs no index.
#[derive(Debug, Default)]
pub(super) enum Holders {
    #[default]
    None,
    One(Holder),
    Many(Box<Crowd>),
}

/// Not empty.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    by_id: HashMap<LockId, Holder>,
    by_key: HashMap<IdempotencyKey, LockId>,
    by_due: BTreeSet<(Instant, LockId)>,
    counts: Counts,
    /// That of the latest in the mode EX; it says nothing when there is none any more.
    limit: Option<Limit>,
}

impl Holders {
    pub(super) fn is_empty(&self) -> bool {
        matches!(self, Self::None)
    }

    pub(super) fn get(&self, id: LockId) -> Option<&Holder> {
        match self {
            Self::None => None,
            Self::One(holder) => Some(holder).filter(|holder| holder.lock.id == id),
            Self::Many(crowd) => crowd.by_id.get(&id),
        }
    }

    pub(super) fn id_of(&self, key: &IdempotencyKey) -> Option<LockId> {
        match self {
            Self::None => None,
            Self::One(holder) => (holder.key() == Some(key)).then_some(holder.lock.id),
            Self::Many(crowd) => crowd.by_key.get(key).copied(),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        match self {
            Self::None => Counts::default(),
            Self::One(holder) => {
                let mut counts = Counts::default();
                counts[index(holder.lock.request.mode)] = 1;
                counts
            }
            Self::Many(crowd) => crowd.counts,
        }
    }

    /// The limit of those that hold in the mode EX.
    pub(super) fn limit(&self) -> Option<Limit> {
        match self {
            Self::None => None,
            Self::One(holder) => holder.lock.request.mode.limit(),
            Self::Many(crowd) => crowd.limit.filter(|_| crowd.counts[index(Mode::EXCLUSIVE)] > 0),
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        match self {
            Self::None => None,
            Self::One(holder) => Some(holder.due()),
            Self::Many(crowd) => crowd.by_due.first().map(|(due, _)| *due),
        }
    }

    /// In no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Holder> {
        let (one, many) = match self {
            Self::None => (None, None),
            Self::One(holder) => (Some(holder), None),
            Self::Many(crowd) => (None, Some(crowd.by_id.values())),
        };
        one.into_iter().chain(many.into_iter().flatten())
    }

    /// In the order of their grants.
    pub(super) fn in_order(&self) -> Vec<&Holder> {
        let mut holders: Vec<_> = self.iter().collect();
        holders.sort_unstable_by_key(|holder| holder.lock.fencing_token());
        holders
    }

    pub(super) fn insert(&mut self, holder: Holder) {
        *self = match std::mem::take(self) {
            Self::None => Self::One(holder),
            Self::One(first) => {
                let mut crowd = Box::<Crowd>::default();
                crowd.insert(first);
                crowd.insert(holder);
                Self::Many(crowd)
            }
            Self::Many(mut crowd) => {
                crowd.insert(holder);
                Self::Many(crowd)
            }
        };
    }

    pub(super) fn remove(&mut self, id: LockId) -> Option<Holder> {
        match self {
            Self::Many(crowd) => {
                let removed = crowd.remove(id)?;
                if crowd.by_id.is_empty() {
                    *self = Self::None;
                }
                Some(removed)
            }
            Self::One(holder) if holder.lock.id == id => match std::mem::take(self) {
                Self::One(holder) => Some(holder),
                _ => None,
            },
            Self::None | Self::One(_) => None,
        }
    }

    /// Changes one, and returns it as it is then.
    pub(super) fn update(
        &mut self,
        id: LockId,
        change: impl FnOnce(&mut Holder),
    ) -> Option<&Holder> {
        let mut holder = self.remove(id)?;
        change(&mut holder);
        self.insert(holder);
        self.get(id)
    }

    /// Takes out one that is due at `now`, the earliest first.
    pub(super) fn remove_due(&mut self, now: Instant) -> Option<Holder> {
        let id = match self {
            Self::One(holder) if holder.due() <= now => holder.lock.id,
            Self::Many(crowd) => crowd.by_due.first().filter(|(due, _)| *due <= now)?.1,
            Self::None | Self::One(_) => return None,
        };
        self.remove(id)
    }
}

impl Crowd {
    fn insert(&mut self, holder: Holder) {
        let id = holder.lock.id;
        let mode = holder.lock.request.mode;
        self.counts[index(mode)] += 1;
        self.limit = mode.limit().or(self.limit);
        self.by_due.insert((holder.due(), id));
        if let Some(key) = holder.key() {
            self.by_key.insert(key.clone(), id);
        }
        self.by_id.insert(id, holder);
    }

    fn remove(&mut self, id: LockId) -> Option<Holder> {
        let holder = self.by_id.remove(&id)?;
        self.counts[index(holder.lock.request.mode)] -= 1;
        self.by_due.remove(&(holder.due(), id));
        if let Some(key) = holder.key() {
            self.by_key.remove(key);
        }
        Some(holder)
    }
}
