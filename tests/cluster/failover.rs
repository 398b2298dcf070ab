//! One server takes over from the other.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::etcd_or_skip;
use super::{FAILOVER, acquire_patiently, health, join, join_by, metric, tokens, two, url};
use crate::events::logged;
use crate::harness::{Server, lock_body, wait_until};

#[test]
fn what_was_granted_survives_kill_9_with_its_token() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two(&etcd);
    let locks: Vec<_> = (0..20).map(|n| active.hold(&format!("r{n}"))).collect();
    let released = active.hold("released");
    assert_eq!(active.delete(&released).status, 204);
    let before = tokens(&active, "r7");
    active.signal("-KILL");
    active.wait();
    let killed = Instant::now();
    // It is held until somebody is active.
    assert_eq!(standby.acquire("r7", 0.0, 600.0).status, 408);
    assert!(killed.elapsed() >= FAILOVER * 4 / 5, "{:?}", killed.elapsed());
    for lock in &locks {
        assert_eq!(standby.get(lock).json()["active"], true);
    }
    assert_eq!(tokens(&standby, "r7"), before);
    assert_eq!(standby.get(&released).status, 404);
    let path = standby.hold("new");
    let token = standby.get(&path).json()["fencing_token"].as_u64().unwrap();
    assert!(token > before[0]);
    assert_eq!(standby.delete(&locks[7]).status, 204);
    assert_eq!(standby.acquire("r7", 0.0, 600.0).status, 201);
}

#[test]
fn each_server_writes_the_events_of_its_own_time_to_its_event_log() {
    let etcd = etcd_or_skip!(1);
    let dir = TempDir::new().unwrap();
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name));
    let join = |log: &Path| join_by(&etcd.endpoints(), &["--event-log", log.to_str().unwrap()]);
    let mut active = join(&first);
    wait_until("it is active", || health(&active)["role"] == "active");
    let standby = join(&second);
    wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
    active.hold("a");
    wait_until("it is written", || logged(&first) == ["granted a"]);
    active.signal("-KILL");
    active.wait();
    assert_eq!(acquire_patiently(&standby, "b").status, 201);
    wait_until("it is written", || logged(&second) == ["granted b"]);
}

/// Of so many locks that they are read in pages, and in two halves.
#[test]
fn each_of_many_locks_is_there_once_after_a_failover() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two(&etcd);
    let names = |thread: usize| (0..160).map(move |n| format!("lock-{thread:02}-{n:03}"));
    thread::scope(|scope| {
        for thread in 0..16 {
            let mut client = active.connect();
            scope.spawn(move || {
                for name in names(thread) {
                    assert_eq!(client.acquire(&name, 0.0, 600.0).status, 201, "{name}");
                }
            });
        }
    });
    active.signal("-KILL");
    active.wait();
    let list = standby.get("/resources").json();
    let list = list["_embedded"]["resources"].as_array().unwrap().clone();
    let found: Vec<_> = list.iter().map(|resource| resource["name"].as_str().unwrap()).collect();
    assert_eq!(found, (0..16).flat_map(names).collect::<Vec<_>>());
    assert_eq!(metric(&standby, "rdlm_locks{state=\"active\"} "), 16.0 * 160.0);
}

#[test]
fn a_lock_ends_neither_early_nor_much_later_over_a_failover() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two(&etcd);
    let lifetime = Duration::from_secs(3);
    let response = active.acquire("a", 0.0, 3.0);
    let granted = Instant::now();
    let path = response.lock_path();
    active.signal("-KILL");
    active.wait();
    let mut next = standby.connect();
    let response = next.acquire("a", 60.0, 1.0);
    let lived = granted.elapsed();
    assert_eq!(response.status, 201);
    assert!(lived >= lifetime, "{lived:?}");
    // A beat and a poll, the grace of a commit, and a busy machine.
    assert!(lived < lifetime + FAILOVER, "{lived:?}");
    assert_eq!(standby.get(&path).status, 404);
}

#[test]
fn a_server_that_is_ended_steps_down() {
    let etcd = etcd_or_skip!(1);
    let mut active = join(&etcd);
    wait_until("one is active", || health(&active)["role"] == "active");
    // It waits for silence for too long.
    let options = ["--bind", "127.0.0.1", "--etcd", &etcd.endpoints(), "--failover-after", "60"];
    let standby = Server::start_with(&options);
    wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
    let lock = active.hold("a");
    active.signal("-TERM");
    assert!(active.wait().success());
    wait_until("the other is active", || health(&standby)["role"] == "active");
    assert_eq!(standby.get(&lock).status, 200);
}

/// Takes and releases a lock of its own, at the one address and then at the other, as a client
/// does that knows both: a connection that is refused or ends unused, or 503, is no error.
fn go_on(addresses: &[u16; 2], name: usize, pairs: &AtomicUsize, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let done = pairs.load(Ordering::Relaxed);
        let key = format!("{name}-{done}");
        let lock = ask(addresses, done, &key, "POST", &format!("/locks/c{name}"), 201);
        let id = lock["uid"].as_str().unwrap();
        ask(addresses, done + 1, &key, "DELETE", &format!("/locks/c{name}/{id}"), 204);
        pairs.fetch_add(1, Ordering::Relaxed);
    }
}

fn ask(
    addresses: &[u16; 2],
    first: usize,
    key: &str,
    method: &str,
    path: &str,
    expected: u16,
) -> serde_json::Value {
    let end = Instant::now() + crate::harness::PATIENCE;
    for attempt in first.. {
        assert!(Instant::now() < end, "{method} {path} in vain");
        let Some(mut client) = crate::harness::Client::try_connect(addresses[attempt % 2]) else {
            continue;
        };
        let headers = format!("Host: localhost\r\nIdempotency-Key: {key}");
        let body =
            if method == "POST" { crate::harness::lock_body(10, 600) } else { String::new() };
        let Some(response) = client.try_request(method, path, &headers, &body) else { continue };
        if response.status == 503 {
            continue;
        }
        // An answer that was lost may have said that it is released.
        let released = method == "DELETE" && response.status == 404 && attempt > first;
        assert!(response.status == expected || released, "{method} {path}: {response:?}");
        return if response.status == 201 { response.json() } else { serde_json::Value::Null };
    }
    unreachable!()
}

/// So many servers are restarted, one after the other: RDLM_RESTARTS, or a few.
fn restarts() -> usize {
    std::env::var("RDLM_RESTARTS").map_or(4, |count| count.parse().unwrap())
}

#[test]
fn a_rolling_restart_costs_no_error() {
    let etcd = etcd_or_skip!(1);
    let (first, second) = two(&etcd);
    let addresses = [first.port(), second.port()];
    let mut servers = [Some(first), Some(second)];
    let stop = AtomicBool::new(false);
    let pairs: [AtomicUsize; 4] = Default::default();
    thread::scope(|scope| {
        for (name, pairs) in pairs.iter().enumerate() {
            let stop = &stop;
            scope.spawn(move || go_on(&addresses, name, pairs, stop));
        }
        for round in 0..restarts() {
            let slot = &mut servers[round % 2];
            let mut server = slot.take().unwrap();
            server.signal("-TERM");
            assert!(server.wait().success());
            drop(server);
            *slot = Some(super::join_on(addresses[round % 2], &etcd.endpoints(), &[]));
            let before = pairs.each_ref().map(|pairs| pairs.load(Ordering::Relaxed));
            wait_until("every client goes on", || {
                let mut both = pairs.iter().zip(before);
                both.all(|(pairs, before)| pairs.load(Ordering::Relaxed) > before + 2)
            });
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn a_server_that_was_stopped_does_not_answer_for_the_one_that_took_over() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let lock = active.hold("a");
    let mut kept = active.connect();
    assert_eq!(kept.request("GET", &lock, "").status, 200);
    active.signal("-STOP");
    wait_until("the other is active", || health(&standby)["role"] == "active");
    assert_eq!(standby.delete(&lock).status, 204);
    let theirs = standby.hold("a");
    // The question is there when it goes on.
    kept.send_request("GET", &lock, "");
    active.signal("-CONT");
    let answer = kept.response();
    assert!(matches!(answer.status, 404 | 503), "{answer:?}");
    wait_until("it follows", || health(&active)["active"] == url(&standby).as_str());
    assert_eq!(active.get(&theirs).status, 200);
    assert_eq!(metric(&standby, "rdlm_tenures_total "), 1.0);
}

#[test]
fn what_was_read_ahead_of_a_false_alarm_is_not_what_there_is() {
    let etcd = etcd_or_skip!(1);
    let endpoints = etcd.endpoints();
    let options = ["--bind", "127.0.0.1", "--etcd", &endpoints, "--failover-after", "2"];
    let mut active = Server::start_with(&options);
    wait_until("one is active", || health(&active)["role"] == "active");
    let mut standby = Server::start_with(&[&options[..], &["--logging", "debug"]].concat());
    let released = active.hold("released");
    active.signal("-STOP");
    standby.read_log_to("reading the locks ahead");
    active.signal("-CONT");
    // Whichever of them is active now.
    assert_eq!(acquire_patiently(&active, "held").status, 201);
    assert_eq!(active.delete(&released).status, 204);
    active.signal("-KILL");
    active.wait();
    assert_eq!(acquire_patiently(&standby, "held").status, 408);
    assert_eq!(acquire_patiently(&standby, "released").status, 201);
}

#[test]
fn a_change_of_a_server_that_was_stopped_is_not_made() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let mut late = active.connect();
    active.signal("-STOP");
    late.send_acquire("a", 0.0, 600.0);
    wait_until("the other is active", || health(&standby)["role"] == "active");
    let lock = acquire_patiently(&standby, "a").lock_path();
    active.signal("-CONT");
    // It asks the one that is active, or says that it could not.
    let answer = late.response();
    assert!(matches!(answer.status, 408 | 503), "{answer:?}");
    assert_eq!(standby.locks("a").len(), 1);
    assert_eq!(standby.get(&lock).status, 200);
}

#[test]
fn a_place_in_line_survives_for_a_client_that_asks_again_with_its_key() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let held = active.hold("a");
    let _first = active.join_line_with_key("a", "first");
    let _second = active.join_line_with_key("a", "second");
    let written = || {
        let keys = etcd.ctl(&["get", "--prefix", "--keys-only", "/rdlm/wait/a/"]).unwrap();
        keys.lines().filter(|line| !line.is_empty()).count()
    };
    wait_until("both places are written", || written() == 2);
    active.signal("-KILL");
    wait_until("the other is active", || health(&standby)["role"] == "active");
    // They come back in the other order.
    let ask_again = |key: &str| {
        let mut client = standby.connect();
        let headers = format!("Host: localhost\r\nIdempotency-Key: {key}");
        client.send_with_headers("POST", "/locks/a", &headers, &lock_body(500, 600));
        client
    };
    let (mut second, mut first) = (ask_again("second"), ask_again("first"));
    // A place that is kept has the wait of the request that is gone.
    let is_back = |lock: &serde_json::Value| lock["wait"] == 500;
    wait_until("both wait", || standby.locks("a").iter().filter(|lock| is_back(lock)).count() == 2);
    assert_eq!(standby.delete(&held).status, 204);
    let next = first.response().lock_path();
    assert_eq!(standby.delete(&next).status, 204);
    assert_eq!(second.response().status, 201);
    wait_until("no place is left behind", || written() == 0);
}

#[test]
fn a_list_shows_what_is_held_also_while_the_active_server_ends() {
    let etcd = etcd_or_skip!(1);
    for _ in 0..3 {
        let (active, standby) = two(&etcd);
        let lock = standby.hold("a");
        // So many that one is just looking when the other server takes over.
        let mut lists: Vec<_> = (0..24).map(|_| active.connect()).collect();
        lists.push(standby.connect());
        thread::scope(|scope| {
            for mut client in lists {
                scope.spawn(move || {
                    let looks = |client: &mut crate::harness::Client| {
                        client.try_request("GET", "/resources/a", "Host: localhost", "")
                    };
                    while let Some(answer) = looks(&mut client).filter(|list| list.status == 200) {
                        let locks = &answer.json()["_embedded"]["locks"];
                        assert!(locks[0]["active"] == true, "{answer:?}");
                        if locks[0]["lifetime"] == 1 {
                            break;
                        }
                    }
                });
            }
            active.signal("-TERM");
            wait_until("the other is active", || health(&standby)["role"] == "active");
            // The sign for the client at the other server to end.
            assert_eq!(standby.request("PATCH", &lock, r#"{"lifetime":1}"#).status, 200);
        });
        assert_eq!(standby.delete(&lock).status, 204);
    }
}
