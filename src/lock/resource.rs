//! One resource: who holds it, who waits for it, who is next.
//!
//! Pure: `now` is an argument, there is no thread, no clock and no I/O here, so that every
//! rule of the lock can be tested as a table of steps.

use std::collections::VecDeque;
use std::time::{Duration, Instant, SystemTime};

use super::{Lock, LockId, LockRequest, Phase, Renewal};

/// A lock lives this much longer than its lifetime. Its holder counts from the answer, which
/// takes a moment to reach it: the lock must not pass to another before.
const ANSWER_GRACE: Duration = Duration::from_millis(1);

/// The state of one resource.
///
/// `W` stands for whoever waits; a resource hands it back in [`Effects`] when its wait is
/// over.
///
/// Between two calls: nobody waits unless somebody holds the lock.
#[derive(Debug)]
pub(super) struct Resource<W> {
    holder: Option<Holder>,
    line: VecDeque<Waiter<W>>,
}

/// One moment on all clocks: deadlines are counted on the monotonic one, the wall clock is
/// only for display, and the fencing token tells what came first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Now {
    pub(super) instant: Instant,
    pub(super) wall: SystemTime,
    /// For the grant that the change may bring: larger than in every earlier change.
    pub(super) fencing_token: u64,
}

/// What a change to a resource brought about besides its result.
#[derive(Debug)]
pub(super) struct Effects<W> {
    /// The waits that are over, in order, with the word for each.
    pub(super) settled: Vec<(Waiter<W>, Verdict)>,
    /// The lock that reached the end of its lifetime.
    pub(super) expired: Option<Lock>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { settled: Vec::new(), expired: None }
    }
}

/// How a wait ended.
#[derive(Debug, Clone)]
pub(super) enum Verdict {
    Granted(Lock),
    TimedOut,
    Deleted,
    Withdrawn,
    ShuttingDown,
}

/// Who holds the lock.
#[derive(Debug, Clone)]
pub(super) struct Holder {
    pub(super) lock: Lock,
    pub(super) expires: Instant,
}

/// Who is in line.
#[derive(Debug)]
pub(super) struct Waiter<W> {
    lock: Lock,
    deadline: Instant,
    pub(super) handle: W,
}

impl<W> Resource<W> {
    pub(super) fn new() -> Self {
        Self { holder: None, line: VecDeque::new() }
    }

    /// A resource that is held since before a restart of the server, for `remaining` from now.
    pub(super) fn held(mut lock: Lock, remaining: Duration, now: Now) -> Self {
        if let Phase::Active { expires, .. } = &mut lock.phase {
            *expires = now.wall + remaining;
        }
        let expires = now.instant + remaining + ANSWER_GRACE;
        Self { holder: Some(Holder { lock, expires }), line: VecDeque::new() }
    }

    /// Grants the lock at once, as `id`, if it is free.
    pub(super) fn try_grant(
        &mut self,
        id: LockId,
        request: &LockRequest,
        now: Now,
        effects: &mut Effects<W>,
    ) -> Option<Lock> {
        self.expire(now, effects);
        if self.holder.is_some() {
            return None;
        }
        Some(self.hold(id, request.clone(), now))
    }

    /// Puts a request at the end of the line of a held resource. Whoever waits is named
    /// `handle` when its wait is over.
    pub(super) fn join_line(&mut self, id: LockId, request: LockRequest, handle: W, now: Now) {
        debug_assert!(self.holder.is_some(), "a free lock is granted, not waited for");
        let deadline = now.instant + request.wait;
        let lock = Lock { id, request, phase: Phase::Waiting(now.wall) };
        self.line.push_back(Waiter { lock, deadline, handle });
    }

    /// Takes out the holder if its lifetime is over at `now`, and promotes the next in line.
    pub(super) fn expire(&mut self, now: Now, effects: &mut Effects<W>) {
        if let Some(holder) = self.holder.take_if(|holder| holder.expires <= now.instant) {
            effects.expired = Some(holder.lock);
            self.promote(now, effects);
        }
    }

    /// Releases the lock with this id, or takes it out of the line. Returns whether it was
    /// there.
    pub(super) fn release(&mut self, id: LockId, now: Now, effects: &mut Effects<W>) -> bool {
        if self.holder.as_ref().is_some_and(|holder| holder.lock.id == id) {
            self.expire(now, effects);
            let held = self.holder.take_if(|holder| holder.lock.id == id).is_some();
            if held {
                self.promote(now, effects);
            }
            return held;
        }
        self.dismiss(id, Verdict::Deleted, effects)
    }

    /// Lets the lock with this id expire `lifetime` from now. At the end of its lifetime it is
    /// either renewed or gone, never both.
    pub(super) fn renew(
        &mut self,
        id: LockId,
        lifetime: Duration,
        now: Now,
        effects: &mut Effects<W>,
    ) -> Renewal {
        if self.line.iter().any(|waiter| waiter.lock.id == id) {
            return Renewal::StillWaiting;
        }
        self.expire(now, effects);
        let Some(holder) = self.holder.as_mut().filter(|holder| holder.lock.id == id) else {
            return Renewal::Gone;
        };
        holder.expires = now.instant + lifetime + ANSWER_GRACE;
        holder.lock.request.lifetime = lifetime;
        if let Phase::Active { expires, .. } = &mut holder.lock.phase {
            *expires = now.wall + lifetime;
        }
        Renewal::Renewed(holder.lock.clone())
    }

    /// Takes a request out of the line and ends its wait with `verdict`. Returns whether it
    /// was in line.
    pub(super) fn dismiss(
        &mut self,
        id: LockId,
        verdict: Verdict,
        effects: &mut Effects<W>,
    ) -> bool {
        let waiter = self.remove_waiter(id);
        let waited = waiter.is_some();
        effects.settled.extend(waiter.map(|waiter| (waiter, verdict)));
        waited
    }

    /// Takes a waiting request out of the line, at the wish of whoever waits.
    pub(super) fn leave_line(&mut self, id: LockId) {
        self.remove_waiter(id);
    }

    /// Deletes the holder and everybody in line. Returns whether there was anybody.
    pub(super) fn clear(&mut self, now: Now, effects: &mut Effects<W>) -> bool {
        // First the line, or an expiry would grant the lock to somebody in it.
        let waited = !self.line.is_empty();
        self.dismiss_line(&Verdict::Deleted, effects);
        self.expire(now, effects);
        self.holder.take().is_some() || waited
    }

    /// Ends every wait with `verdict`; the holder keeps the lock.
    pub(super) fn dismiss_line(&mut self, verdict: &Verdict, effects: &mut Effects<W>) {
        let waiters = self.line.drain(..);
        effects.settled.extend(waiters.map(|waiter| (waiter, verdict.clone())));
    }

    /// Takes back a change of a resource that was held by `before`: nobody hears a verdict,
    /// and who was in line has its place again.
    pub(super) fn take_back(&mut self, before: Option<Holder>, effects: Effects<W>) {
        self.holder = before;
        for (waiter, _) in effects.settled.into_iter().rev() {
            self.line.push_front(waiter);
        }
    }

    /// Lets the holder's lifetime begin now, because it hears of its grant only now.
    pub(super) fn restart_lifetime(&mut self, now: Instant) {
        if let Some(holder) = &mut self.holder {
            holder.expires = now + holder.lock.request.lifetime + ANSWER_GRACE;
        }
    }

    /// The lock that is active at this moment, then the waiting ones in order.
    pub(super) fn locks(&self, now: Instant) -> impl Iterator<Item = &Lock> {
        let holder = self.holder.iter().filter(move |holder| holder.expires > now);
        let held = holder.map(|holder| &holder.lock);
        held.chain(self.line.iter().map(|waiter| &waiter.lock))
    }

    /// Who holds the lock, also if its lifetime is just over.
    pub(super) fn holder(&self) -> Option<&Holder> {
        self.holder.as_ref()
    }

    /// How many are in line.
    pub(super) fn waiting(&self) -> usize {
        self.line.len()
    }

    /// When the holder's lifetime ends.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.holder.as_ref().map(|holder| holder.expires)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.holder.is_none() && self.line.is_empty()
    }

    /// Grants the free lock to the first in line whose wait is not over yet.
    fn promote(&mut self, now: Now, effects: &mut Effects<W>) {
        while let Some(waiter) = self.line.pop_front() {
            if waiter.deadline <= now.instant {
                effects.settled.push((waiter, Verdict::TimedOut));
                continue;
            }
            let lock = self.hold(waiter.lock.id, waiter.lock.request.clone(), now);
            effects.settled.push((waiter, Verdict::Granted(lock)));
            return;
        }
    }

    fn hold(&mut self, id: LockId, request: LockRequest, now: Now) -> Lock {
        let phase = Phase::Active {
            since: now.wall,
            expires: now.wall + request.lifetime,
            fencing_token: now.fencing_token,
        };
        let expires = now.instant + request.lifetime + ANSWER_GRACE;
        let lock = Lock { id, request, phase };
        self.holder = Some(Holder { lock: lock.clone(), expires });
        lock
    }

    fn remove_waiter(&mut self, id: LockId) -> Option<Waiter<W>> {
        let place = self.line.iter().position(|waiter| waiter.lock.id == id)?;
        self.line.remove(place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A resource whose time is set by the test; waiters are known by their titles.
    struct Scene {
        resource: Resource<&'static str>,
        start: Instant,
        now: Now,
    }

    impl Scene {
        fn new() -> Self {
            let (instant, wall) = (Instant::now(), SystemTime::now());
            let now = Now { instant, wall, fencing_token: 1 };
            Self { resource: Resource::new(), start: instant, now }
        }

        /// Sets the time, in seconds since the start.
        fn at(&mut self, seconds: f64) -> &mut Self {
            self.now.instant = self.start + Duration::from_secs_f64(seconds);
            self
        }

        /// Acquires with these seconds of wait and lifetime; the id, and whether granted.
        fn acquire(&mut self, who: &'static str, wait: f64, lifetime: f64) -> (LockId, bool) {
            let request = LockRequest {
                title: who.into(),
                wait: Duration::from_secs_f64(wait),
                lifetime: Duration::from_secs_f64(lifetime),
            };
            let mut effects = Effects::default();
            let id = LockId::random();
            let granted = self.resource.try_grant(id, &request, self.now, &mut effects).is_some();
            if !granted {
                self.resource.join_line(id, request, who, self.now);
            }
            self.resource.check();
            (id, granted)
        }

        /// Runs a change and tells its result, who heard what, and which lock expired.
        fn change<T>(
            &mut self,
            change: impl FnOnce(&mut Resource<&'static str>, Now, &mut Effects<&'static str>) -> T,
        ) -> (T, String) {
            let mut effects = Effects::default();
            let result = change(&mut self.resource, self.now, &mut effects);
            self.resource.check();
            let expired = effects.expired.map(|lock| format!("{} expired", lock.request.title));
            let settled =
                effects.settled.into_iter().map(|(waiter, verdict)| (waiter.handle, verdict));
            let settled = settled.map(|(who, verdict)| match verdict {
                Verdict::Granted(lock) => {
                    assert!(matches!(lock.phase, Phase::Active { .. }));
                    format!("{who} granted")
                }
                Verdict::TimedOut => format!("{who} timed out"),
                Verdict::Deleted => format!("{who} deleted"),
                Verdict::Withdrawn => format!("{who} withdrawn"),
                Verdict::ShuttingDown => format!("{who} shut down"),
            });
            let told: Vec<_> = expired.into_iter().chain(settled).collect();
            (result, told.join(", "))
        }

        fn release(&mut self, id: LockId) -> (bool, String) {
            self.change(|resource, now, effects| resource.release(id, now, effects))
        }

        fn clear(&mut self) -> (bool, String) {
            self.change(|resource, now, effects| resource.clear(now, effects))
        }

        fn expire(&mut self) -> String {
            self.change(|resource, now, effects| resource.expire(now, effects)).1
        }

        /// The titles of the locks, the holder first.
        fn locks(&self) -> Vec<&str> {
            self.resource.locks(self.now.instant).map(|lock| &*lock.request.title).collect()
        }
    }

    impl<W> Resource<W> {
        fn check(&self) {
            assert!(
                self.holder.is_some() || self.line.is_empty(),
                "somebody waits for a free lock"
            );
            let active = self
                .holder
                .iter()
                .map(|h| &h.lock)
                .chain(self.line.iter().map(|w| &w.lock))
                .filter(|lock| matches!(lock.phase, Phase::Active { .. }));
            assert!(active.count() <= 1, "two hold the lock");
        }
    }

    #[test]
    fn a_free_lock_is_granted_and_a_held_one_is_not() {
        let mut scene = Scene::new();
        let (a, granted) = scene.acquire("a", 0.0, 10.0);
        assert!(granted);
        assert!(!scene.acquire("b", 5.0, 10.0).1);
        assert_eq!(scene.locks(), ["a", "b"]);
        assert_eq!(scene.release(a), (true, "b granted".into()));
        assert_eq!(scene.release(a), (false, String::new()), "released twice");
    }

    #[test]
    fn grants_are_in_order_of_arrival() {
        let mut scene = Scene::new();
        let (mut holder, _) = scene.acquire("a", 0.0, 100.0);
        let ids = ["b", "c", "d"].map(|who| scene.acquire(who, 50.0, 100.0).0);
        for (id, who) in ids.into_iter().zip(["b", "c", "d"]) {
            assert_eq!(scene.release(holder), (true, format!("{who} granted")));
            holder = id;
        }
        assert_eq!(scene.release(holder), (true, String::new()));
        assert!(scene.resource.is_empty());
    }

    #[test]
    fn a_lock_expires_at_its_lifetime_and_not_before() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 10.0);
        let expiry = scene.resource.next_expiry().unwrap();
        assert_eq!(expiry, scene.start + Duration::from_secs(10) + ANSWER_GRACE);
        scene.now.instant = expiry - Duration::from_nanos(1);
        assert_eq!(scene.expire(), "");
        assert_eq!(scene.locks(), ["a"]);
        scene.now.instant = expiry;
        assert_eq!(scene.expire(), "a expired");
        assert_eq!(scene.release(a), (false, String::new()));
        assert_eq!(scene.resource.next_expiry(), None);
    }

    #[test]
    fn an_expired_lock_is_gone_before_the_reaper_comes() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 10.0);
        assert_eq!(scene.at(10.1).release(a), (false, "a expired".into()));
        scene.acquire("b", 0.0, 10.0);
        assert!(scene.at(20.2).acquire("c", 0.0, 1.0).1, "free again at b's lifetime");
    }

    #[test]
    fn the_lifetime_of_a_waiter_begins_with_its_grant() {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 10.0);
        scene.acquire("b", 60.0, 10.0);
        assert_eq!(scene.at(12.0).expire(), "a expired, b granted");
        assert_eq!(scene.at(21.9).expire(), "");
        assert_eq!(scene.at(22.1).expire(), "b expired");
    }

    #[test]
    fn a_renewed_lock_expires_its_new_lifetime_from_then() {
        let mut scene = Scene::new();
        let renew = |scene: &mut Scene, id, seconds| {
            let lifetime = Duration::from_secs(seconds);
            let (renewal, told) =
                scene.change(|resource, now, effects| resource.renew(id, lifetime, now, effects));
            (matches!(renewal, Renewal::Renewed(_)), told)
        };
        let (a, _) = scene.acquire("a", 0.0, 10.0);
        let (b, _) = scene.acquire("b", 600.0, 10.0);
        assert_eq!(renew(scene.at(9.0), a, 20), (true, String::new()));
        assert_eq!(scene.at(28.9).expire(), "");
        assert_eq!(renew(&mut scene, a, 1), (true, String::new()), "also to a shorter one");
        assert!(!renew(&mut scene, b, 100).0, "it still waits");
        assert_eq!(scene.at(30.0).expire(), "a expired, b granted");
        // At the very end: gone, and then it stays gone.
        scene.now.instant = scene.resource.next_expiry().unwrap();
        assert_eq!(renew(&mut scene, b, 100), (false, "b expired".into()));
        assert!(!renew(&mut scene, b, 100).0);
        assert!(scene.resource.is_empty());
    }

    #[test]
    fn a_waiter_whose_wait_is_over_is_passed_over() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 100.0);
        scene.acquire("b", 5.0, 100.0);
        scene.acquire("c", 9.0, 100.0);
        assert_eq!(scene.at(5.0).release(a), (true, "b timed out, c granted".into()));
    }

    #[test]
    fn whoever_leaves_the_line_is_not_granted() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 100.0);
        let (b, _) = scene.acquire("b", 50.0, 100.0);
        scene.acquire("c", 50.0, 100.0);
        scene.change(|resource, _, _| resource.leave_line(b));
        assert_eq!(scene.locks(), ["a", "c"]);
        assert_eq!(scene.release(a), (true, "c granted".into()));
    }

    #[test]
    fn a_deleted_waiter_hears_of_it_and_the_others_move_up() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 100.0);
        let (b, _) = scene.acquire("b", 50.0, 100.0);
        scene.acquire("c", 50.0, 100.0);
        assert_eq!(scene.release(b), (true, "b deleted".into()));
        assert_eq!(scene.release(a), (true, "c granted".into()));
    }

    #[test]
    fn clearing_ends_every_wait_and_grants_nobody() {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 100.0);
        scene.acquire("b", 50.0, 100.0);
        scene.acquire("c", 50.0, 100.0);
        assert_eq!(scene.clear(), (true, "b deleted, c deleted".into()));
        assert!(scene.resource.is_empty());
        assert_eq!(scene.clear(), (false, String::new()));
    }

    #[test]
    fn a_waiter_that_is_gone_is_passed_over_and_a_holder_stays() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 100.0);
        let (b, _) = scene.acquire("b", 50.0, 100.0);
        scene.acquire("c", 50.0, 100.0);
        let mut withdraw = |id| {
            scene.change(|resource, _, effects| resource.dismiss(id, Verdict::Withdrawn, effects))
        };
        assert_eq!(withdraw(b), (true, "b withdrawn".into()));
        assert_eq!(withdraw(b), (false, String::new()));
        assert_eq!(withdraw(a), (false, String::new()));
        assert_eq!(scene.locks(), ["a", "c"]);
        assert_eq!(scene.release(a), (true, "c granted".into()));
    }

    #[test]
    fn no_step_of_the_wall_clock_changes_when_a_lock_expires() {
        let day = Duration::from_secs(24 * 60 * 60);
        let steps: [fn(SystemTime, Duration) -> SystemTime; 2] = [|t, d| t - d, |t, d| t + d];
        for step in steps {
            let mut scene = Scene::new();
            scene.acquire("a", 0.0, 10.0);
            scene.acquire("b", 20.0, 10.0);
            scene.now.wall = step(scene.now.wall, day);
            assert_eq!(scene.at(9.9).expire(), "");
            assert_eq!(scene.at(10.1).expire(), "a expired, b granted");
            assert_eq!(scene.at(20.0).expire(), "");
            assert_eq!(scene.at(20.2).expire(), "b expired");
        }
    }

    /// Hands the lock over 1,000 times; who had it joins the end of the line.
    fn time_of_hand_overs(line: usize) -> Duration {
        let mut scene = Scene::new();
        let (mut holder, _) = scene.acquire("a", 0.0, 1e6);
        for _ in 0..line {
            scene.acquire("b", 1e6, 1e6);
        }
        let began = Instant::now();
        for _ in 0..1_000 {
            let mut effects = Effects::default();
            assert!(scene.resource.release(holder, scene.now, &mut effects));
            let Some((_, Verdict::Granted(lock))) = effects.settled.pop() else { panic!() };
            holder = lock.id;
            scene.resource.join_line(LockId::random(), lock.request, "b", scene.now);
        }
        began.elapsed()
    }

    #[test]
    fn a_hand_over_costs_the_same_with_a_long_line() {
        let (short, long) = (time_of_hand_overs(5), time_of_hand_overs(5_000));
        // It would be 1,000 times as long if it depended on the line.
        assert!(long < short * 50, "{short:?} with 5 waiting, {long:?} with 5,000");
    }

    #[test]
    fn whoever_is_deleted_as_the_holder_expires_is_not_granted() {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 10.0);
        scene.acquire("b", 50.0, 100.0);
        assert_eq!(scene.at(10.1).clear(), (true, "a expired, b deleted".into()));
        assert!(scene.resource.is_empty());

        scene.acquire("c", 0.0, 10.0);
        let (d, _) = scene.acquire("d", 50.0, 100.0);
        scene.acquire("e", 50.0, 100.0);
        assert_eq!(scene.at(30.0).release(d), (true, "d deleted".into()));
        assert_eq!(scene.expire(), "c expired, e granted");
    }

    #[test]
    fn a_change_that_is_taken_back_has_not_happened() {
        let mut scene = Scene::new();
        let (a, _) = scene.acquire("a", 0.0, 10.0);
        scene.acquire("b", 1.0, 100.0);
        scene.acquire("c", 50.0, 100.0);
        scene.acquire("d", 50.0, 100.0);
        type Change = fn(&mut Resource<&'static str>, LockId, Now, &mut Effects<&'static str>);
        let changes: [(f64, Change); 4] = [
            (0.5, |resource, a, now, effects| assert!(resource.release(a, now, effects))),
            (2.0, |resource, a, now, effects| assert!(resource.release(a, now, effects))),
            (3.0, |resource, _, now, effects| assert!(resource.clear(now, effects))),
            (10.1, |resource, _, now, effects| resource.expire(now, effects)),
        ];
        for (seconds, change) in changes {
            let before = scene.at(seconds).resource.holder().cloned();
            let mut effects = Effects::default();
            change(&mut scene.resource, a, scene.now, &mut effects);
            scene.resource.take_back(before, effects);
            assert_eq!(scene.at(0.9).locks(), ["a", "b", "c", "d"]);
        }
        assert_eq!(scene.release(a), (true, "b granted".into()));
    }

    #[test]
    fn clearing_after_the_holder_expired_finds_nothing() {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 10.0);
        assert_eq!(scene.at(10.1).clear(), (false, "a expired".into()));
    }

    #[test]
    fn shutting_down_ends_every_wait_and_the_holder_keeps_the_lock() {
        let mut scene = Scene::new();
        scene.acquire("a", 0.0, 100.0);
        scene.acquire("b", 50.0, 100.0);
        let dismiss = |resource: &mut Resource<_>, _, effects: &mut _| {
            resource.dismiss_line(&Verdict::ShuttingDown, effects);
        };
        assert_eq!(scene.change(dismiss).1, "b shut down");
        assert_eq!(scene.locks(), ["a"]);
    }
}
