//! The figures of many runs, and what is kept of a run that broke a rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::auditor::Audit;
use crate::facts::Facts;
use crate::history::{FaultKind, History, Outcome as Answered};
use crate::rules::{self, Rule};
use crate::run::{Outcome, Plan};

#[derive(Default)]
pub(crate) struct Report {
    histories: u64,
    operations: u64,
    time: Duration,
    /// In which the server was free to act, so that bounds on time count.
    fair_time: Duration,
    faults: BTreeMap<FaultKind, u64>,
    /// Which tell whether the faults have had an effect.
    outcomes: BTreeMap<String, u64>,
    rules: BTreeMap<Rule, (u64, u64)>,
    /// Servers that ended by themselves, or did not start again.
    ended: u64,
    /// Of etcd's history: writes, tenures, locks, and what was wrong.
    audited: [u64; 4],
}

impl Report {
    /// Judges a run. What broke a rule is printed, and the history is written to a file.
    pub(crate) fn add(&mut self, plan: &Plan, outcome: &Outcome) {
        let Outcome { history, log, ended } = outcome;
        self.histories += 1;
        self.operations += history.calls.len() as u64;
        let (time, fair_time) = times(history);
        self.time += time;
        self.fair_time += fair_time;
        for call in &history.calls {
            *self.outcomes.entry(name(&call.outcome)).or_default() += 1;
        }
        for fault in &history.faults {
            *self.faults.entry(fault.kind).or_default() += 1;
        }
        if *ended {
            self.ended += 1;
            println!("the server is gone: {plan:?}\n{}", log.join("\n"));
        }
        let mut broken = *ended;
        for (rule, verdict) in rules::check_all(history) {
            let figures = self.rules.entry(rule).or_default();
            figures.0 += verdict.judged;
            figures.1 += verdict.violations.len() as u64;
            broken |= !verdict.violations.is_empty();
            for violation in verdict.violations.iter().take(3) {
                println!("VIOLATION of {rule}: {}", violation.what);
                violation.calls.iter().for_each(|call| println!("    {call:?}"));
            }
        }
        if broken {
            let path = keep(history, plan.seed);
            println!("the plan: {plan:?}\nthe history: {}", path.display());
        }
    }

    /// The servers or etcd did not recover from a fault.
    pub(crate) fn add_no_recovery(&mut self) {
        self.ended += 1;
    }

    /// What an audit of etcd's history has found.
    pub(crate) fn add_audit(&mut self, seed: u64, audit: &Audit) {
        let Audit { writes, tenures, locks, faults } = audit;
        let counts = [*writes, *tenures, *locks, faults.len() as u64];
        self.audited.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        for fault in faults.iter().take(5) {
            println!("seed {seed}: AUDIT: {fault}");
        }
    }

    pub(crate) fn violations(&self) -> u64 {
        self.rules.values().map(|(_, violations)| violations).sum::<u64>()
            + self.ended
            + self.audited[3]
    }

    pub(crate) fn print(&self) {
        let faults: Vec<_> =
            self.faults.iter().map(|(kind, count)| format!("{count} {kind:?}")).collect();
        let faults = if faults.is_empty() { "none".into() } else { faults.join(", ") };
        let outcomes: Vec<_> =
            self.outcomes.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let (seconds, fair) = (self.time.as_secs(), self.fair_time.as_secs());
        println!("{} histories, {} operations", self.histories, self.operations);
        println!("{seconds} s, of which {fair} s without a stop, a busy machine or a slow disk");
        println!("outcomes: {}", outcomes.join(", "));
        println!("faults: {faults}");
        for (rule, (judged, violations)) in &self.rules {
            println!("{rule:12} {judged:9} judged, {violations} violations");
        }
        let [writes, tenures, locks, wrong] = self.audited;
        if writes > 0 {
            println!("audited: {writes} writes, {tenures} tenures, {locks} locks; {wrong} wrong");
        }
        if self.ended > 0 {
            println!("{} servers ended by themselves or did not recover", self.ended);
        }
    }
}

/// How long the history is, and how much of that is fair to the server.
fn times(history: &History) -> (Duration, Duration) {
    let sent = history.calls.iter().map(|call| call.sent).min();
    let returned = history.calls.iter().map(|call| call.returned).max();
    let (Some(from), Some(to)) = (sent, returned) else { return Default::default() };
    (to.since(from), Facts::of(history).fair_time(from, to))
}

fn name(outcome: &Answered) -> String {
    match outcome {
        Answered::Granted { .. } => "granted".into(),
        Answered::Shown(_) => "shown".into(),
        Answered::Done => "done".into(),
        Answered::Refused(status) => status.to_string(),
        Answered::Left => "left".into(),
        Answered::Unknown => "unknown".into(),
    }
}

fn keep(history: &History, seed: u64) -> PathBuf {
    let name = format!("torture/history-{seed}.json");
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name(name);
    history.write(&path);
    path
}
