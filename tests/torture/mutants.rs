//! Servers that are broken on purpose: a checker that has caught nothing proves nothing.
//!
//! A mutant is some text in the server's sources and what to put in its place. The tree is
//! copied, changed and built there; the product has no hooks. Then a real run has to show that
//! the rule is broken.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

const RESOURCE: &str = "src/lock/resource.rs";
const LINE: &str = "src/lock/resource/line.rs";
const TABLE: &str = "src/lock/table.rs";
const JOURNAL: &str = "src/lock/journal.rs";
const REAPER: &str = "src/lock/reaper.rs";
const LOCKS: &str = "src/http/locks.rs";
const DEPARTURES: &str = "src/http/departures.rs";

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
        &[edit(RESOURCE, "held[exclusive] < limit)", "held[exclusive] <= limit)")],
    ),
    mutant(
        "a reader fits beside an exclusive holder",
        Rule::Exclusion,
        &[edit(RESOURCE, "[Y, Y, Y, Y, Y, N], // CR", "[Y, Y, Y, Y, Y, Y], // CR")],
    ),
    mutant(
        "tokens repeat",
        Rule::Tokens,
        &[edit(
            TABLE,
            "self.next_number.fetch_add(1, Ordering::Relaxed);",
            "self.next_number.fetch_add(1, Ordering::Relaxed) / 2;",
        )],
    ),
    on_disk(
        "tokens begin anew with the server",
        Rule::Tokens,
        &[FaultKind::Kill],
        &[edit(
            TABLE,
            "first_token(SystemTime::now()).max(last_token + 1);",
            "(first_token(SystemTime::now()) + last_token).min(1000);",
        )],
    ),
    mutant(
        "a lock expires early",
        Rule::Lifetime,
        &[edit(
            RESOURCE,
            "now.instant + lock.request.lifetime + ANSWER_GRACE;",
            "now.instant + lock.request.lifetime.mul_f64(0.7);",
        )],
    ),
    mutant(
        "a renewal renews nothing",
        Rule::Lifetime,
        &[edit(
            RESOURCE,
            "holder.expires = now.instant + lifetime + ANSWER_GRACE;",
            "holder.expires += Duration::ZERO;",
        )],
    ),
    on_disk(
        "a release that could not be written is done all the same",
        Rule::Lifetime,
        &[FaultKind::DiskRefuses],
        &[edit(
            RESOURCE,
            "for (holder, _) in effects.ended.drain(..) {",
            "for (holder, _) in effects.ended.drain(..).take(0) {",
        )],
    ),
    on_disk(
        "nothing is written",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(JOURNAL, "self.store.commit(changes.clone(), grace)?;", "let _ = &mut self.store;")],
    ),
    on_disk(
        "a change is acknowledged before it is on disk",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            TABLE,
            "let written = receipt.wait();",
            "drop(receipt);\n        let written: Result<(), NotWritten> = Ok(());",
        )],
    ),
    on_disk(
        "a release is acknowledged before it is on disk",
        Rule::Durability,
        &[FaultKind::Kill],
        &[edit(
            TABLE,
            "let written = receipt.wait();",
            "let written = if effects.held.is_empty() { Ok(()) } else { receipt.wait() };",
        )],
    ),
    mutant(
        "a release is acknowledged and not done",
        Rule::Release,
        &[edit(RESOURCE, "self.end(id, End::Released, effects)\n", "true\n")],
    ),
    mutant(
        "a deletion spares the holders",
        Rule::Release,
        &[
            edit(
                RESOURCE,
                "let held = std::mem::take(&mut self.holders);",
                "let held = Holders::default();",
            ),
            edit(
                RESOURCE,
                "waited || !held.is_empty()",
                "waited || !held.is_empty() || !self.holders.is_empty()",
            ),
        ],
    ),
    mutant(
        "the last in line is the first to be served",
        Rule::Order,
        &[edit(
            LINE,
            "self.iter().find_map(|waiter| match waiter.seat {",
            "self.iter().collect::<Vec<_>>().into_iter().rev().find_map(|waiter| match waiter.seat {",
        )],
    ),
    mutant(
        "whoever fits overtakes the line",
        Rule::Order,
        &[edit(
            RESOURCE,
            "(mode == Mode::Null || !is_behind) && self.fits(mode)",
            "(mode == Mode::Null || is_behind || !is_behind) && self.fits(mode)",
        )],
    ),
    mutant(
        "whoever comes back has a place at the end",
        Rule::Order,
        &[edit(
            RESOURCE,
            "place.attempt += 1;",
            "place.attempt += 1;\n        place.arrival = (now.next_number)();",
        )],
    ),
    mutant(
        "a release grants the lock to nobody",
        Rule::Starvation,
        &[edit(RESOURCE, "self.promote(now, effects);\n        found", "found")],
    ),
    mutant(
        "nobody wakes whoever was granted the lock",
        Rule::Starvation,
        &[edit(TABLE, "woken.iter().for_each(|wait| wait.over.notify_one());", "drop(woken);")],
    ),
    mutant(
        "the reaper oversleeps",
        Rule::Starvation,
        &[edit(
            REAPER,
            "let left = next.saturating_duration_since(now());",
            "let left = next.saturating_duration_since(now()) + Duration::from_millis(200);",
        )],
    ),
    mutant(
        "a waiter is turned away early",
        Rule::Starvation,
        &[edit(
            RESOURCE,
            "(place.claim(), now.instant + wait);",
            "(place.claim(), now.instant + wait / 2);",
        )],
    ),
    mutant(
        "a departure is not noticed",
        Rule::Departure,
        &[edit(
            DEPARTURES,
            "                    farewell();",
            "                    drop(farewell);",
        )],
    ),
    mutant(
        "a departed waiter is granted the lock",
        Rule::Departure,
        &[
            edit(
                DEPARTURES,
                "                    farewell();",
                "                    drop(farewell);",
            ),
            edit(
                LOCKS,
                "if may_have_left && client.has_left() =>",
                "if !may_have_left && client.has_left() =>",
            ),
        ],
    ),
    mutant(
        "a key that is sent again makes a second lock",
        Rule::Retry,
        &[edit(
            RESOURCE,
            "let held = self.holders.id_of(key).and_then(|id| self.holders.get(id));",
            "let held = self.holders.id_of(key).and_then(|id| self.holders.get(id)).filter(|_| false);",
        )],
    ),
    mutant(
        "a key that is sent again takes a second place in line",
        Rule::Retry,
        &[edit(
            RESOURCE,
            "let waits = || self.line.id_of(key).and_then(|id| self.line.find(id));",
            "let waits = || self.line.id_of(key).and_then(|id| self.line.find(id)).filter(|_| false);",
        )],
    ),
    mutant(
        "no place is kept",
        Rule::Retry,
        &[edit(
            RESOURCE,
            "if waiter.place.key.is_some() && !grace.is_zero() {",
            "if waiter.place.key.is_some() && grace.is_zero() {",
        )],
    ),
];

/// How often a run is tried: some faults meet a mutant by chance.
const ATTEMPTS: u32 = 8;

/// Names a part of a mutant's name, to run that one only.
const ONLY: &str = "RDLM_TORTURE_MUTANT";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

impl Mutant {
    /// Changes the copy of the tree; says what does not fit.
    fn apply(&self, tree: &Path) -> Result<(), String> {
        for Edit { file, text, replacement } in self.edits {
            let path = tree.join(file);
            let source = fs::read_to_string(&path).map_err(|error| error.to_string())?;
            let found = source.matches(text).count();
            if found != 1 {
                return Err(format!("{}: {text:?} is {found} times in {file}", self.name));
            }
            fs::write(path, source.replace(text, replacement)).unwrap();
        }
        Ok(())
    }

    fn revert(&self, tree: &Path) {
        for edit in self.edits {
            fs::copy(root().join(edit.file), tree.join(edit.file)).unwrap();
        }
    }

    /// Runs until the rule catches it; returns what is to be said of that, or that it was not.
    fn run(&self, binary: &Path) -> Result<String, String> {
        let began = Instant::now();
        for attempt in 1..=ATTEMPTS {
            let time = Duration::from_secs(4);
            let plan = Plan::new(fastrand::u64(..), time, self.durable, self.faults);
            let outcome = run::run(&Plan { binary: binary.into(), ..plan });
            let mut verdicts = rules::check_all(&outcome.history);
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
        Err(format!("not caught by {} in {ATTEMPTS} runs", self.rule))
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
    for mutant in MUTANTS {
        for Edit { file, text, .. } in mutant.edits {
            let source = fs::read_to_string(root().join(file)).unwrap();
            assert_eq!(source.matches(text).count(), 1, "{}: {text:?} in {file}", mutant.name);
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
        mutant.apply(&tree).unwrap();
        let result = mutant.run(&build(&tree));
        mutant.revert(&tree);
        missed += u32::from(result.is_err());
        println!("mutant: {}: {}", mutant.name, result.unwrap_or_else(|missed| missed));
    }
    assert_eq!(missed, 0, "mutants were not caught");
}
