//! etcd is away, slow, or loses answers.

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::etcd_or_skip;
use super::proxy::Proxy;
use super::{FAILOVER, acquire_patiently, health, join_by, metric, two, url};
use crate::harness::{PATIENCE, Response, Server, wait_until};

/// No lock can be taken or released then.
#[test]
fn without_a_majority_of_etcd_no_server_says_that_it_is_well() {
    let mut etcd = etcd_or_skip!(3);
    let (active, standby) = two(&etcd);
    let is_well = |server: &Server| server.get("/health").status == 200;
    assert!(is_well(&active) && is_well(&standby));
    assert_eq!(metric(&standby, "rdlm_writable "), 1.0);
    etcd.kill(0);
    etcd.kill(1);
    for server in [&active, &standby] {
        wait_until("it is not well", || !is_well(server));
        let health = server.get("/health");
        assert!(health.detail(503).contains("etcd has not"), "{}", health.text());
        assert_eq!(health.json()["reason"], "not_active");
        assert_eq!(metric(server, "rdlm_writable "), 0.0);
        assert_eq!(server.get("/").status, 200, "it lives");
        let mut check = Command::new(env!("CARGO_BIN_EXE_rdlm"));
        let check = check.args(["health", "--url", &url(server)]).output().unwrap();
        assert_eq!(check.status.code(), Some(69), "{check:?}");
    }
    etcd.start_again(0);
    wait_until("both are well", || is_well(&active) && is_well(&standby));
}

#[test]
fn an_etcd_that_is_away_costs_no_failover_and_no_place_in_line() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let lock = active.hold("a");
    let mut waits = active.join_line("a");
    let mut waits_at_standby = standby.join_line("a");
    etcd.signal_all("-STOP");
    wait_until("it is not sure any more", || health(&active)["role"] == "unconfirmed");
    active.get(&lock).detail(503);
    // What would have to be written is refused, and is not done.
    assert_nothing_done(&active.acquire("b", 0.0, 600.0));
    thread::sleep(FAILOVER);
    etcd.signal_all("-CONT");
    wait_until("it is sure again", || health(&active)["role"] == "active");
    assert_eq!(metric(&active, "rdlm_tenures_total "), 1.0);
    assert_eq!(metric(&standby, "rdlm_tenures_total "), 0.0);
    assert!(active.locks("b").is_empty());
    assert_eq!(active.delete(&lock).status, 204);
    let next = waits.response().lock_path();
    assert_eq!(active.delete(&next).status, 204);
    assert_eq!(waits_at_standby.response().status, 201);
}

#[test]
fn a_lost_answer_of_etcd_is_asked_for_again() {
    let etcd = etcd_or_skip!(1);
    let proxy = Proxy::before(etcd.port());
    let server = join_by(&proxy.url(), &[]);
    wait_until("it is active", || health(&server)["role"] == "active");
    for n in 0..5 {
        let name = format!("r{n}");
        proxy.lose_answers(1);
        let lock = server.hold(&name);
        wait_until("an answer was lost", || proxy.has_lost_all());
        assert_eq!(server.locks(&name).len(), 1);
        assert_eq!(server.delete(&lock).status, 204);
    }
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
}

#[test]
fn a_server_that_is_cut_off_does_not_answer_and_another_takes_over() {
    let etcd = etcd_or_skip!(1);
    let proxy = Proxy::before(etcd.port());
    let cut_off = join_by(&proxy.url(), &[]);
    wait_until("it is active", || health(&cut_off)["role"] == "active");
    let other = super::join(&etcd);
    let lock = cut_off.hold("a");
    proxy.swallow(true);
    wait_until("the other is active", || health(&other)["role"] == "active");
    // Before that it had ceased to answer.
    cut_off.get(&lock).detail(503);
    assert_eq!(other.delete(&lock).status, 204);
    cut_off.get(&lock).detail(503);
    proxy.swallow(false);
    wait_until("it follows", || health(&cut_off)["role"] == "standby");
    wait_until("it passes on", || cut_off.get(&lock).status == 404);
}

#[test]
fn a_member_that_is_frozen_or_killed_is_passed_over() {
    let etcd = etcd_or_skip!(3);
    let (active, standby) = two(&etcd);
    let lock = active.hold("a");
    for (signal, resource) in [("-STOP", "b"), ("-KILL", "c")] {
        etcd.signal(0, signal);
        let held = acquire_patiently(&active, resource);
        assert_eq!(held.status, 201, "{}", held.text());
        assert_eq!(acquire_patiently(&standby, resource).status, 408);
    }
    wait_until("it can be seen", || active.get(&lock).status == 200);
}

#[test]
fn nobody_knows_what_a_server_did_that_was_killed_while_it_wrote() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two(&etcd);
    let mut kept = standby.connect();
    kept.acquire("a", 0.0, 600.0).lock_path();
    etcd.signal_all("-STOP");
    kept.send_acquire("b", 0.0, 600.0);
    // It has come to the active server when that has nothing else to do: a moment is enough.
    thread::sleep(Duration::from_millis(100));
    active.signal("-KILL");
    let response = kept.response();
    response.detail(503);
    assert_eq!(response.json()["outcome"], "unknown");
    etcd.signal_all("-CONT");
    assert_eq!(acquire_patiently(&standby, "a").status, 408);
}

fn assert_nothing_done(response: &Response) {
    let detail = response.detail(503);
    assert!(detail.contains("nothing has changed"), "{detail}");
    assert_eq!(response.header("Retry-After"), Some("1"));
    assert!(response.json().get("outcome").is_none(), "{}", response.text());
}

#[test]
fn what_was_not_sent_to_etcd_is_withdrawn() {
    const WAITING: usize = 60;
    let etcd = etcd_or_skip!(1);
    let proxy = Proxy::before(etcd.port());
    let server = join_by(&proxy.url(), &[]);
    wait_until("it is active", || health(&server)["role"] == "active");
    let kept = server.hold("kept");
    proxy.swallow(true);
    // A sign of life is on its way: changes come behind it.
    wait_until("it waits for etcd", || proxy.has_swallowed());
    let mut clients: Vec<_> = (0..WAITING).map(|_| server.connect()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send_acquire(&format!("r{number}"), 0.0, 600.0);
    }
    let mut release = server.connect();
    release.send_request("DELETE", &kept, "");
    clients.iter_mut().for_each(|client| assert_nothing_done(&client.response()));
    assert_nothing_done(&release.response());
    // From now on nobody waits, whatever is to be changed.
    wait_until("it is not sure any more", || health(&server)["role"] == "unconfirmed");
    for number in 0..WAITING {
        assert_nothing_done(&server.acquire(&format!("s{number}"), 600.0, 600.0));
    }
    assert_nothing_done(&server.delete(&kept));
    assert_nothing_done(&server.request("PATCH", &kept, r#"{"lifetime":600}"#));
    let refused = metric(&server, r#"rdlm_acquisitions_total{outcome="not_written"} "#);
    assert_eq!(refused, 2.0 * WAITING as f64);

    proxy.swallow(false);
    wait_until("it is sure again", || health(&server)["role"] == "active");
    assert_eq!(server.delete(&kept).status, 204);
    let written = etcd.ctl(&["get", "--prefix", "/rdlm/lock/", "--keys-only"]).unwrap();
    assert_eq!(written.trim(), "");
    assert_eq!(metric(&server, "rdlm_tenures_total "), 1.0);
}

#[test]
fn what_may_have_reached_etcd_is_given_up_if_nobody_heard_of_it() {
    let etcd = etcd_or_skip!(1);
    let proxy = Proxy::before(etcd.port());
    let server = join_by(&proxy.url(), &[]);
    let end = Instant::now() + PATIENCE;
    loop {
        wait_until("it is active", || health(&server)["role"] == "active");
        proxy.swallow(true);
        let response = server.acquire("a", 0.0, 600.0);
        proxy.swallow(false);
        if response.json()["outcome"] == "unknown" {
            break;
        }
        // It stood behind a sign of life.
        assert_nothing_done(&response);
        assert!(Instant::now() < end, "nothing is ever sent");
    }
    wait_until("it is sure again", || health(&server)["role"] == "active");
    wait_until("it is given up", || server.locks("a").is_empty());
    assert_eq!(acquire_patiently(&server, "a").status, 201);
}
