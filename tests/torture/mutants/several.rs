//! Mutants of several servers: a rule, the audit or a test has to catch each.

use std::panic;
use std::path::Path;
use std::time::Duration;

use super::{ATTEMPTS, Edit, build, cargo, compile, edit};
use crate::ha::{self, HaPlan};
use crate::history::FaultKind;
use crate::rules;

/// A mutant of several servers.
pub(super) struct OfSeveral {
    pub(super) name: &'static str,
    by: By,
    pub(super) edits: &'static [Edit],
}

/// What has to catch it.
pub(super) enum By {
    /// A rule or the audit, in runs with these faults.
    Run(&'static [FaultKind]),
    /// `cargo test` with these arguments.
    Tests(&'static [&'static str]),
}

const FAILOVER: &str = "src/etcd_store/failover.rs";
const TERM: &str = "src/cluster/term.rs";
const TABLE: &str = "crates/lock/src/table.rs";
const WIRE: &str = "src/etcd_store/etcd/wire.rs";

pub(super) const OF_SEVERAL: &[OfSeveral] = &[
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
    pub(super) fn run(&self, tree: &Path) -> Result<String, String> {
        let faults = match self.by {
            By::Run(faults) => faults,
            By::Tests(args) => {
                compile(tree, &["test", "--no-run"], args)?;
                let passed = cargo(tree, &["test"], args).is_ok();
                let args = args.join(" ");
                return if passed {
                    Err(format!("not caught by {args}"))
                } else {
                    Ok(format!("caught by {args}"))
                };
            }
        };
        let binary = build(tree)?;
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
