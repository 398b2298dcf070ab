//! Short histories of single locks, written to a file for tests/judge: a checker of
//! linearizability that shares nothing with the rules here.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::client::Client;
use crate::ha::{self, HaPlan};
use crate::history::{Action, FaultKind, History, Mode, Outcome, Time};
use crate::run::{self, Plan, Way};
use crate::workloads::Round;

/// How many clients use one lock.
const CLIENTS: u32 = 3;

/// How long a lock is used. A server needs a second or two to be replaced by another one.
const ON_DISK: Duration = Duration::from_millis(400);
const ON_ETCD: Duration = Duration::from_millis(1200);

/// Cannot end by itself within its history.
const LONG: Duration = Duration::from_secs(60);

/// How long a server is used.
const RUN: Duration = Duration::from_secs(20);

fn on_disk(client: &mut Client<'_>, number: u32) {
    use_one(client, number, ON_DISK);
}

fn on_etcd(client: &mut Client<'_>, number: u32) {
    use_one(client, number, ON_ETCD);
}

/// The next of this client's locks, a few times.
fn use_one(client: &mut Client<'_>, number: u32, time: Duration) {
    let since_boot = Time::now().since(Time::default());
    let turn = since_boot.as_nanos() / time.as_nanos();
    let resource = &format!("single-{}-{turn}", number / CLIENTS);
    for _ in 0..client.rng.u32(2..5) {
        use_once(client, resource);
        client.pause(0..60);
    }
    let end = Duration::from_nanos(u64::try_from((turn + 1) * time.as_nanos()).unwrap());
    std::thread::sleep(end.saturating_sub(Time::now().since(Time::default())));
}

fn use_once(client: &mut Client<'_>, resource: &str) {
    let ends_by_itself = client.rng.u8(..5) == 0;
    let lifetime = if ends_by_itself { client.millis(20..120) } else { LONG };
    let wish = client.wish(Mode::Ex, Duration::ZERO, lifetime);
    let uid = match client.acquire(resource, &wish) {
        Outcome::Granted { uid, .. } => Some(uid),
        // It may be held without an answer: whoever finds it there ends it.
        _ => holder(client, resource).filter(|(_, title)| *title == wish.title).map(|(uid, _)| uid),
    };
    let Some(uid) = uid else { return };
    client.pause(0..40);
    if client.rng.bool() {
        client.call(resource, Action::Get { uid: uid.clone() });
    }
    if !ends_by_itself || client.rng.bool() {
        for _ in 0..3 {
            match client.call(resource, Action::Release { uid: uid.clone() }) {
                Outcome::Unknown | Outcome::Refused(503) => client.pause(20..60),
                _ => return,
            }
        }
    }
}

/// Its uid and title.
fn holder(client: &mut Client<'_>, resource: &str) -> Option<(String, String)> {
    let Outcome::Shown(locks) = client.call(resource, Action::List) else { return None };
    locks.into_iter().next().map(|seen| (seen.uid, seen.title))
}

/// Runs until the time is over, `short` unless the environment says another one, and writes each
/// run's history to a line of the file. Nothing is left of an earlier one.
fn record(name: &str, short: Duration, mut run: impl FnMut(Duration) -> Option<History>) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("torture").join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut file = File::create(path).unwrap();
    let end = Instant::now() + crate::time_or(short);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let Some(mut history) = run(left.clamp(short, RUN)) else { return };
        history.calls.retain(|call| call.resource.starts_with("single-"));
        serde_json::to_writer(&mut file, &history).unwrap();
        writeln!(file).unwrap();
        if Instant::now() >= end {
            return;
        }
    }
}

#[test]
fn single_locks_on_disk_are_recorded() {
    const KINDS: &[(u32, Way, Round)] = &[(12 * CLIENTS, Way::Direct, on_disk)];
    record("single-disk.json", Duration::from_secs(5), |time| {
        let faults = [FaultKind::Kill];
        let plan = Plan { clients: KINDS, ..Plan::new(fastrand::u64(..), time, true, &faults) };
        Some(run::run(&plan).history)
    });
}

#[test]
fn single_locks_on_etcd_are_recorded() {
    const KINDS: &[(u32, Round)] = &[(15 * CLIENTS, on_etcd)];
    // A fault takes some seconds.
    record("single-etcd.json", Duration::from_secs(10), |time| {
        use FaultKind::{CutOffFromEtcd, Kill, StopServerForLong, Terminate};
        let faults = [CutOffFromEtcd, Kill, StopServerForLong, Terminate];
        let plan = HaPlan { clients: KINDS, ..HaPlan::new(fastrand::u64(..), time, &faults) };
        ha::run(&plan).map(|(outcome, _)| outcome.history)
    });
}
