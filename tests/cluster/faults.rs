//! etcd is away, slow, or loses answers.

use std::thread;
use std::time::Duration;

use super::etcd_or_skip;
use super::proxy::Proxy;
use super::{FAILOVER, health, join_by, metric, two};
use crate::harness::wait_until;

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
    // One that is to be written is told that nobody knows.
    let response = active.acquire("b", 0.0, 600.0);
    response.detail(503);
    assert_eq!(response.json()["outcome"], "unknown");
    thread::sleep(FAILOVER);
    etcd.signal_all("-CONT");
    wait_until("it is sure again", || health(&active)["role"] == "active");
    assert_eq!(metric(&active, "rdlm_tenures_total "), 1.0);
    assert_eq!(metric(&standby, "rdlm_tenures_total "), 0.0);
    // What nobody heard of is given up.
    wait_until("b is free", || active.locks("b").is_empty());
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
        let held = super::acquire_patiently(&active, resource);
        assert_eq!(held.status, 201, "{}", held.text());
        assert_eq!(super::acquire_patiently(&standby, resource).status, 408);
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
    assert_eq!(super::acquire_patiently(&standby, "a").status, 408);
}
