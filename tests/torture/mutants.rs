//! Servers that are broken on purpose: a checker that has caught nothing proves nothing.
//!
//! A mutant is some text in the server's sources and what to put in its place. The tree is
//! copied, changed and built there; the product has no hooks. Then a real run has to show that
//! the rule is broken.

use std::env;
use std::fs;
use std::panic;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::ha::{self, HaPlan};
use crate::history::FaultKind;
use crate::rules::{self, Rule};
use crate::run::{self, Plan};

struct Mutant {
    name: &'static str,
    /// The rule that has to catch it; others may, too.
    rule: Rule,
    durable: bool,
    faults: &'static [FaultKind],
    edits: &'static [Edit],
}

struct Edit {
    file: &'static str,
    /// Occurs once in the file.
    text: &'static str,
    replacement: &'static str,
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

const fn edit(file: &'static str, text: &'static str, replacement: &'static str) -> Edit {
    Edit { file, text, replacement }
}

const MUTANTS: &[Mutant] = &[
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
        &[edit(DECIDE, "self.end(holder, End::Released),", "{}")],
    ),
    mutant(
        "a deletion spares the holders",
        Rule::Release,
        &[
            edit(
                DECIDE,
                "held.take(room).for_each(|holder| self.end(holder, End::Deleted));",
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
            "let remaining = next.saturating_duration_since(now()) + Duration::from_millis(200);",
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
            std::thread::sleep(Duration::from_millis(20));
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

/// A mutant of several servers.
struct OfSeveral {
    name: &'static str,
    by: By,
    edits: &'static [Edit],
}

/// What has to catch it.
enum By {
    /// A rule or the audit, in runs with these faults.
    Run(&'static [FaultKind]),
    /// `cargo test` with these arguments.
    Tests(&'static [&'static str]),
}

const FAILOVER: &str = "src/etcd_store/failover.rs";
const TERM: &str = "src/cluster/term.rs";
const WIRE: &str = "src/etcd_store/etcd/wire.rs";

const OF_SEVERAL: &[OfSeveral] = &[
    OfSeveral {
        name: "a write compares nothing",
        by: By::Run(&[FaultKind::StopServerForLong, FaultKind::CutOffFromEtcd]),
        edits: &[
            edit(
                WIRE,
                r#""result":"EQUAL","mod_revision":"{revision}""#,
                r#""result":"GREATER","mod_revision":"-1""#,
            ),
            edit(WIRE, "Some(known) = known {", "Some(known) = known.filter(|_| false) {"),
        ],
    },
    OfSeveral {
        name: "a write knows what it replaces by its revision alone",
        by: By::Tests(&["--test", "tests", "another_head_of_the_same_revision"]),
        edits: &[edit(WIRE, "Some(known) = known {", "Some(known) = known.filter(|_| false) {")],
    },
    OfSeveral {
        name: "an older head is believed",
        by: By::Tests(&["--lib", "etcd_store::model"]),
        edits: &[edit(
            "src/etcd_store/history.rs",
            "!shown.is_some_and(|shown| shown.continues(known))",
            "shown.is_some_and(|shown| shown.number == u64::MAX)",
        )],
    },
    OfSeveral {
        name: "an etcd that has lost writes is believed",
        by: By::Run(&[FaultKind::EtcdEmptied, FaultKind::EtcdRestored]),
        edits: &[edit(
            "src/etcd_store/history.rs",
            "!shown.is_some_and(|shown| shown.continues(known))",
            "shown.is_some_and(|shown| shown.number == u64::MAX)",
        )],
    },
    OfSeveral {
        name: "a standby goes by its own time alone",
        by: By::Tests(&["--lib", "etcd_store::model"]),
        edits: &[edit(
            FAILOVER,
            "theirs.unwrap_or_default().max(self.pace.failover_after)",
            "theirs.map_or(self.pace.failover_after, |_| self.pace.failover_after)",
        )],
    },
    OfSeveral {
        name: "a server answers however long it has not been confirmed",
        by: By::Run(&[FaultKind::CutOffFromEtcd, FaultKind::EtcdIsHeardNoMore]),
        edits: &[edit(
            TERM,
            "now.saturating_sub(sent) < self.confidence()",
            "now.saturating_sub(sent) < self.confidence() * 1000",
        )],
    },
    OfSeveral {
        name: "a standby takes over too early",
        by: By::Tests(&["--lib", "etcd_store::model"]),
        edits: &[edit(
            FAILOVER,
            "        self.silent >= self.patience\n",
            "        self.silent * 10 >= self.patience * 3\n",
        )],
    },
    OfSeveral {
        name: "silence is counted while etcd is away",
        by: By::Tests(&["--lib", "etcd_store::failover"]),
        edits: &[
            edit(FAILOVER, "        self.latest = None;\n", ""),
            edit(FAILOVER, "interval.min(self.pace.interval())", "interval"),
        ],
    },
    OfSeveral {
        name: "locks that were read ahead are believed whatever was written since",
        by: By::Tests(&["--test", "tests", "what_was_read_ahead"]),
        edits: &[
            edit(
                "src/etcd_store/election.rs",
                "            *ahead = None;\n        } else if ahead.as_ref().is_none_or(|ahead| !ahead.is_of(head)) {",
                "        } else if ahead.is_none() {",
            ),
            edit(
                "src/etcd_store/election.rs",
                "ahead.filter(|ahead| ahead.is_of(revision));",
                "ahead.filter(|ahead| !ahead.is_of(0));",
            ),
        ],
    },
    OfSeveral {
        name: "a write that is sent again is another one",
        by: By::Tests(&["--test", "tests", "a_lost_answer_of_etcd"]),
        edits: &[edit(
            FAILOVER,
            "Some(other)) if other.id == id",
            "Some(other)) if other.id.len() == id.len() + 1",
        )],
    },
    OfSeveral {
        name: "tokens begin anew with each tenure",
        by: By::Run(&[FaultKind::Kill]),
        edits: &[edit(
            TABLE,
            "self.numbers = first_numbers(last_token);",
            "self.numbers = Numbers::after(last_token.min(1), SystemTime::UNIX_EPOCH);",
        )],
    },
    OfSeveral {
        name: "lifetimes end by the clock of the host that is active",
        by: By::Run(&[FaultKind::Kill]),
        edits: &[edit(
            FAILOVER,
            "Self { at_first: clock, since: first_seen }",
            "Self { at_first: clock.max(first_seen), since: first_seen }",
        )],
    },
    OfSeveral {
        name: "lifetimes end by the wall clock",
        by: By::Tests(&["--lib", "clock::tests"]),
        edits: &[edit(
            "crates/lock/src/clock.rs",
            "    read(ClockId::CLOCK_BOOTTIME)",
            "    read(ClockId::CLOCK_REALTIME)",
        )],
    },
];

impl OfSeveral {
    /// Says what has caught it, or that nothing did.
    fn run(&self, tree: &Path) -> Result<String, String> {
        let faults = match self.by {
            By::Run(faults) => faults,
            By::Tests(args) => {
                let failed = !tested(tree, args);
                let args = args.join(" ");
                return if failed {
                    Ok(format!("caught by {args}"))
                } else {
                    Err(format!("not caught by {args}"))
                };
            }
        };
        let binary = build(tree);
        for attempt in 1..=ATTEMPTS {
            let plan = HaPlan::new(fastrand::u64(..), Duration::from_secs(12), faults);
            let plan = HaPlan { binary: binary.clone(), ..plan };
            // Servers that do not recover are caught, too.
            let run = panic::catch_unwind(|| ha::run(&plan));
            let Ok(run) = run else { return Ok(format!("caught in run {attempt}: no recovery")) };
            let (outcome, audit) = run.ok_or("etcd is not installed")?;
            let verdicts = rules::check_all(&outcome.history);
            let broken = verdicts.iter().filter(|(_, verdict)| !verdict.violations.is_empty());
            let broken: Vec<_> = broken.map(|(rule, _)| rule.to_string()).collect();
            let faults = audit.map(|audit| audit.faults).unwrap_or_default();
            if !broken.is_empty() || !faults.is_empty() {
                let (rules, first) = (broken.join(", "), faults.first().map_or("", |f| f));
                return Ok(format!(
                    "caught in run {attempt} by {rules}; audit: {} {first}",
                    faults.len()
                ));
            }
        }
        Err(format!("not caught in {ATTEMPTS} runs"))
    }
}

fn tested(tree: &Path, args: &[&str]) -> bool {
    let output = Command::new(env!("CARGO"))
        .args(["test", "--quiet", "--locked"])
        .args(args)
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", tree.join("target"))
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    output.status.success()
}

/// How often a run is tried: some faults meet a mutant by chance.
const ATTEMPTS: u32 = 8;

/// Names a part of a mutant's name, to run that one only.
const ONLY: &str = "RDLM_TORTURE_MUTANT";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Changes the copy of the tree; says what does not fit.
fn apply(edits: &[Edit], tree: &Path) -> Result<(), String> {
    for Edit { file, text, replacement } in edits {
        let path = tree.join(file);
        let source = fs::read_to_string(&path).map_err(|error| error.to_string())?;
        let found = source.matches(text).count();
        if found != 1 {
            return Err(format!("{text:?} is {found} times in {file}"));
        }
        fs::write(path, source.replace(text, replacement)).unwrap();
    }
    Ok(())
}

fn revert(edits: &[Edit], tree: &Path) {
    for edit in edits {
        fs::copy(root().join(edit.file), tree.join(edit.file)).unwrap();
    }
}

impl Mutant {
    /// Runs until the rule catches it; returns what is to be said of that, or that it was not.
    fn run(&self, binary: &Path) -> Result<String, String> {
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

/// Copies what git knows of, as it is now.
fn copy_tree(to: &Path) {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let listed = listed.expect("git lists the files of the tree");
    assert!(listed.status.success(), "git cannot list the files of the tree");
    for file in String::from_utf8(listed.stdout).unwrap().split_terminator('\0') {
        let target = to.join(file);
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        // It may be deleted and not committed.
        let _ = fs::copy(root().join(file), target);
    }
}

fn build(tree: &Path) -> PathBuf {
    let target = tree.join("target");
    // Not shown: a mutant may well have warnings.
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--locked", "--bin", "rdlm"])
        .current_dir(tree)
        .env("CARGO_TARGET_DIR", &target)
        .env_remove("CARGO_BUILD_TARGET")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let built = fs::read_dir(target).unwrap().map(|dir| dir.unwrap().path().join("debug/rdlm"));
    built.into_iter().find(|path| path.exists()).expect("the mutant's binary")
}

#[test]
fn every_mutant_still_fits_the_sources() {
    let one = MUTANTS.iter().map(|mutant| (mutant.name, mutant.edits));
    let several = OF_SEVERAL.iter().map(|mutant| (mutant.name, mutant.edits));
    for (name, edits) in one.chain(several) {
        for Edit { file, text, .. } in edits {
            let source = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(source.matches(text).count(), 1, "{name}: {text:?} in {file}");
        }
    }
    for (rule, _) in Rule::ALL {
        assert!(MUTANTS.iter().any(|mutant| mutant.rule == rule), "{rule} has no mutant");
    }
}

#[test]
#[ignore = "long; make torture runs it"]
fn every_mutant_is_caught() {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("torture-mutants");
    copy_tree(&tree);
    let only = env::var(ONLY).unwrap_or_default();
    let mut missed = 0;
    for mutant in MUTANTS.iter().filter(|mutant| mutant.name.contains(&only)) {
        apply(mutant.edits, &tree).unwrap();
        let result = mutant.run(&build(&tree));
        revert(mutant.edits, &tree);
        missed += u32::from(result.is_err());
        println!("mutant: {}: {}", mutant.name, result.unwrap_or_else(|missed| missed));
    }
    assert_eq!(missed, 0, "mutants were not caught");
}

#[test]
#[ignore = "long; make torture-ha runs it"]
fn each_mutant_of_several_servers_is_caught() {
    let tree = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("torture-mutants");
    copy_tree(&tree);
    let only = env::var(ONLY).unwrap_or_default();
    let mut missed = 0;
    for mutant in OF_SEVERAL.iter().filter(|mutant| mutant.name.contains(&only)) {
        apply(mutant.edits, &tree).unwrap();
        let result = mutant.run(&tree);
        revert(mutant.edits, &tree);
        missed += u32::from(result.is_err());
        println!("mutant: {}: {}", mutant.name, result.unwrap_or_else(|missed| missed));
    }
    assert_eq!(missed, 0, "mutants were not caught");
}
