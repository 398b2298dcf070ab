//! What every [`Store`] has to do, as a test.

#![allow(clippy::unwrap_used, reason = "this is a test, also for stores in other packages")]

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use super::store::{
    Change, Conflict, HeldLock, KeptPlace, PlaceNote, Restore, RestoredLock, Store,
};
use crate::{Grant, Lifetime, Limit, LockId, Mode, Requester, Terms};

/// As many locks as one change can add, and as many as it can remove.
const WIDEST: u64 = crate::resource::PIECE as u64;

/// So long that a restart of the store does not matter.
const LIFETIME: Duration = Duration::from_secs(100_000);

const GRACE: Duration = Duration::from_secs(7);

/// Panics if a store breaks its contract. `open` opens the store with what was written to the one
/// before, which has been dropped. The first time, it is empty.
pub fn store_contract(open: impl FnMut() -> Box<dyn Store>) {
    let mut contract =
        Contract { open, expected: BTreeMap::new(), places: Vec::new(), last_token: 0 };
    let mut store = contract.open();
    for step in [
        Contract::keeps_every_kind_of_lock,
        Contract::makes_changes_in_order,
        Contract::an_empty_batch_and_a_checkpoint_change_nothing,
        Contract::a_repeated_batch_has_the_longer_grace,
        Contract::takes_the_widest_change,
        Contract::takes_the_largest_batch,
        Contract::keeps_places,
        Contract::forgets_places_that_were_given_up,
        Contract::keeps_the_largest_token_without_a_lock,
    ] {
        step(&mut contract, &mut *store);
        store.close();
        drop(store);
        store = contract.open();
    }
}

/// A store, and what it has to return at the next start.
struct Contract<F> {
    open: F,
    /// By fencing token: the lock, and the grace it was written with.
    expected: BTreeMap<u64, (RestoredLock, Duration)>,
    places: Vec<KeptPlace>,
    last_token: u64,
}

/// Collects what a store returns.
#[derive(Default)]
struct Restored {
    locks: Mutex<Vec<RestoredLock>>,
    completed: AtomicUsize,
}

impl Restore for Restored {
    fn restore(&self, lock: RestoredLock) {
        assert_eq!(self.completed.load(Ordering::SeqCst), 0, "a lock after the end");
        self.locks.lock().unwrap().push(lock);
    }

    fn complete(&self) -> Result<(), Conflict> {
        self.completed.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

impl<F: FnMut() -> Box<dyn Store>> Contract<F> {
    /// Opens the store, which has to return exactly the expected locks.
    fn open(&mut self) -> Box<dyn Store> {
        let (mut store, restored) = ((self.open)(), Restored::default());
        let last_token = store.load(&restored).unwrap();
        let empty = self.expected.is_empty() && self.last_token == 0;
        assert!(empty || restored.completed.load(Ordering::SeqCst) == 1, "it was not completed");
        assert_eq!(last_token, self.last_token);
        let mut locks = restored.locks.into_inner().unwrap();
        locks.sort_by_key(|lock| lock.held.grant.fencing_token);
        assert_eq!(locks.len(), self.expected.len());
        for (lock, (expected, grace)) in locks.iter().zip(self.expected.values()) {
            let (held, before) = (&lock.held, &expected.held);
            assert_eq!(lock.resource, expected.resource);
            assert_eq!(format!("{:?}", held.grant), format!("{:?}", before.grant));
            assert_eq!(held.key, before.key);
            assert_eq!(held.remaining.is_some(), before.remaining.is_some());
            if let (Some(left), Some(before)) = (held.remaining, before.remaining) {
                assert!(left <= before + *grace, "{left:?} of {before:?}, and {grace:?}");
                assert!(left > before.saturating_sub(Duration::from_secs(600)), "{left:?}");
            }
        }
        if let Some(places) = store.places() {
            assert_eq!(format!("{:?}", places.load()), format!("{:?}", self.places));
        }
        store
    }

    fn expect(&mut self, batch: &[Change], grace: Duration) {
        for Change { resource, removed, added } in batch {
            for token in removed {
                assert!(self.expected.remove(token).is_some(), "the test is wrong");
            }
            for held in added {
                let token = held.grant.fencing_token;
                let lock = RestoredLock { resource: resource.clone(), held: held.clone() };
                self.expected.insert(token, (lock, grace));
                self.last_token = self.last_token.max(token);
            }
        }
    }

    fn commit(&mut self, store: &mut dyn Store, batch: &[Change]) {
        self.expect(batch, GRACE);
        store.commit(batch, GRACE).unwrap();
    }

    fn keeps_every_kind_of_lock(&mut self, store: &mut dyn Store) {
        let semaphore = Mode::Exclusive { limit: Limit::new(7).unwrap() };
        let modes = Mode::ALL.into_iter().chain([semaphore]);
        let mut batch: Vec<_> =
            modes.zip(1..).map(|(mode, token)| grant(&format!("r{token}"), token, mode)).collect();
        let endless = &mut batch[0].added[0];
        (endless.grant.terms.lifetime, endless.remaining) = (Lifetime::Endless, None);
        endless.grant.expires = None;
        let plain = &mut batch[1].added[0];
        (plain.key, plain.grant.terms.client.user) = (None, None);
        plain.grant.terms.other_limits = true;
        let half_over = &mut batch[2].added[0];
        half_over.remaining = Some(LIFETIME / 2);
        self.commit(store, &batch);
    }

    fn makes_changes_in_order(&mut self, store: &mut dyn Store) {
        let begin = self.last_token;
        let [first, second, third] = [1, 2, 3].map(|n| grant("order", begin + n, Mode::EXCLUSIVE));
        let hand_over = Change { removed: vec![begin + 1], ..second.clone() };
        let renewal = Change { removed: vec![begin + 2], ..second };
        let converted = grant("order", begin + 2, Mode::Null);
        let conversion = Change { removed: vec![begin + 2], ..converted };
        let then_granted = third;
        for change in [first, hand_over, renewal, conversion, then_granted] {
            self.commit(store, &[change]);
        }
    }

    fn an_empty_batch_and_a_checkpoint_change_nothing(&mut self, store: &mut dyn Store) {
        store.commit(&[], Duration::ZERO).unwrap();
        store.checkpoint().unwrap();
        let _ = store.next_checkpoint();
    }

    fn a_repeated_batch_has_the_longer_grace(&mut self, store: &mut dyn Store) {
        let batch = [grant("repeated", self.last_token + 1, Mode::EXCLUSIVE)];
        self.commit(store, &batch);
        store.repeat(&batch, 3 * GRACE).unwrap();
        self.expect(&batch, 3 * GRACE);
    }

    fn takes_the_widest_change(&mut self, store: &mut dyn Store) {
        let begin = self.last_token;
        let wide = |begin: u64, mode| {
            let mut added = Vec::new();
            for token in begin + 1..=begin + WIDEST {
                let mut lock = held("wide", token, mode);
                lock.grant.terms.title = "x".repeat(1024).into();
                added.push(lock);
            }
            Change { added, ..grant("wide", 1, mode) }
        };
        let first = wide(begin, Mode::ProtectedRead);
        self.commit(store, std::slice::from_ref(&first));
        let removed = first.added.iter().map(|held| held.grant.fencing_token).collect();
        let next = Change { removed, ..wide(begin + WIDEST, Mode::ConcurrentRead) };
        self.commit(store, &[next]);
    }

    fn takes_the_largest_batch(&mut self, store: &mut dyn Store) {
        let tokens = self.last_token + 1..;
        let tokens = tokens.take(store.properties().max_batch);
        let batch: Vec<_> =
            tokens.map(|token| grant(&format!("b{token}"), token, Mode::EXCLUSIVE)).collect();
        self.commit(store, &batch);
    }

    fn keeps_places(&mut self, store: &mut dyn Store) {
        let place = |arrival| {
            let HeldLock { grant, key, .. } = held("line", arrival, Mode::EXCLUSIVE);
            let Grant { id, terms, since, .. } = grant;
            let (resource, key) = ("line".parse().unwrap(), key.unwrap());
            KeptPlace { id, resource, terms, key, arrival, since }
        };
        let begin = self.last_token;
        let [kept, gone] = [place(begin + 1), place(begin + 2)];
        let Some(places) = store.places() else { return };
        places.note(vec![
            PlaceNote::Joined(Box::new(kept.clone())),
            PlaceNote::Joined(Box::new(gone.clone())),
            PlaceNote::Left(gone.resource, gone.arrival),
        ]);
        self.places = vec![kept];
        self.commit(store, &[grant("beside", begin + 3, Mode::EXCLUSIVE)]);
    }

    fn forgets_places_that_were_given_up(&mut self, store: &mut dyn Store) {
        let Some(places) = store.places() else { return };
        let left = |place: KeptPlace| PlaceNote::Left(place.resource, place.arrival);
        places.note(self.places.drain(..).map(left).collect());
        self.commit(store, &[grant("without", self.last_token + 1, Mode::EXCLUSIVE)]);
    }

    fn keeps_the_largest_token_without_a_lock(&mut self, store: &mut dyn Store) {
        let release = |(token, (lock, _)): (&u64, &(RestoredLock, _))| Change {
            resource: lock.resource.clone(),
            removed: vec![*token],
            added: Vec::new(),
        };
        let batch: Vec<_> = self.expected.iter().map(release).collect();
        for some in batch.chunks(store.properties().max_batch) {
            self.commit(store, some);
        }
    }
}

fn grant(resource: &str, token: u64, mode: Mode) -> Change {
    let added = vec![held(resource, token, mode)];
    Change { resource: resource.parse().unwrap(), removed: Vec::new(), added }
}

pub(super) fn held(resource: &str, token: u64, mode: Mode) -> HeldLock {
    let since = UNIX_EPOCH + Duration::from_nanos(1_795_582_118_265_849_001);
    let terms = Terms {
        client: Requester { address: "::1".into(), user: Some("someone".into()) },
        mode,
        wait: Duration::from_millis(1500),
        ..Terms::exclusive(format!("\"{resource}\" \u{1f512}\n"), LIFETIME)
    };
    let (id, expires) = (LockId::random(), Some(since + LIFETIME));
    let grant = Grant { id, terms, since, expires, fencing_token: token };
    HeldLock {
        grant,
        key: Some(format!("key-{token}").parse().unwrap()),
        remaining: Some(LIFETIME),
    }
}
