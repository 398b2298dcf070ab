//! The resource beside its model.

use super::*;
use crate::{Actor, Conversion, Terms};

/// The resource, driven as the table drives it.
pub(super) struct Checked {
    resource: Resource<usize>,
    start: Instant,
    now_ms: u64,
    numbers: Numbers,
    /// The claim of each delivery that waits.
    claims: HashMap<usize, Claim>,
    /// The deliveries that were told of a grant, and of which.
    told: HashMap<usize, LockId>,
    /// The first delivery of each request.
    numbers_of: HashMap<LockId, usize>,
    sent: usize,
    results: Vec<Completed>,
    /// The store refuses to write.
    refuses: bool,
}

impl Checked {
    /// Runs an input as the table does, and notes the results. Returns the reply to the caller.
    fn happen(&mut self, input: Input<usize>) -> Reply {
        let since_start = Duration::from_millis(self.now_ms);
        let (instant, wall) = (self.start + since_start, SystemTime::UNIX_EPOCH + since_start);
        let now = Now { instant, wall };
        let mut effects = Effects::default();
        let Decision { facts, plan, answer } =
            self.resource.decide(input, now, &mut || self.numbers.next());
        self.resource.note(facts, &mut effects);
        let is_written = plan.ended_tokens().chain(plan.holders().map(|_| 0)).next().is_some();
        let refused = self.refuses && is_written;
        if !refused {
            self.resource.apply(plan, now, &mut effects);
        }
        for (number, result) in effects.results {
            self.complete(number, &result);
        }
        match answer {
            Answer::Done | Answer::Granted(_) if refused => {
                Reply::Refused(Refusal::NotWritten(NotWritten::Refused("refused".into())))
            }
            answer => self.resource.answer(answer),
        }
    }

    fn complete(&mut self, number: usize, result: &Reply) {
        let result = match result {
            Reply::Granted(grant) => {
                self.told.insert(number, grant.id);
                self.numbers_of.entry(grant.id).or_insert(number);
                "granted"
            }
            Reply::Refused(refusal) => refusal.name(),
            Reply::InLine(claim, _) => {
                self.claims.insert(number, *claim);
                self.numbers_of.entry(claim.id()).or_insert(number);
                return;
            }
            Reply::Done => panic!("{number} got {result:?}"),
        };
        self.results.push((number, result));
    }

    fn acquire(&mut self, terms: Terms, key: Option<u8>) {
        let number = self.sent;
        self.sent += 1;
        let key = key.map(|key| key.to_string().parse().unwrap());
        let arrived_at = self.start + Duration::from_millis(self.now_ms);
        let asked = Arrival { id: LockId::random(), terms, key, arrived_at };
        let reply = self.happen(Input::Acquire(Box::new(asked), number));
        self.complete(number, &reply);
    }

    fn convert(&mut self, number: usize, wanted: Conversion) {
        let sender = self.sent;
        self.sent += 1;
        let id = self.id(number).unwrap_or_else(LockId::random);
        let arrived_at = self.start + Duration::from_millis(self.now_ms);
        let reply = self
            .happen(Input::Convert(Box::new(ConvertRequest { id, wanted, arrived_at }), sender));
        self.complete(sender, &reply);
    }

    /// The lock of the request with this first delivery.
    fn id(&self, number: usize) -> Option<LockId> {
        let mut numbers = self.numbers_of.iter();
        numbers.find(|(_, first)| **first == number).map(|(id, _)| *id)
    }

    /// Lets time pass from one deadline to the next: the reaper comes, and waits run out.
    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now_ms += 1;
            let now = self.start + Duration::from_millis(self.now_ms);
            let over = self.resource.line.waiting(..).filter(|waiter| waiter.deadline <= now);
            let over: Vec<_> = over.map(|waiter| waiter.place.claim()).collect();
            let conversions = self.resource.conversions.iter();
            let conversions = conversions.filter(|waiting| waiting.deadline <= now);
            let conversions: Vec<_> = conversions.map(Converting::claim).collect();
            if !conversions.is_empty() {
                // A lock that ends now takes its conversion with it.
                self.happen(Input::Expire);
            }
            for claim in over.into_iter().chain(conversions) {
                self.happen(Input::TimeOut(claim));
            }
            if self.resource.next_due().is_some_and(|due| due <= now) {
                self.happen(Input::Expire);
            }
        }
    }
}

impl StateMachineTest for Checked {
    type SystemUnderTest = Self;
    type Reference = Model;

    fn init_test(_: &Model) -> Self {
        Self {
            resource: Resource::new(),
            start: Instant::since_start(Duration::from_secs(1)),
            now_ms: 0,
            numbers: Numbers::after(0, SystemTime::UNIX_EPOCH),
            claims: HashMap::new(),
            told: HashMap::new(),
            numbers_of: HashMap::new(),
            sent: 0,
            results: Vec::new(),
            refuses: false,
        }
    }

    fn apply(mut checked: Self, model: &Model, happening: Happening) -> Self {
        checked.results.clear();
        let Happening { step, refused } = happening;
        checked.refuses = refused && !matches!(step, Step::Pass { .. });
        let ms = Duration::from_millis;
        let grace = ms(GRACE_MS);
        match step {
            Step::Acquire { mode, wait_ms, lifetime_ms, key } => {
                let mode = real_mode(mode);
                let (title, client) = ("".into(), "".into());
                let (wait, lifetime) = (ms(wait_ms), ms(lifetime_ms).into());
                let other_limits = false;
                let terms = Terms { title, wait, lifetime, mode, other_limits, client };
                checked.acquire(terms, key);
            }
            Step::Release(number) => {
                if let Some(id) = checked.id(number) {
                    checked.happen(Input::Release(id, Actor::nobody()));
                }
            }
            Step::Renew { number, lifetime_ms } => {
                if let Some(id) = checked.id(number) {
                    let lifetime = ms(lifetime_ms);
                    checked.happen(Input::Renew(id, lifetime));
                }
            }
            Step::Convert { number, mode, wait_ms, lifetime_ms } => {
                let (mode, wait) = (real_mode(mode), ms(wait_ms));
                let lifetime = lifetime_ms.map(ms);
                checked.convert(number, Conversion { mode, wait, lifetime });
            }
            Step::Withdraw(number) => {
                let claim = checked.claims.get(&number).copied();
                let Resource { line, conversions, .. } = &checked.resource;
                let waits = |claim: &Claim| {
                    line.queued(*claim).is_some() || conversions.with(*claim).is_some()
                };
                if let Some(claim) = claim.filter(waits) {
                    checked.happen(Input::Withdraw(claim, grace));
                }
            }
            Step::Abandon(number) => {
                if let Some(id) = checked.told.remove(&number) {
                    checked.happen(Input::Abandon(id, grace));
                }
            }
            Step::Clear => {
                checked.happen(Input::Delete(u64::MAX, Actor::nobody()));
            }
            Step::Pass { ms } => checked.pass(ms),
        }
        let sorted = |results: &[Completed]| {
            let mut results = results.to_vec();
            results.sort_unstable();
            results
        };
        assert_eq!(sorted(&checked.results), sorted(&model.results), "the results");
        checked
    }

    fn check_invariants(checked: &Self, model: &Model) {
        let now = checked.start + Duration::from_millis(checked.now_ms);
        // A request that fits waits for the store alone.
        if checked.resource.next_due().is_none_or(|due| due > now) {
            checked.resource.check();
        }
        let locks = checked.resource.page(None, now, None, usize::MAX).locks.into_iter();
        let locks: Vec<_> = locks.map(|lock| checked.numbers_of[&lock.id()]).collect();
        let held = model.held.iter().filter(|lock| !lock.is_over(model.now));
        let expected: Vec<_> = held.chain(&model.line).map(|lock| lock.number).collect();
        assert_eq!(locks, expected, "the locks in order, the held ones first");
        for lock in model.held.iter().filter(|lock| !lock.is_over(model.now)) {
            let id = checked.id(lock.number).unwrap();
            let mode = checked.resource.holders.get(id).unwrap().terms.mode;
            assert_eq!(mode, real_mode(lock.mode), "the mode of {}", lock.number);
        }
        let converting = checked.resource.conversions.iter().map(|waiting| waiting.waiter);
        let expected = model.converting.iter().map(|waiting| waiting.sender);
        assert_eq!(converting.collect::<Vec<_>>(), expected.collect::<Vec<_>>(), "conversions");
    }
}
