//! Clients that know another protocol, and conversions, at a standby and over a failover.

use std::thread;
use std::time::Duration;

use serde_json::json;

use super::etcd::Etcd;
use super::{etcd_or_skip, two_with};
use crate::harness::{Client, Response, Server, lock_body, wait_until};

/// What Terraform sends.
fn info(id: &str) -> String {
    json!({"ID": id, "Operation": "OperationTypeApply", "Who": "alice@ci"}).to_string()
}

fn node(id: &str) -> String {
    json!({"client_params": {"id": id, "group": "default"}}).to_string()
}

/// A request that is under way.
fn send(server: &Server, method: &str, path: &str, header: &str, body: &str) -> Client {
    let mut client = server.connect();
    client.send_with_headers(method, path, &format!("Host: localhost\r\n{header}"), body);
    client
}

fn ask(server: &Server, method: &str, path: &str, header: &str, body: &str) -> Response {
    send(server, method, path, header, body).response()
}

const ANY: &str = "Accept: */*";
const FLEETLOCK: &str = "fleet-lock-protocol: true";

fn lock(server: &Server, id: &str) -> Response {
    ask(server, "LOCK", "/locks/infra", ANY, &info(id))
}

fn unlock(server: &Server, id: &str) -> Response {
    ask(server, "UNLOCK", "/locks/infra", ANY, &info(id))
}

fn fleetlock(server: &Server, path: &str, id: &str) -> u16 {
    ask(server, "POST", path, FLEETLOCK, &node(id)).status
}

fn by_key(server: &Server, method: &str, body: &str) -> Response {
    ask(server, method, "/locks/keyed", "Idempotency-Key: k", body)
}

const SLOTS: [&str; 2] = ["--fleetlock", "1"];

#[test]
fn the_doors_are_open_at_a_standby_also_over_a_failover() {
    let etcd = etcd_or_skip!(1);
    let (mut active, standby) = two_with(&etcd, &SLOTS);
    let locked = lock(&standby, "one");
    let token = locked.header("RDLM-Fencing-Token").unwrap().to_string();
    assert_eq!((locked.status, locked.json()["ID"].as_str()), (200, Some("one")));
    let taken = lock(&standby, "two");
    assert_eq!((taken.status, taken.json()["ID"].as_str()), (423, Some("one")));
    assert_eq!(unlock(&standby, "two").status, 409);
    assert_eq!(fleetlock(&standby, "/v1/pre-reboot", "n1"), 200);
    assert_eq!(fleetlock(&standby, "/v1/pre-reboot", "n2"), 423);
    assert_eq!(by_key(&standby, "POST", &lock_body(0, 600)).status, 201);
    let mut waits = send(&standby, "LOCK", "/locks/infra?wait=600", ANY, &info("three"));
    wait_until("it waits", || active.locks("infra").len() == 2);
    active.signal("-KILL");
    active.wait();
    // The same run of Terraform has the same lock.
    let again = lock(&standby, "one");
    assert_eq!((again.status, again.header("RDLM-Fencing-Token")), (200, Some(&*token)));
    assert_eq!(lock(&standby, "two").status, 423);
    assert_eq!(fleetlock(&standby, "/v1/pre-reboot", "n2"), 423);
    assert_eq!(fleetlock(&standby, "/v1/pre-reboot", "n1"), 200);
    assert_eq!(fleetlock(&standby, "/v1/steady-state", "n1"), 200);
    assert_eq!(fleetlock(&standby, "/v1/pre-reboot", "n2"), 200);
    assert_eq!(by_key(&standby, "DELETE", "").status, 204);
    assert_eq!(by_key(&standby, "DELETE", "").status, 404);
    wait_until("who waited is back", || standby.locks("infra").len() == 2);
    assert_eq!(unlock(&standby, "one").status, 200);
    let next = waits.response();
    assert_eq!((next.status, next.json()["ID"].as_str()), (200, Some("three")));
}

#[test]
fn what_may_be_repeated_is_when_the_active_server_is_killed_while_it_writes() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two_with(&etcd, &SLOTS);
    let held = standby.hold("a");
    etcd.signal_all("-STOP");
    let under_way = [
        (200, send(&standby, "LOCK", "/locks/infra", ANY, &info("one"))),
        (200, send(&standby, "POST", "/v1/pre-reboot", FLEETLOCK, &node("n1"))),
        (200, send(&standby, "PATCH", &held, ANY, "{\"lifetime\":500,\"mode\":\"PR\"}")),
        (201, send(&standby, "POST", "/locks/keyed", "Idempotency-Key: k", &lock_body(0, 600))),
    ];
    // They have come to the active server when that has nothing else to do: a moment is enough.
    thread::sleep(Duration::from_millis(100));
    active.signal("-KILL");
    etcd.signal_all("-CONT");
    for (expected, mut client) in under_way {
        let answer = client.response();
        assert_eq!(answer.status, expected, "{}", answer.text());
    }
    for resource in ["infra", "reboot:default", "keyed", "a"] {
        assert_eq!(standby.locks(resource).len(), 1, "{resource}");
    }
    let lock = standby.get(&held).json();
    assert_eq!((&lock["lifetime"], &lock["mode"]), (&500.into(), &"PR".into()));
}

/// Two who hold it shared.
fn share(server: &Server, resource: &str) -> [String; 2] {
    [(), ()].map(|()| {
        let fields = r#""mode":"PR","wait":0,"lifetime":600"#;
        server.acquire_with(resource, fields).lock_path()
    })
}

fn is_converting(server: &Server, resource: &str) -> bool {
    let locks = server.locks(resource);
    locks.iter().any(|lock| lock.get("converting_to") == Some(&"EX".into()))
}

const TO_EX: &str = "{\"mode\":\"EX\",\"wait\":600}";

/// Who waits for another mode at a standby goes on waiting at the next active server.
fn conversions_over_a_failover(signal: &str) {
    let Some(etcd) = Etcd::start(1) else { return };
    let (mut active, standby) = two_with(&etcd, &[]);
    let converted = standby.hold("r");
    let to_shared = standby.request("PATCH", &converted, "{\"mode\":\"PR\"}");
    assert_eq!(to_shared.status, 200);
    standby.request("PATCH", &converted, "{\"mode\":\"XX\"}").detail(400);
    let token = to_shared.json()["fencing_token"].clone();
    let [lock, other] = share(&standby, "a");
    standby.request("PATCH", &lock, "{\"mode\":\"EX\"}").detail(408);
    let mut waits = send(&standby, "PATCH", &lock, ANY, TO_EX);
    wait_until("it waits for the mode", || is_converting(&active, "a"));
    let [left, _] = share(&standby, "b");
    let mut waits_there = send(&active, "PATCH", &left, ANY, TO_EX);
    wait_until("it waits there", || is_converting(&active, "b"));
    active.signal(signal);
    if signal == "-TERM" {
        waits_there.response().detail(503);
    }
    active.wait();
    wait_until("it waits again", || is_converting(&standby, "a"));
    // The change that was answered is kept, the one that was not has not happened.
    let shown = standby.get(&converted).json();
    assert_eq!((&shown["mode"], &shown["fencing_token"]), (&"PR".into(), &token));
    assert_eq!(standby.get(&left).json()["mode"], "PR");
    assert!(!is_converting(&standby, "b"));
    assert_eq!(standby.delete(&other).status, 204);
    let answer = waits.response();
    assert_eq!((answer.status, &answer.json()["mode"]), (200, &"EX".into()));
}

#[test]
fn who_waits_for_a_mode_goes_on_when_the_active_server_is_killed() {
    conversions_over_a_failover("-KILL");
}

#[test]
fn who_waits_for_a_mode_goes_on_when_the_active_server_ends() {
    conversions_over_a_failover("-TERM");
}
