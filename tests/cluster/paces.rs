//! Servers that differ in `--failover-after`, as in every change of it, one server after the other.

use std::thread;
use std::time::{Duration, Instant};

use super::etcd::Etcd;
use super::etcd_or_skip;
use super::{FAILOVER, health, metric, url};
use crate::harness::{Server, wait_until};

fn join_with(etcd: &Etcd, failover_after: &str) -> Server {
    let endpoints = etcd.endpoints();
    let options = ["--bind", "127.0.0.1", "--etcd", &endpoints, "--failover-after", failover_after];
    Server::start_with(&options)
}

/// The first is active, and has the longer time.
fn two_with_paces(etcd: &Etcd, longer: &str) -> (Server, Server) {
    let active = join_with(etcd, longer);
    wait_until("one is active", || health(&active)["role"] == "active");
    let standby = join_with(etcd, "1");
    wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
    (active, standby)
}

#[test]
fn a_server_with_a_long_time_is_not_replaced_by_one_with_a_short_time() {
    let etcd = etcd_or_skip!(1);
    // It writes every 12 s when there is nothing else to write.
    let (active, standby) = two_with_paces(&etcd, "60");
    let lock = active.hold("a");
    thread::sleep(FAILOVER * 4);
    assert_eq!(metric(&standby, "rdlm_tenures_total "), 0.0);
    assert_eq!(health(&active)["role"], "active");
    assert_eq!(standby.delete(&lock).status, 204);
    active.get(&lock).detail(404);
}

#[test]
fn a_standby_waits_as_long_as_the_server_may_answer_that_it_replaces() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two_with_paces(&etcd, "5");
    active.hold("a");
    active.signal("-STOP");
    let stopped = Instant::now();
    wait_until("the other is active", || health(&standby)["role"] == "active");
    // It may have written up to a second before.
    assert!(stopped.elapsed() >= Duration::from_secs(4), "{:?}", stopped.elapsed());
    let log = standby.into_log();
    assert!(log.contains("has been silent for 5 s"), "{log}");
}
