//! etcd is emptied, or restored from a snapshot, while servers run on; and what only looks like it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::etcd::Etcd;
use super::etcd_or_skip;
use super::{acquire_patiently, health, join, join_by, metric, tokens, two};
use crate::harness::{Client, Server, lock_body, wait_until};

const REFUSED: &str = r#"rdlm_etcd_refused{kind="restored"} "#;

/// With what a server would go on, as it says itself, once it has seen what happened.
fn accepted_number(server: &Server) -> String {
    let mut detail = String::new();
    wait_until("it says why it refuses", || {
        let health = server.get("/health");
        detail = if health.status == 503 { health.detail(503) } else { String::new() };
        detail.contains("--etcd-accept-restored")
    });
    let number = detail.split("--etcd-accept-restored ").nth(1).unwrap();
    number.split(':').next().unwrap().into()
}

/// While `change` is made, and until both servers say that they refuse what they see, clients ask
/// both for the lock on `held`. They are not granted it.
fn never_granted(servers: &[&Server; 2], change: impl FnOnce()) -> [String; 2] {
    let stopped = AtomicBool::new(false);
    thread::scope(|scope| {
        let stop = StopOnDrop(&stopped);
        for server in servers {
            let stopped = &stopped;
            scope.spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    let Some(mut client) = Client::try_connect(server.port()) else { continue };
                    let body = lock_body(0, 600);
                    let answer =
                        client.try_request("POST", "/locks/held", "Host: localhost", &body);
                    let status = answer.map_or(0, |answer| answer.status);
                    assert!(matches!(status, 0 | 408 | 503), "{status}");
                }
            });
        }
        change();
        let numbers = servers.map(accepted_number);
        drop(stop);
        numbers
    })
}

/// Ends the clients of a test that fails, too.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until the standby has looked at what was written, several times over.
fn wait_for_beats(etcd: &Etcd) {
    let until = revision(etcd) + 10;
    wait_until("the active server writes", || revision(etcd) >= until);
}

fn assert_refusing(server: &Server) {
    server.acquire("held", 0.0, 600.0).detail(503);
    server.get("/resources").detail(503);
    server.get("/health?role=active").detail(503);
    assert_eq!(metric(server, REFUSED), 1.0);
    assert_eq!(metric(server, "rdlm_writable "), 0.0);
    assert_eq!(metric(server, r#"rdlm_etcd_errors_total{kind="other_cluster"} "#), 0.0);
    // A probe that restarts what does not live asks this.
    assert_eq!(server.get("/").status, 200);
}

#[test]
fn a_lock_is_not_granted_again_when_etcd_is_emptied() {
    for members in [1, 3] {
        let mut etcd = etcd_or_skip!(members);
        let (active, standby) = two(&etcd);
        active.hold("held");
        let mut waits = active.join_line("held");
        let numbers = never_granted(&[&active, &standby], || etcd.empty());
        assert_eq!(numbers, ["0", "0"]);
        waits.response().detail(503);
        [&active, &standby].into_iter().for_each(assert_refusing);
        drop(standby);
        let next = join_by(&etcd.endpoints(), &["--etcd-accept-restored", "0"]);
        wait_until("the new one is active", || health(&next)["role"] == "active");
        assert_eq!(next.acquire("held", 0.0, 600.0).status, 201);
        assert_refusing(&active);
        let log = active.into_log();
        assert_eq!(log.matches("etcd was emptied or restored: it shows no head after").count(), 1);
    }
}

#[test]
fn a_snapshot_that_is_restored_is_refused_until_it_is_accepted() {
    let mut etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let released = active.hold("released");
    let snapshot = etcd.save_snapshot();
    assert_eq!(active.delete(&released).status, 204);
    active.hold("held");
    wait_for_beats(&etcd);
    let numbers = never_granted(&[&active, &standby], || etcd.restore_snapshot(&snapshot));
    assert_eq!(numbers[0], numbers[1]);
    [&active, &standby].into_iter().for_each(assert_refusing);
    drop((active, standby));
    // Only this head is accepted, and what is written after it.
    let number: u64 = numbers[0].parse().unwrap();
    let later = join_by(&etcd.endpoints(), &["--etcd-accept-restored", &(number + 1).to_string()]);
    assert_eq!(accepted_number(&later), numbers[0]);
    let accept = ["--etcd-accept-restored", &numbers[0]];
    let next = join_by(&etcd.endpoints(), &accept);
    wait_until("one is active", || health(&next)["role"] == "active");
    // What the restore has brought back and lost.
    assert_eq!(next.locks("released").len(), 1);
    assert_eq!(next.acquire("held", 0.0, 600.0).status, 201);
    let mut second = join_by(&etcd.endpoints(), &accept);
    second.read_log_to(&format!("remove --etcd-accept-restored {}", numbers[0]));
    wait_until("another one follows", || health(&second)["active"] == super::url(&next).as_str());
}

/// As when another server has gone on with the snapshot for a while.
#[test]
fn another_head_of_the_same_revision_is_not_replaced() {
    let mut etcd = etcd_or_skip!(1);
    let active = join(&etcd);
    wait_until("it is active", || health(&active)["role"] == "active");
    let snapshot = etcd.save_snapshot();
    active.hold("held");
    active.signal("-STOP");
    let known = head(&etcd);
    etcd.restore_snapshot(&snapshot);
    while revision(&etcd) + 1 < known.0 {
        etcd.ctl(&["put", "/filler", ""]).unwrap();
    }
    let other = known.1.replace(r#""id":""#, r#""id":"other"#);
    etcd.ctl(&["put", "/rdlm/head", &other]).unwrap();
    assert_eq!(head(&etcd), (known.0, other.clone()));
    active.signal("-CONT");
    accepted_number(&active);
    assert_eq!(head(&etcd), (known.0, other), "nothing was written");
    assert_refusing(&active);
}

/// Its revision and value.
fn head(etcd: &Etcd) -> (u64, String) {
    let fields = etcd.ctl(&["get", "/rdlm/head", "-w", "fields"]).unwrap();
    let field = |name: &str| {
        let line = fields.lines().find_map(|line| line.strip_prefix(&format!("\"{name}\" : ")));
        line.unwrap().to_string()
    };
    let value = etcd.ctl(&["get", "--print-value-only", "/rdlm/head"]).unwrap();
    (field("ModRevision").parse().unwrap(), value.trim().into())
}

fn revision(etcd: &Etcd) -> u64 {
    let fields = etcd.ctl(&["get", "/rdlm/head", "-w", "fields"]).unwrap();
    let line = fields.lines().find_map(|line| line.strip_prefix("\"Revision\" : ")).unwrap();
    line.parse().unwrap()
}

#[test]
fn locks_without_a_head_are_taken_over_when_the_operator_says_so() {
    let etcd = etcd_or_skip!(1);
    let mut server = join(&etcd);
    wait_until("it is active", || health(&server)["role"] == "active");
    let lock = server.acquire("held", 0.0, 60.0).lock_path();
    let before = tokens(&server, "held");
    server.signal("-TERM");
    assert!(server.wait().success());
    etcd.ctl(&["del", "/rdlm/head"]).unwrap();
    let refuses = join(&etcd);
    assert_eq!(accepted_number(&refuses), "0");
    assert_refusing(&refuses);
    let log = refuses.into_log();
    assert!(log.contains("it has locks, but no head"), "{log}");
    let next = join_by(&etcd.endpoints(), &["--etcd-accept-restored", "0"]);
    wait_until("it is active", || health(&next)["role"] == "active");
    assert_eq!(tokens(&next, "held"), before);
    // However long its clock has to go to the end that was written.
    let ends = next.get(&lock).json()["active_expires"].as_str().unwrap().to_string();
    let ends = humantime::parse_rfc3339(&ends).unwrap();
    let left = ends.duration_since(std::time::SystemTime::now()).unwrap_or_default();
    assert!(left.as_secs_f64() < 61.0, "{left:?}");
    next.hold("new");
    assert!(tokens(&next, "new") > before);
}

#[test]
fn upkeep_of_etcd_stops_no_server() {
    let mut etcd = etcd_or_skip!(3);
    let (active, standby) = two(&etcd);
    let lock = active.hold("held");
    let goes_on = |what: &str| {
        assert_eq!(acquire_patiently(&standby, what).status, 201, "{what}");
        for server in [&active, &standby] {
            assert_eq!(metric(server, REFUSED), 0.0, "{what}");
        }
        wait_until("the lock is seen", || standby.get(&lock).status == 200);
    };
    etcd.ctl(&["compact", &revision(&etcd).to_string()]).unwrap();
    goes_on("compaction");
    etcd.ctl(&["defrag"]).unwrap();
    goes_on("defragmentation");
    for member in 0..3 {
        etcd.signal(member, "-STOP");
        goes_on(&format!("frozen-{member}"));
        etcd.signal(member, "-CONT");
        etcd.kill(member);
        goes_on(&format!("killed-{member}"));
        etcd.start_again(member);
        wait_until("all members answer", || etcd.ctl(&["endpoint", "health"]).is_some());
    }
    etcd.replace_member(2);
    goes_on("replaced");
    etcd.empty_member(0);
    goes_on("emptied");
}
