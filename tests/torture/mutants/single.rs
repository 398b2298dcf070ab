//! Mutants of one server, each with the rule that has to catch it.

use std::path::Path;
use std::time::{Duration, Instant};

use super::{ATTEMPTS, Edit, edit};
use crate::history::FaultKind;
use crate::rules::{self, Rule};
use crate::run::{self, Plan};

pub(super) struct Mutant {
    pub(super) name: &'static str,
    /// The rule that has to catch it; others may, too.
    pub(super) rule: Rule,
    durable: bool,
    faults: &'static [FaultKind],
    pub(super) edits: &'static [Edit],
}

const COMPATIBILITY: &str = "crates/lock/src/resource/compatibility.rs";
const DECIDE: &str = "crates/lock/src/resource/decide.rs";
const PLANNER: &str = "crates/lock/src/resource/planner.rs";
const HOLDERS: &str = "crates/lock/src/resource/holders.rs";
const RESOURCE: &str = "crates/lock/src/resource.rs";
const TABLE: &str = "crates/lock/src/table.rs";
const CHANGE: &str = "crates/lock/src/table/change.rs";
const WAITING: &str = "crates/lock/src/table/waiting.rs";
const WRITER: &str = "crates/lock/src/journal/committer.rs";
const DEADLINES: &str = "crates/lock/src/table/deadlines.rs";
const LOCKS: &str = "src/doors/acquire.rs";
const DEPARTURES: &str = "crates/http/src/departures.rs";

/// In memory and without faults, with one edit, unless it says otherwise.
const fn mutant(name: &'static str, rule: Rule, edits: &'static [Edit]) -> Mutant {
    Mutant { name, rule, durable: false, faults: &[], edits }
}

const fn on_disk(
    name: &'static str,
    rule: Rule,
    faults: &'static [FaultKind],
    edits: &'static [Edit],
) -> Mutant {
    Mutant { name, rule, durable: true, faults, edits }
}

pub(super) const MUTANTS: &[Mutant] = &[
    mutant(
        "a semaphore has one holder too many",
        Rule::Exclusion,
        &[edit(COMPATIBILITY, "self.0[other] < limit)", "self.0[other] <= limit)")],
    ),
    mutant(
        "a reader fits beside an exclusive holder",
        Rule::Exclusion,
        &[edit(COMPATIBILITY, "[Y, Y, Y, Y, Y, N], // CR", "[Y, Y, Y, Y, Y, Y], // CR")],
    ),
    mutant(
        "tokens repeat",
        Rule::Tokens,
        &[edit(
            PLANNER,
            "(self.now.wall, (self.numbers)());",
            "(self.now.wall, (self.numbers)() / 64);",
        )],
    ),
    on_disk(
        "tokens begin anew with the server",
        Rule::Tokens,
        &[FaultKind::Kill],
        &[edit(
            TABLE,
            "self.numbers = first_numbers(last_token);",
            "self.numbers = Numbers::after(last_token.min(1), SystemTime::UNIX_EPOCH);",
        )],
    ),
    mutant(
        "a lock expires early",
        Rule::Lifetime,
        &[edit(
            HOLDERS,
            "ends: now.instant + remaining + ANSWER_GRACE,",
            "ends: now.instant + remaining.mul_f64(0.7),",
        )],
    ),
    mutant(
        "a renewal renews nothing",
        Rule::Lifetime,
        &[edit(
            RESOURCE,
            "            holder.begin(changed.lifetime(), now);\n",
            "",
        )],
    ),
    on_disk(
        "a release that could not be written is done all the same",
        Rule::Lifetime,
        &[FaultKind::DiskRefuses],
        &[edit(
            CHANGE,
            "if written.is_ok() {",
            "if written.is_ok() || plan.holders().next().is_none() {",
        )],
    ),
    on_disk(
        "nothing is written",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(WRITER, "refusal(self.store.commit(batch, grace))?;", "Ok::<(), NotWritten>(());")],
    ),
    on_disk(
        "a grant is acknowledged before it is on disk",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            CHANGE,
            "Answer::Now(reply) => (Progress::Done(reply), None),",
            "Answer::Now(reply) => (Progress::Done(reply), None),\n            Answer::Granted(id) if plan.holders().any(|holder| holder.id == id) => {\n                let holder = plan.holders().find(|holder| holder.id == id);\n                let granted = holder.map(|holder| Reply::Granted(holder.grant()));\n                (Progress::Done(granted.unwrap_or(Reply::Done)), None)\n            }",
        )],
    ),
    on_disk(
        "a release is acknowledged before it is on disk",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            CHANGE,
            "Answer::Now(reply) => (Progress::Done(reply), None),",
            "Answer::Now(reply) => (Progress::Done(reply), None),\n            Answer::Done => (Progress::Done(Reply::Done), None),",
        )],
    ),
    on_disk(
        "a grant is made without a commit",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            CHANGE,
            "Change::of(&plan, name, now.instant));",
            "Change::of(&plan, name, now.instant)).filter(|change| !change.removed.is_empty());",
        )],
    ),
    on_disk(
        "what follows from a change counts as written with it",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            CHANGE,
            "let following = following.map(|change| (change, Arc::clone(&slot)));",
            "if following.is_some() {
            self.finish_up(&slot, after);
            return self.finish(slot, Ok(()));
        }
        let following = None;",
        )],
    ),
    mutant(
        "a release is acknowledged and not done",
        Rule::Release,
        &[edit(DECIDE, "self.end(holder, end, Some(by));", "let _ = (end, by);")],
    ),
    mutant(
        "a deletion spares the holders",
        Rule::Release,
        &[
            edit(
                DECIDE,
                "held.take(room).for_each(delete);",
                "drop((held, room));",
            ),
            edit(
                TABLE,
                "while self.shared.has_locks_before(resource, before) {",
                "while false && self.shared.has_locks_before(resource, before) {",
            ),
        ],
    ),
    mutant(
        "the last in line is the first to be served",
        Rule::Order,
        &[edit(
            PLANNER,
            "self.grant_each(self.resource.line.waiting(..), leaves);",
            "self.grant_each(self.resource.line.waiting(..).collect::<Vec<_>>().into_iter().rev(), leaves);",
        )],
    ),
    mutant(
        "whoever fits overtakes the line",
        Rule::Order,
        &[edit(
            PLANNER,
            "if (first || mode == Mode::Null) &&",
            "if (first || !first || mode == Mode::Null) &&",
        )],
    ),
    mutant(
        "whoever comes back has a place at the end",
        Rule::Order,
        &[edit(
            DECIDE,
            "attempt: earlier.attempt + 1, ..earlier.clone() }",
            "attempt: earlier.attempt + 1, arrival: (self.numbers)(), ..earlier.clone() }",
        )],
    ),
    mutant(
        "a release grants the lock to nobody",
        Rule::Starvation,
        &[
            edit(DECIDE, "self.promote(Some(id)).done()", "self.done()"),
            edit(
                RESOURCE,
                "overdue.map(|first| first.arrived_at)",
                "overdue.map(|first| first.arrived_at).filter(|_| false)",
            ),
        ],
    ),
    mutant(
        "nobody wakes whoever was granted the lock",
        Rule::Starvation,
        &[edit(
            CHANGE,
            "after.woken.iter().for_each(|waiter| waiter.wake());",
            "drop(after.woken);",
        )],
    ),
    mutant(
        "the reaper oversleeps",
        Rule::Starvation,
        &[edit(
            DEADLINES,
            "let remaining = next.saturating_duration_since(now());",
            "let late = std::time::Duration::from_millis(200);\n\
             let remaining = next.saturating_duration_since(now()) + late;",
        )],
    ),
    mutant(
        "a waiter is turned away early",
        Rule::Starvation,
        &[edit(
            PLANNER,
            "(self.now.instant, arrived_at + wait);",
            "(self.now.instant, arrived_at + wait / 2);",
        )],
    ),
    mutant(
        "a departure is not noticed",
        Rule::Departure,
        &[edit(
            DEPARTURES,
            "                    on_departure();",
            "                    drop(on_departure);",
        )],
    ),
    mutant(
        "a departed waiter is granted the lock",
        Rule::Departure,
        &[
            edit(
                DEPARTURES,
                "                    on_departure();",
                "                    drop(on_departure);",
            ),
            edit(
                LOCKS,
                "if may_have_left && presence.has_left() {",
                "if !may_have_left && presence.has_left() {",
            ),
        ],
    ),
    on_disk(
        "a departure is forgotten when a write is refused",
        Rule::Departure,
        // Nothing is said of departures for a while after a fault: this disk refuses by itself.
        &[],
        &[
            edit(
                WRITER,
                "let written = refusal(self.store.commit(batch, grace))?;",
                "static COMMITS: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = COMMITS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if number.is_multiple_of(2) {
            std::thread::sleep(std::time::Duration::from_millis(20));
            return Ok(Err(NotWritten::Refused(\"refused\".into())));
        }
        let written = refusal(self.store.commit(batch, grace))?;",
            ),
            edit(
                CHANGE,
                "            let (progress, change) = self.start(input, Some(Arc::clone(&waiter)));",
                "            if !can_write && matches!(input, Input::Withdraw(..)) {\n                self.after.complete(waiter, Reply::Done);\n                continue;\n            }\n            let (progress, change) = self.start(input, Some(Arc::clone(&waiter)));",
            ),
            // So that it comes while a release is being written.
            edit(
                WAITING,
                "true => Input::Withdraw(self.claim, self.shared.reconnect_grace),",
                "true => {
                std::thread::sleep(std::time::Duration::from_millis(5));
                Input::Withdraw(self.claim, self.shared.reconnect_grace)
            }",
            ),
            edit(
                WAITING,
                "self.waiter.result().unwrap_or_else(|| poisoned())",
                "self.waiter.result().unwrap_or(Reply::Refused(Refusal::Departed))",
            ),
        ],
    ),
    mutant(
        "a key that is sent again makes a second lock",
        Rule::Retry,
        &[edit(
            DECIDE,
            "and_then(|key| self.holder_of(key)) {",
            "and_then(|key| self.holder_of(key)).filter(|_| false) {",
        )],
    ),
    mutant(
        "a key that is sent again takes a second place in line",
        Rule::Retry,
        &[edit(
            DECIDE,
            "and_then(|key| self.place_of(key)) {",
            "and_then(|key| self.place_of(key)).filter(|_| false) {",
        )],
    ),
    mutant(
        "no place is kept",
        Rule::Retry,
        &[edit(
            DECIDE,
            "queued.place.key.is_some() && !grace.is_zero() => {",
            "queued.place.key.is_some() && grace.is_zero() => {",
        )],
    ),
];

impl Mutant {
    /// Runs until the rule catches it; returns what is to be said of that, or that it was not.
    pub(super) fn run(&self, binary: &Path) -> Result<String, String> {
        let began = Instant::now();
        let mut judged = 0;
        for attempt in 1..=ATTEMPTS {
            let time = Duration::from_secs(4);
            let plan = Plan::new(fastrand::u64(..), time, self.durable, self.faults);
            let outcome = run::run(&Plan { binary: binary.into(), ..plan });
            let mut verdicts = rules::check_all(&outcome.history);
            let own = verdicts.iter().filter(|(rule, _)| *rule == self.rule);
            judged += own.map(|(_, verdict)| verdict.judged).sum::<u64>();
            verdicts.retain(|(_, verdict)| !verdict.violations.is_empty());
            let Some((_, caught)) = verdicts.iter().find(|(rule, _)| *rule == self.rule) else {
                continue;
            };
            let (time, count) = (began.elapsed().as_secs(), caught.violations.len());
            let what = &caught.violations[0].what;
            let others: Vec<_> = verdicts.iter().map(|(rule, _)| rule.to_string()).collect();
            let others = others.join(", ");
            return Ok(format!(
                "caught by {} in run {attempt}, {time} s, {count} times (all: {others}): {what}",
                self.rule
            ));
        }
        Err(format!("not caught by {} in {ATTEMPTS} runs: it judged {judged}", self.rule))
    }
}
