//! What the model does at each step.

use super::*;

impl Model {
    pub(super) fn fits(&self, mode: (&str, u32)) -> bool {
        let exclusive = self.held.iter().filter(|lock| lock.mode.0 == "EX").count();
        let room = mode.0 == "EX" && exclusive < mode.1 as usize;
        let fits = |held: &str| beside(held, mode.0) || (held == "EX" && room);
        self.held.iter().all(|lock| fits(lock.mode.0))
    }

    /// Converts those at the head that fit; whether none is left.
    fn convert_each(&mut self) -> bool {
        self.drop_conversions();
        while let Some(first) = self.converting.first() {
            let mut others = self.held.iter().filter(|lock| lock.number != first.number);
            if !others.all(|lock| beside(lock.mode.0, first.mode.0)) {
                return false;
            }
            let first = self.converting.remove(0);
            self.convert_now(&first);
        }
        true
    }

    /// Those whose lock is gone are gone.
    fn drop_conversions(&mut self) {
        let Self { held, converting, results, .. } = self;
        converting.retain(|waiting| {
            let is_held = held.iter().any(|lock| lock.number == waiting.number);
            if !is_held {
                results.push((waiting.sender, "no_such_lock"));
            }
            is_held
        });
    }

    fn convert_now(&mut self, to: &ModelConversion) {
        let now = self.now;
        let lock = self.held.iter_mut().find(|lock| lock.number == to.number).unwrap();
        lock.mode = to.mode;
        if let Some(lifetime_ms) = to.lifetime_ms {
            lock.end = now + lifetime_ms + 1;
        }
        lock.answers += 1;
        lock.lost = None;
        self.told.insert(to.sender, to.number);
        self.results.push((to.sender, "granted"));
    }

    fn convert(
        &mut self,
        number: usize,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: Option<u64>,
    ) {
        let sender = self.sent;
        self.sent += 1;
        let Some(lock) = self.held.iter().find(|lock| lock.number == number) else {
            let waits = self.line.iter().any(|lock| lock.number == number);
            let result = if waits { "still_waiting" } else { "no_such_lock" };
            return self.results.push((sender, result));
        };
        let from = lock.mode;
        if from.1 > 1 || mode.1 > 1 {
            return self.results.push((sender, "not_convertible"));
        }
        if self.converting.iter().any(|waiting| waiting.number == number) {
            return self.results.push((sender, "converting"));
        }
        if mode.0 == "EX" && self.held.iter().chain(&self.line).any(|lock| lock.mode.1 > 1) {
            return self.results.push((sender, "mismatch"));
        }
        self.convert_each();
        let mut others = self.held.iter().filter(|lock| lock.number != number);
        let end = self.now + wait_ms;
        let to = ModelConversion { sender, number, mode, lifetime_ms, end };
        if others.all(|lock| beside(lock.mode.0, mode.0)) {
            self.convert_now(&to);
        } else if wait_ms == 0 {
            self.results.push((sender, "timed_out"));
        } else if self.converting.iter().any(|waiting| !beside(waiting.mode.0, from.0)) {
            self.results.push((sender, "deadlock"));
        } else {
            self.converting.push(to);
        }
        self.promote();
    }

    fn hold(&mut self, mut lock: ModelLock) {
        lock.end = self.now + lock.lifetime_ms + 1;
        lock.answers = 1;
        self.told.insert(lock.sender, lock.number);
        self.results.push((lock.sender, "granted"));
        self.held.push(lock);
    }

    fn promote(&mut self) {
        if !self.convert_each() {
            return;
        }
        while let Some(first) = self.line.iter().position(|lock| lock.lost.is_none())
            && self.fits(self.line[first].mode)
        {
            let lock = self.line.remove(first);
            self.hold(lock);
        }
    }

    /// Grants those whose grant was refused before, up to the place of this key.
    fn promote_before(&mut self, key: Option<u8>) {
        if !self.convert_each() {
            return;
        }
        while let Some(first) = self.line.iter().position(|lock| lock.lost.is_none())
            && (key.is_none() || self.line[..=first].iter().all(|lock| lock.key != key))
            && self.fits(self.line[first].mode)
        {
            let lock = self.line.remove(first);
            self.hold(lock);
        }
    }

    fn tick(&mut self) {
        self.now += 1;
        let now = self.now;
        self.held.retain(|lock| lock.end > now && lock.lost.is_none_or(|until| until > now));
        self.drop_conversions();
        let timed_out = self.converting.iter().filter(|waiting| waiting.end <= now);
        self.results.extend(timed_out.map(|waiting| (waiting.sender, "timed_out")));
        self.converting.retain(|waiting| waiting.end > now);
        let over = |lock: &ModelLock| lock.lost.unwrap_or(lock.end) <= now;
        let timed_out = self.line.iter().filter(|lock| over(lock) && lock.lost.is_none());
        self.results.extend(timed_out.map(|lock| (lock.sender, "timed_out")));
        self.line.retain(|lock| !over(lock));
        self.promote();
    }

    fn acquire(
        &mut self,
        mode: (&'static str, u32),
        wait_ms: u64,
        lifetime_ms: u64,
        key: Option<u8>,
    ) {
        let number = self.sent;
        self.sent += 1;
        self.promote_before(key);
        let same = |lock: &&mut ModelLock| lock.key == key && key.is_some();
        if let Some(lock) = self.held.iter_mut().find(same) {
            if lock.mode == mode {
                lock.answers += 1;
                lock.lost = None;
                self.told.insert(number, lock.number);
            }
            let result = if lock.mode == mode { "granted" } else { "mismatch" };
            return self.results.push((number, result));
        }
        let there = self.line.iter().position(|lock| lock.key == key && key.is_some());
        if there.is_some_and(|there| self.line[there].mode != mode) {
            return self.results.push((number, "mismatch"));
        }
        let mut lock = ModelLock {
            number,
            sender: number,
            mode,
            key,
            lifetime_ms,
            end: self.now + wait_ms,
            answers: 0,
            lost: None,
        };
        let place = there.unwrap_or(self.line.len());
        if let Some(there) = there {
            let earlier = self.line.remove(there);
            lock.number = earlier.number;
            if earlier.lost.is_none() {
                self.results.push((earlier.sender, "superseded"));
            }
        } else {
            let locks = self.held.iter().chain(&self.line).map(|lock| lock.mode);
            let wanted = self.converting.iter().map(|waiting| waiting.mode);
            let mut limits = locks.chain(wanted).filter(|mode| mode.0 == "EX");
            if mode.0 == "EX" && limits.any(|theirs| theirs != mode) {
                return self.results.push((number, "mismatch"));
            }
        }
        let behind = self.line[..place].iter().any(|lock| lock.lost.is_none())
            || !self.converting.is_empty();
        if self.fits(mode) && (!behind || mode.0 == "NL") {
            self.hold(lock);
        } else if wait_ms == 0 {
            self.results.push((number, "timed_out"));
        } else {
            self.line.insert(place, lock);
        }
        self.promote();
    }

    fn withdraw(&mut self, number: usize) {
        if let Some(place) = self.converting.iter().position(|waiting| waiting.sender == number) {
            self.converting.remove(place);
            return self.results.push((number, "departed"));
        }
        let theirs = |lock: &ModelLock| lock.sender == number && lock.lost.is_none();
        let Some(place) = self.line.iter().position(theirs) else { return };
        if self.line[place].key.is_some() {
            self.line[place].lost = Some(self.now + GRACE_MS);
        } else {
            self.line.remove(place);
        }
        self.results.push((number, "departed"));
    }

    fn abandon(&mut self, number: usize) {
        let Some(lock) = self.told.remove(&number) else { return };
        let Some(held) = self.held.iter_mut().find(|held| held.number == lock) else { return };
        if held.is_over(self.now) {
            return;
        }
        held.answers -= 1;
        if held.answers == 0 || held.key.is_none() {
            let grace = if held.key.is_some() { GRACE_MS } else { 0 };
            held.lost = Some(self.now + grace);
        }
    }
}

impl Model {
    pub(super) fn written(mut self, step: &Step) -> Self {
        self.results.clear();
        let before = self.clone();
        self.end_lost();
        match *step {
            Step::Acquire { mode, wait_ms, lifetime_ms, key } => {
                self.acquire(mode, wait_ms, lifetime_ms, key);
                if let Some(mismatch) = self.results.iter().find(|results| results.1 == "mismatch")
                {
                    return Self { results: vec![*mismatch], sent: self.sent, ..before };
                }
            }
            Step::Convert { number, mode, wait_ms, lifetime_ms } => {
                let sender = self.sent;
                self.convert(number, mode, wait_ms, lifetime_ms);
                let result = self.results.iter().find(|results| results.0 == sender);
                if let Some(result) = result.filter(|results| NOTHING_HAPPENS.contains(&results.1))
                {
                    return Self { results: vec![*result], sent: self.sent, ..before };
                }
            }
            Step::Release(number)
            | Step::Renew { number, .. }
            | Step::Withdraw(number)
            | Step::Abandon(number)
                if !self.has(step, number) =>
            {
                return before;
            }
            Step::Release(number) => {
                let deleted = self.line.iter().filter(|l| l.number == number && l.lost.is_none());
                self.results.extend(deleted.map(|lock| (lock.sender, "deleted")));
                self.held.retain(|lock| lock.number != number);
                self.line.retain(|lock| lock.number != number);
                self.promote();
            }
            Step::Renew { number, lifetime_ms } => {
                let now = self.now;
                for lock in self.held.iter_mut().filter(|lock| lock.number == number) {
                    (lock.end, lock.lost) = (now + lifetime_ms + 1, None);
                    lock.answers += 1;
                }
                self.promote();
            }
            Step::Withdraw(number) => {
                self.withdraw(number);
                self.promote();
            }
            Step::Abandon(number) => {
                self.abandon(number);
                self.end_lost();
                self.promote();
            }
            Step::Clear => {
                let connected = self.line.iter().filter(|lock| lock.lost.is_none());
                self.results.extend(connected.map(|lock| (lock.sender, "deleted")));
                (self.held, self.line) = (Vec::new(), Vec::new());
                self.drop_conversions();
            }
            Step::Pass { ms } => (0..ms).for_each(|_| self.tick()),
        }
        self
    }

    /// Facts are made, and nothing else if that would have to be written.
    pub(super) fn refused(mut self, step: &Step) -> Self {
        let written = self.clone().written(step);
        let holders = |model: &Self| {
            let held = model.held.iter().map(|lock| (lock.number, lock.mode, lock.end));
            held.collect::<Vec<_>>()
        };
        let renews = match step {
            Step::Renew { number, .. } => {
                let renewed = |lock: &ModelLock| lock.number == *number && !lock.is_over(self.now);
                self.held.iter().any(renewed)
            }
            Step::Convert { lifetime_ms: Some(_), .. } => {
                written.results.contains(&(self.sent, "granted"))
            }
            _ => false,
        };
        if holders(&self) == holders(&written) && !renews {
            return written;
        }
        self.results.clear();
        match *step {
            Step::Acquire { .. } => {
                let newcomer = self.sent;
                self.sent += 1;
                if written.results.contains(&(newcomer, "granted")) {
                    self.results.push((newcomer, "not_written"));
                    return self;
                }
                let theirs =
                    |results: &&Completed| results.0 == newcomer || results.1 == "superseded";
                self.results.extend(written.results.iter().filter(theirs));
                let gone = |lock: &ModelLock| self.results.contains(&(lock.sender, "superseded"));
                let joined = written.line.iter().find(|lock| lock.sender == newcomer);
                let number = joined.map(|lock| lock.number);
                let place = self.line.iter().position(|l| gone(l) || Some(l.number) == number);
                if let Some(place) = place {
                    self.line.remove(place);
                }
                if let Some(joined) = joined {
                    self.line.insert(place.unwrap_or(self.line.len()), joined.clone());
                }
            }
            Step::Convert { .. } => {
                let newcomer = self.sent;
                self.sent += 1;
                let theirs = written.results.iter().filter(|results| results.0 == newcomer);
                self.results.extend(theirs.map(|(sender, result)| match *result {
                    "granted" => (*sender, "not_written"),
                    result => (*sender, result),
                }));
                let joined = written.converting.iter().find(|waiting| waiting.sender == newcomer);
                self.converting.extend(joined.cloned());
            }
            Step::Withdraw(number) => self.withdraw(number),
            Step::Abandon(number) => self.abandon(number),
            Step::Release(_) | Step::Renew { .. } | Step::Clear | Step::Pass { .. } => {}
        }
        self
    }

    /// Whether there is what this happens to.
    pub(super) fn has(&self, step: &Step, number: usize) -> bool {
        let held = || self.held.iter().any(|lock| lock.number == number);
        match step {
            Step::Release(_) => held() || self.line.iter().any(|lock| lock.number == number),
            Step::Withdraw(_) => {
                self.line.iter().any(|lock| lock.sender == number && lock.lost.is_none())
                    || self.converting.iter().any(|waiting| waiting.sender == number)
            }
            Step::Abandon(_) => self.told.contains_key(&number),
            _ => held(),
        }
    }

    /// Ends the locks of which nobody has results and whose time is over.
    pub(super) fn end_lost(&mut self) {
        let now = self.now;
        self.held.retain(|lock| !lock.is_over(now));
    }
}
