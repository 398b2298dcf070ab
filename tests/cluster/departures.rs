//! Clients of a standby that leave: the active server is told, and they are answered, as if they
//! had come to it.

use std::fs;
use std::io::Read;
use std::process::Command;
use std::time::Duration;

use super::etcd::Etcd;
use super::proxy::Proxy;
use super::{CALM, etcd_or_skip, free_port, health, join, join_by, join_on, metric, two_with, url};
use crate::harness::{Client, PATIENCE, Server, lock_body, wait_until};

/// What asks for a lock, each by another door: where, with what, and the resource.
fn requests() -> [(&'static str, &'static str, String, &'static str); 4] {
    let node = r#"{"client_params":{"id":"n","group":"g"}}"#.into();
    [
        ("POST", "/locks/a", lock_body(0, 600), "a"),
        ("POST", "/locks/waits", lock_body(600, 600), "waits"),
        ("LOCK", "/locks/state", r#"{"ID":"i"}"#.into(), "state"),
        ("POST", "/v1/pre-reboot", node, "reboot:g"),
    ]
}

const HEADERS: &str = "Host: localhost\r\nfleet-lock-protocol: true";

#[test]
fn a_client_that_resets_before_it_is_told_of_its_lock_does_not_keep_it() {
    let etcd = etcd_or_skip!(1);
    let options = ["--fleetlock", "1", "--reconnect-grace", "0"];
    let (active, standby) = two_with(&etcd, &[&CALM[..], &options].concat());
    let mut given_back = 0.0;
    for server in [&active, &standby] {
        for (method, path, body, resource) in requests() {
            let mut client = server.connect();
            assert_eq!(client.request("GET", "/health", "").status, 200);
            // The server reads the request when its client has gone already.
            server.signal("-STOP");
            client.send_with_headers(method, path, HEADERS, &body);
            client.reset();
            server.signal("-CONT");
            given_back += 1.0;
            wait_until("it is given back", || {
                metric(&active, "rdlm_abandoned_grants_total ") == given_back
            });
            assert!(active.locks(resource).is_empty(), "{method} {path}");
        }
    }
}

/// An active server that the others reach through a proxy, and a standby.
fn behind_a_proxy(etcd: &Etcd, options: &[&str]) -> (Server, Proxy, Server) {
    let port = free_port();
    let proxy = Proxy::before(port);
    let advertised = ["--advertise-url", &proxy.url()];
    let active = join_on(port, &etcd.endpoints(), &[&CALM, &advertised, options].concat());
    wait_until("it is active", || health(&active)["role"] == "active");
    let standby = join_by(&etcd.endpoints(), &CALM);
    wait_until("the other knows it", || health(&standby)["active"] == proxy.url().as_str());
    (active, proxy, standby)
}

#[test]
fn a_client_that_leaves_while_its_lock_is_on_the_way_does_not_keep_it() {
    let etcd = etcd_or_skip!(1);
    let (active, proxy, standby) = behind_a_proxy(&etcd, &["--reconnect-grace", "0"]);
    // One that may only have ended its sending side is told at once, unless it could ask again.
    for (with_key, leave) in [(false, Client::reset as fn(Client)), (true, drop)] {
        let answers = proxy.hold_answers();
        let mut client = standby.connect();
        match with_key {
            true => client.send_acquire_with_key("a", "k"),
            false => client.send_acquire("a", 0.0, 600.0),
        }
        wait_until("it is granted", || active.locks("a").len() == 1);
        leave(client);
        drop(answers);
        wait_until("it is given back", || active.locks("a").is_empty());
    }
}

#[test]
fn a_lock_that_a_client_was_told_of_is_not_given_back_when_it_leaves() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two_with(&etcd, &CALM);
    let mut client = standby.connect();
    let granted = client.acquire("a", 0.0, 600.0);
    assert_eq!(granted.header("RDLM-If-Undelivered"), None);
    let lock = granted.lock_path();
    client.reset();
    // Behind whatever the standby had to say about it.
    assert_eq!(standby.get("/resources").status, 200);
    assert_eq!(active.get(&lock).status, 200);
    // Nor does a client say so.
    let mut client = standby.connect();
    let forged = "Host: localhost\r\nRDLM-Forwarded: secret undelivered";
    client.send_with_headers("DELETE", &lock, forged, "");
    client.response().detail(503);
    assert_eq!(active.get(&lock).status, 200);
}

#[test]
fn a_client_that_ends_its_sending_side_while_it_waits_gets_a_408() {
    let etcd = etcd_or_skip!(1);
    let (active, standby) = two_with(&etcd, &CALM);
    active.hold("a");
    for server in [&active, &standby] {
        for key in [false, true] {
            let mut client = server.connect();
            match key {
                true => client.send_acquire_with_key("a", "k"),
                false => client.send_acquire("a", 600.0, 600.0),
            }
            wait_until("it waits", || active.locks("a").len() == 2);
            client.half_close();
            let response = client.response();
            response.detail(408);
            assert_eq!(response.json()["reason"], "departed");
            assert!(client.is_closed());
        }
    }
}

#[test]
fn a_client_that_ends_its_sending_side_while_nobody_is_active_gets_a_408() {
    let etcd = etcd_or_skip!(1);
    etcd.signal_all("-STOP");
    let server = join(&etcd);
    let mut client = server.connect();
    client.send_acquire("a", 0.0, 600.0);
    client.half_close();
    client.response().detail(408);
    etcd.signal_all("-CONT");
    wait_until("it is active", || health(&server)["role"] == "active");
    assert!(server.locks("a").is_empty());
}

#[test]
fn a_client_that_waits_for_nothing_may_end_its_sending_side() {
    let etcd = etcd_or_skip!(1);
    let (active, proxy, standby) = behind_a_proxy(&etcd, &[]);
    active.hold("a");
    let answers = proxy.hold_answers();
    let mut client = standby.connect();
    client.send_request("GET", "/resources/a", "");
    client.half_close();
    // So long that the standby looks whether the client leaves.
    client.stream().set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(client.stream().read(&mut [0]).is_err(), "it was answered too early");
    client.stream().set_read_timeout(Some(PATIENCE)).unwrap();
    drop(answers);
    assert_eq!(client.response().status, 200);
}

/// A server that may open so many files.
fn join_with_files(etcd: &Etcd, files: u32) -> Server {
    let mut command = Command::new("sh");
    let serve = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
    command.args(["-c", &serve, env!("CARGO_BIN_EXE_rdlm"), "serve", "--bind", "127.0.0.1"]);
    command.args(["--etcd", &etcd.endpoints()]).args(CALM);
    Server::start_command(&mut command)
}

#[test]
fn a_standby_has_the_descriptors_for_all_the_connections_that_it_takes() {
    let etcd = etcd_or_skip!(1);
    let active = join_by(&etcd.endpoints(), &CALM);
    wait_until("one is active", || health(&active)["role"] == "active");
    let held = active.hold("a");
    let standby = join_with_files(&etcd, 192);
    wait_until("the other knows it", || health(&standby)["active"] == url(&active).as_str());
    let max = metric(&standby, "rdlm_max_connections ") as usize;
    assert!((60..=96).contains(&max), "{max}");
    // The others are for releases.
    let clients: Vec<_> = (0..max * 3 / 4 - 4)
        .map(|_| {
            let mut client = standby.connect();
            client.send_acquire("a", 600.0, 600.0);
            client
        })
        .collect();
    wait_until("all of them wait", || active.locks("a").len() == 1 + clients.len());
    let open = || fs::read_dir(format!("/proc/{}/fd", standby.pid())).unwrap().count();
    let others = open() - 2 * clients.len();
    assert!(others <= 32, "{others} descriptors beside two for each of the connections");
    assert_eq!(standby.get("/health").status, 200);
    assert_eq!(standby.delete(&held).status, 204);
    assert_eq!(active.locks("a").len(), clients.len(), "the next one has the lock");
    assert!(!standby.into_log().contains("cannot accept"));
}
