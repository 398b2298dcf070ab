//! The places of those who follow events: so many in all, a share of them for each user, and some
//! that are kept for administrators.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use smol_str::SmolStr;

use crate::http::{Problem, Status};

/// How many events are sent at a time, to all subscribers together.
const SHARED: usize = 4096;

/// Whose share a subscriber takes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    /// May administrate everything, as everybody may where there are no users. Somebody who can end any
    /// lock gains nothing by exhausting the subscribers.
    Administrator,
    /// This user, or the clients without credentials together.
    User(Option<SmolStr>),
}

/// The subscribers of one server.
pub(super) struct Subscribers {
    max: usize,
    taken: Mutex<Taken>,
}

/// The places that are taken.
#[derive(Default)]
struct Taken {
    all: usize,
    /// Of each user that has one.
    of_users: HashMap<Option<SmolStr>, usize>,
}

/// One subscriber, counted until it is dropped.
pub(super) struct SubscriberSlot {
    subscribers: Arc<Subscribers>,
    who: Who,
}

impl Subscribers {
    pub(super) fn new(max: usize) -> Self {
        Self { max, taken: Mutex::default() }
    }

    /// How many places one user can have: a quarter, at least one.
    fn share(&self) -> usize {
        self.max.div_ceil(4)
    }

    /// How many only administrators can have: an eighth, but never the only one.
    fn reserve(&self) -> usize {
        self.max.div_ceil(8).min(self.max.saturating_sub(1))
    }

    /// Takes a place.
    ///
    /// # Errors
    /// All that this client may take are taken.
    pub(super) fn enter(self: &Arc<Self>, who: Who) -> Result<SubscriberSlot, Problem> {
        let mut taken = self.taken();
        let most = match &who {
            Who::Administrator => self.max,
            Who::User(_) => self.max - self.reserve(),
        };
        if taken.all >= most {
            return Err(none_left(format!("there are {} subscribers already", taken.all)));
        }
        if let Who::User(user) = &who {
            let of_user = taken.of_users.get(user).copied().unwrap_or(0);
            if of_user >= self.share() {
                return Err(none_left(format!("this user has {of_user} subscribers already")));
            }
            taken.of_users.insert(user.clone(), of_user + 1);
        }
        taken.all += 1;
        Ok(SubscriberSlot { subscribers: Arc::clone(self), who })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        // Nothing panics between its changes.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn none_left(why: String) -> Problem {
    let detail = why + " (--max-subscribers)";
    Problem::new(Status::ServiceUnavailable, detail).with_header("Retry-After", "15")
}

impl SubscriberSlot {
    /// How many events this subscriber may be sent at a time.
    pub(super) fn batch(&self) -> usize {
        (SHARED / self.subscribers.taken().all.max(1)).max(1)
    }
}

impl Drop for SubscriberSlot {
    fn drop(&mut self) {
        let mut taken = self.subscribers.taken();
        taken.all -= 1;
        if let Who::User(user) = &self.who
            && let Some(count) = taken.of_users.get_mut(user)
        {
            *count -= 1;
            if *count == 0 {
                taken.of_users.remove(user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Who {
        Who::User(Some(name.into()))
    }

    /// Takes as many places as there are.
    fn fill(subscribers: &Arc<Subscribers>, who: &Who) -> Vec<SubscriberSlot> {
        std::iter::from_fn(|| subscribers.enter(who.clone()).ok()).collect()
    }

    #[test]
    fn there_are_as_many_subscribers_as_may_be() {
        let subscribers = Arc::new(Subscribers::new(2));
        let mut places = fill(&subscribers, &Who::Administrator);
        assert_eq!(places.len(), 2);
        assert_eq!(places[0].batch(), SHARED / 2);
        places.pop();
        assert!(subscribers.enter(Who::Administrator).is_ok());
    }

    #[test]
    fn a_user_has_a_share_and_administrators_a_reserve() {
        for (max, share, others) in [(64, 16, 56), (8, 2, 7), (2, 1, 1), (1, 1, 1)] {
            let subscribers = Arc::new(Subscribers::new(max));
            let eve = fill(&subscribers, &user("eve"));
            assert_eq!(eve.len(), share, "of {max}");
            let anonymous = fill(&subscribers, &Who::User(None));
            let users = ["a", "b", "c", "d"].map(|name| fill(&subscribers, &user(name)));
            let all = eve.len() + anonymous.len() + users.iter().map(Vec::len).sum::<usize>();
            assert_eq!(all, others, "of {max}");
            assert_eq!(fill(&subscribers, &Who::Administrator).len(), max - others, "of {max}");
            drop((eve, anonymous, users));
            assert!(subscribers.taken().of_users.is_empty());
            assert_eq!(fill(&subscribers, &user("eve")).len(), share, "as before");
        }
    }
}
