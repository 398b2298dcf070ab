//! Proof by torture: what real clients saw while the server was killed, stopped, cut off and
//! refused by its disk is recorded and judged by rules, as Jepsen does.
//!
//! `make test` runs some seconds of it; `make torture TIME=30m` the rest. The checker is itself
//! tested: by made-up histories that break each rule, and by servers that are broken on purpose.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a test may fail and wait, in its helpers, too"
)]

mod auditor;
mod client;
mod control_group;
mod credentials;
#[path = "../cluster/etcd.rs"]
#[allow(dead_code, reason = "the tests of several servers use the rest")]
mod etcd;
mod facts;
mod found;
mod ha;
mod history;
mod http;
mod made_up;
mod mutants;
#[path = "../needed.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod needed;
mod nemesis;
mod proxy;
mod report;
mod rules;
mod run;
mod server;
mod single;
#[path = "../wire.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod wire;
mod witness;
mod workloads;

use std::env;
use std::panic;
use std::path::Path;
use std::time::{Duration, Instant};

use ha::HaPlan;
use history::FaultKind;
use report::Report;
use run::{Plan, VICTIM};

/// How long the whole torture takes, as `90s` or `2h`; without it a short one is run.
const TIME: &str = "RDLM_TORTURE_TIME";

/// Repeats the run with this seed.
const SEED: &str = "RDLM_TORTURE_SEED";

/// Checks this file again, which an earlier run has written.
const HISTORY: &str = "RDLM_TORTURE_HISTORY";

/// How long one run is.
const RUN: Duration = Duration::from_secs(10);

/// The same of several servers, where a fault takes longer.
const HA_RUN: Duration = Duration::from_secs(30);

/// As the environment says.
fn time_or(default: Duration) -> Duration {
    env::var(TIME).map_or(default, |time| humantime::parse_duration(&time).unwrap())
}

fn short_run(durable: bool, faults: &[FaultKind]) {
    let plan = Plan::new(fastrand::u64(..), Duration::from_secs(4), durable, faults);
    println!("seed {}", plan.seed);
    let mut report = Report::default();
    report.add(&plan, &run::run(&plan));
    report.print();
    assert_eq!(report.violations(), 0);
}

#[test]
fn locks_in_memory_keep_the_rules() {
    use FaultKind::{CutConnections, DelayConnections, StopClient, StopServer};
    short_run(false, &[CutConnections, DelayConnections, StopClient, StopServer]);
}

#[test]
fn locks_on_disk_keep_the_rules_through_kills() {
    use FaultKind::{CutConnections, DiskRefuses, Kill};
    short_run(true, &[CutConnections, DiskRefuses, Kill]);
}

/// Runs of ten seconds, each with a seed and so a plan of its own.
#[test]
#[ignore = "long; make torture runs it"]
fn torture() {
    let mut report = Report::default();
    if let Ok(path) = env::var(HISTORY) {
        let history = history::History::read(Path::new(&path));
        let outcome = run::Outcome { history, log: Vec::new(), ended: false };
        report.add(&Plan::random(0, RUN), &outcome);
    } else {
        let time = time_or(RUN);
        let seed = env::var(SEED).ok().map(|seed| seed.parse().unwrap());
        let end = Instant::now() + time;
        loop {
            let plan = Plan::random(seed.unwrap_or_else(|| fastrand::u64(..)), RUN);
            println!("seed {}: durable {}, {:?}", plan.seed, plan.durable, plan.faults);
            report.add(&plan, &run::run(&plan));
            if Instant::now() > end {
                break;
            }
        }
    }
    report.print();
    assert_eq!(report.violations(), 0);
}

fn ha_run(plan: &HaPlan, report: &mut Report) -> bool {
    println!("seed {}: {:?}", plan.seed, plan.faults);
    // What was found before is reported all the same.
    let Ok(run) = panic::catch_unwind(|| ha::run(plan)) else {
        report.add_no_recovery();
        return true;
    };
    let Some((outcome, audit)) = run else { return false };
    let of_one = Plan::new(plan.seed, plan.time, true, &plan.faults);
    report.add(&of_one, &outcome);
    if let Some(audit) = audit {
        report.add_audit(plan.seed, &audit);
    }
    true
}

fn short_ha_run(faults: &[FaultKind]) {
    let plan = HaPlan::new(fastrand::u64(..), Duration::from_secs(10), faults);
    let mut report = Report::default();
    if ha_run(&plan, &mut report) {
        report.print();
        assert_eq!(report.violations(), 0);
    }
}

#[test]
fn several_servers_keep_the_rules() {
    use FaultKind::{CutConnections, CutOffFromEtcd, EtcdIsHeardNoMore, Kill, StopServerForLong};
    short_ha_run(&[CutConnections, CutOffFromEtcd, EtcdIsHeardNoMore, Kill, StopServerForLong]);
}

#[test]
fn several_servers_keep_the_rules_whatever_the_operator_does() {
    use FaultKind::{EtcdEmptied, EtcdRekeyed, EtcdRestored, NoMoreThreads, PaceChanged};
    short_ha_run(&[EtcdEmptied, EtcdRekeyed, EtcdRestored, NoMoreThreads, PaceChanged]);
}

/// Runs of half a minute, each with a seed and so a plan of its own.
#[test]
#[ignore = "long; make torture-ha runs it"]
fn torture_ha() {
    let time = time_or(HA_RUN);
    let seed = env::var(SEED).ok().map(|seed| seed.parse().unwrap());
    println!("clocks of their own: {}", server::has_time_namespaces());
    let (end, mut report) = (Instant::now() + time, Report::default());
    while ha_run(&HaPlan::random(seed.unwrap_or_else(|| fastrand::u64(..)), HA_RUN), &mut report)
        && Instant::now() < end
    {}
    report.print();
    assert_eq!(report.violations(), 0);
}

/// Not a test: what [`run::run`] starts to have clients that it can stop.
#[test]
fn a_client_in_a_process_of_its_own() {
    if let Ok(orders) = env::var(VICTIM) {
        run::be_a_victim(&orders);
    }
}
